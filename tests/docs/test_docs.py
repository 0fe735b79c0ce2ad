"""README and guides: what they name exists, both languages say the same, and every command in them parses."""

import ast
import importlib
import json
import re
import runpy
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cogapp
import numpy as np
import pytest
import typer

from bmqwen.artifact.footprint import fits, footprint, longest_context
from bmqwen.chip.memory import largest_heaps, plan_layout
from bmqwen.chip.spec import DEFAULT_CHIP
from bmqwen.cli.app import app
from bmqwen.cli.repl.commands import COMMANDS
from bmqwen.compiler.plan import sizes
from bmqwen.hub.known_config import published_config
from bmqwen.quant.precision import Precision
from support.messages import Messages

ROOT = Path(__file__).parents[2]
ENGLISH = sorted((ROOT / "docs" / "en").glob("*.md"))
PAIRS = [
    (ROOT / "README.md", ROOT / "README.zh.md"),
    *((page, ROOT / "docs/zh" / page.name) for page in ENGLISH),
]
PAGES = [page for pair in PAIRS for page in pair]
PROGRAM: Any = typer.main.get_command(app)
# Also those of groups, as "cluster serve".
ALL_COMMANDS: dict[str, Any] = runpy.run_path(str(ROOT / "docs/options.py"))["COMMANDS"]

# Options of other programs that the pages name.
FOREIGN_OPTIONS = {"--clients", "--merge", "--quality", "--rounds"}
# Messages of other programs in the pages on problem.
FOREIGN_MESSAGES = ("ensurepip is not", "requires a different Python", "externally-managed")


QWEN15 = {
    size: config
    for size in ("0.5B", "1.8B", "4B", "7B")
    if (config := published_config(f"qwen1.5-{size.lower()}-chat"))
}


def name(value: object) -> str:
    """Of a page, for test ids."""
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


def text_of(page: Path) -> str:
    """The page."""
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and content of each code block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)


def inline(page: Path) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def invocations(script: str) -> Iterator[list[str]]:
    """Arguments of each `bmqwen` in a shell script."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split = True
        command: list[str] = []
        for token in [*lexer, ";"]:
            if not set(token) <= set("();<>|&"):
                command.append(token)
                continue
            while command and re.fullmatch(r"\w+=.*", command[0]):
                command = command[1:]
            if command and Path(command[0]).name == "bmqwen":
                yield command[1:]
            # What follows < or > is a file, and no command's first word: it does not hurt.
            command = []


def options(command: Any) -> set[str]:
    """All spellings of a command's options."""
    return {
        option
        for param in command.params
        if param.param_type_name == "option"
        for option in (*param.opts, *param.secondary_opts)
    } | {"-h", "--help"}


def all_options() -> set[str]:
    return options(PROGRAM).union(*(options(command) for command in ALL_COMMANDS.values()))


def cases() -> list[tuple[Path, str]]:
    """Each command line of a shell block, with its page."""
    return [
        (page, shlex.join(arguments))
        for page in PAGES
        for language, script in blocks(page)
        if language == "bash"
        for arguments in invocations(script)
    ]


def test_both_languages_have_the_same_guides() -> None:
    assert ENGLISH
    assert [page.name for page in ENGLISH] == sorted(page.name for page in (ROOT / "docs/zh").glob("*.md"))


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=name)
def test_both_languages_have_the_same_structure(english: Path, chinese: Path) -> None:
    levels = [re.findall(r"^#+(?= )", prose(page), re.MULTILINE) for page in (english, chinese)]
    assert levels[0] == levels[1]
    rows = [
        [row.count("|") for row in prose(page).splitlines() if row[:1] == "|"] for page in (english, chinese)
    ]
    assert len(rows[0]) == len(rows[1])
    marks = [re.findall(r"@[A-Z]+@", text_of(page)) for page in (english, chinese)]
    assert marks[0] == marks[1]


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=name)
def test_both_languages_have_the_same_code(english: Path, chinese: Path) -> None:
    assert blocks(english) == blocks(chinese)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md"], ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    local = [target.partition("#")[0] for target in targets if not target.startswith(("http://", "https://"))]
    assert [target for target in local if target and not (page.parent / target).exists()] == []


