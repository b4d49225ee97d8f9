"""jax's abort of a process that lost another one becomes a call of a Python function.

jax's coordination agent aborts the process when a heartbeat fails, or when process 0 misses one of
another process. The agent takes a function to call instead, missed_heartbeat_callback. In jaxlib
0.10.2 Python's functions cannot get its argument, a C++ status: a C++ exception, std::bad_cast,
then ends the process. C++ calls its terminate handler first, and this file sets it.
"""

import ctypes
from collections.abc import Callable

LIBRARY = "libstdc++.so.6"
_BAD_CAST = b"St8bad_cast"
_Handler = ctypes.CFUNCTYPE(None)
_kept: list[object] = []  # C++ holds their addresses


class _Type(ctypes.Structure):
    """C++'s std::type_info."""

    _fields_ = (("methods", ctypes.c_void_p), ("name", ctypes.c_char_p))


def replace_abort(lost: Callable[[], None]) -> Callable[..., None] | None:
    """A missed_heartbeat_callback that calls `lost`, which must end the process. None without
    GNU's C++ library: there jax aborts."""
    try:
        library = ctypes.CDLL(LIBRARY)
        set_handler = library["_ZSt13set_terminatePFvvE"]
        current = library["__cxa_current_exception_type"]
    except (OSError, AttributeError):
        return None
    set_handler.restype, set_handler.argtypes = ctypes.c_void_p, [_Handler]
    current.restype, current.argtypes = ctypes.POINTER(_Type), []

    def end() -> None:
        raised = current()
        if raised and raised.contents.name == _BAD_CAST:
            lost()
        elif before:
            _Handler(before)()

    handler = _Handler(end)
    _kept.append(handler)
    before = set_handler(handler)
    return lambda *_: lost()
