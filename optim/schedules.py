"""Learning-rate schedules: pure functions of the number of finished updates."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array

from optim import wide
from optim.config import DecayShape, OptimConfig, Schedule
from optim.lengths import Length, Unit, from_start, last_span, span
from optim.wide import Wide

Clock = Callable[[Any], Any]
"""Finished updates → examples seen. An int gives an int, a traced array gives a Wide."""
OPT_FRACTION = 0.1


@dataclass(frozen=True)
class Course:
    """The lengths of a schedule, all in its unit: updates or examples."""

    config: OptimConfig
    end: int
    warmup: int
    decay: int
    rsqrt: int
    transition: int
    transition_begin: int
    rewarm: int
    rewarm_from: int


def make_schedule(
    config: OptimConfig, steps: int, examples_at: Clock | None = None
) -> optax.Schedule:
    """A function from finished updates to the learning rate: linear warm-up, then the shape that
    `config.schedule` names, over `steps` updates in all.

    `examples_at(step)` is the number of examples seen after `step` updates. Raises ValueError if it
    is None and a length is in examples.
    """
    clock, course = _clock(config, examples_at), make_course(config, steps, examples_at)
    shape = COURSES[config.schedule]

    def schedule(step: Array) -> Array:
        now, then = clock(step), clock(step + 1)
        share = jnp.minimum(wide.to_float(then) / float(max(course.warmup, 1)), shape(course, now))
        if course.rewarm:
            since = _since(then, course.rewarm_from)
            rising = jnp.clip(since / float(course.rewarm), 0.0, 1.0)
            is_before = wide.less(now, wide.wide(course.rewarm_from))
            share = share * jnp.where(is_before, 1.0, rising)
        return config.learning_rate * jnp.clip(share, 0.0, 1.0)

    return schedule


def make_warm_up(config: OptimConfig, examples_at: Clock | None = None) -> Callable[[Array], Array]:
    """A function from finished updates to True once the warm-up is over."""
    clock = _clock(config, examples_at)
    end = from_start(config.length("warmup_steps"), config.schedule_unit, examples_at)
    return lambda step: ~wide.less(clock(step), wide.wide(end))


def describe_course(config: OptimConfig, steps: int, examples_at: Clock) -> str:
    """A line about a schedule that counts examples, with its lengths in examples."""
    course = make_course(config, steps, examples_at)
    counted = {"warmup_steps": course.warmup, "decay_steps": course.decay}
    parts = (
        f"{name} {config.length(name) if config.length(name).number else 'as decay_fraction'}"
        f" = {number:,}"
        for name, number in counted.items()
        if number and (name == "warmup_steps" or config.schedule == "hold")
    )
    return f"learning rate by {config.schedule_unit}, {course.end:,} in all: {', '.join(parts)}"


def make_course(config: OptimConfig, steps: int, examples_at: Clock | None) -> Course:
    """The lengths of a configuration in its `schedule_unit`. The sizes of the batches convert
    lengths that are given in the other unit."""
    unit = config.schedule_unit
    lengths = {name: config.length(name) for name in config.LENGTHS}
    transition, begin = lengths["transition_steps"], lengths["transition_begin"]
    if config.schedule == "exponential" and transition.unit != unit:
        _check_constant(transition, steps, unit, examples_at)
    end = from_start(Length(steps, "updates"), unit, examples_at)
    decay = last_span(lengths["decay_steps"], steps, unit, examples_at)
    rewarm_from = lengths["rewarm_from"]
    return Course(
        config,
        end,
        warmup=from_start(lengths["warmup_steps"], unit, examples_at),
        decay=decay or max(round(config.decay_fraction * end), 1),
        rsqrt=_if(config.schedule == "rsqrt", lengths["rsqrt_steps"], unit, examples_at),
        transition=_if(config.schedule == "exponential", transition, unit, examples_at),
        transition_begin=_if(config.schedule == "exponential", begin, unit, examples_at),
        rewarm=span(lengths["rewarm_steps"], rewarm_from, unit, examples_at),
        rewarm_from=from_start(rewarm_from, unit, examples_at),
    )


def _clock(config: OptimConfig, examples_at: Clock | None) -> Callable[[Array], Wide]:
    """A function from finished updates to the schedule's unit: updates or examples."""
    if config.schedule_unit == "updates":
        return lambda step: wide.times(step, 1)
    if examples_at is None:
        raise ValueError("optim.schedule_unit examples is not possible here; use updates")
    return examples_at


def _hold(course: Course, now: Wide) -> Array:
    """1, then a decay over the last steps. Only the decay depends on the end, so a longer run is
    the same run until its decay begins."""
    left = jnp.clip(_until(course.end, now) / float(course.decay), 0.0, 1.0)
    config = course.config
    return _down_to(config.final_fraction or 0.0, FALLS[config.decay_shape](left))


def _rsqrt(course: Course, now: Wide) -> Array:
    """Constant, then ∝ 1/√now. PaLM: learning rate 1e-2 for 10,000 updates, then 1/√k."""
    return jnp.sqrt(float(course.rsqrt) / jnp.maximum(wide.to_float(now), float(course.rsqrt)))


def _polynomial(course: Course, now: Wide) -> Array:
    """A decay from the end of the warm-up to the last update. OPT (arXiv:2205.01068): linear to
    10 %."""
    config = course.config
    final = OPT_FRACTION if config.final_fraction is None else config.final_fraction
    return _down_to(final, _left_after_warmup(course, now) ** config.power)


def _cosine(course: Course, now: Wide) -> Array:
    """Half a cosine after the warm-up. Loshchilov & Hutter 2016, arXiv:1608.03983."""
    left = _left_after_warmup(course, now)
    return _down_to(course.config.final_fraction or 0.0, FALLS["cosine"](left))


def _exponential(course: Course, now: Wide) -> Array:
    """A factor decay_rate per transition_steps, smoothly or in stairs."""
    config = course.config
    since = wide.minus(now, wide.wide(course.transition_begin))
    passed = wide.to_float(since) / float(course.transition)
    if config.staircase:
        passed = wide.whole_parts(since, course.transition)
    return jnp.maximum(config.decay_rate**passed, config.final_fraction or 0.0)


COURSES: dict[Schedule, Callable[[Course, Wide], Array]] = {
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


def _left_after_warmup(course: Course, now: Wide) -> Array:
    length = max(course.end - course.warmup, 1)
    return jnp.clip(_until(course.end, now) / float(length), 0.0, 1.0)


def _since(now: Wide, start: int) -> Array:
    return wide.to_float(wide.minus(now, wide.wide(start)))


def _until(end: int, now: Wide) -> Array:
    return wide.to_float(wide.minus(wide.wide(end), now))


def _down_to(final: float, share: Array) -> Array:
    return final + (1 - final) * share


def _if(is_used: bool, length: Length, unit: Unit, examples_at: Clock | None) -> int:
    """The length in `unit`; 1 if the schedule does not use it."""
    return from_start(length, unit, examples_at) if is_used else 1


def _check_constant(length: Length, steps: int, unit: str, examples_at: Clock | None) -> None:
    """Raise ValueError if a repeated length would change, because the batches grow."""
    if examples_at is not None and examples_at(steps) != steps * examples_at(1):
        raise ValueError(
            f"optim.transition_steps {length} is repeated, and batches grow; give it in {unit}, as "
            "optim.schedule_unit"
        )
