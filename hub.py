"""hf://USER/NAME as a folder on this machine: the only file that knows Hugging Face's hub."""

import os
from pathlib import Path

HUB = "hf://"
FILES = ("*.json", "*.safetensors", "*.msgpack", "*.txt", "*.md", "*.yaml", "SHA256SUMS")
"""What is fetched: nothing that could be executed."""


def is_on_hub(path: str | Path) -> bool:
    """Whether a path names a model on the hub."""
    return str(path).startswith((HUB, "hf:/"))  # Path makes one slash of two


def fetch(path: str | Path) -> Path:
    """The folder of a model on the hub, fetched where it is not in the hub's cache. An address is
    hf://USER/NAME or hf://USER/NAME@REVISION.

    Raises:
        ValueError: the address is none, or the hub cannot be reached or has no such model.
    """
    name = str(path).removeprefix("hf:").lstrip("/").rstrip("/")
    repository, _, revision = name.partition("@")
    if len(repository.split("/")) != 2 or not all(repository.split("/")):
        raise ValueError(f"{path} must be {HUB}USER/NAME, or {HUB}USER/NAME@REVISION")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES))
    except Exception as error:  # of many kinds: its own, its client's, and the system's
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{HUB}{name} cannot be fetched ({type(error).__name__}: {reason:.200}); download the "
            "folder by hand where there is a network, and name the folder"
        ) from None
    return Path(found)
