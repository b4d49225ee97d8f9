"""The page in a headless Chromium, as a visitor uses it: type, draw nine, choose, be hostile.

`make app-test` runs it. It needs Debian's chromium and chromium-driver, and fails without them.
With PASTEL_SCREENSHOT=docs/app.png it draws with the demo, and leaves pictures of the page there
and in docs/app_negative.png.
"""

import io
import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

webdriver = pytest.importorskip(
    "selenium.webdriver", reason="requirements-app-test.txt is not installed: make app-test"
)

import app
from drawing.studio import Request, Studio, open_studio, request

pytestmark = pytest.mark.browser
SCREENSHOT = os.environ.get("PASTEL_SCREENSHOT")
PROMPTS = ("a red apple", "a red heart") if SCREENSHOT else ("tan bar 3", "light bar 1")
FINISHED = "img.complete && img.naturalWidth > 0"
SEEN = """window.seen = new Set();
    new MutationObserver(() => document.querySelectorAll('#pictures img').forEach(
        img => window.seen.add(img.src))).observe(document.body,
        {subtree: true, childList: true, attributes: true, attributeFilter: ['src']});"""


class Unhurried(Studio):
    """The tiny model, slowed to the demo's pace. Else a row is replaced before a browser shows
    it."""

    def draw(self, asked: Request) -> Iterator[np.ndarray]:
        for pictures in super().draw(asked):
            yield pictures
            time.sleep(0.5)


@pytest.fixture(scope="module")
def studio(listening: Studio) -> Studio:
    return open_studio("demo_large") if SCREENSHOT else Unhurried(**vars(listening))


@pytest.fixture(scope="module")
def address(studio: Studio) -> Iterator[str]:
    page = app.make_page(studio, app.draw_known(studio, 18))
    yield app.launch(page, "127.0.0.1", 0)
    page.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--window-size=1280,1560", "--disable-gpu"):
        options.add_argument(flag)
    service = webdriver.ChromeService("/usr/bin/chromedriver")
    driver = webdriver.Chrome(options, service)
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


def wait(condition: Callable[[], Any], seconds: float = 300) -> Any:
    """The value of `condition()`, once it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "the page did not reach this state"
        time.sleep(0.3)
    return found


def shown(browser: Any, gallery: str) -> list[str]:
    """Addresses of a gallery's pictures that the browser has shown."""
    script = f"""return [...document.querySelectorAll('#{gallery} img')]
        .filter(img => {FINISHED}).map(img => img.src)"""
    return browser.execute_script(script)


def write(browser: Any, field: str, text: str) -> None:
    """Set the text of a field as if it were typed."""
    script = """const [id, text] = arguments;
        const area = document.querySelector(`#${id} textarea, #${id} input`);
        Object.getOwnPropertyDescriptor(area.constructor.prototype, 'value').set.call(area, text);
        area.dispatchEvent(new Event('input', {bubbles: true}));"""
    browser.execute_script(script, field, text)


def fetched(address: str) -> bytes:
    """The pixels of the picture at an address."""
    with urllib.request.urlopen(address, timeout=20) as response:
        return Image.open(io.BytesIO(response.read())).convert("RGB").tobytes()


def draw(browser: Any, studio: Studio, prompt: str, negative: str = "") -> tuple[list[bytes], int]:
    """Type, press the button, and wait for the model's pictures. Returns their pixels, and the
    number of other pictures that the page showed before."""
    write(browser, "prompt", prompt)
    write(browser, "negative", negative)
    scale, heat = studio.sampling.guidance_scale, studio.sampling.temperature
    asked = request(prompt, negative=negative, number=9, guidance_scale=scale, temperature=heat)
    *_, last = studio.draw(asked)
    expected = [app.show(picture).tobytes() for picture in last]
    browser.execute_script(SEEN)
    browser.find_element("css selector", "#draw").click()
    wait(lambda: [fetched(one) for one in shown(browser, "pictures")] == expected, 120)
    seen = browser.execute_script("return [...window.seen]")
    return expected, len({fetched(one) for one in seen} - set(expected))


def test_a_visitor_draws_nine_chooses_and_draws_with_a_negative_prompt(
    browser: Any, address: str, studio: Studio
) -> None:
    browser.get(address)
    wait(lambda: len(shown(browser, "known")) == 18)
    prompt, negative = PROMPTS
    first, on_the_way = draw(browser, studio, prompt)
    assert on_the_way >= 2, "they appear row by row"
    if SCREENSHOT:
        browser.save_screenshot(SCREENSHOT)
    second, _ = draw(browser, studio, prompt, negative)
    changed = [one != other for one, other in zip(first, second, strict=True)]
    assert all(changed), "a negative prompt changes every picture"
    if SCREENSHOT:
        browser.save_screenshot(SCREENSHOT.replace(".png", "_negative.png"))
    browser.find_elements("css selector", "#known img")[2].click()
    typed = "return document.querySelector('#prompt textarea, #prompt input').value"
    wait(lambda: browser.execute_script(typed) not in ("", prompt), 30)


def test_a_hostile_prompt_stays_a_text(browser: Any, address: str, studio: Studio) -> None:
    browser.get(address)
    wait(lambda: browser.find_elements("css selector", "#prompt"))
    title = browser.title
    prompt = "<img src=x onerror=\"document.title='taken'\"> \u202etxet 👩‍👩‍👧"
    draw(browser, studio, prompt, prompt)
    assert browser.title == title == "Pastel"
    assert not browser.find_elements("css selector", "img[src='x']")
