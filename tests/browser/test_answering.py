"""Asking a real server: the answer streams, can be stopped, made again, and is still there after a reload."""

import re

import pytest
from playwright.sync_api import expect

from support.live_server import LiveServer
from support.served_page import Visit, answers, expect_answers, questions, send, titles
from support.talker import REPEATS, SAYS

pytestmark = pytest.mark.browser

MEASURED = re.compile(
    r"^\d+\.\d\d s to first token[\d.,]+ tokens/s[\d,]+ prompt tokens( \([\d,]+ cached\))?[\d,]+ out"
)


def test_an_answer_comes_with_what_it_took(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    send(page, "hello")
    expect_answers(page, SAYS)
    expect(questions(page)).to_have_text("hello")
    expect(page.locator(".measured")).to_have_text(MEASURED)
    send(page, "hello again")
    expect_answers(page, SAYS, SAYS)
    # The second question was read after a conversation that was in the cache.
    expect(page.locator(".measured").last).to_contain_text("cached")
    expect(page.get_by_role("meter")).to_have_attribute("aria-label", re.compile(r"^\d+ of [\d.,]+ tokens"))
    expect(page.get_by_role("status").filter(has_text="The answer is complete.")).to_contain_text(SAYS)


def test_a_streaming_answer_grows_and_can_be_stopped(visit: Visit, endless: LiveServer) -> None:
    page = visit(endless)
    send(page, "hello")
    prose = page.locator("article.answer .prose")
    expect(prose).to_contain_text("hello you and the")
    early = len(prose.inner_text())
    page.wait_for_function(
        "length => document.querySelector('.answer .prose').innerText.length > length", arg=early
    )
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    kept = prose.inner_text()
    # The engine is free again: another conversation is answered at once.
    page.get_by_role("button", name="New chat").first.click()
    expect(questions(page)).to_have_count(0)
    send(page, "hello")
    expect(prose).to_contain_text("hello you")
    page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped.")).to_be_visible()
    titles(page).last.click()
    expect(prose).to_have_text(kept)


def test_an_answer_goes_on_while_the_page_is_reloaded(visit: Visit, endless: LiveServer) -> None:
    """It is read on where it was; another tab shows it and can stop it; its numbers stay."""
    page = visit(endless)
    send(page, "hello")
    prose = page.locator("article.answer .prose")
    expect(prose).to_contain_text("hello you and the you and the")
    expect(page.locator(".progress")).to_contain_text("tokens/s")
    expect(page.get_by_role("meter")).not_to_have_attribute("aria-valuenow", "0")
    page.reload()
    expect(page.locator("article.answer.writing")).to_be_visible()
    seen = len(prose.inner_text())
    page.wait_for_function(
        "length => document.querySelector('.answer .prose').innerText.length > length", arg=seen
    )
    text = " ".join(prose.inner_text().split())
    assert ("hello" + REPEATS * len(text)).startswith(text)  # nothing twice, nothing lost; a word may be cut
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator("article.answer.writing")).to_be_visible()
    other.get_by_role("button", name="Stop").click()
    for tab in (page, other):
        expect(tab.get_by_text("Stopped.")).to_be_visible()
        expect(tab.locator(".measured")).to_contain_text("prompt tokens")
        expect(tab.get_by_role("button", name="Send")).to_be_visible()


def test_a_cut_answer_can_go_on(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Max tokens", exact=True).fill("2")
    send(page, "hello")
    expect(page.get_by_text("Cut off at the token limit.")).to_be_visible()
    page.get_by_label("Max tokens", exact=True).fill("")
    page.get_by_role("button", name="Continue").click()
    expect_answers(page, SAYS)
    expect(page.get_by_role("button", name="Continue")).to_have_count(0)
    # What the model said can be changed; the old version stays.
    page.get_by_role("button", name="Edit answer").click()
    page.get_by_role("textbox", name="Edit").fill("changed")
    page.get_by_role("button", name="Save", exact=True).click()
    expect_answers(page, "changed")
    expect(page.locator(".branches")).to_have_text("2/2")
    with page.expect_request("**/v1/chat/completions") as sent:
        send(page, "next")
    assert (sent.value.post_data_json or {})["messages"][1]["content"] == "changed"


def test_regenerating_keeps_both_answers(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    send(page, "hello")
    expect_answers(page, SAYS)
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator(".branches")).to_have_text("2/2")
    expect_answers(page, SAYS)
    page.get_by_role("button", name="Previous version").click()
    expect(page.locator(".branches")).to_have_text("1/2")
    page.reload()
    expect(page.locator(".branches")).to_have_text("1/2")
    expect_answers(page, SAYS)


def test_every_setting_is_one_that_the_server_takes(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    page.get_by_role("button", name="Settings").click()
    panel = page.get_by_role("complementary", name="Settings")
    values = {
        "Temperature": "0.5",
        "Top P": "0.9",
        "Top K": "40",
        "Min P": "0.05",
        "Max tokens": "2",
        "Seed": "7",
    }
    values |= {"Repetition penalty": "1.05", "Presence penalty": "0.1", "Frequency penalty": "-0.1"}
    for label, value in values.items():
        panel.get_by_label(label, exact=True).fill(value)
    panel.get_by_label("System prompt").fill("hello")
    with page.expect_request("**/v1/chat/completions") as sent:
        send(page, "hello")
    body = sent.value.post_data_json or {}
    assert body["max_tokens"] == 2
    assert body["frequency_penalty"] == -0.1
    assert body["messages"][0] == {"role": "system", "content": "hello"}
    expect(page.locator("article.answer.done")).to_have_count(1)
    expect(page.get_by_text("Cut off at the token limit.")).to_be_visible()
    expect(page.locator(".measured")).to_contain_text("2 out")


def test_several_conversations_are_answered_at_once(visit: Visit, endless: LiveServer) -> None:
    page = visit(endless)
    send(page, "first")
    expect(answers(page)).to_contain_text("hello")
    page.get_by_role("button", name="New chat").first.click()
    expect(questions(page)).to_have_count(0)
    send(page, "second")
    expect(page.locator(".running")).to_have_count(2)
    expect(page.locator(".waiting")).to_have_text("1 request ahead")
    for title in ("first", "second"):
        titles(page).filter(has_text=title).click()
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_text("Stopped.")).to_be_visible()
    expect(page.locator(".running")).to_have_count(0)
