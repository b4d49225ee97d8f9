"""Addresses such as https://, s3://, gs:// and hf://: supported schemes, retries, and errors."""

import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from data.sources.base import printable

T = TypeVar("T")

PACKAGES = {
    **dict.fromkeys(("http", "https"), "fsspec[http]"),
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "adlfs"),
    **dict.fromkeys(("hf",), "huggingface_hub"),
    **dict.fromkeys(("ftp", "memory"), "fsspec"),
}
"""Supported scheme → the package that it needs. fsspec has more schemes, some of which could run
programs or read files of this machine."""
HUB = "hf://datasets/"
PAUSES = (1.0, 4.0, 10.0)
"""Seconds before each retry of a failed download."""
_ADDRESS = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]+):(?:/|:|(?<=pipe:))")


class RemoteError(Exception):
    """An address cannot be read now. It is no OSError or ValueError, because those mark a single
    unusable picture, while errors of the network must end the reading."""


def scheme_of(text: str) -> str:
    """The scheme of an address such as s3://bucket/key or pipe:command; empty for a path."""
    match = _ADDRESS.match(text)
    return match[1].lower() if match else ""


def without_secrets(address: str) -> str:
    """The address without user, password and query, which may hold secrets. It can be printed and
    stored."""
    scheme, _, rest = address.partition("://")
    rest = re.split(r"[?#]", rest, maxsplit=1)[0] if scheme in ("http", "https") else rest
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def check_scheme(address: str) -> str:
    """The scheme of an address. Raises ValueError if it is not supported."""
    scheme = scheme_of(address)
    schemes = ", ".join(f"{name}://" for name in PACKAGES if name != "memory")
    shown = printable(address)
    if scheme == "pipe":
        raise ValueError(
            f"{shown} would run a command, which is never done (pipe); name the address that the "
            f"command reads, one of {schemes}"
        )
    if scheme not in PACKAGES or "::" in address or "://" not in address:
        raise ValueError(
            f"{shown} is an address ({scheme}) that is not read; {schemes} are, and the disks of "
            f"this machine: download it or mount it first"
        )
    return scheme


def open_system(address: str) -> Any:
    """The fsspec file system of an address. Raises ValueError, naming the package, if it is
    missing."""
    scheme = check_scheme(address)
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(address, **_options(scheme))[0]
    except ImportError as error:
        raise ValueError(
            f"{printable(without_secrets(address))}: {scheme}:// needs a package that is not "
            f"installed: pip install '{PACKAGES[scheme]}' ({printable(str(error))})"
        ) from None


def _options(scheme: str) -> dict[str, Any]:
    if scheme not in ("http", "https"):
        return {"skip_instance_cache": True}
    import aiohttp

    # fsspec's default ends every transfer after five minutes, however large the file is.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=120)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}, "skip_instance_cache": True}


def calling(shown: str, call: Callable[[], T], pauses: tuple[float, ...] = ()) -> T:
    """The result of `call()`, which is tried again after each pause.

    Raises:
        RemoteError: all tries failed, or a retry would not help.
    """
    for pause in (*pauses, None):
        try:
            return call()
        except Exception as error:  # each file system has its own client's exceptions
            final = isinstance(error, FileNotFoundError | PermissionError) and not error.__cause__
            status = getattr(error, "status", None)
            final |= isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
            if pause is None or final:
                raise RemoteError(f"{printable(shown)} cannot be read: {_reason(error)}") from None
            time.sleep(pause)
    raise AssertionError


def _reason(error: BaseException) -> str:
    """The message of the error's first cause, without secrets."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(status := getattr(error, "status", None), int):
        return printable(f"{status} {getattr(error, 'message', '')}".rstrip())
    text = " ".join(str(error).split())
    text = re.sub(r"https?://\S+", lambda match: without_secrets(match[0]), text)
    known = {FileNotFoundError: "it is not there", TimeoutError: "no answer in time"}
    for error_type, reason in known.items():
        if isinstance(error, error_type):
            return reason
    return printable(f"{type(error).__name__}: {text:.300}" if text else type(error).__name__)


def find(pattern: str) -> list[str]:
    """The addresses that match a glob, sorted; the pattern itself if it has no star."""
    if "*" not in pattern:
        return [pattern]
    system, scheme = open_system(pattern), scheme_of(pattern)
    names: list[str] = calling(without_secrets(pattern), lambda: system.glob(pattern))
    return [name if scheme_of(name) else f"{scheme}://{name.lstrip('/')}" for name in sorted(names)]
