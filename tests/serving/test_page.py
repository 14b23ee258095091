"""The page, in a headless Chromium."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anywidth.serving.app import create_app
from anywidth.serving.service import Service
from served_tiny import LIMITS, WIDTHS, make_governor

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs a Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page, on which no error may happen that the test does not expect."""
    page, problems = browser.new_page(), []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.set_default_timeout(15_000)
    yield page
    page.close()
    assert not problems


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)).save(path)
    return path


def text(page: Any, name: str) -> str:
    return page.locator(f"#{name}").inner_text()


def shows(page: Any, name: str, wanted: str | re.Pattern[str]) -> None:
    """Wait until an element has a text."""
    from playwright.sync_api import expect

    expect(page.locator(f"#{name}")).to_have_text(wanted, timeout=15_000)


def test_a_picture_is_classified_at_the_width_of_the_slider(page, address, picture, served):
    page.goto(f"http://{address}/")
    shows(page, "name", "tiny")
    assert text(page, "target") == "5000"
    assert page.locator("#spectrum .point").count() == len(WIDTHS)
    assert page.locator("#spectrum .now").count() == 0

    page.set_input_files("#file", str(picture))
    shows(page, "used", "1")
    assert page.locator("#predictions li").count() == 4
    assert "ms" in text(page, "compute")

    page.uncheck("#governed")
    for place, width in enumerate(WIDTHS):
        page.locator("#width").fill(str(place))
        shows(page, "used", f"{width:g}")
        assert text(page, "chosen") == f"{width:g}"
        assert text(page, "accuracy") == f"{90 + width:.2f} %"
        assert text(page, "macs").split()[0] == f"{served.point(width).macs / 1e3:.3g}"
        image = served.reader.read(picture.read_bytes())
        scores = served.ladder.run([image], width=width)[0][0]
        assert text(page, "predictions").split()[0] == served.classes[int(scores.argmax())]
        mark, point = page.locator("#spectrum .now"), page.locator("#spectrum .point").nth(place)
        assert mark.get_attribute("cx") == point.get_attribute("cx")
    assert text(page, "problem") == ""


def test_what_is_no_picture_is_said(page, address, tmp_path):
    wrong = tmp_path / "wrong.png"
    wrong.write_bytes(b"no picture")
    page.goto(f"http://{address}/")
    page.set_input_files("#file", str(wrong))
    shows(page, "problem", re.compile("^cannot read the image"))


def test_a_token_is_asked_for(page, served, start, picture):
    address = start(create_app(Service(served, make_governor(), LIMITS), token="geheim"))
    page.goto(f"http://{address}/")
    page.wait_for_selector("#login:not([hidden])")
    page.fill("#token", "geheim")
    page.click("#login button")
    shows(page, "name", "tiny")
    assert page.locator("#login").is_hidden()
    page.set_input_files("#file", str(picture))
    shows(page, "used", "1")


def test_it_looks_as_it_should(page, address, picture, tmp_path):
    """Nothing lies outside of the window, on a wide and on a narrow one."""
    page.goto(f"http://{address}/")
    page.set_input_files("#file", str(picture))
    shows(page, "used", "1")
    for width in (400, 1000):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        shot = Image.open(io.BytesIO(page.screenshot(path=os.environ.get("PAGE_SHOT"))))
        assert len(shot.convert("RGB").getcolors(maxcolors=1 << 20) or ()) > 50
