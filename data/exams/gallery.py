"""Judges drawn pictures by the nearest real ones, with features of colour and shape; no network.

Colour is the difference from white paper; shape is a histogram of oriented gradients (Dalal &
Triggs, CVPR 2005). The gallery has every distinct real picture, training ones included. With
only held-out pictures, a copy of a similar training picture would count as right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

COLOUR_GRID = 16
"""Cells per side in which colour is compared."""
GREY_SIDE = 32
"""Pixels per side of the grey picture whose gradients are computed."""
SHAPE_GRID = 8
"""Cells per side of the gradient histograms."""
ORIENTATIONS = 6
"""Number of unsigned gradient directions: one bin per 30°."""

_CHUNK = 512  # pictures turned to float at a time: 25 MB at 64 × 64
_ROUNDING = 1e-6  # pictures whose distances differ by less in float32 tie; the target wins


@dataclass(frozen=True)
class Choice:
    """A forced choice among real pictures that agree in `same` and differ in `attribute`."""

    same: tuple[str, ...]
    attribute: str
    values: tuple[str, ...] = ()
    """The values that must all exist; empty = any two values."""


CHOICES = {
    "tone5way": Choice(("concept",), "tone", ("1", "2", "3", "4", "5")),
    "gender3way": Choice(("role", "tone"), "gender", ("person", "man", "woman")),
    "style": Choice(("concept", "tone", "colour", "number"), "style"),
    "colour": Choice(("concept", "style"), "colour"),
    "number": Choice(("concept", "style"), "number"),
}
"""Each is asked only if all the siblings exist. Sets without these columns skip the question."""


def picture_features(pictures: UInt8[np.ndarray, "b y x 3"]) -> Float[np.ndarray, "b f"]:
    """The features of pictures: colour and shape, each of unit length. The dot product of two rows
    is their similarity.

    White is zero in the colour part, so that two empty backgrounds do not count as similar.
    """
    features = np.zeros((len(pictures), COLOUR_GRID**2 * 3 + SHAPE_GRID**2 * ORIENTATIONS), "f4")
    for i in range(0, len(pictures), _CHUNK):
        small = pool(pictures[i : i + _CHUNK].astype(np.float32) / 255, GREY_SIDE)
        features[i : i + _CHUNK] = np.concatenate([_colour(small), _shape(small)], axis=1)
    return features


def pool(pictures: Float[np.ndarray, "b y x 3"], side: int) -> Float[np.ndarray, "b s s 3"]:
    """The mean over each cell of a side × side grid; pixels on a border count by their area."""
    count, height, width, _ = pictures.shape
    rows = _shares(height, side) @ pictures.reshape(count, height, width * 3)
    return _shares(width, side) @ rows.reshape(count, side, width, 3)


def _shares(size: int, side: int) -> Float[np.ndarray, "s y"]:
    """The share of each cell's area that every pixel covers: rows sum to one."""
    cell, pixel = np.arange(side)[:, None] * size / side, np.arange(size)
    overlap = np.minimum(cell + size / side, pixel + 1) - np.maximum(cell, pixel)
    return (np.maximum(overlap, 0) * side / size).astype(np.float32)


def _colour(small: Float[np.ndarray, "b s s 3"]) -> Float[np.ndarray, "b f"]:
    return _unit_length(1 - _sum_cells(small, COLOUR_GRID) * (COLOUR_GRID / GREY_SIDE) ** 2)


def _shape(small: Float[np.ndarray, "b s s 3"]) -> Float[np.ndarray, "b f"]:
    down, right = np.gradient(small.mean(axis=-1), axis=(1, 2))
    angle = np.arctan2(down, right) % np.pi
    direction = np.minimum(angle * (ORIENTATIONS / np.pi), ORIENTATIONS - 1).astype(np.int8)
    strength = np.hypot(down, right)
    by_direction = [np.where(direction == k, strength, 0) for k in range(ORIENTATIONS)]
    return _unit_length(np.sqrt(_sum_cells(np.stack(by_direction, axis=-1), SHAPE_GRID)))


