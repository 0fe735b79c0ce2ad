"""The benchmark as a whole, on a tiny model: its numbers mean nothing, its form and its errors do."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from bmqwen.engine import load
from bmqwen.errors import DeviceError, MissingDependencyError
from bmqwen.evaluation.model_pair import FLOAT
from bmqwen.generate.params import SamplingParams
from bmqwen.generate.session import Session
from cpu_peers import PEERS, PROMPT_TOKENS, TEXTS, require
from endless_tokenizer import EndlessTokenizer
from rounds import run_worker
from support.checkpoints import tiny_config, write_gguf

SCRIPT = TEXTS.with_name("cpu_peers.py")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf", tiny_config("qwen1.5", max_position_embeddings=2048))


def run(cache: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        env=os.environ | {"BMQWEN_CACHE": str(cache)},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="needs xllamacpp")
def test_one_round_of_everything(tmp_path: Path, model: Path) -> None:
    files = (tmp_path / "table.md", tmp_path / "all.json")
    ended = run(
        tmp_path / "cache",
        *("--model", model, "--rounds", "1", "--threads", "1", "--new-tokens", "9", "--quality"),
        *("--markdown", files[0], "--json", files[1]),
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == files[0].read_text()
    report = json.loads(files[1].read_text())
    assert list(report["engines"]) == ["bmqwen", "llama.cpp Q4_0", "llama.cpp F32"]
    [round_] = report["runs"]
    for result in round_.values():
        assert 0 < result["load_s"] < result["start_to_first_token_s"]
        assert 10e6 < result["peak_bytes"] < 4e9
        assert result["long_first_token_s"] > 0
        assert result["short_tokens_per_s"] > 0
    assert report["prompt_tokens"] == PROMPT_TOKENS
    for row in report["agreement"].values():
        assert list(row) == ["english", "chinese", "code"]
        assert 0 < row["english"]["mean_kl"] < 1


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="needs xllamacpp")
def test_the_peer_computes_the_same_model(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BMQWEN_CACHE", str(tmp_path / "cache"))
    prompts = {"short": [65, 66, 67], "long": list(range(20, 200))}
    job = {"engine": "xllamacpp", "file": str(model), "threads": 1, "new_tokens": 10, "prompts": prompts}
    # Sampling, cache and warm-up settings of the peer leave no trace in what it says.
    said = run_worker("peer", job)["text"]
    with load(model, "cpu", precision=FLOAT, threads=1) as engine:
        session = Session(engine.runtime, EndlessTokenizer(engine.tokenizer))
        expected = "".join(
            piece.text for piece in session.generate(prompts["long"], SamplingParams(max_tokens=10))
        )
    assert said == expected != ""


def test_a_worker_measures_and_says_what_it_measured(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BMQWEN_CACHE", str(tmp_path / "cache"))
    job = {
        "engine": "bmqwen",
        "file": str(model),
        "threads": 1,
        "new_tokens": 12,
        "prompts": {"short": [1, 2, 3], "long": list(range(60))},
    }
    result = run_worker("bmqwen", job)
    assert result["version"].startswith("bmqwen ")
    assert "int4" in result["version"]


def test_a_worker_that_fails_is_named_with_the_cause(model: Path) -> None:
    job = {
        "engine": "bmqwen",
        "file": f"{model}.gguf",
        "threads": 1,
        "new_tokens": 4,
        "prompts": {"short": [1]},
    }
    with pytest.raises(DeviceError, match=r"ours failed: .*there is no file"):
        run_worker("ours", job)


def test_a_peer_that_is_not_installed_is_one_line_with_the_fix() -> None:
    with pytest.raises(MissingDependencyError, match=r"^the peer other is not installed: pip install other$"):
        require("other", "no_such_module_at_all", "pip install other")
    assert all("pip install" in fix for _, fix in PEERS.values())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rounds", "0"), "nothing to do"),
        (("--threads", "0", "--quality", "--rounds", "0"), "--threads"),
        (("--model", "no/such.gguf", "--rounds", "0", "--quality"), "there is no file"),
        (("--peer", "vllm"), "invalid choice"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    ended = run(tmp_path / "cache", *arguments)
    assert ended.returncode == 2
    assert said in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
