"""`bmqwen embed`: lines of texts in, vectors out as JSON lines, one document or a NumPy file."""

import json
from pathlib import Path

import numpy as np
import pytest

from bmqwen.cli.app import run
from bmqwen.engine import load
from bmqwen.quant.precision import Precision
from support.retrieval_models import write_embedder

# The first converts the model, so it is the one that the others find.
OPTIONS = ["--quant", "f32", "--threads", "1"]


@pytest.fixture
def embedder(cli_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model's folder."""
    monkeypatch.setenv("BMQWEN_CACHE", str(cli_folder / "cache"))
    folder = cli_folder / "embedder"
    return folder if folder.exists() else write_embedder(folder)


def test_texts_of_all_kinds_of_files(
    embedder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, texts = tmp_path / "lines.jsonl", tmp_path / "texts.txt"
    lines.write_text('{"text": "hello you", "id": 1}\n"the"\n', encoding="utf-8")
    texts.write_bytes("\ufeff你好。\r\nhello\r\n".encode())
    assert run(["embed", str(embedder), str(lines), str(texts), "-o", str(tmp_path / "o.npy"), *OPTIONS]) == 0
    with load(embedder, task="embedding", precision=Precision("f32", 32, "f32"), threads=1) as engine:
        wanted = [engine.embed(text) for text in ("hello you", "the", "你好。", "hello")]
        query = engine.embed("the", query=True, dimensions=8)
    found = np.load(tmp_path / "o.npy")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert capsys.readouterr().out == ""
    assert run(["embed", str(embedder), "-t", "hello you", "-t", "the", *OPTIONS]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["index"], line["tokens"] > 0) for line in printed] == [(0, True), (1, True)]
    np.testing.assert_allclose([line["embedding"] for line in printed], wanted[:2], atol=1e-6)
    asked = ["embed", str(embedder), "-t", "the", "--query", "--dimensions", "8", "--json", *OPTIONS]
    assert run(asked) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["model"], document["dimensions"]) == ("embedder", 8)
    np.testing.assert_allclose(document["embeddings"], [query], atol=1e-6)


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        (b"a\n\nb\n", ["texts.txt"], "texts.txt, line 2 is empty: each line is one text"),
        (b'{"t": 1}\n', ["texts.jsonl"], 'line 1 is neither a JSON string nor an object with a "text"'),
        (b"caf\xe9\n", ["texts.txt"], "is not UTF-8 text (line 1, byte 4)"),
        (b"word " * 300, ["texts.txt"], "line 1 has 1,501 tokens, but only 127 fit into the context: split"),
        (b"", ["texts.txt"], "there is no text to embed"),
        (b"a", ["texts.txt", "-t", "b"], "give either --text or files"),
        (b"a", ["texts.txt", "--json", "-o", "x.npy"], "leave --output out"),
        (b"a", ["texts.txt", "--dimensions", "65"], "must be from 1 to 64, the width of this model"),
    ],
)
def test_what_is_refused(
    embedder: Path,
    content: bytes,
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / arguments[0]).write_bytes(content)
    assert run(["embed", str(embedder), *arguments, *OPTIONS]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == [arguments[0]]
