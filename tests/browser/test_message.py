"""What goes with a message: files as text, and how much of the model's context there is for it."""

import re

import pytest
from playwright.sync_api import Page, Route, expect

from support.live_server import LiveServer
from support.pdf_files import CHINESE_FONT, pdf_file
from support.served_page import Visit, answers, expect_answers, questions, reply_with, send
from support.talker import SAYS

pytestmark = pytest.mark.browser

CODE = 'def f(a):\n    return "```" + a\n'
DROP = """([name, text]) => {
  const moved = new DataTransfer();
  moved.items.add(new File([text], name, { type: "text/plain" }));
  for (const kind of ["dragenter", "dragover", "drop"]) {
    const event = new DragEvent(kind, { dataTransfer: moved, bubbles: true, cancelable: true });
    if (document.body.dispatchEvent(event)) throw new Error(`the browser would act on ${kind}`);
  }
}"""


def attach(page: Page, name: str, data: bytes) -> None:
    """Choose a file for the message."""
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": data}
    page.locator(".composer input[type=file]").set_input_files(file)  # type: ignore[arg-type]


def test_files_go_with_the_message(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    attach(page, "f.py", CODE.encode())
    page.evaluate(DROP, ["表.csv", "列,值\n甲,1\n"])
    attached = page.locator(".composer .attachment-name")
    expect(attached).to_have_text(["f.py", "表.csv"])
    expect(page.locator(".attachment-tokens")).to_have_text(re.compile(r"^\d+ tokens$"))
    attach(page, "gone.txt", b"x")
    page.get_by_role("button", name="Remove gone.txt").click()
    page.evaluate("file => navigator.clipboard.writeText(file)", "pasted text stays text")
    field = page.get_by_role("textbox", name="Message")
    field.press("Control+v")
    expect(field).to_have_value("pasted text stays text")
    bodies = reply_with(page, "read")
    send(page, "what is it?")
    expect_answers(page, "read")
    content = bodies[0]["messages"][0]["content"]
    assert content == (
        f"File `f.py`:\n````py\n{CODE}````\n\nFile `表.csv`:\n```csv\n列,值\n甲,1\n```\n\nwhat is it?"
    )
    expect(attached).to_have_count(0)
    expect(questions(page)).to_have_text("what is it?")
    page.reload()
    page.locator(".question .attachment").first.click()
    expect(page.get_by_role("dialog").locator("code")).to_contain_text('return "```" + a')


def test_what_is_no_text_is_refused(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    notice = page.locator(".notice")
    for name, data, sentence in (
        ("picture.txt", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "picture.txt is not text"),
        ("large.log", b"x" * 3_000_000, "large.log is 3.0 MB; this server takes files of up to 2.1 MB."),
        ("empty.md", b" \n", "empty.md is empty."),
    ):
        attach(page, name, data)
        expect(notice).to_contain_text(sentence)
    attach(page, "gb.txt", "中文".encode("gb18030"))
    attach(page, "utf16.txt", "中文".encode("utf-16"))
    expect(page.locator(".composer .attachment-name")).to_have_text(["gb.txt", "utf16.txt"])
    bodies = reply_with(page, "read")
    page.get_by_role("button", name="Send").click()
    expect_answers(page, "read")
    assert bodies[0]["messages"][0]["content"].count("中文") == 2


def small_requests(route: Route) -> None:
    """Let the server say that a request has at most 2,000 bytes."""
    info = route.fetch().json()
    route.fulfill(json={**info, "limits": {**info["limits"], "body_bytes": 2_000}})


def test_the_text_of_a_pdf_goes_with_the_message(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(request.url))
    attach(page, "notes.txt", b"plain")
    page.locator(".attachment").wait_for()
    assert fetched == [url for url in fetched if "/tokenize" in url]  # pdf.js only comes with a PDF
    attach(page, "paper.pdf", pdf_file("(first page)", "", "(second page)"))
    attach(page, "旧文档.PDF", pdf_file(f"<{'你好，世界'.encode('gbk').hex()}>", font=CHINESE_FONT))
    attached = page.locator(".composer .attachment-name")
    expect(attached).to_have_text(["notes.txt", "paper.pdf", "旧文档.PDF"])
    bodies = reply_with(page, "read")
    send(page, "what is it?")
    expect_answers(page, "read")
    content = bodies[0]["messages"][0]["content"]
    assert "File `paper.pdf`:\n```\nfirst page\n\nsecond page\n```" in content
    assert "File `旧文档.PDF`:\n```\n你好，世界\n```" in content


def test_a_pdf_without_text_is_refused(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    page.route("**/api/info", small_requests)
    page.reload()
    page.locator(".served b").wait_for()
    notice = page.locator(".notice")
    for name, data, sentence in (
        ("scan.pdf", pdf_file("", ""), "scan.pdf contains only pictures, no text."),
        ("secret.pdf", pdf_file("(hello)", locked=True), "secret.pdf is protected by a password."),
        ("half.pdf", pdf_file("(hello)")[:60], "half.pdf cannot be read as a PDF"),
        ("long.pdf", pdf_file(*[f"({'x' * 60})"] * 20), "The text of long.pdf is longer than 1 kB"),
    ):
        attach(page, name, data)
        expect(notice).to_contain_text(sentence)
    expect(page.locator(".attachment")).to_have_count(0)


def test_reading_a_long_pdf_can_be_stopped(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    attach(page, "book.pdf", pdf_file(*["(page)"] * 4_000))
    expect(page.locator(".reading")).to_contain_text("Reading book.pdf: page")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    page.get_by_role("button", name="Stop reading book.pdf").click()
    expect(page.locator(".reading")).to_have_count(0)
    expect(page.locator(".attachment")).to_have_count(0)
    attach(page, "note.pdf", pdf_file("(short)"))
    expect(page.locator(".composer .attachment-name")).to_have_text("note.pdf")


def gauge(page: Page) -> tuple[int, int]:
    """Tokens used, the draft's included, and the context."""
    used, size = page.locator(".gauge").inner_text().split("/")
    return int(used.replace(",", "")), int(size.replace(",", ""))


def test_the_gauge_counts_the_draft_and_stays(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    meter = page.get_by_role("meter")
    page.get_by_role("textbox", name="Message").fill("hello " * 20)
    expect(meter).to_have_attribute("aria-label", re.compile(r"^0 of 512 .*, and \d+ by this message$"))
    assert gauge(page)[0] >= 20
    send(page, "hello")
    expect_answers(page, SAYS)
    expect(meter).to_have_attribute("aria-label", re.compile(r"^[1-9]\d* of 512 tokens of the context used$"))
    used = gauge(page)
    page.reload()
    page.locator(".served b").wait_for()
    expect(page.locator(".gauge")).to_have_text(f"{used[0]} / {used[1]}")


def test_a_question_that_cannot_fit_says_by_how_much(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking, locale="zh-CN")
    send(page, "hello " * 600)
    failure = page.get_by_role("alert")
    expect(failure).to_contain_text(re.compile(r"这条消息有 [\d,]+ 个 token，模型的上下文只能容纳 511 个。"))
    failure.get_by_role("button", name="编辑").click()
    field = page.get_by_role("textbox", name="编辑")
    expect(field).to_be_focused()
    field.fill("hello")
    field.press("Enter")
    expect_answers(page, SAYS)


def test_the_oldest_turns_are_left_out_and_that_is_said(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    for turn in range(4):
        send(page, "hello " * 110)
        expect(answers(page)).to_have_count(turn + 1)
        expect(page.locator("article.answer.writing")).to_have_count(0)
        expect(page.get_by_role("alert")).to_have_count(0)
    expect(answers(page)).to_have_count(4)
    remark = page.get_by_text("no longer fit")
    expect(remark.first).to_be_visible()
    expect(page.locator("article.answer").last.locator(".prose")).to_have_text(SAYS)
    # Whoever would rather know before chooses that.
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("When the context is full").select_option("refuse")
    page.get_by_role("button", name="New chat").first.click()
    for _ in range(5):
        expect(page.get_by_role("button", name="Stop")).to_have_count(0)
        if page.get_by_role("alert").count():
            break
        send(page, "hello " * 110)
        page.locator("article.answer").last.locator(".turn-foot").wait_for()
    expect(page.get_by_role("alert")).to_contain_text(
        re.compile(r"The conversation has [\d,]+ tokens, but only 511 fit")
    )
    expect(remark).to_have_count(0)


def test_how_much_of_a_long_prompt_was_read(visit: Visit, endless: LiveServer) -> None:
    page = visit(endless)
    # The words are gone once the first one of the answer comes: what was shown is kept.
    page.evaluate(
        """() => {
          window.shown = [];
          new MutationObserver(() => shown.push(document.querySelector('.waiting')?.innerText ?? '')).observe(
            document.body, { childList: true, subtree: true, characterData: true });
        }"""
    )
    send(page, "hello you and the " * 3_000)
    expect(page.locator("article.answer .prose")).to_contain_text("hello", timeout=60_000)
    page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped.")).to_be_visible()
    shown = page.evaluate("window.shown")
    assert any(re.fullmatch(r"[\d,]+ of [\d,]+ tokens read", words.strip()) for words in shown), set(shown)
