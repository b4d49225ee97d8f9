"""Augmentation of pictures: random shift, zoom and colour, so that a CLIP trained on few pictures
learns their content, not their pixels."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


@dataclass(frozen=True)
class ViewConfig:
    """Limits of the random changes of a picture in training."""

    shift: float = 0.12
    """Shift along each axis, as a share of the picture's side."""
    zoom: float = 1.25
    """Factor of the size; 1.25 = from 4/5 to 5/4."""
    colour: float = 0.15
    """Change of each of red, green and blue: of its strength, and of its level."""

    def __post_init__(self) -> None:
        for name, least, most in (("shift", 0, 1), ("zoom", 1, 8), ("colour", 0, 1)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(
                    f"views.{name} must be in {least}..{most}, not {getattr(self, name)}"
                )


def random_views(
    config: ViewConfig, keys: Key[Array, " b"], pictures: Float[Array, "b y x 3"]
) -> Float[Array, "b y x 3"]:
    """The pictures, each changed at random by its own key. Border pixels are repeated."""
    return jax.vmap(lambda key, picture: _view(config, key, picture))(keys, pictures)


def _view(
    config: ViewConfig, key: Key[Array, ""], picture: Float[Array, "y x 3"]
) -> Float[Array, "y x 3"]:
    for_shift, for_zoom, for_strength, for_level = jax.random.split(key, 4)
    height, width, _ = picture.shape
    side = jnp.array([height, width])
    zoom = config.zoom ** jax.random.uniform(for_zoom, (), minval=-1)
    shift = config.shift * side * jax.random.uniform(for_shift, (2,), minval=-1)
    # So wide a border that no pixel outside of it is ever seen.
    border = int(max(height, width) * (config.shift + (config.zoom - 1) / 2)) + 1
    padded = jnp.pad(picture, ((border, border), (border, border), (0, 0)), mode="edge")
    centred = side / 2 - zoom * (side / 2 + border) + shift
    moved = jax.image.scale_and_translate(
        padded, picture.shape, (0, 1), jnp.full(2, zoom), centred, "linear", antialias=False
    )
    strength = 1 + config.colour * jax.random.uniform(for_strength, (3,), minval=-1)
    level = config.colour * jax.random.uniform(for_level, (3,), minval=-1)
    return jnp.clip(moved * strength[None, None] + level[None, None], -1, 1)
