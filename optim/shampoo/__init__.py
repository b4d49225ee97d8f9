"""Distributed Shampoo: blocked preconditioners, grafts, roots spread over devices."""

from optim.shampoo.transformation import ShampooState, shampoo

__all__ = ["ShampooState", "shampoo"]
