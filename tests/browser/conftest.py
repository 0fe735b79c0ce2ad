"""Chromium on the page of a real server. A visit fails if the page errs, or asks any other server for anything."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from support.live_server import ENDLESS, LiveServer, live_server
from support.served_page import Visit

# Nothing of the browser's own may go out either.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# The tiny models say what they are built to say.
PLAIN = ("--temperature", "0")
# What a state may take to come on a busy machine: playwright's 5 s are too short for it.
expect.set_options(timeout=30_000)
# Said by the browser itself for every answer that is an error; the page handles those.
EXPECTED = "Failed to load resource: "


# A module long at most: while Playwright lives, its event loop is this thread's running one, and no other can start.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium of this machine."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium on this machine (Debian: apt install chromium fonts-noto-cjk)")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def page_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and cache of these tests."""
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="session")
def talking(page_folder: Path, talker: Path) -> Iterator[LiveServer]:
    """A server that answers everything with talker.SAYS."""
    with live_server(talker, *PLAIN, cache=page_folder / "cache") as served:
        yield served


@pytest.fixture(scope="session")
def endless(page_folder: Path, chatterbox: Path) -> Iterator[LiveServer]:
    """A server whose answers go on for a minute."""
    with live_server(chatterbox, *PLAIN, *ENDLESS, cache=page_folder / "cache") as served:
        yield served


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Opens a server's page in a browser that has never been there; `phone` is 360 pixels wide and has no mouse."""
    contexts, problems = [], []

    def open_page(
        served: LiveServer, *, locale: str = "en-US", phone: bool = False, dark: bool = False, path: str = "/"
    ) -> Page:
        screen: Any = {"width": 360, "height": 740} if phone else {"width": 1280, "height": 860}
        context = browser.new_context(
            base_url=served.url,
            viewport=screen,
            locale=locale,
            is_mobile=phone,
            has_touch=phone,
            device_scale_factor=2 if phone else 1,
            color_scheme="dark" if dark else "light",
            permissions=["clipboard-read", "clipboard-write"],
        )
        context.set_default_timeout(30_000)
        contexts.append(context)

        def watch(page: Page) -> None:
            page.on("pageerror", lambda error: problems.append(f"error: {error}"))
            page.on("console", lambda message: check(message.type, message.text))
            page.on("request", lambda request: check_address(request.url))

        def check(kind: str, text: str) -> None:
            if kind in ("error", "warning") and not text.startswith(EXPECTED):
                problems.append(f"{kind}: {text}")

        def check_address(url: str) -> None:
            if not url.startswith((served.url + "/", "data:", f"blob:{served.url}/")):
                problems.append(f"request: {url}")

        context.on("page", watch)
        page = context.new_page()
        page.goto(path)
        page.locator(".served b").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []
