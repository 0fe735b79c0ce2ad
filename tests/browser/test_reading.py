"""Language, colours, phone and keyboard."""

import re
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from support.live_server import LiveServer
from support.served_page import Visit, expect_answers, questions, reply_with, send, titles

pytestmark = pytest.mark.browser

WIDE = (
    "a table\n\n|" + "column|" * 30 + "\n|" + "---|" * 30 + "\n\n```\n" + "x" * 500 + "\n```\n\n" + "y" * 300
)

# Elements that stick out of the window, save inside what scrolls by itself.
STICKING_OUT = """() => [...document.querySelectorAll(".main *")]
  .filter((element) => !element.closest("pre, .table") || element.matches("pre, .table"))
  .filter((element) => element.getBoundingClientRect().right > innerWidth + 0.5)
  .map((element) => element.outerHTML.slice(0, 80))"""


def test_the_language_follows_the_browser_and_can_be_chosen(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking, locale="zh-CN")
    expect(page.get_by_role("button", name="新对话").first).to_be_visible()
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    reply_with(page, "好的")
    send(page, "你好")
    expect(page.locator(".measured")).to_contain_text("首 token 0.13 秒")
    expect(page.locator(".measured")).to_contain_text("缓存 1,100")
    page.get_by_role("combobox", name="语言").select_option("en")
    expect(page.locator(".measured")).to_contain_text("0.13 s to first token")
    page.reload()
    expect(page.get_by_role("button", name="New chat").first).to_be_visible()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    page.get_by_role("combobox", name="Language").select_option("auto")
    expect(page.get_by_role("button", name="新对话").first).to_be_visible()
    expect(visit(talking, locale="fr-FR").get_by_role("button", name="New chat").first).to_be_visible()


def background(page: Page) -> int:
    """Brightness of the page's ground, 0 to 255."""
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return int(re.findall(r"\d+", colour)[0])


def in_colours(page: Page, theme: Literal["light", "dark"]) -> None:
    """Have the system wish for these, and wait until the page has them."""
    page.emulate_media(color_scheme=theme)
    expect(page.locator("html")).to_have_attribute("data-theme", theme)


