"""How tests compile programs that run once: faster, where this XLA knows how."""

import functools

import jax


@functools.cache
def quick_options() -> dict[str, bool]:
    """Compiler options that halve the time for gradients on a CPU; newer versions have no such."""
    options = {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda x: x + 1, compiler_options=options)(0)
    except jax.errors.JaxRuntimeError:
        return {}
    return options
