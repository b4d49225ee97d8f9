"""The model behind the page draws the same pictures as generate.py, also for hostile input."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import app
from drawing.drawer import make_drawer, picture_seed
from drawing.opening import open_checkpoint
from drawing.studio import LONGEST, Studio, open_studio, request
from drawing.unfinished import UNDRAWN
from model import transformer
from tests.app.hostile import HOSTILE


@pytest.fixture(scope="module")
def studio(run_folder: Path) -> Studio:
    return open_studio(str(run_folder))


def test_the_last_row_completes_the_pictures_that_generate_draws(
    studio: Studio, run_folder: Path
) -> None:
    asked = request("tan bar 3", number=3, guidance_scale=2.0, temperature=1.0, seed=5)
    stages = list(studio.draw(asked))
    opened = open_checkpoint(run_folder)
    drawer = make_drawer(transformer.build(opened.model), opened.sampling, opened.folder, 4)
    seeds = [picture_seed(5, "tan bar 3", number) for number in range(3)]
    whole = drawer.draw(opened.params, ["tan bar 3"] * 3, seeds)
    assert len(stages) == 2
    assert stages[0].shape == stages[1].shape == (3, 8, 8, 3)
    np.testing.assert_allclose(stages[-1].astype(int), whole, atol=1)
    assert (stages[0][:, 4:] == UNDRAWN).all()
    assert not (stages[0][:, :4] == UNDRAWN).all()


@pytest.mark.parametrize("prompt", HOSTILE)
def test_hostile_prompts_are_drawn_like_others(studio: Studio, prompt: str) -> None:
    asked = request(prompt, negative=prompt, number=1, guidance_scale=2.0)
    assert len(asked.prompt) <= LONGEST
    assert "\0" not in asked.prompt
    asked.prompt.encode()
    *_, pictures = studio.draw(asked)
    assert pictures.shape == (1, 8, 8, 3)
    assert all(isinstance(line, str) for line in studio.remarks(asked))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("number of pictures", [0, 10, -1, None, "3", True]),
        ("guidance", [-1, 1e9, float("nan"), float("inf"), [1]]),
        ("temperature", [-0.1, float("nan"), {}]),
        ("seed", [-1, 2**32, float("inf"), 10**400]),
        ("prompt", [3, ["a"], {"a": 1}, b"a"]),
        ("negative prompt", [3.5]),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, values: list[Any]) -> None:
    field = {"number of pictures": "number", "guidance": "guidance_scale"}.get(name, name)
    field = {"negative prompt": "negative"}.get(field, field)
    for value in values:
        with pytest.raises(ValueError, match=f"^the {name} (must be|is a)"):
            request(**{"prompt": "a cat", field: value})


def test_a_negative_prompt_changes_every_picture_and_is_generates(
    listening: Studio, run_folder: Path
) -> None:
    opened = open_checkpoint(run_folder)
    model = transformer.build(opened.model)
    seeds = [picture_seed(0, "tan bar 3", number) for number in range(9)]
    drawn = []
    for negative in ("", "light bar 1"):
        asked = request("tan bar 3", negative=negative, number=9, guidance_scale=2.0)
        *_, pictures = listening.draw(asked)
        drawer = make_drawer(model, opened.sampling, opened.folder, 9, negative=negative)
        whole = drawer.draw(listening.params, ["tan bar 3"] * 9, seeds)
        np.testing.assert_allclose(pictures.astype(int), whole, atol=1)
        drawn.append(pictures)
    assert (drawn[0] != drawn[1]).any((1, 2, 3)).all()


def test_whole_numbers_of_a_browser_are_drawn_as_others(studio: Studio) -> None:
    whole = request("tan bar 3", number=1, guidance_scale=2, temperature=1, seed=5.0)
    same = request("tan bar 3", number=1, guidance_scale=2.0, temperature=1.0, seed=5)
    assert [type(one) for one in (whole.guidance_scale, whole.temperature)] == [float, float]
    for one, other in zip(studio.draw(whole), studio.draw(same), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_style_stands_behind_a_comma() -> None:
    assert request("a  cat", " noto style ").prompt == "a cat, noto style"
    assert request("", "noto style").prompt == "noto style"
    assert request(None, None).prompt == ""


def test_words_that_no_training_caption_has_are_named(studio: Studio) -> None:
    message = " ".join(studio.remarks(request("dark zebra", negative="quux")))
    assert "no training caption has these words: zebra, quux" in message
    assert studio.remarks(request("dark bar 3")) == []
    assert studio.known(3)


def test_without_gradio_the_page_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "gr", None)
    with pytest.raises(ValueError, match="^the page needs gradio: make app, or pip install -r"):
        app.main(app.AppConfig())


def test_ports_that_do_not_exist_are_refused() -> None:
    assert app.AppConfig(port=app.MAX_PORT).port == 65_535
    for port in (-1, app.MAX_PORT + 1):
        with pytest.raises(ValueError, match=str(port)):
            app.AppConfig(port=port)
