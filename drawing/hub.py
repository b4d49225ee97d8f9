"""hf://USER/NAME as a folder on this machine. Only this file uses Hugging Face's hub."""

import os
from pathlib import Path

HUB = "hf://"
FILES = ("*.json", "*.safetensors", "*.msgpack", "*.txt", "*.md", "*.yaml", "SHA256SUMS")
"""Patterns of the downloaded files; none of them can be executed."""


def is_on_hub(path: str | Path) -> bool:
    """True if a path names a model on the hub."""
    return str(path).startswith((HUB, "hf:/"))  # Path makes one slash of two


def fetch(path: str | Path) -> Path:
    """The folder of a model on the hub, downloaded unless it is in the hub's cache. The path is
    hf://USER/NAME or hf://USER/NAME@REVISION.

    Raises:
        ValueError: the path is malformed, the hub cannot be reached, or the model does not exist
        there.
    """
    name = str(path).removeprefix("hf:").lstrip("/").rstrip("/")
    repository, _, revision = name.partition("@")
    if len(repository.split("/")) != 2 or not all(repository.split("/")):
        raise ValueError(f"{path} must be {HUB}USER/NAME, or {HUB}USER/NAME@REVISION")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=list(FILES)
        )
    except Exception as error:  # of many kinds: its own, its client's, and the system's
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{HUB}{name} cannot be fetched ({type(error).__name__}: {reason:.200}); download the "
            "folder by hand where there is a network, and name the folder"
        ) from None
    return Path(folder)
