"""Calibration text: what ships, and what users give."""

import json
from pathlib import Path

import pytest

from bmqwen.calibration.text import read_documents, remarks, sequences_of, shipped_documents, tokenizer_of
from bmqwen.errors import InputError
from bmqwen.weights.checkpoint import open_checkpoint
from support.checkpoints import tiny_config, write_checkpoint


@pytest.fixture(scope="module", name="source")
def source_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("text") / "tiny", tiny_config("qwen2.5"), seed=3)


def test_the_shipped_text_has_dialogues_and_prose_in_two_languages() -> None:
    documents = shipped_documents()
    assert any(isinstance(document, str) for document in documents)
    assert any(isinstance(document, list) for document in documents)
    assert remarks(documents, 20_000, tiny_config()) == []


def test_messages_go_through_the_models_template(source: Path) -> None:
    with open_checkpoint(source) as checkpoint:
        tokenizer, template = tokenizer_of(checkpoint)
        assert template is not None
        [first, *rest] = sequences_of(shipped_documents(), tokenizer, template, 2000)
        text = "".join(tokenizer.token_bytes(token).decode(errors="replace") for token in first)
    assert "<|im_start|>user\n" in text
    assert sum(map(len, [first, *rest])) == pytest.approx(2000, abs=16)
    assert max(map(len, [first, *rest])) <= 512


def test_files_of_users(tmp_path: Path, source: Path) -> None:
    lines = tmp_path / "own.jsonl"
    lines.write_text(
        json.dumps({"text": "hello"}) + "\n\n" + json.dumps({"messages": [{"role": "user", "content": "hi"}]})
    )
    [text, messages] = read_documents(lines, 512)
    assert text == "hello"
    assert isinstance(messages, list)
    assert (messages[0].role, messages[0].content) == ("user", "hi")
    plain = tmp_path / "own.txt"
    plain.write_text("hello you " * 2000)
    with open_checkpoint(source) as checkpoint:
        found = sequences_of(read_documents(plain, 1024), *tokenizer_of(checkpoint), 1024)
    assert list(map(len, found)) == [512, 512]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"other": 1}', r"a\.jsonl, line 2: expected"),
        ("a.jsonl", b"not json", r"line 1: expected"),
        ("a.jsonl", b'{"messages": [{"role": "nobody", "content": "x"}]}', "role"),
        ("a.jsonl", b'{"text": 3}', "line 1: expected"),
        ("a.txt", b"\xff\xfe\x00", "is not UTF-8 text"),
        ("a.txt", b" \n", "is empty"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_documents(tmp_path / name, 512)


def test_of_a_long_file_the_beginning_is_read(tmp_path: Path) -> None:
    plain, lines = tmp_path / "long.txt", tmp_path / "long.jsonl"
    plain.write_text("x" + "你" * 100_000, "utf-8")
    [text] = read_documents(plain, 512)
    assert text == "x" + "你" * ((512 * 64 - 1) // 3)
    # A line separator of Unicode ends no line of JSON.
    line = json.dumps({"text": "one\u2028two"}, ensure_ascii=False) + "\n"
    lines.write_text(line * 5000, "utf-8")
    found = read_documents(lines, 512)
    assert found == ["one\u2028two"] * (512 * 64 // len(line.encode()))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_documents(tmp_path / "none.txt", 512)


def test_too_little_text(source: Path) -> None:
    with open_checkpoint(source) as checkpoint, pytest.raises(InputError, match="only 2 tokens, too few"):
        sequences_of(["hello you"], *tokenizer_of(checkpoint), 4096)


def test_messages_for_a_model_without_a_template(source: Path) -> None:
    with open_checkpoint(source) as checkpoint:
        tokenizer, _ = tokenizer_of(checkpoint)
    with pytest.raises(InputError, match="has no chat template"):
        sequences_of(shipped_documents(), tokenizer, None, 4096)


def test_remarks() -> None:
    config = tiny_config()
    [few] = remarks(["hello 你好"], 100, config)
    assert "fewer than" in few
    [english] = remarks(["hello " * 99], 20_000, config)
    assert "hardly any Chinese" in english
    [chinese] = remarks(["你好" * 99], 20_000, config)
    assert "hardly any English" in chinese
