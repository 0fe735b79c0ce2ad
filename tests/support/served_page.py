"""What the page's tests do on the page again and again."""

import json
import re
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Locator, Page, Route, expect

Visit = Callable[..., Page]


def send(page: Page, text: str) -> None:
    """Write a message and press Enter."""
    field = page.get_by_role("textbox", name=re.compile("^(Message|消息)$"))
    field.fill(text)
    # A page that does not know yet what is served sends nothing.
    expect(page.locator(".send")).to_be_enabled()
    field.press("Enter")


def answers(page: Page) -> Locator:
    """The answers shown."""
    return page.locator("article.answer")


def questions(page: Page) -> Locator:
    """The questions shown, without their numbers and buttons."""
    return page.locator(".question-text")


def titles(page: Page) -> Locator:
    """The titles in the list of conversations."""
    return page.locator(".conversation-title")


def expect_answers(page: Page, *texts: str) -> None:
    """Exactly these texts are shown as finished answers."""
    expect(page.locator("article.answer .prose")).to_have_text(list(texts))
    expect(page.locator("article.answer.writing")).to_have_count(0)


def act_on(page: Page, title: str, action: str) -> None:
    """Choose an action from a conversation's menu."""
    page.get_by_role("button", name=f"Actions for “{title}”").click()
    page.get_by_role("menuitem", name=action).click()


Reply = Callable[[dict[str, Any]], str]


def reply_with(page: Page, reply: str | Reply, *, thoughts: str = "") -> list[dict[str, Any]]:
    """Answer the page's requests here, where the model's words matter; returns the requests, as they come."""
    bodies: list[dict[str, Any]] = []

    def answer(route: Route) -> None:
        body = json.loads(route.request.post_data or "")
        bodies.append(body)
        text = reply if isinstance(reply, str) else reply(body)
        route.fulfill(content_type="text/event-stream", body=stream_of(text, thoughts))

    page.route("**/v1/chat/completions", answer)
    # What the model could read does not matter then.
    page.route("**/tokenize", lambda route: route.fulfill(json={"tokens": [0] * 20}))
    return bodies


def stream_of(text: str, thoughts: str = "") -> str:
    """The events of an answer, in small pieces."""
    usage = {
        "prompt_tokens": 1_200,
        "completion_tokens": 67,
        "prompt_tokens_details": {"cached_tokens": 1_100},
    }
    timings = {"first_token_s": 0.13, "tokens_per_s": 39.94, "cached_tokens": 1_100, "queue_s": 0.4}
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": text[at : at + 7]}, "finish_reason": None}]}
        for at in range(0, len(text), 7)
    ]
    if thoughts:
        delta = {"reasoning_content": thoughts}
        chunks.insert(0, {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chunks.append({"choices": [], "usage": usage, "timings": timings})
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


def refuse_with(page: Page, status: int, code: str, message: str, **headers: str) -> None:
    """Answer the page's next requests with an error in OpenAI's shape."""
    error = {"error": {"message": message, "type": "server_error", "param": None, "code": code}}

    def refuse(route: Route) -> None:
        route.fulfill(status=status, content_type="application/json", body=json.dumps(error), headers=headers)

    page.route("**/v1/chat/completions", refuse)
