"""Products of matrices, written so that XLA on CPU takes its fast kernels; elsewhere plain
products.

Both operands are float32 or both are half precision; sums and results are float32. Measured with
XLA on a CPU (jax 0.10), a product that reads its operands in stored order runs at 230 GFLOP/s a
core in float32 and 470 in bfloat16. A product that reads an operand transposed, as every gradient
does, falls to 50–110, and in bfloat16 is computed in float32 first. So the gradients are written
out here, with the smaller operand transposed in memory.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PANEL_WIDTH = 64
"""Columns of a kernel that are stored together in a panel."""
PANEL_ROWS = range(2, 5)
"""Rows for which panels are faster than a plain kernel."""
WIDE = 3 << 16
"""Numbers in a kernel from which its layout matters."""
TRANSPOSED_ROWS = range(5, 65)
"""Rows for which transposing the rows first is faster."""
MANY_ROWS = 32
"""Rows from which operands in half precision are worth a copy in reading order."""


def _plain(a: Float[Array, "*s m k"], b: Float[Array, "*t k n"]) -> Float[Array, "*s m n"]:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _settled(a: Float[Array, "*s m k"], b: Float[Array, "*t k n"]) -> Float[Array, "*s m n"]:
    """The product of operands that are stored in memory in the order in which they are read.

    The barriers keep a swap of axes, before the product or after it, from being folded into it. The
    axis of length 1 shows the compiler operands in the usual order; without it XLA does not find
    its bfloat16 kernel.
    """
    hold = jax.lax.optimization_barrier

    def settled(a: Array, b: Array) -> Array:
        first, second = hold((a.reshape(1, *a.shape), b.reshape(1, *b.shape)))
        return hold(_plain(first.reshape(a.shape), second.reshape(b.shape)))

    return jax.lax.platform_dependent(a, b, cpu=settled, default=_plain)


def _forward(a: Float[Array, "*s m k"], b: Float[Array, "*t k n"]) -> Float[Array, "*s m n"]:
    """The product of x and a kernel. Kernels are stored in reading order; heads, sliced out of
    channels, are not, and few rows are not worth a copy of them."""
    if a.dtype == jnp.float32 or b.ndim == 2 or a.shape[-2] < MANY_ROWS:
        return _plain(a, b)
    return _settled(a, b)


def _swap(x: Float[Array, "*s m n"]) -> Float[Array, "*s n m"]:
    return x.swapaxes(-1, -2)


def _transposed_times(
    a: Float[Array, "*s m k"], b: Float[Array, "*s m n"]
) -> Float[Array, "*s k n"]:
    """aᵀ @ b, with the narrower one transposed in memory."""
    if a.shape[-1] <= b.shape[-1]:
        return _settled(_swap(a), b)
    return _swap(_settled(_swap(b), a))


def _rows(x: Float[Array, "*s d"]) -> Float[Array, "r d"]:
    return x.reshape(-1, x.shape[-1])


@jax.custom_vjp
def product(a: Float[Array, "*s m k"], b: Float[Array, "*t k n"]) -> Float[Array, "*s m n"]:
    """a @ b. There are as many matrices b as a, or one."""
    return _forward(a, b)


def _product_forward(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return _forward(a, b), (a, b)


def _product_backward(operands: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    a, b = operands
    gradient = gradient.astype(a.dtype)
    if b.ndim == 2:
        flat = _rows(gradient)
        to_a = _settled(flat, _swap(b)).reshape(a.shape)
        to_b = _transposed_times(_rows(a), flat)
    else:
        to_a, to_b = _settled(gradient, _swap(b)), _transposed_times(a, gradient)
    return to_a.astype(a.dtype), to_b.astype(b.dtype)


product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def product_of_rows(a: Float[Array, "*s m k"], b: Float[Array, "*s n k"]) -> Float[Array, "*s m n"]:
    """a @ bᵀ: the product of every row of a with every row of b."""
    return _forward(a, _swap(b))


def _of_rows_forward(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return _forward(a, _swap(b)), (a, b)


def _of_rows_backward(operands: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    a, b = operands
    gradient = gradient.astype(a.dtype)
    to_a, to_b = _settled(gradient, b), _transposed_times(gradient, a)
    return to_a.astype(a.dtype), to_b.astype(b.dtype)


product_of_rows.defvjp(_of_rows_forward, _of_rows_backward)


def matmul(
    x: Float[Array, "*b d"], kernel: Float[Array, "d f"] | Float[Array, "p d w"], dtype: jnp.dtype
) -> Float[Array, "*b f"]:
    """x @ kernel with operands in `dtype`; sums and the result are float32. The kernel may be
    stored in panels (`in_panels`)."""
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    if kernel.ndim == 3:
        return _panel_matmul(x, kernel)
    if dtype == jnp.float32 and x.size // x.shape[-1] in TRANSPOSED_ROWS and kernel.size >= WIDE:
        return _transposed_matmul(x, kernel)
    return product(x, kernel)


def in_panels(kernel: Float[Array, "d f"]) -> Float[Array, "d f"] | Float[Array, "p d w"]:
    """The kernel with every PANEL_WIDTH columns in one place, so that a product with few rows reads
    memory in order: on a CPU up to twice as fast. A small kernel is unchanged."""
    if kernel.ndim != 2 or kernel.size < WIDE or kernel.shape[1] % PANEL_WIDTH:
        return kernel
    return jnp.moveaxis(kernel.reshape(len(kernel), -1, PANEL_WIDTH), 1, 0)


def _panel_matmul(x: Float[Array, "*b d"], kernel: Float[Array, "p d w"]) -> Float[Array, "*b f"]:
    rows = x.reshape(1, -1, x.shape[-1])
    rows = jnp.broadcast_to(rows, (len(kernel), *rows.shape[1:]))  # else XLA copies the kernel
    y = jnp.matmul(rows, kernel, preferred_element_type=jnp.float32)
    return jnp.moveaxis(y, 0, 1).reshape(*x.shape[:-1], -1)


def _transposed_matmul(x: Float[Array, "*b d"], kernel: Float[Array, "d f"]) -> Array:
    """The product with x transposed first. XLA on CPU then calls another library, which for so few
    rows is 1.2 to 1.4 times as fast."""
    columns = jax.lax.optimization_barrier(x.reshape(-1, x.shape[-1]).T)
    y = jax.lax.dot_general(columns, kernel, (((0,), (0,)), ((), ())))
    return y.reshape(*x.shape[:-1], -1)
