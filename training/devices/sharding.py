"""How arrays of a training state are sharded over a mesh, by the paths of the parameters.

The mesh has three axes. The rows of a batch are sharded over `data` and `fsdp`. Over `fsdp` every
matrix is sharded as well, and all-gathered where a layer needs it (Rajbhandari et al. 2019,
arXiv:1910.02054, stage 3). Over `tensor` matrices stay sharded, and a product of two is summed
once (Shoeybi et al. 2019, arXiv:1909.08053).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import PartitionSpec

from optim.optimizers import STACKS
from trees import is_stacked

DATA, FSDP, TENSOR = AXES = ("data", "fsdp", "tensor")
ROWS = PartitionSpec((DATA, FSDP))

_OF_OPTIMIZER = rf"/({'|'.join(STACKS)})/"
TENSOR_RULES: tuple[tuple[str, tuple[int, ...]], ...] = (
    (r"/(q|k|v|up|gate)/(kernel|bias)$", (-1,)),  # outputs
    (r"/(out|down)/kernel$", (-2,)),  # inputs
    (r"_embedding/tokens$", (-2, -1)),  # rows, else columns
    (r"(^|/)head/kernel$", (-1,)),
    (r"(^|/)logits_bias$", (-1,)),
    (_OF_OPTIMIZER, (-1,)),
)
"""Path of a parameter → the axis that is sharded over `tensor`: the first that can be divided."""

JOBS: tuple[tuple[Any, ...], ...] = (
    (None, FSDP, TENSOR),
    (TENSOR, FSDP, None),
    ((TENSOR, FSDP), None, None),
    ((TENSOR, FSDP, DATA), None, None),
)
"""Shardings of square matrices when each device works on a few of them: first the state's, last by
matrices, and in between such that each move exchanges parts."""


def partition(path: str, shape: Sequence[int], sizes: Mapping[str, int]) -> PartitionSpec:
    """The mesh axis of each axis of a parameter, or of an optimizer's array whose path ends with
    the parameter's. The first axis of a stack, of layers or of an optimizer's matrices, is never
    sharded. Vectors are sharded only by the rules."""
    axes: list[str | None] = [None] * len(shape)
    first = int(is_stacked(path) or re.search(_OF_OPTIMIZER, path) is not None)

    def may_cut(axis: int, name: str) -> bool:
        free = axis >= first and axes[axis] is None
        return free and shape[axis] >= sizes[name] and shape[axis] % sizes[name] == 0

    if sizes[TENSOR] > 1:
        wanted = next((cuts for rule, cuts in TENSOR_RULES if re.search(rule, path)), ())
        for axis in (cut + len(shape) for cut in wanted):
            if TENSOR not in axes and may_cut(axis, TENSOR):
                axes[axis] = TENSOR
    if sizes[FSDP] > 1 and len(shape) - first >= 2:
        able = [axis for axis in range(first, len(shape)) if may_cut(axis, FSDP)]
        if able:
            axes[max(able, key=lambda axis: shape[axis])] = FSDP
    return PartitionSpec(*axes)


def job_ways(shape: Sequence[int], sizes: Mapping[str, int]) -> list[PartitionSpec]:
    """JOBS for an array of this shape, whose first axis all devices divide. Other axes are
    replicated if they cannot be divided."""

    def of_axis(axis: int, name: Any) -> Any:
        return name if axis == 0 or name is None or shape[axis] % sizes[name] == 0 else None

    ways = (way[: len(shape)] for way in JOBS)
    return [PartitionSpec(*(of_axis(i, name) for i, name in enumerate(way))) for way in ways]
