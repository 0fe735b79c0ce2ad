"""What answers look like: Markdown, code to copy, tables; and HTML in them, in questions and in titles stays text."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from bmqwen import serve
from support.live_server import LiveServer, live_server
from support.served_page import Visit, expect_answers, questions, reply_with, send, stream_of, titles
from support.talker import ANSWERS, THINKS, write_thinker

pytestmark = pytest.mark.browser

CODE = 'def f(a):\n    return "<b>" + a  # 一\n'
ANSWER = f"""# Title

Some **bold** and `code` with a [link](https://example.org/a?b=1&c=2).

```python
{CODE}```

| case | cost |
|---|---:|
| best | `n` |

1. one
   ```unknown-language
   nested <i>
   ```
"""

HOSTILE = """<script>window.hit = 1</script>
<img src=x onerror="window.hit = 2"> <style>body { display: none }</style>
<iframe src="javascript:window.hit = 3"></iframe> <svg onload="window.hit = 4">

[run](javascript:window.hit=5) [data](data:text/html,<script>window.hit=6</script>) <javascript:window.hit=7>
![picture](https://elsewhere.example/track.png) [vb](vbscript:x) [enc](&#106;avascript:window.hit=8)

```"><img src=x onerror=window.hit=9>
</code></pre><img src=x onerror=window.hit=10>
```

| <img src=x onerror=window.hit=11> | b |
|---|---|
| <a href="javascript:window.hit=12">x</a> | <form action=//elsewhere.example><input name=body></form> |

<div id="page" class="scrim" style="position:fixed">cover</div>
<button class="copy-code">x</button>
[a](https://example.org "\\" onmouseover=window.hit=13 x=\\"")
"""


def test_markdown_and_copying_code(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    reply_with(page, ANSWER)
    send(page, "go")
    prose = page.locator("article.answer .prose")
    expect(prose.get_by_role("heading", name="Title")).to_be_visible()
    expect(prose.locator("strong")).to_have_text("bold")
    expect(prose.locator("td").first).to_have_text("best")
    link = prose.get_by_role("link", name="link")
    expect(link).to_have_attribute("href", "https://example.org/a?b=1&c=2")
    expect(link).to_have_attribute("rel", "noopener noreferrer")
    expect(prose.locator(".hljs-keyword").first).to_have_text("def")
    expect(prose.locator("ol .code pre")).to_have_text("nested <i>")
    copy = prose.get_by_role("button", name="Copy").first
    copy.click()
    expect(prose.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()").strip() == CODE.strip()
    page.get_by_role("button", name="Copy answer").click()
    expect(page.get_by_role("button", name="Copy answer")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == ANSWER


def test_copying_without_a_clipboard(visit: Visit, talking: LiveServer) -> None:
    """On plain http on another machine the browser has no clipboard for pages."""
    page = visit(talking)
    reply_with(page, ANSWER)
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    send(page, "go")
    page.locator(".prose").get_by_role("button", name="Copy").first.click()
    expect(page.locator(".prose").get_by_role("button", name="Copied")).to_be_visible()


def test_html_in_answers_and_questions_stays_text(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    reply_with(page, HOSTILE)
    send(page, HOSTILE)
    prose = page.locator("article.answer .prose")
    expect(prose).to_contain_text("<script>window.hit = 1</script>")
    expect(prose).to_contain_text('<img src=x onerror="window.hit = 2">')
    expect(prose).to_contain_text("</code></pre><img src=x onerror=window.hit=10>")
    expect(questions(page)).to_contain_text(
        '<script>window.hit = 1</script>\n<img src=x onerror="window.hit = 2">'
    )
    for link in page.locator(".thread a").all():
        assert str(link.get_attribute("href")).startswith("https://"), link
    strange = (
        "script, img, iframe, style, form, input, object, embed, [onload], [onerror], [onmouseover], [style]"
    )
    assert page.locator(f".thread :is({strange})").count() == 0
    assert page.locator("#page").count() == 1
    assert page.locator(".scrim").count() == 0
    page.wait_for_timeout(200)
    assert page.evaluate("window.hit") is None


def test_html_in_titles_stays_text(visit: Visit, talking: LiveServer, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=window.hit=1> & <b>"
    talk = {"title": hostile, "turns": [{"id": "a", "parent": "root", "role": "user", "text": "x"}]}
    file = tmp_path / "hostile.json"
    file.write_text(json.dumps({"format": "bmqwen-conversations", "version": 1, "conversations": [talk]}))
    page = visit(talking)
    page.get_by_label("Import conversations").set_input_files(file)
    expect(titles(page)).to_have_text(hostile)
    titles(page).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(hostile)
    assert page.locator("img").count() == 0
    assert page.evaluate("window.hit") is None


def test_all_modules_load(visit: Visit, talking: LiveServer) -> None:
    """Every module of the page is one that the browser can parse and link, used or not."""
    folder = Path(serve.__file__).parent / "page"
    paths = [
        f"/page/x/{path.relative_to(folder)}" for path in folder.rglob("*.js") if path.name != "theme.js"
    ]
    assert len(paths) > 40
    visit(talking).evaluate("paths => Promise.all(paths.map((path) => import(path)))", paths)


def test_a_long_question_is_folded(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    reply_with(page, "read")
    field = page.get_by_role("textbox", name="Message")
    field.fill("\n".join(f"line {index}" for index in range(60)))
    field.press("Enter")
    expect_answers(page, "read")
    folded = questions(page).bounding_box()
    page.get_by_role("button", name="Show all").click()
    unfolded = questions(page).bounding_box()
    assert folded
    assert unfolded
    assert unfolded["height"] > 3 * folded["height"]


CHINESE = r"""**准备数据：**先下载

**“量化”**是指把权重变小。使用**INT4（4 比特）**时更快，*（斜体）*也一样。

质能方程 \(E = mc^2\)，花了 $5 和 $6，而 $a_1$ 是公式：

\[ \int_0^1 \frac{x}{2}\,dx \\ x \]

$$
\sum_{i=1}^n i
$$

H<sub>2</sub>O 和 x<sup>2</sup>，按 <kbd>Ctrl</kbd><br>继续<b onclick=hit()>粗</b>[^1]

<details>
<summary>推导</summary>

里面是 **文字**。

</details>

[^1]: 脚注的**文字**。

| 型号 | 说明 |
|---|---|
| BM1684X | 一个比较长的说明，长到必须在单元格里换行，因为它放不进一行，手机上更是这样 |

```mermaid
graph TD; A-->B
```
"""


def test_chinese_emphasis_formulas_and_harmless_html(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    reply_with(page, CHINESE)
    send(page, "看 `code` 和 \\(x^2\\)\n```python\nprint(1)\n```\n# 不是标题")
    prose = page.locator("article.answer .prose")
    expect(prose.locator("strong")).to_have_text(["准备数据：", "“量化”", "INT4（4 比特）", "文字", "文字"])
    expect(prose.locator("em")).to_have_text("（斜体）")
    expect(prose.locator(".math-set .katex-html")).to_have_count(4)
    expect(prose.locator(".math-set.math-display")).to_have_count(2)
    expect(prose).to_contain_text("花了 $5 和 $6，而")
    expect(prose.locator("kbd")).to_have_text("Ctrl")
    expect(prose.locator("sub, p > sup:not([class])").first).to_have_text("2")
    expect(prose).to_contain_text("<b onclick=hit()>粗</b>")
    expect(prose.locator("details strong")).to_be_hidden()
    prose.locator("summary").click()
    expect(prose.locator("details strong")).to_be_visible()
    expect(prose.locator(".footnote")).to_have_text("1 脚注的文字。")
    expect(prose.locator(".code code").last).to_have_text("graph TD; A-->B")
    assert prose.locator("td").first.evaluate("cell => cell.getClientRects().length") == 1
    assert prose.locator("td.short").count() == 1
    # The source of formulas, as it was written, when the answer is selected and copied.
    page.evaluate("getSelection().selectAllChildren(document.querySelector('article.answer .prose'))")
    page.keyboard.press("Control+c")
    copied = page.evaluate("navigator.clipboard.readText()")
    for source in (r"\(E = mc^2\)", r"\[ \int_0^1 \frac{x}{2}\,dx \\ x \]", "$a_1$"):
        assert source in copied
    assert "先下载\n" in copied
    asked = questions(page)
    expect(asked.locator(".code code")).to_have_text("print(1)")
    expect(asked.locator(".hljs-built_in")).to_have_text("print")
    expect(asked.locator(".plain > code")).to_have_text("code")
    expect(asked.locator(".math-set")).to_have_count(1)
    expect(asked).to_contain_text("# 不是标题")
    expect(titles(page)).to_have_text("看 code 和 \\(x^2\\) 不是标题")


def test_formulas_that_explode_and_lines_without_end(visit: Visit, talking: LiveServer) -> None:
    """They stay as they were written, and the page stays quick: the next answer comes."""
    page = visit(talking)
    bomb = r"\def\a{\b\b\b\b\b\b\b\b}\def\b{\c\c\c\c\c\c\c\c}\def\c{\d\d\d\d\d\d\d\d}\def\d{xxxxxxxx}\a"
    deep = "{" * 3000 + "}" * 3000
    line = "**一" * 50_000
    for hostile in (f"\\({bomb}\\) and \\[{deep}\\] and \\(\\frac{{1}}\\)", line):
        reply_with(page, hostile)
        send(page, "go")
        expect(page.locator("article.answer .prose").last).to_have_text(hostile)
        page.unroute_all()
    expect(page.locator(".math-set")).to_have_count(0)
    reply_with(page, "\\(x\\)")
    send(page, "go")
    expect(page.locator(".math-set")).to_have_count(1)


def test_thoughts_are_folded_and_tool_calls_shown(visit: Visit, talking: LiveServer) -> None:
    deltas: list[dict[str, Any]] = [
        {"reasoning_content": "First I think "},
        {"reasoning_content": "of **Paris**."},
        {"content": "It is sunny."},
        {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "get_weather", "arguments": '{"ci'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": 'ty": "Paris"}'}}]},
    ]
    events = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    page = visit(talking)
    reply_with(page, "x")
    page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=body)
    )
    send(page, "weather?")
    expect_answers(page, "It is sunny.")
    thoughts = page.get_by_role("button", name=re.compile(r"Thought for \d+\.\d s"))
    expect(page.get_by_text("First I think")).to_have_count(0)
    thoughts.click()
    expect(page.locator(".thoughts .folded-text")).to_have_text("First I think of Paris.")
    page.get_by_role("button", name="Called get_weather").click()
    expect(page.locator(".call code")).to_have_text('{\n  "city": "Paris"\n}')
    # They are kept, and no part of what is sent back.
    page.reload()
    expect(thoughts).to_be_visible()
    bodies = reply_with(page, "next")
    send(page, "and now?")
    expect_answers(page, "It is sunny.", "next")
    assert bodies[-1]["messages"][1] == {"role": "assistant", "content": "It is sunny."}


def test_thoughts_of_a_real_server(visit: Visit, page_folder: Path) -> None:
    model = write_thinker(page_folder / "thinker")
    with live_server(model, "--temperature", "0", cache=page_folder / "cache") as served:
        page = visit(served)
        send(page, "hello")
        expect_answers(page, ANSWERS)
        page.get_by_role("button", name=re.compile("^Thought for ")).click()
        expect(page.locator(".thoughts .folded-text")).to_have_text(THINKS.strip())
        # An answer that was cut off in its thoughts can go on, too.
        page.get_by_role("button", name="Settings").click()
        limit = page.get_by_label("Max tokens", exact=True)
        limit.fill("3")
        page.get_by_role("button", name="Regenerate").click()
        expect(page.get_by_text("Cut off at the token limit.")).to_be_visible()
        expect(page.locator("article.answer .prose")).to_have_text("")
        limit.fill("")
        page.get_by_role("button", name="Continue").click()
        expect_answers(page, ANSWERS)
        expect(page.get_by_role("button", name="Continue")).to_have_count(0)
        page.get_by_role("button", name=re.compile("^Thought for ")).click()
        expect(page.locator(".thoughts .folded-text")).to_have_text(THINKS.strip())
        # Their end may come in pieces.
        limit.fill("3")
        page.get_by_role("button", name="Regenerate").click()
        expect(page.get_by_text("Cut off at the token limit.")).to_be_visible()
        events = stream_of(" a <b. </think>\n\nSo it is.")
        page.route(
            "**/v1/completions", lambda route: route.fulfill(content_type="text/event-stream", body=events)
        )
        page.get_by_role("button", name="Continue").click()
        expect_answers(page, "So it is.")
        page.get_by_role("button", name=re.compile("^Thought for ")).click()
        expect(page.locator(".thoughts .folded-text")).to_have_text("and t a <b.")
        page.unroute_all()
        limit.fill("")
        # This model does not heed what it is told: what counts is that it is told.
        bodies: list[dict[str, Any]] = []
        page.on("request", lambda request: bodies.append(request.post_data_json or {}))
        switch = page.get_by_role("button", name="Thinking", exact=True)
        expect(switch).to_have_attribute("aria-pressed", "true")
        switch.click()
        expect(switch).to_have_attribute("aria-pressed", "false")
        page.reload()
        expect(switch).to_have_attribute("aria-pressed", "false")
        send(page, "hello")
        expect(page.locator("article.answer .turn-foot")).to_have_count(2)
        asked = [body for body in bodies if body.get("stream")]
        assert [body["enable_thinking"] for body in asked] == [False]
        counted = [body for body in bodies if "messages" in body and "stream" not in body]
        assert {body["chat_template_kwargs"]["enable_thinking"] for body in counted} == {False}
        expect(page.locator(".thoughts")).to_have_count(1)
        # The settings show the same, and how long it may think.
        page.get_by_role("button", name="Settings").click()
        page.get_by_role("checkbox", name="Thinking").check()
        expect(switch).to_have_attribute("aria-pressed", "true")
        page.get_by_role("spinbutton", name="Thinking budget").fill("3")
        send(page, "hello")
        expect(page.locator("article.answer").last.locator(".thoughts")).to_be_visible()
        asked = [body for body in bodies if body.get("stream")]
        assert "enable_thinking" not in asked[-1]
        assert asked[-1]["thinking_budget"] == 3


def test_a_model_that_cannot_think_has_no_switch_for_it(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("Temperature")).to_be_visible()
    expect(page.get_by_text("Thinking")).to_have_count(0)
    # It goes on with text behind the thoughts of another model, whose place it has taken.
    reply_with(page, "")
    cut = stream_of("", "I think").replace('"stop"', '"length"')
    kind = "text/event-stream"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(content_type=kind, body=cut))
    page.route(
        "**/v1/completions", lambda route: route.fulfill(content_type=kind, body=stream_of("So it is."))
    )
    send(page, "why?")
    page.get_by_role("button", name="Continue").click()
    expect_answers(page, "So it is.")
