"""What answers look like: Markdown, code to copy, tables; and HTML in them, in questions and in titles stays text."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

from bmqwen import serve
from support.live_server import LiveServer
from support.served_page import Visit, expect_answers, questions, reply_with, send, titles

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
    expect(questions(page)).to_have_text(HOSTILE.strip(), use_inner_text=True)
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


def test_the_page_may_run_nothing_but_its_own_files(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    response = page.request.get("/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "<script>" not in response.text()


def test_all_modules_load(visit: Visit, talking: LiveServer) -> None:
    """Every module of the page is one that the browser can parse and link, used or not."""
    folder = Path(serve.__file__).parent / "page"
    paths = [f"/page/{path.relative_to(folder)}" for path in folder.rglob("*.js") if path.name != "theme.js"]
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
