"""The page over HTTP, as its clients see it. `make app-test` installs gradio and runs these
tests."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="requirements-app.txt is not installed: make app-test")

import gradio_client

import app
from drawing.studio import open_studio
from tests.app.hostile import HOSTILE


@pytest.fixture(scope="module")
def address(run_folder: Path) -> Iterator[str]:
    studio = open_studio(str(run_folder))
    page = app.make_page(studio, app.draw_known(studio, 4))
    yield app.launch(page, "127.0.0.1", 0)
    page.close()


@pytest.fixture(scope="module")
def client(address: str) -> gradio_client.Client:
    return gradio_client.Client(address, verbose=False)


def asked(prompt: Any, *, negative: str = "", number: float = 1, seed: float = 0) -> list[Any]:
    return [prompt, "", negative, number, 2.0, 1.0, seed]


def test_pictures_appear_row_by_row(client: gradio_client.Client) -> None:
    job = client.submit(*asked("tan bar 3", number=9), api_name="/draw")
    job.result(timeout=120)
    stages = [gallery for gallery, _ in job.outputs()]
    assert [len(gallery) for gallery in stages] == [9, 9]
    captions = [one["caption"] for one in stages[-1]]
    assert captions == [f"seed 0 · {number}" for number in range(9)]
    with Image.open(stages[-1][0]["image"]) as picture:
        assert picture.size[0] >= 64


def test_twenty_requests_at_once_are_all_served(client: gradio_client.Client) -> None:
    jobs = [client.submit(*asked("a bar", seed=seed), api_name="/draw") for seed in range(20)]
    for seed, job in enumerate(jobs):
        gallery, _ = job.result(timeout=300)
        assert [one["caption"] for one in gallery] == [f"seed {seed} · 0"]


def test_hostile_prompts_change_nothing(client: gradio_client.Client, address: str) -> None:
    for prompt in HOSTILE:
        if "\ud800" in prompt:  # JSON has no place for it
            continue
        cut = prompt[:500]  # as the page's field truncates it
        gallery, _ = client.predict(*asked(cut, negative=cut), api_name="/draw")
        assert len(gallery) == 1
    with urllib.request.urlopen(address, timeout=20) as response:
        assert response.status == 200


@pytest.mark.parametrize("number", [0, 10, 1e9])
def test_numbers_out_of_range_are_refused(client: gradio_client.Client, number: float) -> None:
    with pytest.raises(Exception, match="(?i)number of pictures|maximum|minimum|value"):
        client.predict(*asked("a bar", number=number), api_name="/draw")


def test_nothing_is_fetched_from_elsewhere_and_no_file_is_served(address: str) -> None:
    with urllib.request.urlopen(address, timeout=20) as response:
        page = response.read().decode()
    assert "fonts.googleapis.com" not in page
    for path in ("/file=/etc/passwd", "/gradio_api/file=/etc/passwd", "/gradio_api/file=app.py"):
        with pytest.raises(urllib.error.HTTPError, match="40[34]"):
            urllib.request.urlopen(address.rstrip("/") + path, timeout=20)


def test_files_that_are_sent_are_not_stored(address: str) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.html"\r\n\r\n'
    sent = urllib.request.Request(
        f"{address}gradio_api/upload",
        head + b"<script>" * 1000 + b"\r\n--x--\r\n",
        {"Content-Type": "multipart/form-data; boundary=x"},
    )
    with pytest.raises(urllib.error.HTTPError, match="413"):
        urllib.request.urlopen(sent, timeout=20)


def test_only_drawing_can_be_called(address: str) -> None:
    with urllib.request.urlopen(f"{address}gradio_api/info", timeout=20) as response:
        named = json.load(response)["named_endpoints"]
    assert {name.removesuffix("_1") for name in named} == {"/draw"}
