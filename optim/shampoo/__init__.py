"""Distributed Shampoo: blocked preconditioners, grafts, roots spread over devices."""

from optim.shampoo.reference import shampoo_from_reference_settings
from optim.shampoo.transformation import ShampooState, shampoo

__all__ = ["ShampooState", "shampoo", "shampoo_from_reference_settings"]
