"""The demo model on the page, and the pictures in the guides, which BMQWEN_PICTURES=1 makes again."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from support.live_server import LiveServer
from support.served_page import Visit, send

pytestmark = [pytest.mark.browser, pytest.mark.real_model]

PROMPT = "请使用python写一段冒泡排序算法。"
CODE = """def bubble_sort(a):
    for i in range(len(a)):
        for j in range(len(a) - 1 - i):
            if a[j] > a[j + 1]:
                a[j], a[j + 1] = a[j + 1], a[j]
    return a
"""
FORMULAS = "详细介绍圆的周长和面积公式，并各举一个例子。"
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


def test_the_published_prompt_on_a_phone(visit: Visit, served: LiveServer) -> None:
    page = visit(served, locale="zh-CN", phone=True, dark=True)
    page.locator(".composer textarea").fill(PROMPT)
    page.locator(".send").tap()
    expect(page.locator(".prose .code").first).to_contain_text("def bubble_sort", timeout=60_000)
    expect(page.locator(".measured")).to_be_visible(timeout=60_000)
    page.locator(".scroller").evaluate("scroller => (scroller.scrollTop = 0)")
    keep(page, "web-page-phone.png")


@pytest.mark.thorough
def test_a_question_about_a_file(visit: Visit, served: LiveServer) -> None:
    page = visit(served)
    expect(page.locator(".served")).to_contain_text("Qwen2.5-Coder-0.5B-Instruct")
    file = {"name": "bubble_sort.py", "mimeType": "text/x-python", "buffer": CODE.encode()}
    page.locator(".composer input[type=file]").set_input_files(file)  # type: ignore[arg-type]
    expect(page.locator(".attachment-tokens")).to_be_visible()
    send(page, "Add type hints and a docstring to this function.")
    expect(page.locator(".prose .code").first).to_contain_text("def bubble_sort", timeout=60_000)
    expect(page.locator(".measured")).to_be_visible(timeout=60_000)
    page.locator(".scroller").evaluate("scroller => (scroller.scrollTop = 0)")
    keep(page, "web-page.png")


@pytest.mark.thorough
def test_formulas_in_an_answer(visit: Visit, served: LiveServer) -> None:
    page = visit(served, locale="zh-CN")
    send(page, FORMULAS)
    expect(page.locator(".prose .math-set .katex-html").first).to_be_visible(timeout=120_000)
    if not os.environ.get("BMQWEN_PICTURES"):
        page.keyboard.press("Escape")
        return
    expect(page.locator(".measured")).to_be_visible(timeout=240_000)
    expect(page.locator(".prose strong").first).to_be_visible()
    page.evaluate("document.fonts.ready")
    page.locator(".scroller").evaluate("scroller => (scroller.scrollTop = 0)")
    keep(page, "web-page-zh.png")


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.mark.thorough
def test_a_call_of_a_tool_is_shown(visit: Visit, served: LiveServer) -> None:
    """The page has no tools of its own: here the request gets one on its way to the server."""
    page = visit(served)

    def with_tool(route: Route) -> None:
        body = json.loads(route.request.post_data or "")
        asked = body | {"tools": [WEATHER], "tool_choice": "required"}
        route.continue_(post_data=json.dumps(asked))

    page.route("**/v1/chat/completions", with_tool)
    send(page, "What is the weather in Paris?")
    call = page.get_by_role("button", name="Called get_weather")
    expect(call).to_be_visible(timeout=120_000)
    expect(page.locator(".measured")).to_be_visible(timeout=120_000)
    page.reload()
    call.click()
    expect(page.locator(".call code")).to_contain_text('"city": "Paris')


def test_the_pictures_are_small() -> None:
    pictures = list(PICTURES.glob("web-page*.png"))
    assert len(pictures) == 3
    assert [picture for picture in pictures if picture.stat().st_size >= LARGEST] == []
