"""The server keeps to its own OpenAPI document, whatever is sent; and the document to the model."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bmqwen.serve.http.app import numbers_below
from support.live_server import live_server
from support.talker import write_talker
from support.toy_tokenizer import FIM

# Of tools, no schema can say that a result needs a call before it, or that a choice needs a tool.
TOOLS_MAY_NOT_FIT = """
[[operations]]
include-path-regex = "^/(v1/(chat|messages|responses)|api/(chat|generate)|apply-template|tokenize)"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 404]
"""


@pytest.mark.parametrize("limit", [1, 2, 9, 10, 11, 100, 101, 320, 1937])
def test_numbers_below(limit: int) -> None:
    pattern = re.compile(numbers_below(limit))
    assert [number for number in range(3000) if pattern.match(str(number))] == list(range(limit))
    assert not any(pattern.match(text) for text in ("", "00", "01", "-1", "1.0", " 1"))


@pytest.mark.parametrize(
    ("extent", "cases"),
    [
        pytest.param(("--phases", "fuzzing,stateful", "--max-examples", "2"), 35, id="at random"),
        # Each field at the edges of its schema as well.
        pytest.param(("--max-examples", "20"), 1000, id="whole", marks=pytest.mark.thorough),
    ],
)
def test_schemathesis_finds_nothing(
    serve_folder: Path, tmp_path: Path, extent: tuple[str, ...], cases: int
) -> None:
    model = write_talker(serve_folder / "long", context=30_000, tokens=FIM)
    with live_server(model, "--time-limit", "3", cache=serve_folder / "cache") as server:
        document = server.client.get("/openapi.json").json()
        assert {"/v1/chat/completions", "/v1/completions", "/tokenize", "/metrics"} <= set(document["paths"])
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
        (tmp_path / "schemathesis.toml").write_text(TOOLS_MAY_NOT_FIT)
        options = [
            *extent,
            "--seed",
            "1",
            "--generation-database",
            "none",
            "--request-timeout",
            "60",
        ]
        done = subprocess.run(
            [*command, *options], capture_output=True, text=True, timeout=800, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stdout[-5000:]
        generated = re.search(r"(\d+) generated", done.stdout)
        assert generated is not None, done.stdout[-2000:]
        assert int(generated[1]) > cases
        assert "Traceback" not in server.log
        assert server.metric("bmqwen_engine_restarts_total") == 0
