"""Distributed Shampoo: blocked preconditioners, grafts, roots spread over devices."""

from optim.shampoo.transformation import STACKS, ShampooState, shampoo

__all__ = ["STACKS", "ShampooState", "shampoo"]
