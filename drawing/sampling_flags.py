"""Flags of the commands that draw, in place of the sampling settings of a checkpoint."""

from dataclasses import dataclass, fields, replace

from model.config import SamplingConfig


@dataclass(frozen=True, kw_only=True)
class SamplingFlags:
    """The checkpoint's own sampling settings, unless a flag says otherwise."""

    guidance_scale: float | None = None
    """1 = no guidance; default: the checkpoint's."""
    guidance_start: float | None = None
    """Share of the picture drawn before guidance starts; default: the checkpoint's."""
    guidance_end: float | None = None
    """Share of the picture drawn when guidance stops; default: the checkpoint's."""
    temperature: float | None = None
    """0 = greedy; default: the checkpoint's."""
    top_k: int | None = None
    """Sample only from this many likeliest tokens, 0 = all; default: the checkpoint's."""
    top_p: float | None = None
    """Sample only from the likeliest tokens that reach this total probability; default: the
    checkpoint's."""

    def applied_to(self, sampling: SamplingConfig) -> SamplingConfig:
        """`sampling` with the given flags in place of its values."""
        names = [field.name for field in fields(SamplingConfig)]
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(sampling, **given)
