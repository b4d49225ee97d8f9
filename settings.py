"""Settings as plain trees and as YAML; any package may import this file."""

import dataclasses
from typing import Any

import yaml


def to_tree(config: Any) -> dict[str, Any]:
    """A configuration as nested dicts of plain values."""
    return dataclasses.asdict(config)


def to_yaml(config: Any) -> str:
    """A configuration as YAML that `--config` reads back."""
    return yaml.safe_dump(_plain(to_tree(config)), sort_keys=False)


def _plain(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _plain(v) for k, v in tree.items()}
    return [_plain(v) for v in tree] if isinstance(tree, list | tuple) else tree
