"""dalle-mini's caption normaliser: its published behaviour, and its time on hostile captions."""

import itertools
import json
import math
import os
import string
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.text import normalise
from data.text.normalise import make_normalizer, make_splitter, make_steps
from tests.data.hostile import HOSTILE, LONG

ROOT = Path(__file__).parents[2]
REFERENCE = json.loads((ROOT / "tests/reference/text/text_normalizer.json").read_text())
WORDS = REFERENCE["word_list_most_frequent_first"]
PAIRS = REFERENCE["pairs"]
ALPHABET = {*string.ascii_lowercase, *string.digits, *" \"$%&'*,./<>@^"}
PIECES = [*(pair["input"] for pair in PAIRS), *"#&<>,.'\"-/_\\ \n\0\x1c\xa0é中я", "🍕", "#it's"]


@pytest.fixture(scope="module")
def normalize() -> Callable[[str], str]:
    return make_normalizer(WORDS)


@pytest.fixture(scope="module")
def normalize_english() -> Callable[[str], str]:
    return make_normalizer()


def possible(pair: dict) -> list[str]:
    return pair.get("output_one_of", [pair.get("output")])


def without_unidecode(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    monkeypatch.setitem(sys.modules, "unidecode", None)
    return make_normalizer(WORDS)


@pytest.mark.parametrize("pair", PAIRS, ids=[f"{i}-{p['rule']}" for i, p in enumerate(PAIRS)])
def test_captions_come_out_as_from_dalle_mini(normalize: Callable[[str], str], pair: dict) -> None:
    pytest.importorskip("unidecode")
    assert normalize(pair["input"]) in possible(pair)


def test_without_unidecode_only_other_scripts_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    normalize = without_unidecode(monkeypatch)
    with pytest.warns(UserWarning, match="pip install Unidecode"):
        differing = [p["input"] for p in PAIRS if normalize(p["input"]) not in possible(p)]
    assert differing == ["東京 skyline at night", "Москва зимой"]
    assert normalize("2½ – “Łódź”: naïve ﬁsh") == ' 2 1/2, " lodz ", naive fish'


def test_hashtags_are_split_as_by_dalle_mini() -> None:
    split = make_splitter(WORDS)
    for example in REFERENCE["hashtag_splits"]:
        assert split(example["input"]) == example["output"]


def test_a_split_is_the_cheapest_of_all() -> None:
    words = ["a", "b", "ab", "ba", "abc", "c", "bcab", "cc", "aab"]
    split = make_splitter(words)
    costs = {word: math.log(rank) for rank, word in enumerate(words, start=1)}
    for letters in itertools.product("abc", repeat=7):
        text = "".join(letters)
        found = split(text).split()
        assert "".join(found) == text
        best = min(
            sum(costs.get(text[i:j], math.inf) for i, j in itertools.pairwise((0, *cuts, 7)))
            for count in range(7)
            for cuts in itertools.combinations(range(1, 7), count)
        )
        assert sum(costs[word] for word in found) == pytest.approx(best)


def test_the_default_words_are_english(normalize_english: Callable[[str], str]) -> None:
    assert normalize_english("#sunsetoverthecity #NoFilter") == " sunset over the city no filter"


def test_an_empty_list_splits_letters_and_a_text_is_no_list() -> None:
    assert make_normalizer([])("#cat21") == " c a t 21"
    with pytest.raises(ValueError, match=r"words is one text \('the of'\); pass a list"):
        make_normalizer("the of")


def test_each_step_says_what_it_is_for() -> None:
    steps = make_steps(make_splitter(WORDS))
    assert len({step.name for step in steps}) == len(steps)
    assert all(step.why and step.apply("") == "" for step in steps)


def test_normalised_text_stays_as_it_is(normalize: Callable[[str], str]) -> None:
    for output in itertools.chain.from_iterable(map(possible, PAIRS)):
        assert normalize(output) == output


def test_any_text_becomes_lower_case_ascii(normalize: Callable[[str], str]) -> None:
    numpy = np.random.default_rng(0)
    for _ in range(300):
        pieces = [PIECES[i] for i in numpy.integers(len(PIECES), size=12)]
        pieces += map(chr, numpy.integers(0x110000, size=12))
        caption = "".join(numpy.permutation(pieces))
        normal = normalize(caption)
        assert set(normal) <= ALPHABET
        assert normal == " " + " ".join(normal.split())
        assert normalize(caption) == normal


def test_persons_are_drawn_by_the_caption_alone_at_the_published_odds(
    normalize: Callable[[str], str],
) -> None:
    drawn = Counter(normalize(f"<person> number {i}")[1:].split(" num")[0] for i in range(2000))
    weights = dict(REFERENCE["person_token_choices_and_weights"])
    for name, weight in weights.items():
        share = weight / sum(weights.values())
        assert drawn[name] / 2000 == pytest.approx(share, abs=4 * (share / 2000) ** 0.5)


def test_another_process_draws_the_same(normalize: Callable[[str], str]) -> None:
    caption = "<person> meets <person> , <person> ; #qwxz"
    program = (
        "import sys; from data.text.normalise import make_normalizer;"
        "print(make_normalizer(['a'])(sys.argv[1]))"
    )
    for seed in "12":
        result = subprocess.run(
            [sys.executable, "-c", program, caption],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout == normalize(caption) + "\n"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_captions_take_no_time(normalize_english: Callable[[str], str], name: str) -> None:
    normalize_english("warm 🍕")
    start = time.process_time()
    normal = normalize_english(HOSTILE[name])
    assert time.process_time() - start < 0.5  # 0.07 s at most on an idle core; the aim is 0.2
    assert set(normal) <= ALPHABET
    assert len(normal) <= 3 * LONG


@pytest.mark.filterwarnings("ignore:captions lose the letters")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_captions_take_no_time_without_unidecode(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    normalize = without_unidecode(monkeypatch)
    start = time.process_time()
    assert set(normalize(HOSTILE[name])) <= ALPHABET
    assert time.process_time() - start < 0.5


def test_the_word_list_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    make_normalizer()
    monkeypatch.setattr(normalise.gzip, "decompress", lambda _: pytest.fail("read again"))
    make_normalizer()
