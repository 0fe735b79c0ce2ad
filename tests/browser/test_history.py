"""Conversations kept in the browser: found, renamed, deleted and brought back, exported and imported."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from support.live_server import LiveServer
from support.served_page import (
    Visit,
    act_on,
    answers,
    expect_answers,
    questions,
    reply_with,
    send,
    titles,
)

pytestmark = pytest.mark.browser


@pytest.fixture
def page(visit: Visit, talking: LiveServer) -> Page:
    """A page with two conversations, "apples" above "pears"."""
    page = visit(talking)
    reply_with(page, "an answer about fruit")
    for text in ("pears", "apples"):
        page.get_by_role("button", name="New chat").first.click()
        expect(questions(page)).to_have_count(0)
        send(page, text)
        expect_answers(page, "an answer about fruit")
    expect(titles(page)).to_have_text(["apples", "pears"])
    return page


def test_reload_and_the_back_button_find_the_conversation_and_its_draft(page: Page) -> None:
    page.reload()
    expect(questions(page)).to_have_text("apples")
    titles(page).last.click()
    expect(questions(page)).to_have_text("pears")
    page.go_back()
    expect(questions(page)).to_have_text("apples")
    expect(page).to_have_title("apples · bmqwen")

    field = page.get_by_role("textbox", name="Message")
    field.fill("half a thought")
    page.reload()
    expect(field).to_have_value("half a thought")
    titles(page).last.click()
    expect(field).to_have_value("")


def test_search(page: Page) -> None:
    page.keyboard.press("Control+k")
    search = page.get_by_role("searchbox")
    expect(search).to_be_focused()
    search.fill("fruit PEAR")
    expect(titles(page)).to_have_text(["pears"])
    search.press("Enter")
    expect(questions(page)).to_have_text("pears")
    search.fill("plums")
    expect(page.get_by_text("No conversation contains these words.")).to_be_visible()
    search.press("Escape")
    expect(titles(page)).to_have_count(2)


def test_search_shows_where_and_leads_there(page: Page) -> None:
    """Also to a branch that is not shown."""
    page.unroute_all()
    reply_with(page, "first line\n\n" * 60 + "a needle in the hay\n\n" + "last line\n\n" * 60)
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator(".branches")).to_have_text("2/2")
    page.get_by_role("button", name="Previous version").click()
    titles(page).last.click()
    page.get_by_role("searchbox").fill("needle")
    expect(page.locator(".found-text")).to_contain_text("line a needle in the hay")
    expect(page.locator(".found-text mark")).to_have_text("needle")
    titles(page).click()
    expect(page.get_by_text("a needle in the hay").last).to_be_in_viewport()
    expect(page.locator(".branches")).to_have_text("2/2")


def test_export_one(page: Page) -> None:
    text = downloaded(page, "Export as Markdown", "pears").read_text(encoding="utf-8")
    assert text == "# pears\n\n## Question 1\n\npears\n\n## Answer 1\n\nan answer about fruit\n"
    content = json.loads(downloaded(page, "Export as JSON", "pears").read_text(encoding="utf-8"))
    assert content["format"] == "bmqwen-conversations"
    [talk] = content["conversations"]
    assert [turn["text"] for turn in talk["turns"]] == ["pears", "an answer about fruit"]


def test_presets(page: Page) -> None:
    page.get_by_role("button", name="Settings").click()
    panel = page.get_by_role("complementary", name="Settings")
    panel.get_by_label("System prompt").fill("Be brief.")
    panel.get_by_label("Temperature", exact=True).fill("0.2")
    panel.get_by_role("button", name="Save as preset").click()
    panel.get_by_label("Name of the preset").fill("brief")
    panel.get_by_role("button", name="Save", exact=True).click()
    chosen = panel.get_by_role("combobox", name="Preset")
    expect(chosen).to_have_value("brief")
    page.reload()
    page.get_by_role("button", name="New chat").first.click()
    bodies = reply_with(page, "yes")
    send(page, "plums")
    expect_answers(page, "yes")
    assert bodies[0]["temperature"] == 0.2
    assert bodies[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    page.get_by_role("button", name="Settings").click()
    chosen.select_option("None")
    expect(panel.get_by_label("System prompt")).to_have_value("")
    page.get_by_role("button", name="New chat").first.click()
    send(page, "figs")
    expect_answers(page, "yes")
    assert bodies[1]["messages"] == [{"role": "user", "content": "figs"}]


def test_two_tabs_write_in_one_conversation(page: Page) -> None:
    """Neither loses what the other adds."""
    other = page.context.new_page()
    other.goto(page.url)
    expect(questions(other)).to_have_text("apples")
    # Both ask at once, as if neither had heard of the other.
    for tab in (page, other):
        tab.evaluate("BroadcastChannel.prototype.postMessage = () => {}")
        reply_with(tab, "more")
    send(page, "from one")
    send(other, "from two")
    for tab in (page, other):
        expect(tab.locator("article.answer.writing")).to_have_count(0)
        expect(answers(tab)).to_have_count(2)
    page.reload()
    expect(page.locator(".branches").last).to_have_text(re.compile("/2$"))


def test_rename(page: Page) -> None:
    act_on(page, "apples", "Rename")
    page.get_by_role("textbox", name="Title").fill("  Orchard  ")
    page.keyboard.press("Enter")
    expect(titles(page)).to_have_text(["Orchard", "pears"])
    act_on(page, "pears", "Rename")
    page.get_by_role("textbox", name="Title").fill("never")
    page.keyboard.press("Escape")
    page.reload()
    expect(titles(page)).to_have_text(["Orchard", "pears"])


# What is done in the moment in which the page is reloaded: nothing can be read before it is written.
SET = """(value) => {
  const field = document.querySelector("#setting-temperature");
  field.value = value;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  location.reload();
}"""
NAMED = """(title) => {
  const field = document.querySelector(".title-field");
  field.value = title;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  setTimeout(() => {
    field.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
    location.reload();
  });
}"""
ASKED = """() => {
  document.querySelector(".send").click();
  setTimeout(() => location.reload());
}"""


def reloaded(page: Page, script: str, argument: str = "") -> None:
    """Run a script that reloads the page, and wait for that."""
    with page.expect_navigation():
        page.evaluate(script, argument)
    page.locator(".served b").wait_for()


def test_a_reload_in_the_same_moment_loses_nothing(page: Page) -> None:
    """A setting of a kept and of a new conversation, a title of one that is not open, a question."""
    temperature = page.get_by_label("Temperature", exact=True)
    page.get_by_role("button", name="Settings").click()
    reloaded(page, SET, "0.3")
    page.get_by_role("button", name="Settings").click()
    expect(temperature).to_have_value("0.3")

    page.get_by_role("button", name="New chat").first.click()
    expect(temperature).to_have_value("")
    reloaded(page, SET, "0.4")
    page.get_by_role("button", name="Settings").click()
    expect(temperature).to_have_value("0.4")
    page.get_by_role("textbox", name="Message").fill("plums")
    reloaded(page, ASKED)
    expect(titles(page)).to_have_text(["plums", "apples", "pears"])
    expect(questions(page)).to_have_text("plums")

    for title, shown in (("Orchard", "Orchard"), (" ", "pears")):
        act_on(page, titles(page).last.inner_text(), "Rename")
        reloaded(page, NAMED, title)
        expect(titles(page)).to_have_text(["plums", "apples", shown])
    titles(page).last.click()
    expect(questions(page)).to_have_text("pears")
    expect(page).to_have_title("pears · bmqwen")


def test_delete_and_undo_in_all_tabs(page: Page) -> None:
    other = page.context.new_page()
    other.goto("/")
    expect(titles(other)).to_have_text(["apples", "pears"])
    act_on(page, "apples", "Delete")
    for tab in (page, other):
        expect(titles(tab)).to_have_text(["pears"])
    page.get_by_role("button", name="Undo").click()
    for tab in (page, other):
        expect(titles(tab)).to_have_text(["apples", "pears"])
    act_on(page, "pears", "Delete")
    expect(titles(other)).to_have_text(["apples"])
    page.reload()
    expect(titles(page)).to_have_text(["apples"])


def downloaded(page: Page, action: str, title: str | None = None) -> Path:
    """The file that an export saves."""
    with page.expect_download() as download:
        if title:
            act_on(page, title, action)
        else:
            page.get_by_role("button", name="More", exact=True).click()
            page.get_by_role("menuitem", name=action).click()
    return download.value.path()


def imported(page: Page, file: Path) -> None:
    """Choose a file for the import."""
    page.get_by_label("Import conversations").set_input_files(file)


def test_export_all_and_import_elsewhere(
    page: Page, visit: Visit, talking: LiveServer, tmp_path: Path
) -> None:
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator(".branches")).to_have_text("2/2")
    file = tmp_path / "all.json"
    file.write_bytes(downloaded(page, "Export all conversations").read_bytes())
    elsewhere = visit(talking)
    imported(elsewhere, file)
    expect(elsewhere.get_by_text("2 conversations imported.")).to_be_visible()
    expect(titles(elsewhere)).to_have_text(["apples", "pears"])
    titles(elsewhere).first.click()
    expect_answers(elsewhere, "an answer about fruit")
    expect(elsewhere.locator(".branches")).to_have_text("2/2")
    expect(elsewhere.locator(".measured")).to_contain_text("0.13 s to first token")
    # The same file again makes copies; nothing is written over.
    imported(elsewhere, file)
    expect(titles(elsewhere)).to_have_text(["apples", "apples", "pears", "pears"])


def turn(identity: str, parent: str, role: str = "user", text: Any = "x") -> dict[str, Any]:
    return {"id": identity, "parent": parent, "role": role, "text": text}


def conversation(*turns: Any, **fields: Any) -> dict[str, Any]:
    talk = {"title": "bad", "turns": list(turns), "chosen": {}, **fields}
    return {"format": "bmqwen-conversations", "version": 1, "conversations": [talk]}


BAD_FILES: list[tuple[Any, str]] = [
    ("no json", "This file is not JSON."),
    ("[]", "contains no conversations from this page"),
    ('{"format": "other", "conversations": []}', "contains no conversations from this page"),
    ({"format": "bmqwen-conversations", "version": 2, "conversations": []}, "newer version"),
    (conversation(turn("a", "missing")), "This file is damaged"),
    (conversation(turn("a", "b"), turn("b", "a", "assistant")), "This file is damaged"),
    (conversation(turn("a", "root", "system")), "This file is damaged"),
    (conversation(turn("a", "root", text=5)), "This file is damaged"),
    (conversation(turn("a", "root"), turn("b", "a", "user")), "This file is damaged"),
    (conversation(None), "This file is damaged"),
    (conversation(title={}), "This file is damaged"),
    (conversation() | {"conversations": [None]}, "This file is damaged"),
]


def test_a_bad_file_is_refused_whole(visit: Visit, talking: LiveServer, tmp_path: Path) -> None:
    page = visit(talking)
    file = tmp_path / "bad.json"
    notice = page.locator(".notice")
    for content, message in BAD_FILES:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        imported(page, file)
        expect(notice).to_contain_text(message)
        notice.get_by_role("button", name="Dismiss").click()
        expect(notice).to_have_count(0)
    expect(titles(page)).to_have_count(0)


def test_only_known_fields_of_a_file_are_taken(visit: Visit, talking: LiveServer, tmp_path: Path) -> None:
    file = tmp_path / "strange.json"
    strange = turn("__proto__", "root") | {"usage": {"prompt_tokens": "<b>"}, "evil": 1, "state": "writing"}
    settings = {"temperature": "hot", "top_p": 0.5, "stream": False, "model": "other"}
    file.write_text(json.dumps(conversation(strange, settings=settings, chosen={"root": "__proto__"})))
    page = visit(talking)
    bodies = reply_with(page, "fine")
    imported(page, file)
    titles(page).first.click()
    expect(questions(page)).to_have_text("x")
    send(page, "next")
    expect_answers(page, "fine")
    assert bodies[0]["top_p"] == 0.5
    assert bodies[0]["stream"] is True
    assert "temperature" not in bodies[0]


# What the first version of the page kept: whole conversations, no list of them.
OLD = """async () => {
  const wait = (request) => new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  await wait(indexedDB.deleteDatabase("bmqwen"));
  const opening = indexedDB.open("bmqwen", 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore("conversations", { keyPath: "id" });
  const database = await wait(opening);
  const change = database.transaction("conversations", "readwrite");
  for (const [index, title] of ["", "named"].entries()) {
    const common = { created: 1000 + index, state: "done" };
    const turns = [
      { id: "q", parent: "root", role: "user", text: `question ${index}`, ...common },
      { id: "a", parent: "q", role: "assistant", text: `answer ${index}`, ...common },
    ];
    change.objectStore("conversations").put({
      id: `old${index}`, title, created: 1000 + index, updated: 1000 + index, system: "", settings: {},
      turns: new Map(turns.map((turn) => [turn.id, turn])), chosen: new Map([["root", "q"], ["q", "a"]]),
    });
  }
  await new Promise((resolve) => (change.oncomplete = resolve));
  database.close();
}"""


def test_conversations_that_an_older_page_kept_are_there(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    page.goto("/health")
    page.evaluate(OLD)
    page.goto("/")
    expect(titles(page)).to_have_text(["named", "question 0"])
    titles(page).last.click()
    expect_answers(page, "answer 0")
    reply_with(page, "new")
    send(page, "and now?")
    expect_answers(page, "answer 0", "new")
    page.reload()
    expect_answers(page, "answer 0", "new")
    expect(titles(page)).to_have_text(["question 0", "named"])


MANY = """async () => {
  const opening = indexedDB.open("bmqwen");
  const database = await new Promise((resolve) => (opening.onsuccess = () => resolve(opening.result)));
  const change = database.transaction(["conversations", "summaries"], "readwrite");
  for (let index = 0; index < 1000; index++) {
    const head = { id: `c${index}`, title: `talk ${index}`, created: index, updated: index };
    const text = `word${index} `.repeat(300);
    const turn = { id: "t", parent: "root", role: "user", text, created: 1, state: "done" };
    change.objectStore("summaries").put({ ...head, words: "" });
    change.objectStore("conversations").put(
      { ...head, system: "", settings: {}, turns: new Map([["t", turn]]), chosen: new Map() });
  }
  await new Promise((resolve) => (change.oncomplete = resolve));
}"""


def test_a_thousand_conversations(visit: Visit, talking: LiveServer) -> None:
    """None is read before it is opened or searched, and the list is drawn in parts."""
    page = visit(talking)
    page.evaluate(MANY)
    page.add_init_script(
        "window.whole = 0; const get = IDBObjectStore.prototype.get;"
        "IDBObjectStore.prototype.get = function (key) { window.whole += this.name === 'conversations';"
        " return get.call(this, key); };"
    )
    page.reload()
    expect(titles(page)).to_have_count(200)
    assert page.evaluate("window.whole") == 0
    page.get_by_role("button", name="Show 800 more").click()
    expect(titles(page)).to_have_count(400)
    page.get_by_role("searchbox").fill("word777")
    expect(titles(page)).to_have_text(["talk 777"], timeout=20_000)
    titles(page).click()
    expect(questions(page)).to_contain_text("word777")


def test_a_full_storage_is_said_and_loses_nothing(page: Page) -> None:
    page.evaluate(
        "() => { IDBObjectStore.prototype.put = () => { throw new DOMException('full', 'QuotaExceededError') } }"
    )
    send(page, "one more")
    expect(page.locator(".notice")).to_contain_text("its storage may be full")
    expect_answers(page, "an answer about fruit", "an answer about fruit")
    exported = json.loads(downloaded(page, "Export as JSON", "apples").read_text(encoding="utf-8"))
    assert len(exported["conversations"][0]["turns"]) == 4
