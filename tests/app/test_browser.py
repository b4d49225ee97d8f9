"""The page in a headless Chromium, as a visitor uses it: type, draw nine, choose, be hostile.

`make app-test` runs it. It needs Debian's chromium and chromium-driver, and fails without them.
With PASTEL_SCREENSHOT=docs/app.png it draws with the demo, and leaves a picture of the page.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip(
    "selenium.webdriver", reason="requirements-app-test.txt is not installed: make app-test"
)

import app
from studio import open_studio

pytestmark = pytest.mark.browser
SCREENSHOT = os.environ.get("PASTEL_SCREENSHOT")
FINISHED = "img.complete && img.naturalWidth > 0"


@pytest.fixture(scope="module")
def address(run_folder: Path) -> Iterator[str]:
    studio = open_studio("demo" if SCREENSHOT else str(run_folder))
    page = app.make_page(studio, app.draw_known(studio, 18))
    yield app.launch(page, "127.0.0.1", 0)
    page.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--window-size=1280,1330", "--disable-gpu"):
        options.add_argument(flag)
    service = webdriver.ChromeService("/usr/bin/chromedriver")
    driver = webdriver.Chrome(options, service)
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


def wait(condition: Callable[[], Any], seconds: float = 300) -> Any:
    """What `condition` gives once it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "the page did not come so far"
        time.sleep(0.3)
    return found


def shown(browser: Any, gallery: str) -> list[str]:
    """Addresses of the pictures of a gallery that the browser could show."""
    script = f"""return [...document.querySelectorAll('#{gallery} img')]
        .filter(img => {FINISHED}).map(img => img.src)"""
    return browser.execute_script(script)


def write(browser: Any, field: str, text: str) -> None:
    """Put a text into a field as typing does."""
    script = """const [id, text] = arguments;
        const area = document.querySelector(`#${id} textarea, #${id} input`);
        Object.getOwnPropertyDescriptor(area.constructor.prototype, 'value').set.call(area, text);
        area.dispatchEvent(new Event('input', {bubbles: true}));"""
    browser.execute_script(script, field, text)


def draw(browser: Any) -> list[str]:
    """Press the button, and wait for the last of the stages: they are other pictures each."""
    before = set(shown(browser, "pictures"))
    browser.find_element("css selector", "#draw").click()
    wait(lambda: (now := shown(browser, "pictures")) and not set(now) & before)
    stages: set[str] = set()
    quiet_since = time.monotonic()
    while time.monotonic() < quiet_since + 15:
        if (now := set(shown(browser, "pictures"))) - stages:
            stages |= now
            quiet_since = time.monotonic()
        time.sleep(0.2)
    draw.stages = len(stages)  # type: ignore[attr-defined]
    return shown(browser, "pictures")


def test_a_visitor_draws_nine_chooses_and_draws_with_a_negative_prompt(
    browser: Any, address: str
) -> None:
    browser.get(address)
    wait(lambda: len(shown(browser, "known")) == 18)
    write(browser, "prompt", "a red apple" if SCREENSHOT else "tan bar 3")
    first = draw(browser)
    assert len(first) == 9
    assert draw.stages > 9, "they appear row by row"  # type: ignore[attr-defined]
    if SCREENSHOT:
        browser.save_screenshot(SCREENSHOT)
    write(browser, "negative", "light bar 1")
    second = draw(browser)
    assert len(second) == 9
    assert not set(first) & set(second)
    browser.find_elements("css selector", "#known img")[2].click()
    typed = "return document.querySelector('#prompt textarea, #prompt input').value"
    wait(lambda: browser.execute_script(typed) not in ("", "tan bar 3", "a red apple"), 30)


def test_a_hostile_prompt_stays_a_text(browser: Any, address: str) -> None:
    browser.get(address)
    wait(lambda: browser.find_elements("css selector", "#prompt"))
    title = browser.title
    write(browser, "prompt", "<img src=x onerror=\"document.title='taken'\"> \u202etxet 👩‍👩‍👧")
    assert len(draw(browser)) == 9
    assert browser.title == title == "Pastel"
    assert not browser.find_elements("css selector", "img[src='x']")