def anchors(page: Path) -> set[str]:
    """What a link into the page may name: its headings, as hubs of repositories spell them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_into_pages_lead_to_a_heading(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]*\.md)?#([^)\s]+)\)", prose(page))
    assert [
        f"{file}#{part}"
        for file, part in targets
        if part not in anchors(page.parent / file if file else page)
    ] == []


@pytest.mark.parametrize(("page", "line"), cases(), ids=name)
def test_commands_parse(page: Path, line: str) -> None:
    del page
    arguments = shlex.split(line)
    if not arguments or arguments[0].startswith("-"):
        # The program's own options act while they are parsed: installing completion is not for a test.
        assert {word for word in arguments if word.startswith("-")} <= options(PROGRAM)
        return
    PROGRAM.commands[arguments[0]].make_context(arguments[0], arguments[1:])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_in_the_text_exist(page: Path) -> None:
    for code in inline(page):
        words = re.sub(r"[\[\]]", "", code).split()
        named = {word.partition("=")[0] for word in words if re.fullmatch(r"--[a-z][\w-]*(=.*)?", word)}
        known = all_options() | FOREIGN_OPTIONS
        if words[:1] == ["bmqwen"] and len(words) > 1 and words[1].isalpha() and words[1].islower():
            known = options(ALL_COMMANDS.get(" ".join(words[1:3])) or PROGRAM.commands[words[1]])
        if words[:1] == ["python"] and words[1].startswith("benchmarks/"):
            known = set(re.findall(r'"(--[a-z][\w-]*)"', (ROOT / words[1]).read_text()))
        assert named <= known, code


@pytest.mark.parametrize("guides", ["docs/en", "docs/zh"])
def test_every_command_and_option_is_described(guides: str) -> None:
    text = "\n".join(text_of(page) for page in (ROOT / guides).glob("*.md"))
    for command_name, command in ALL_COMMANDS.items():
        assert f"bmqwen {command_name}" in text or f"`{command_name}`" in text, command_name
        for option in options(command):
            if option.startswith("--") and option != "--help":
                assert re.search(rf"{option}(?![\w-])", text), (command_name, option)
    for entry in COMMANDS:
        for spelling in (entry.name, *entry.aliases):
            assert re.search(rf"`{re.escape(spelling)}[ `]", text), spelling


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_code_is_code(page: Path) -> None:
    for language, content in blocks(page):
        if language == "json":
            json.loads(content)
        if language != "python":
            continue
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bmqwen"):
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.fixture(scope="module")
def messages() -> Messages:
    """What the program can say."""
    return Messages(ROOT / "src")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_quoted_messages_are_those_of_the_program(language: str, messages: Messages) -> None:
    quoted = [message for page in (ROOT / "docs" / language).glob("*.md") for message in messages_in(page)]
    assert len(quoted) > 60
    own = [message for message in quoted if not message.startswith(FOREIGN_MESSAGES)]
    assert [message for message in own if message not in messages] == []


def messages_in(page: Path) -> list[str]:
    """Messages in the tables of what one may see, and what "bmqwen: " begins in transcripts."""
    found = []
    for table in re.findall(r"^\| (?:you see|现象) \|.*?(?=^[^|]|\Z)", prose(page), re.DOTALL | re.MULTILINE):
        found += [
            text for row in table.splitlines()[2:] for text in re.findall(r"`([^`]+)`", row.split(" | ")[0])
        ]
    for _, content in blocks(page):
        found += re.findall(r"^bmqwen: (.+)$", content, re.MULTILINE)
    # A command or a word that the text around a message names is none.
    return [text for text in found if re.search(r"\w \w", text)]


@pytest.mark.parametrize(
    ("quoted", "said"),
    [
        ("unknown model 'qwen': did you mean qwen2?", True),
        ("... needs ... of device memory in one piece, but the largest heap (...) has", True),
        ("there is no device 7: 2 found", True),
        ("device 7 is missing, 2 found", False),
        ("unknown model 'qwen': perhaps you mean qwen2?", False),
        ("the prompt is full", False),
        ("A token id that is out of range", False),
    ],
)
def test_a_message_that_no_source_says_is_noticed(quoted: str, said: bool, messages: Messages) -> None:
    assert (quoted in messages) is said


@pytest.mark.parametrize("page", ["docs/en/compile.md", "docs/zh/compile.md"])
def test_sizes_are_those_that_the_compiler_estimates(page: str) -> None:
    rows = re.findall(
        r"^\| Qwen1\.5-(\S+) \| int4 / int8 / f16 \|(.*)\|$", text_of(ROOT / page), re.MULTILINE
    )
    assert [size for size, _ in rows] == list(QWEN15)
    for size, row in rows:
        expected: list[list[int]] = []
        for form in ("int4", "int8", "f16"):
            found = sizes(QWEN15[size], Precision.choose(form, 64), 512)
            expected.append([found.chip.total, found.compiler, found.scratch(1), found.bundle])
        stated = [
            [float(number) for number in cell.removesuffix(" GB ").split("/")] for cell in row.split("|")
        ]
        np.testing.assert_allclose(stated, np.array(expected).T / 1e9, rtol=0.15, atol=0.06)


@pytest.mark.parametrize("page", ["docs/en/chip.md", "docs/zh/chip.md"])
def test_memory_is_what_the_arithmetic_gives(page: str) -> None:
    rows = re.findall(r"^\| Qwen1\.5-(\S+) \| (int4|int8|f16) \|(.*)\|$", text_of(ROOT / page), re.MULTILINE)
    assert len(rows) == 3 * len(QWEN15)
    delivered = largest_heaps(replace(DEFAULT_CHIP.board, most=DEFAULT_CHIP.board.now))
    for size, form, row in rows:
        config, precision = QWEN15[size], Precision.choose(form, 64, form)
        short, long = (footprint(config, precision, n) for n in (512, 2048))
        sizes_mb = [round(n / 1e6) for n in (short.weights, short.cache, short.total, long.total)]
        longest = [
            longest_context(config, precision, lambda need: fits(need, delivered)),
            longest_context(
                config,
                precision,
                lambda need: plan_layout(DEFAULT_CHIP.board, need.pieces) is not None,
            ),
        ]
        cells = [cell.strip().replace(",", "") for cell in row.split("|")]
        assert cells[:4] == [str(n) for n in sizes_mb], (size, form)
        assert cells[4:] == [str(n or "-") for n in longest], (size, form)


def test_option_tables_are_those_of_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    pages = [str(page) for page in PAGES if page.parent.name in ("en", "zh")]
    status = cogapp.Cog().main(["cog", "-P", "--check", "-I", str(ROOT / "docs"), *pages])
    assert status == 0, f"run `cog -P -r -I docs docs/*/*.md`: {capsys.readouterr().out}"


def test_no_translation_is_left_over() -> None:
    """Translations of options that are gone, or whose English text has changed."""
    known = json.loads((ROOT / "docs/options.zh.json").read_text(encoding="utf-8"))
    texts: dict[str, set[str]] = {}
    for command_name, command in ALL_COMMANDS.items():
        for param in command.params:
            if param.param_type_name == "option":
                for key in (f"{command_name} {param.opts[-1]}", param.opts[-1]):
                    texts.setdefault(key, set()).add(param.help)
    assert [key for key, (english, _) in known.items() if english not in texts.get(key, set())] == []
