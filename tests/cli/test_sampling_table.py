"""A sampling parameter is one field of SamplingParams: options, settings, requests and the page come from it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import bmqwen

PACKAGE = Path(bmqwen.__file__).parent
# Which places have which parameters, as JSON.
PROBE = """
import json, typer
from bmqwen.cli.app import app
from bmqwen.cli.repl.commands import SETTINGS
from bmqwen.generate.params import PARAMETERS, SamplingParams
from bmqwen.serve.defaults import sampling_of
from bmqwen.serve.http.protocol import ChatRequest, CompletionRequest
from bmqwen.serve.http.info import _setting

commands = typer.main.get_command(app).commands
given = {"texts": ["x"], "switch": True}
asked = {row.name: given.get(row.kind, row.high) for row in PARAMETERS}
request = ChatRequest.model_validate({"messages": [{"role": "user", "content": "hi"}], **asked})
params = sampling_of(request, SamplingParams(), 10)
table = [row.name for row in PARAMETERS]
print(json.dumps({
    "table": table,
    "of any answer": [row.name for row in PARAMETERS if not row.chat],
    "of a server": [row.name for row in PARAMETERS if not row.per_answer],
    "chat": [option.name for option in commands["chat"].params if option.name in table],
    "serve": [option.name for option in commands["serve"].params if option.name in table],
    "/set": SETTINGS,
    "chat request": [name for name in ChatRequest.model_fields if name in table],
    "completion request": [
        name for name in CompletionRequest.model_fields if name in table and name not in CompletionRequest.unused
    ],
    "page": [_setting(row, params)["name"] for row in PARAMETERS],
    "heard": [name for name in asked if getattr(params, name) in (asked[name], ("x",))],
}))
"""
NEW_FIELD = """    made_up: float = _parameter(
        Parameter("number", 0.0, 0, 1), Words("Made up", "For this test"), Words("虚构", "只用于测试")
    )
    seed: int"""


def places(package: Path) -> dict[str, list[str]]:
    """Where parameters of this copy of the package turn up."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env=os.environ | {"PYTHONPATH": str(package.parent)},
        capture_output=True,
        check=True,
        timeout=120,
    )
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def assert_everywhere(found: dict[str, list[str]]) -> None:
    """Each place lists the table, a server's own options those with a default, continuations what is not of chats."""
    part = {"serve": "of a server", "completion request": "of any answer"}
    for place, names in found.items():
        if not place.startswith("of "):
            assert names == found[part.get(place, "table")], place


def test_every_place_lists_the_table() -> None:
    assert_everywhere(places(PACKAGE))


def test_a_new_parameter_is_one_field(tmp_path: Path) -> None:
    copy = tmp_path / "bmqwen"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "vendor"))
    file = copy / "generate" / "params.py"
    source = file.read_text(encoding="utf-8")
    assert source.count("    seed: int") == 1
    file.write_text(source.replace("    seed: int", NEW_FIELD), encoding="utf-8")
    found = places(copy)
    assert "made_up" in found["table"]
    assert_everywhere(found)


def test_no_other_file_names_a_parameter() -> None:
    # Names that are words of their own, so that finding them means something.
    named = re.compile(r"\b(top_p|top_k|min_p|\w+_penalty)\b|--top-|--min-p|-penalty\b")
    files = {
        str(path.relative_to(PACKAGE))
        for pattern in ("*.py", "*.js")
        for path in PACKAGE.rglob(pattern)
        if "vendor" not in path.parts and "chip" not in path.parts and "bmrt" not in path.parts
        if named.search(path.read_text(encoding="utf-8"))
    }
    # What a family recommends stands with its architecture; other makers' files and APIs have the names that they have.
    elsewhere = (
        "model/",
        "weights/gguf",
        *(f"serve/http/{api}/" for api in ("anthropic", "ollama", "openai_responses")),
    )
    assert {name for name in files if not name.startswith(elsewhere)} == {
        "generate/params.py",
        "generate/sampler.py",
    }
