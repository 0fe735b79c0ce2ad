"""What can go wrong is said in a sentence with a way on; the key of a server that wants one is asked for."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from support.live_server import LiveServer, live_server
from support.served_page import Visit, expect_answers, refuse_with, reply_with, send, stream_of
from support.talker import SAYS, write_talker

pytestmark = pytest.mark.browser

KEY = "an-open-secret-of-tests"


FAULTS = [
    (400, "context_length_exceeded", "no longer fits into the model's context", False),
    (413, "request_too_large", "more than the server takes in one request", False),
    (429, "queue_full", "its queue is full", False),
    (503, "engine_lost", "The engine stopped unexpectedly", False),
    (503, "not_ready", "The server is loading the model.", False),
    (404, "model_not_found", "The server runs another model now.", False),
    (400, "invalid_request", "The server refused the request.", True),
    (500, "internal_error", "The server failed to answer.", True),
]


def test_an_error_is_a_sentence_with_a_way_on(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    failure = page.get_by_role("alert")
    for status, code, sentence, detailed in FAULTS:
        page.get_by_role("button", name="New chat").first.click()
        expect(failure).to_have_count(0)
        refuse_with(page, status, code, "what the server says of it")
        send(page, "hello")
        expect(failure).to_contain_text(sentence)
        expect(failure.get_by_text("The server says: what the server says of it")).to_have_count(
            int(detailed)
        )
        page.unroute_all()
        if code in ("context_length_exceeded", "request_too_large"):  # trying again would say the same
            failure.get_by_role("button", name="Edit").click()
            page.get_by_role("textbox", name="Edit").press("Enter")
        else:
            failure.get_by_role("button", name="Try again").click()
        expect_answers(page, SAYS)
    page.get_by_role("combobox", name="Language").select_option("zh")
    refuse_with(page, 400, "invalid_request", "in English")
    send(page, "hello")
    expect(failure).to_contain_text("服务器拒绝了这个请求。")


def test_a_busy_server_says_when(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    refuse_with(page, 429, "queue_full", "full", **{"Retry-After": "2"})
    send(page, "hello")
    expect(page.get_by_role("button", name="Try again (in")).to_be_disabled()
    page.unroute_all()
    page.get_by_role("button", name="Try again", exact=True).click()
    expect_answers(page, SAYS)


def fail_midway(page: Page, ending: str) -> None:
    body = stream_of("half an answer").split('data: {"choices": [{"index": 0, "delta": {}')[0] + ending
    page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=body)
    )


ENDINGS = [
    ('data: {"error": {"message": "gone", "code": "engine_lost"}}\n\n', "The engine stopped unexpectedly"),
    ('data: {"error": {"message": "stops", "code": "not_ready"}}\n\n', "The server was stopped before"),
    ("", "The connection broke before the answer was complete."),
]


def test_an_error_midway_keeps_the_text_so_far(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    for ending, sentence in ENDINGS:
        page.get_by_role("button", name="New chat").first.click()
        expect(page.locator("article.answer")).to_have_count(0)
        fail_midway(page, ending)
        send(page, "hello")
        expect(page.get_by_role("alert")).to_contain_text(sentence)
        expect(page.locator("article.answer .prose")).to_have_text("half an answer")
        page.unroute_all()
        page.get_by_role("button", name="Try again").click()
        expect_answers(page, SAYS)
        expect(page.locator(".branches")).to_have_text("2/2")


def test_a_server_that_is_gone(visit: Visit, page_folder: Path) -> None:
    with live_server(write_talker(page_folder / "leaving"), cache=page_folder / "cache") as served:
        page = visit(served)
    page.route("**/*", lambda route: route.abort("connectionrefused"))
    send(page, "hello")
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached.")


@pytest.fixture(scope="module")
def locked(page_folder: Path) -> Iterator[LiveServer]:
    """A server that wants a key."""
    model = write_talker(page_folder / "locked")
    with live_server(model, "--api-key", KEY, cache=page_folder / "cache") as served:
        yield served


@pytest.mark.parametrize("kept", [False, True])
def test_the_key_is_asked_for(visit: Visit, locked: LiveServer, kept: bool) -> None:
    page = visit(locked)
    dialog = page.get_by_role("dialog", name="API key")
    field = dialog.get_by_label("Key", exact=True)
    field.fill("wrong")
    field.press("Enter")
    expect(dialog).to_contain_text("does not accept this key")
    field.fill(KEY)
    dialog.get_by_label("Remember it in this browser").set_checked(kept)
    dialog.get_by_role("button", name="Continue").click()
    expect(dialog).to_have_count(0)
    send(page, "hello")
    expect_answers(page, SAYS)
    page.reload()
    page.locator(".served b").wait_for()
    expect(dialog).to_have_count(0)
    # A new tab has the key only if it was to be kept.
    other = page.context.new_page()
    other.goto("/")
    other.locator(".served b").wait_for()
    expect(other.get_by_role("dialog")).to_have_count(0 if kept else 1)


def test_a_browser_that_keeps_nothing_says_so(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    page.add_init_script("Object.defineProperty(window, 'indexedDB', { get() { throw new Error('off'); } })")
    page.reload()
    expect(page.get_by_text("This browser stores nothing for this page")).to_be_visible()
    reply_with(page, "still")
    send(page, "hello")
    expect_answers(page, "still")
