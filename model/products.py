"""Matrix products for which XLA on a CPU chooses its fast kernels; on accelerators, plain products.

Both operands are float32, or both are half precision; sums and results are float32. With jax 0.10
on a CPU, a product that reads its operands in stored order runs at 230 GFLOP/s per core in float32
and 470 in bfloat16. One that reads an operand transposed, as every gradient does, runs at 50–110,
and bfloat16 operands are converted to float32 first. So this file defines the gradients itself,
with the smaller operand transposed in memory.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PANEL_WIDTH = 64
"""Columns of a kernel in one panel."""
PANEL_ROWS = range(2, 5)
"""Numbers of rows for which a kernel in panels is faster."""
WIDE = 3 << 16
"""Least size of a kernel for which its layout matters."""
TRANSPOSED_ROWS = range(5, 65)
"""Numbers of rows for which the product with transposed rows is faster."""
MANY_ROWS = 32
"""Least number of rows for which a contiguous copy of half-precision operands pays."""


def _plain(a: Float[Array, "*s m k"], b: Float[Array, "*t k n"]) -> Float[Array, "*s m n"]:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _settled(a: Float[Array, "*s m k"], b: Float[Array, "*t k n"]) -> Float[Array, "*s m n"]:
    """a @ b, with both operands contiguous in memory on a CPU.

    The barriers keep XLA from folding a transposition, before or after the product, into it.
    Without the leading axis of length 1 XLA does not choose its bfloat16 kernel.
    """
    hold = jax.lax.optimization_barrier

    def settled(a: Array, b: Array) -> Array:
        first, second = hold((a.reshape(1, *a.shape), b.reshape(1, *b.shape)))
        return hold(_plain(first.reshape(a.shape), second.reshape(b.shape)))

    return jax.lax.platform_dependent(a, b, cpu=settled, default=_plain)


def _forward(a: Float[Array, "*s m k"], b: Float[Array, "*t k n"]) -> Float[Array, "*s m n"]:
    """a @ b. Kernels are contiguous already. Attention heads, which are slices of channels, are
    not; they are copied if there are enough rows."""
    if a.dtype == jnp.float32 or b.ndim == 2 or a.shape[-2] < MANY_ROWS:
        return _plain(a, b)
    return _settled(a, b)


def _swap(x: Float[Array, "*s m n"]) -> Float[Array, "*s n m"]:
    return x.swapaxes(-1, -2)


def _transposed_times(
    a: Float[Array, "*s m k"], b: Float[Array, "*s m n"]
) -> Float[Array, "*s k n"]:
    """aᵀ @ b, with the narrower operand transposed in memory."""
    if a.shape[-1] <= b.shape[-1]:
        return _settled(_swap(a), b)
    return _swap(_settled(_swap(b), a))


def _rows(x: Float[Array, "*s d"]) -> Float[Array, "r d"]:
    return x.reshape(-1, x.shape[-1])


@jax.custom_vjp
def product(a: Float[Array, "*s m k"], b: Float[Array, "*t k n"]) -> Float[Array, "*s m n"]:
    """a @ b, for as many matrices b as a, or for one b."""
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
    """x @ kernel in float32, with operands rounded to `dtype`. The kernel may be stored in panels
    (`in_panels`)."""
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    if kernel.ndim == 3:
        return _panel_matmul(x, kernel)
    if dtype == jnp.float32 and x.size // x.shape[-1] in TRANSPOSED_ROWS and kernel.size >= WIDE:
        return _transposed_matmul(x, kernel)
    return product(x, kernel)


def in_panels(kernel: Float[Array, "d f"]) -> Float[Array, "d f"] | Float[Array, "p d w"]:
    """The kernel with every PANEL_WIDTH columns stored together: a product with few rows then reads
    memory in order, on a CPU up to twice as fast. A small kernel is unchanged."""
    if kernel.ndim != 2 or kernel.size < WIDE or kernel.shape[1] % PANEL_WIDTH:
        return kernel
    return jnp.moveaxis(kernel.reshape(len(kernel), -1, PANEL_WIDTH), 1, 0)


def _panel_matmul(x: Float[Array, "*b d"], kernel: Float[Array, "p d w"]) -> Float[Array, "*b f"]:
    rows = x.reshape(1, -1, x.shape[-1])
    rows = jnp.broadcast_to(rows, (len(kernel), *rows.shape[1:]))  # else XLA copies the kernel
    y = jnp.matmul(rows, kernel, preferred_element_type=jnp.float32)
    return jnp.moveaxis(y, 0, 1).reshape(*x.shape[:-1], -1)


def _transposed_matmul(x: Float[Array, "*b d"], kernel: Float[Array, "d f"]) -> Array:
    """x @ kernel with x transposed first. XLA on a CPU then calls another library, which is 1.2 to
    1.4 times as fast for TRANSPOSED_ROWS."""
    columns = jax.lax.optimization_barrier(x.reshape(-1, x.shape[-1]).T)
    y = jax.lax.dot_general(columns, kernel, (((0,), (0,)), ((), ())))
    return y.reshape(*x.shape[:-1], -1)
