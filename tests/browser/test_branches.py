"""Editing an earlier question makes a branch; all branches stay, and the model is asked with the one that is shown."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from support.live_server import LiveServer
from support.served_page import Visit, expect_answers, questions, reply_with, send

pytestmark = pytest.mark.browser


def echo(body: dict[str, Any]) -> str:
    """An answer that tells which question it answers."""
    return f"to {body['messages'][-1]['content']}"


def edit(page: Page, index: int, text: str) -> None:
    """Replace the text of a question."""
    page.get_by_role("button", name="Edit").nth(index).click()
    page.get_by_role("textbox", name="Edit").fill(text)
    page.get_by_role("textbox", name="Edit").press("Enter")


def test_edit_and_walk_the_branches(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    bodies = reply_with(page, echo)
    send(page, "one")
    expect_answers(page, "to one")
    send(page, "two")
    expect_answers(page, "to one", "to two")
    edit(page, 0, "uno")
    expect_answers(page, "to uno")
    assert [message["content"] for message in bodies[-1]["messages"]] == ["uno"]
    send(page, "dos")
    expect_answers(page, "to uno", "to dos")
    edit(page, 0, "eins")
    expect_answers(page, "to eins")
    expect(page.locator(".branches")).to_have_text("3/3")

    page.get_by_role("button", name="Previous version").click()
    expect_answers(page, "to uno", "to dos")
    page.get_by_role("button", name="Previous version").click()
    expect_answers(page, "to one", "to two")
    expect(page.get_by_role("button", name="Previous version")).to_be_disabled()
    send(page, "three")
    expect_answers(page, "to one", "to two", "to three")
    assert [message["content"] for message in bodies[-1]["messages"]] == [
        "one",
        "to one",
        "two",
        "to two",
        "three",
    ]
    page.reload()
    expect(questions(page)).to_have_text(["one", "two", "three"])
    expect(page.locator(".branches")).to_have_text("1/3")


def test_an_edit_can_be_left(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    reply_with(page, echo)
    send(page, "one")
    expect_answers(page, "to one")
    page.get_by_role("textbox", name="Message").press("ArrowUp")
    page.get_by_role("textbox", name="Edit").fill("changed")
    page.keyboard.press("Escape")
    expect(questions(page)).to_have_text("one")
    expect(page.locator(".branches")).to_have_count(0)


TREE = """async () => {
  const { addTurn, choose, findIn, messagesTo, newConversation, shownPath, titleOf, lastShown, ROOT }
    = await import("/page/x/conversation/tree.js");
  const { tokensUsed } = await import("/page/x/state/room.js");
  const talk = newConversation(1);
  const out = { empty: [titleOf(talk), lastShown(talk), tokensUsed(talk), shownPath(talk).length] };
  talk.system = "be brief";
  const q1 = addTurn(talk, ROOT, "user", { text: "  first\\n question " + "é".repeat(80) });
  const a1 = addTurn(talk, q1.id, "assistant", { text: "A1", usage: { prompt_tokens: 5, completion_tokens: 2 } });
  const a2 = addTurn(talk, q1.id, "assistant", { text: "" });
  const q2 = addTurn(talk, a2.id, "user", { text: "second" });
  out.messages = messagesTo(talk, q2.id).map((m) => m.role + ":" + m.content.slice(0, 8));
  out.shown = shownPath(talk).map((p) => [p.index, p.siblings.length]);
  out.usedNow = tokensUsed(talk);
  choose(talk, a1.id);
  out.after = shownPath(talk).map((p) => p.turn.id === a1.id);
  out.usedThen = tokensUsed(talk);
  out.title = [titleOf(talk).length, titleOf(talk).startsWith("first question é")];
  // A branch that is not shown is found as well.
  out.found = [findIn(talk, "SECOND brief"), findIn(talk, "second a1").turn === q2.id, findIn(talk, " ")];
  try { addTurn(talk, "nowhere", "user"); } catch (error) { out.error = error.message; }
  talk.chosen.set(q1.id, "lost");
  out.lost = shownPath(talk).length;
  return out;
}"""


def test_the_tree_by_itself(visit: Visit, talking: LiveServer) -> None:
    assert visit(talking).evaluate(TREE) == {
        "empty": ["", "root", None, 0],
        "messages": ["system:be brief", "user:  first\n", "user:second"],
        "shown": [[0, 1], [1, 2], [0, 1]],
        "usedNow": None,
        "after": [False, True],
        "usedThen": 7,
        "title": [60, True],
        "found": [None, True, None],
        "error": "no turn nowhere",
        "lost": 3,
    }
