"""Distributed Shampoo: block preconditioners, grafting, and matrix roots shared by the devices."""

from optim.shampoo.transformation import STACKS, ShampooState, shampoo

__all__ = ["STACKS", "ShampooState", "shampoo"]
