"""Counts the FLOPs of a function from its jaxpr, without running it.

XLA's cost analysis counts the body of a scan once, and ignores custom kernels. A jaxpr shows how
often each product is computed. By convention only matrix products and convolutions count (Kaplan et
al. 2020, arXiv:2001.08361, appendix B); other operations are bound by memory.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core


def count_flops(function: Callable[..., object], *arguments: object) -> int:
    """The FLOPs of one call with these arrays or shapes. Recomputation counts each time, a
    conditional as its most expensive branch, a loop of unknown length as one iteration."""
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_jaxpr(jaxpr: core.Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: core.JaxprEqn) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        return _of_product(equation)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    inner = [_of_jaxpr(jaxpr) for jaxpr in _inner(equation)]
    if name == "cond":
        return max(inner, default=0)
    return sum(inner) * (equation.params["length"] if name == "scan" else 1)


def _inner(equation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """Yield the jaxprs inside an equation: bodies of loops, branches, called functions."""
    for value in equation.params.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _of_product(equation: Any) -> int:
    """The FLOPs of a product: a multiplication and an addition per output element and summand."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def _of_convolution(equation: Any) -> int:
    kernel = equation.invars[1].aval
    outputs = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * equation.outvars[0].aval.size * (kernel.size // outputs)
