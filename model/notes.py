"""Intermediate values of the model, collected while it is traced inside `taking`. Outside of it
`note` computes nothing."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import jax.numpy as jnp
from jaxtyping import Array, Float

Notes = dict[str, Array]
_NOTES: ContextVar[Notes | None] = ContextVar("notes", default=None)
_PLACE: ContextVar[str] = ContextVar("place", default="")


@contextlib.contextmanager
def taking() -> Iterator[Notes]:
    """A context that collects the values of all calls of `note` in it, by name."""
    notes: Notes = {}
    token = _NOTES.set(notes)
    try:
        yield notes
    finally:
        _NOTES.reset(token)


@contextlib.contextmanager
def at(place: str) -> Iterator[None]:
    """A context whose notes belong to this place, such as decoder/1."""
    token = _PLACE.set(place)
    try:
        yield
    finally:
        _PLACE.reset(token)


def note(name: str, value: Callable[[], Array]) -> None:
    """Collect `value()` as NAME/PLACE. Later ones of the same place are NAME/PLACE/1, …"""
    notes = _NOTES.get()
    if notes is None:
        return
    full = f"{name}/{_PLACE.get()}"
    count = sum(key == full or key.startswith(f"{full}/") for key in notes)
    notes[f"{full}/{count}" if count else full] = value()


def entropy(weights: Float[Array, "*s n"]) -> Float[Array, "*s"]:
    """The entropy in nats of weights that sum to 1: −Σ w ln w over the last axis."""
    return -jnp.sum(weights * jnp.log(jnp.maximum(weights, 1e-30)), -1)
