"""Settings that must stand before jax is imported: allocator, compilation cache, logging.

Every entry point calls `runtime.prepare()` first. It is a no-op where it does not apply.
"""

import ctypes
import os
import platform
from pathlib import Path

# glibc's mallopt names (malloc.h). XLA on CPU gives its buffers back to the kernel at every step
# and page-faults them in again at the next one; keeping them made a training step 1.3–1.5× faster.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_KEEP_BYTES = 1 << 30

CACHE_FOLDER = Path(__file__).parent / ".cache" / "jax"


def prepare() -> None:
    """Tune the process for jax. PASTEL_MALLOC=0 leaves the allocator alone."""
    if os.environ.get("PASTEL_MALLOC", "1") != "0" and platform.libc_ver()[0] == "glibc":
        _keep_freed_memory()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE_FOLDER))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's and gRPC's chatter, not errors
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _keep_freed_memory() -> None:
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)
    mallopt(_M_TOP_PAD, 1 << 26)
    mallopt(_M_ARENA_MAX, 1)
