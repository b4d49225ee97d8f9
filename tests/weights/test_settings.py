"""Settings are checked for type, size and allowed words; a wrong one is named."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from weights.settings import configuring, read_own


@dataclass(frozen=True)
class Example:
    size: int = 4
    share: float = 0.5
    is_on: bool = False
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.size == 5:
            raise ValueError("size 5 is none")


def test_settings_out_of_json_are_those_that_went_in() -> None:
    values = {"size": 3, "share": 1, "is_on": True, "kind": "b", "sizes": [1, 2]}
    assert read_own(Example, values) == Example(3, 1.0, True, "b", (1, 2))
    assert read_own(Example, {}) == Example()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (5, "5 is no Example"),
        ({"colour": 1}, r"does not know: \['colour'\]"),
        ({"size": 3.0}, "size must be a whole number, not 3.0"),
        ({"size": True}, "size must be a whole number, not True"),
        ({"size": 1 << 40}, "size must be in 0..16777216"),
        ({"size": 5}, "size 5 is none"),
        ({"share": float("inf")}, "share must be a number, not inf"),
        ({"is_on": "no"}, "is_on must be true or false, not 'no'"),
        ({"kind": "c"}, "kind 'c' is not one of a, b"),
        ({"kind": ["a"]}, "kind must be text"),
        ({"sizes": 3}, "sizes must be a list of whole numbers, not 3"),
        ({"sizes": [1, True]}, "sizes must be a whole number, not True"),
        ({"sizes": [1, -1]}, "sizes must be in 0..16777216, not -1"),
        ({"sizes": [1] * 2000}, "sizes must be a list of whole numbers"),
    ],
)
def test_values_that_are_no_settings_are_named(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_own(Example, values)


def test_every_error_is_one_line_that_names_the_file() -> None:
    for error in (ValueError("first\nsecond"), TypeError("first"), OverflowError("first")):
        refused = pytest.raises(
            ValueError, match="^x.json is not a configuration of a thing: first$"
        )
        with refused, configuring("x.json", "a thing"):
            raise error
