"""Sharding rules: which axis of an array of the training state is sharded over which mesh axis, by
the path of the parameter.

The rows of a batch are sharded over `data` and `fsdp`. Matrices are sharded over `fsdp`, and
all-gathered when a layer needs them (Rajbhandari et al. 2019, arXiv:1910.02054, stage 3). Over
`tensor` matrices are never gathered; the products of two of them are summed once (Shoeybi et al.
2019, arXiv:1909.08053).
"""

import re
from collections.abc import Mapping, Sequence

from jax.sharding import PartitionSpec

from common.trees import is_stacked
from optim.optimizers import STACKS

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
"""Path of a parameter → candidates for the axis that is sharded over `tensor`; the first one that
can be divided is taken."""

MeshAxes = str | tuple[str, ...] | None
"""The mesh axes over which one axis of an array is sharded."""
JOBS: tuple[tuple[MeshAxes, ...], ...] = (
    (None, FSDP, TENSOR),
    (TENSOR, FSDP, None),
    ((TENSOR, FSDP), None, None),
    ((TENSOR, FSDP, DATA), None, None),
)
"""The shardings through which stacked square matrices move before each device works on some of
them: from the state's sharding to whole matrices per device, by exchanges of parts."""


def partition(path: str, shape: Sequence[int], sizes: Mapping[str, int]) -> PartitionSpec:
    """The mesh axis of each axis of a parameter, or of an optimizer's array whose path ends with
    the parameter's. The first axis of a stack is never sharded. Vectors are sharded only by
    TENSOR_RULES."""
    axes: list[str | None] = [None] * len(shape)
    first = int(is_stacked(path) or re.search(_OF_OPTIMIZER, path) is not None)

    def can_shard(axis: int, name: str) -> bool:
        free = axis >= first and axes[axis] is None
        return free and shape[axis] >= sizes[name] and shape[axis] % sizes[name] == 0

    if sizes[TENSOR] > 1:
        wanted = next((offsets for rule, offsets in TENSOR_RULES if re.search(rule, path)), ())
        for axis in (place + len(shape) for place in wanted):
            if TENSOR not in axes and can_shard(axis, TENSOR):
                axes[axis] = TENSOR
    if sizes[FSDP] > 1 and len(shape) - first >= 2:
        able = [axis for axis in range(first, len(shape)) if can_shard(axis, FSDP)]
        if able:
            axes[max(able, key=lambda axis: shape[axis])] = FSDP
    return PartitionSpec(*axes)


def job_specs(shape: Sequence[int], sizes: Mapping[str, int]) -> list[PartitionSpec]:
    """JOBS for an array of this shape, whose first axis is a multiple of the devices. Other axes
    are replicated if they cannot be divided."""

    def shard(axis: int, name: MeshAxes) -> MeshAxes:
        is_divided = axis == 0 or (isinstance(name, str) and shape[axis] % sizes[name] == 0)
        return name if is_divided else None

    return [PartitionSpec(*map(shard, range(len(shape)), names)) for names in JOBS]
