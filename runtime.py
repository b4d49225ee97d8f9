"""Process settings that must precede the import of jax: allocator, compilation cache, logging.

Every entry point calls `runtime.prepare()` first. Only Linux has the allocator's settings.
"""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

from common import installed
from common.terminal import open_standard_streams

# glibc's mallopt names (malloc.h). XLA on CPU gives its buffers back to the kernel at every step
# and page-faults them in again at the next one. Keeping them made a training step 1.3–1.5× faster.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_NEVER = -1
_MADV_HUGEPAGE = 14  # Linux' sys/mman.h
_HUGE_PAGE = 2 << 20

CACHE_FOLDER = Path(__file__).parent / ".cache" / "jax"


def prepare() -> None:
    """Tune the process for jax. PASTEL_MALLOC=0 leaves the allocator unchanged. Without jax
    the process ends with exit code 2: it is another Python than that of `make install`."""
    open_standard_streams()
    installed.check()
    if os.environ.get("PASTEL_MALLOC", "1") != "0" and platform.libc_ver()[0] == "glibc":
        _keep_freed_memory()
    if folder := _cache_folder():
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's and gRPC's chatter, not errors
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _cache_folder() -> Path | None:
    """The folder for compiled programs: in the clone, or in the home folder if the clone is
    read-only, as an administrator's may be. None if neither can be written to: jax would warn of
    it again and again."""
    home = Path(os.path.expanduser("~"))  # "~" itself if nobody says where it is
    for folder in (CACHE_FOLDER, *([home / ".cache" / "pastel"] if home.is_dir() else [])):
        nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if os.access(nearest, os.W_OK):
            return folder
    return None


def _keep_freed_memory() -> None:
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    libc.mallopt(_M_TOP_PAD, 1 << 26)
    libc.mallopt(_M_ARENA_MAX, 1)
    _ask_for_huge_pages(libc)


def _ask_for_huge_pages(libc: ctypes.CDLL) -> None:
    """Request 2 MB pages for malloc's memory, if the kernel provides them on request: weights are
    then read 1.1× as fast. It reserves addresses, not memory."""
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    start = libc.malloc(size)
    if start is not None:
        first = -(-start // _HUGE_PAGE) * _HUGE_PAGE
        libc.madvise(first, start + size - first, _MADV_HUGEPAGE)
        libc.free(start)