def _sum_cells(x: Float[np.ndarray, "b s s c"], grid: int) -> Float[np.ndarray, "b g g c"]:
    """Sum over the positions of each of grid × grid cells."""
    count, side, _, channels = x.shape
    cell = side // grid
    return x.reshape(count, grid, cell, grid, cell, channels).sum(axis=(2, 4))


def _unit_length(x: Float[np.ndarray, "b g g c"]) -> Float[np.ndarray, "b f"]:
    flat = x.reshape(len(x), -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-8)


def distinct_pictures(pictures: UInt8[np.ndarray, "b y x 3"]) -> Int64[np.ndarray, " b"]:
    """A number for each picture, from 0 on in order of appearance; identical pictures share it."""
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(p.tobytes(), len(seen)) for p in pictures], np.int64)


@dataclass(frozen=True, eq=False)
class Gallery:
    """The real pictures with which drawn ones are compared."""

    pictures: UInt8[np.ndarray, "n y x 3"]
    attributes: Sequence[Mapping[str, str | None]]
    """The attributes of each picture; `concept`, `tone`, `gender`, `role` and `style` are read."""
    in_training: Bool[np.ndarray, " n"]

    def __post_init__(self) -> None:
        sizes = len(self.pictures), len(self.attributes), len(self.in_training)
        if len(set(sizes)) > 1 or not sizes[0]:
            raise ValueError(
                f"a gallery needs as many pictures as attributes and training marks, and one at "
                f"least; got {sizes[0]}, {sizes[1]} and {sizes[2]}"
            )

    @cached_property
    def distinct(self) -> Int64[np.ndarray, " n"]:
        """The number of each picture, which identical pictures share."""
        return distinct_pictures(self.pictures)

    @cached_property
    def features(self) -> Float[np.ndarray, "m f"]:
        """The features of each distinct picture."""
        return picture_features(self.pictures[np.unique(self.distinct, return_index=True)[1]])

    @cached_property
    def _trained(self) -> Bool[np.ndarray, " m"]:
        trained = np.zeros(len(self.features), bool)
        trained[self.distinct[self.in_training]] = True
        return trained

    def judge(
        self, drawn: UInt8[np.ndarray, "b y x 3"], targets: Int64[np.ndarray, " b"]
    ) -> dict[str, Float[np.ndarray, " b"]]:
        """Question → answers for the drawn pictures: 0, 1, or NaN if the question does not apply.

        `targets` are the indices of the prompts' own pictures in the gallery.
        """
        similarity, target_pictures = (
            self._similarity(picture_features(drawn)),
            self.distinct[targets],
        )
        reached = similarity[np.arange(len(drawn)), target_pictures] + _ROUNDING
        ahead = (similarity > reached[:, None]).sum(axis=1)
        nearest = np.where(ahead == 0, target_pictures, similarity.argmax(axis=1))
        answers = {
            "all_top1": ahead < 1,
            "all_top5": ahead < 5,
            "concept": self._are_right(nearest, targets),
            **{name: self._choose(name, drawn, targets) for name in CHOICES},
            "nn_is_train": self._trained[nearest],
        }
        answers["both"] = np.multiply(answers["concept"], answers["style"])
        return {name: np.asarray(answer, np.float32) for name, answer in answers.items()}

    def nearest(self, drawn: UInt8[np.ndarray, "b y x 3"]) -> Int64[np.ndarray, " b"]:
        """The index in `pictures` of the real picture nearest to each drawn one."""
        first = np.unique(self.distinct, return_index=True)[1]
        return first[self._similarity(picture_features(drawn)).argmax(axis=1)]

    def without_itself(
        self, targets: Int64[np.ndarray, " b"]
    ) -> dict[str, Float[np.ndarray, " b"]]:
        """The answers to `concept` for the real pictures `targets`, each compared with all others.

        It is a bound for drawn pictures: they cannot be expected to do better than another real
        picture of the thing.
        """
        places = self.distinct[targets]
        similarity = self._similarity(self.features[places])
        similarity[np.arange(len(places)), places] = -np.inf
        return {"concept": self._are_right(similarity.argmax(axis=1), targets)}

    def _similarity(self, features: Float[np.ndarray, "b f"]) -> Float[np.ndarray, "b m"]:
        """The similarity of pictures with these features to each distinct picture."""
        return features @ self.features.T

    def _are_right(
        self, pictures: Int64[np.ndarray, " b"], targets: Int64[np.ndarray, " b"]
    ) -> Float[np.ndarray, " b"]:
        """1 if the found picture shows its target's concept, 0 if not, NaN if the target has no
        concept."""
        answers = [
            picture in self._shown[concept] if concept else np.nan
            for picture, concept in zip(pictures, self._concepts(targets), strict=True)
        ]
        return np.array(answers, np.float32)

    def chance(self, targets: Int64[np.ndarray, " b"]) -> dict[str, Float[np.ndarray, " b"]]:
        """The mean of `judge` over distinct random real pictures."""
        count = len(self.features)
        concepts = self._concepts(targets)
        answers = {
            "all_top1": [1 / count for _ in targets],
            "all_top5": [min(5, count) / count for _ in targets],
            "concept": [len(self._shown[c]) / count if c else np.nan for c in concepts],
            **{
                name: [
                    1 / len(siblings) if (siblings := self._siblings(name, t)) else np.nan
                    for t in targets.tolist()
                ]
                for name in CHOICES
            },
            "both": [self._chance_of_both(t) for t in targets.tolist()],
            "nn_is_train": [self._trained.mean() for _ in targets],
        }
        return {name: np.asarray(answer, np.float32) for name, answer in answers.items()}

    def _chance_of_both(self, target: int) -> float:
        """The share of distinct real pictures that have the right concept, and that are nearer to
        the target than to its siblings in style."""
        concept = self.attributes[target].get("concept")
        if not concept or not self._siblings("style", target):
            return np.nan
        shown = [int(np.argmax(self.distinct == p)) for p in sorted(self._shown[concept])]
        pictures, targets = self.pictures[shown], np.full(len(shown), target)
        return sum(self._choose("style", pictures, targets)) / len(self.features)

    def _concepts(self, targets: Int64[np.ndarray, " b"]) -> list[str | None]:
        return [self.attributes[target].get("concept") for target in targets]

    @cached_property
    def _shown(self) -> dict[str, set[int]]:
        """Concept → the distinct pictures that show it; identical pictures may show several."""
        shown: dict[str, set[int]] = {}
        for picture, example in zip(self.distinct, self.attributes, strict=True):
            if concept := example.get("concept"):
                shown.setdefault(concept, set()).add(int(picture))
        return shown

    def _choose(
        self, name: str, drawn: UInt8[np.ndarray, "b y x 3"], targets: Int64[np.ndarray, " b"]
    ) -> list[float]:
        """1 for each drawn picture that is nearer to its target than to the siblings, by pixels;
        else 0."""
        answers = []
        for picture, target in zip(drawn, targets.tolist(), strict=True):
            siblings = self._siblings(name, target)
            away = self.pictures[siblings].astype(np.float32) - picture
            distance = np.square(away).sum(axis=(1, 2, 3))
            answers.append(float(distance.argmin() == 0) if siblings else np.nan)
        return answers

    def _siblings(self, name: str, target: int) -> list[int]:
        """The pictures of a forced choice, the target first; empty if a sibling is missing."""
        choice, example = CHOICES[name], self.attributes[target]
        family = self._families[name].get(_common(choice, example), {})
        own_value = example.get(choice.attribute)
        if own_value not in family or len(family) < max(len(choice.values), 2):
            return []
        return [target, *(index for value, index in family.items() if value != own_value)]

    @cached_property
    def _families(self) -> dict[str, dict[tuple, dict[str, int]]]:
        """Choice → the pictures that agree in its `same`, by their value of `attribute`."""
        families: dict[str, dict[tuple, dict[str, int]]] = {name: {} for name in CHOICES}
        for name, choice in CHOICES.items():
            for index, example in enumerate(self.attributes):
                value, common = example.get(choice.attribute), _common(choice, example)
                if value and value in (choice.values or (value,)) and common[0]:
                    families[name].setdefault(common, {})[value] = index
        return families


def _common(choice: Choice, example: Mapping[str, str | None]) -> tuple[str | None, ...]:
    return tuple(example.get(name) for name in choice.same)
