"""Learning rate as a function of the finished updates alone."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array

from optim.config import DecayShape, OptimConfig, Schedule

Steps = Array | int | float
Clock = Callable[[Any], Any]
"""Finished updates → what is counted instead; an int gives an int, an array an array."""
OPT_FRACTION = 0.1


def make_schedule(
    config: OptimConfig, steps: int, examples_at: Clock | None = None
) -> optax.Schedule:
    """Linear warm-up, then the course that `config.schedule` names, over `steps` updates in all.

    `examples_at(step)` are the examples seen after that many updates; with
    `config.schedule_unit` examples it is the clock. Raises ValueError when it is missing then.
    """
    clock = _clock(config, examples_at)
    course = COURSES[config.schedule]
    warmup = max(config.warmup_steps, 1)
    end = steps if clock is None else int(clock(steps))

    def schedule(step: Array) -> Array:
        now, then = (step, step + 1) if clock is None else (clock(step), clock(step + 1))
        share = jnp.minimum(then / warmup, course(config, now, end))
        if config.rewarm_steps:
            rising = jnp.clip((then - config.rewarm_from) / config.rewarm_steps, 0.0, 1.0)
            share = share * jnp.where(now < config.rewarm_from, 1.0, rising)
        return config.learning_rate * jnp.clip(share, 0.0, 1.0)

    return schedule


def make_warm_up(config: OptimConfig, examples_at: Clock | None = None) -> Callable[[Array], Array]:
    """Whether the warm-up is over after so many updates, as `make_schedule` counts it."""
    clock = _clock(config, examples_at) or (lambda step: step)
    return lambda step: jnp.asarray(clock(step) >= config.warmup_steps)


def _clock(config: OptimConfig, examples_at: Clock | None) -> Clock | None:
    """What the schedule counts instead of updates, if it does."""
    if config.schedule_unit == "examples" and examples_at is None:
        raise ValueError("optim.schedule_unit examples is not possible here; use updates")
    return examples_at if config.schedule_unit == "examples" else None


def _hold(config: OptimConfig, now: Steps, end: int) -> Array:
    """1, then down over the last steps. Only this fall depends on `end`: a longer run is the same
    run until its decay begins."""
    decay_steps = config.decay_steps or max(round(config.decay_fraction * end), 1)
    left = jnp.clip((end - now) / decay_steps, 0.0, 1.0)
    return _down_to(config.final_fraction or 0.0, FALLS[config.decay_shape](left))


def _rsqrt(config: OptimConfig, now: Steps, end: int) -> Array:
    """Constant, then ∝ 1/√now. PaLM: learning rate 1e-2 for 10,000 updates, then 1/√k."""
    return jnp.sqrt(config.rsqrt_steps / jnp.maximum(now, config.rsqrt_steps))


def _polynomial(config: OptimConfig, now: Steps, end: int) -> Array:
    """From the end of the warm-up to the last update. OPT (arXiv:2205.01068): linear to 10 %."""
    final = OPT_FRACTION if config.final_fraction is None else config.final_fraction
    return _down_to(final, _left_after_warmup(config, now, end) ** config.power)


def _cosine(config: OptimConfig, now: Steps, end: int) -> Array:
    """Half a period from the end of the warm-up on. Loshchilov & Hutter 2016, arXiv:1608.03983."""
    left = _left_after_warmup(config, now, end)
    return _down_to(config.final_fraction or 0.0, FALLS["cosine"](left))


def _exponential(config: OptimConfig, now: Steps, end: int) -> Array:
    """× decay_rate over each transition_steps, smoothly or in steps."""
    since = jnp.maximum(now - config.transition_begin, 0)
    passed = since / config.transition_steps
    if config.staircase and jnp.issubdtype(since.dtype, jnp.integer):
        passed = since // config.transition_steps
    elif config.staircase:  # half an example, as a compiled 41 / 41 may be less than 1
        passed = jnp.floor((since + 0.5) / config.transition_steps)
    return jnp.maximum(config.decay_rate**passed, config.final_fraction or 0.0)


COURSES: dict[Schedule, Callable[[OptimConfig, Steps, int], Array]] = {
    "hold": _hold,
    "rsqrt": _rsqrt,
    "polynomial": _polynomial,
    "cosine": _cosine,
    "exponential": _exponential,
}
FALLS: dict[DecayShape, Callable[[Array], Array]] = {
    "linear": lambda left: left,
    "cosine": lambda left: 0.5 - 0.5 * jnp.cos(jnp.pi * left),
    "sqrt": lambda left: 1 - jnp.sqrt(1 - left),
}


def _left_after_warmup(config: OptimConfig, now: Steps, end: int) -> Array:
    length = max(end - config.warmup_steps, 1)
    return jnp.clip((end - now) / length, 0.0, 1.0)


def _down_to(final: float, share: Array) -> Array:
    return final + (1 - final) * share