def test_the_colours_follow_the_system_and_can_be_chosen(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking, dark=True)
    assert background(page) < 60
    in_colours(page, "light")
    assert background(page) > 200
    page.get_by_role("combobox", name="Theme").select_option("dark")
    assert background(page) < 60
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const style = getComputedStyle(document.documentElement);
  const light = (name) => {
    canvas.fillStyle = style.getPropertyValue(name);
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const pairs = [];
  for (const ground of ["--paper", "--shade", "--raised"])
    for (const ink of ["--ink", "--ink-soft", "--ink-faint", "--jade", "--danger", "--code-keyword", "--code-string",
      "--code-number", "--code-title", "--code-comment", "--code-type"]) pairs.push([ink, ground]);
  pairs.push(["--on-jade", "--jade"], ["--ink", "--jade-wash"], ["--ink-faint", "--danger-wash"]);
  return Object.fromEntries(pairs.map(([a, b]) => {
    const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return [`${a} on ${b}`, (x + 0.05) / (y + 0.05)];
  }));
}"""


def test_all_text_has_the_contrast_of_wcag_aa(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    for theme in ("light", "dark"):
        in_colours(page, theme)
        ratios = page.evaluate(CONTRAST)
        assert {pair: round(ratio, 2) for pair, ratio in ratios.items() if ratio < 4.5} == {}


def test_every_control_has_a_name(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    reply_with(page, "```\ncode\n```")
    send(page, "go")
    expect(page.locator(".measured")).to_be_visible()
    page.get_by_role("button", name="Settings").click()
    for control in page.locator(
        "button, input:not([aria-hidden=true]), select, textarea, [role=meter]"
    ).all():
        named = control.evaluate("e => e.ariaLabel || e.innerText.trim() || e.labels?.[0]?.innerText")
        assert named, control.evaluate("e => e.outerHTML")


def test_a_phone(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking, phone=True)
    reply_with(page, WIDE)
    field = page.get_by_role("textbox", name="Message")
    field.tap()
    field.fill("one")
    # The screen's keyboard has one Enter: it makes lines, the button sends.
    field.press("Enter")
    expect(field).to_have_value("one\n")
    page.get_by_role("button", name="Send").tap()
    expect(page.locator("article.answer.done")).to_be_visible()
    assert page.evaluate(STICKING_OUT) == []
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.get_by_role("button", name="Settings").tap()
    expect(page.get_by_role("complementary", name="Settings")).to_be_in_viewport()
    page.get_by_role("button", name="Close settings").tap()
    expect(titles(page)).not_to_be_visible()
    page.get_by_role("button", name="Show conversations").tap()
    expect(titles(page)).to_be_in_viewport()
    page.get_by_role("button", name="Hide conversations").press("Escape")
    expect(titles(page)).not_to_be_visible()
    page.get_by_role("button", name="Show conversations").tap()
    titles(page).tap()
    expect(titles(page)).not_to_be_visible()
    small = page.evaluate(
        """() => [...document.querySelectorAll("button, select, textarea")]
          .filter((e) => e.checkVisibility() && e.closest(".main"))
          .filter((e) => e.getBoundingClientRect().height < 40).map((e) => e.outerHTML)"""
    )
    assert small == []


def test_enter_of_an_input_method_does_not_send(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    bodies = reply_with(page, "好")
    field = page.get_by_role("textbox", name="Message")
    field.focus()
    page.evaluate("addEventListener('keydown', (event) => (window.composing = event.isComposing), true)")
    keyboard = page.context.new_cdp_session(page)
    keyboard.send("Input.imeSetComposition", {"text": "nihao", "selectionStart": 5, "selectionEnd": 5})
    page.keyboard.press("Enter")
    assert page.evaluate("window.composing") is True
    page.wait_for_timeout(150)
    assert bodies == []
    expect(questions(page)).to_have_count(0)
    field.fill("")
    keyboard.send("Input.insertText", {"text": "你好"})
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("再见")
    page.keyboard.press("Enter")
    expect_answers(page, "好")
    assert bodies[0]["messages"] == [{"role": "user", "content": "你好\n再见"}]


def test_keys(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    reply_with(page, "yes")
    send(page, "one")
    expect_answers(page, "yes")
    field = page.get_by_role("textbox", name="Message")
    field.evaluate("field => field.blur()")
    page.keyboard.press("/")
    expect(field).to_be_focused()
    expect(field).to_have_value("")
    page.keyboard.press("Control+Shift+O")
    expect(questions(page)).to_have_count(0)
    page.get_by_role("button", name="More", exact=True).press("Enter")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("Keyboard shortcuts")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_the_reader_may_scroll_away_from_a_growing_answer(visit: Visit, endless: LiveServer) -> None:
    page = visit(endless)
    send(page, "hello")
    scroller = page.locator(".scroller")
    page.wait_for_function(
        "() => { const s = document.querySelector('.scroller'); return s.scrollHeight > s.clientHeight + 300 }"
    )
    ends = "s => s.scrollHeight - s.scrollTop - s.clientHeight < 100"
    assert scroller.evaluate(ends)
    scroller.evaluate("s => (s.scrollTop = 0)")
    expect(page.get_by_role("button", name="Go to the end")).to_be_visible()
    page.wait_for_timeout(300)
    assert scroller.evaluate("s => s.scrollTop") == 0
    page.get_by_role("button", name="Go to the end").click()
    page.wait_for_timeout(200)
    assert scroller.evaluate(ends)
    page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped.")).to_be_visible()


RICH = (
    "a **b** \\(x^2\\)\n\n```python\n"
    + "x = 1  # long\n" * 2
    + "y" * 300
    + "\n```\n\n|a|b|\n|---|---|\n|1|2|"
)


def test_nothing_for_axe_to_find(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    assert Axe().run(page).violations_count == 0
    reply_with(page, RICH)
    send(page, "see `this`\n```\n" + "z" * 300 + "\n```")
    expect(page.locator(".math-set")).to_be_visible()
    page.get_by_role("button", name="Settings").click()
    for theme in ("light", "dark"):
        in_colours(page, theme)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


def test_the_settings_lie_over_a_page_that_is_not_wide(visit: Visit, talking: LiveServer) -> None:
    page = visit(talking)
    reply_with(page, "words " * 100)
    send(page, "go")
    prose = page.locator("article.answer .prose")
    expect(page.locator("article.answer.done")).to_be_visible()
    for width, narrowest in ((900, 450), (1280, 450), (1920, 650)):
        page.set_viewport_size({"width": width, "height": 800})
        before = prose.bounding_box()
        page.get_by_role("button", name="Settings").click()
        after = prose.bounding_box()
        assert before
        assert after
        assert after["width"] >= narrowest
        if width < 1200:
            assert after["width"] == before["width"]
            expect(page.locator("main")).to_have_attribute("inert", "")
        page.keyboard.press("Escape")
        expect(page.get_by_role("complementary")).to_have_count(0)


def test_the_first_paint_waits_for_one_document(visit: Visit, talking: LiveServer) -> None:
    """With everything that the document loads held back, something is painted; the page itself takes two scripts."""
    page = visit(talking).context.new_page()
    asked: list[str] = []
    page.route("**/page/**", lambda route: asked.append(route.request.url))
    page.goto("/", wait_until="commit")
    painted = "() => performance.getEntriesByName('first-contentful-paint').length > 0"
    page.wait_for_function(painted)
    assert len(asked) <= 3
    page.unroute_all()
    page.reload()
    page.locator(".served b").wait_for()
    scripts = "performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.includes('vendor'))"
    assert sum(name.endswith(".js") for name in page.evaluate(scripts)) == 1
