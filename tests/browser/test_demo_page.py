"""The demo model on the page, and the pictures in the guides, which are made anew with BMQWEN_PICTURES=1."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from support.live_server import LiveServer
from support.served_page import Visit, send

pytestmark = [pytest.mark.browser, pytest.mark.real_model]

PROMPT = "请使用python写一段冒泡排序算法。"
PICTURES = Path(__file__).parents[2] / "docs" / "images"
LARGEST = 300_000
# The code has begun by then; a picture shows a whole answer.
TOKENS = "400" if os.environ.get("BMQWEN_PICTURES") else "100"


@pytest.fixture(scope="module")
def served(demo_model: Path) -> Iterator[LiveServer]:
    """The demo model on the CPU."""
    del demo_model
    with LiveServer(None, ["--temperature", "0", "--max-tokens", TOKENS, "--threads", "1"]) as served:
        yield served


def keep(page: Page, name: str) -> None:
    """Write a picture if pictures are wanted."""
    if os.environ.get("BMQWEN_PICTURES"):
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / name)


@pytest.mark.parametrize(
    ("name", "locale", "phone", "dark"),
    [
        ("web-page.png", "en-US", False, False),
        ("web-page-zh.png", "zh-CN", False, False),
        ("web-page-phone.png", "zh-CN", True, True),
    ],
)
def test_the_published_prompt(
    visit: Visit, served: LiveServer, name: str, locale: str, phone: bool, dark: bool
) -> None:
    page = visit(served, locale=locale, phone=phone, dark=dark)
    if phone:
        page.locator(".composer textarea").fill(PROMPT)
        page.locator(".send").tap()
    else:
        send(page, PROMPT)
    expect(page.locator(".prose .code").first).to_contain_text("def bubble_sort", timeout=60_000)
    expect(page.locator(".measured")).to_be_visible(timeout=60_000)
    # The phone shows the question, the wide page what the answer took.
    place = "0" if phone else "scroller.scrollHeight"
    page.locator(".scroller").evaluate(f"scroller => (scroller.scrollTop = {place})")
    page.wait_for_timeout(200)
    keep(page, name)


def test_the_pictures_are_small() -> None:
    pictures = list(PICTURES.glob("web-page*.png"))
    assert len(pictures) == 3
    assert [picture for picture in pictures if picture.stat().st_size >= LARGEST] == []
