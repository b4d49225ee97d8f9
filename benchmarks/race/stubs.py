"""Stubs for modules that peers import but that the measured code never calls."""

import importlib.machinery
import sys
import types
from typing import Any

import torch

TORCHVISION = ("torchvision", "torchvision.transforms", "torchvision.models", "torchvision.utils")


def stub(name: str) -> Any:
    """Register and return an empty module of this name. Each of its attributes is an empty
    class."""
    module: Any = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__path__ = []
    module.__getattr__ = empty_class
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    return module


def empty_class(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


def stub_all() -> None:
    """Stub the modules that DALLE-pytorch and taming-transformers import beyond torch."""
    for name in (*TORCHVISION, "youtokentome"):
        stub(name)
    lightning = stub("pytorch_lightning")
    lightning.LightningModule, lightning.__version__ = torch.nn.Module, "1.0"
    main = stub("taming_main")
    main.instantiate_from_config = None
    sys.modules["taming.main"] = main
