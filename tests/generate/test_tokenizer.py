"""Text to tokens and back, and the line between text and control tokens."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders

from bmqwen.errors import ConfigError, InputError
from bmqwen.generate.tokenizer import Tokenizer
from support.toy_tokenizer import (
    MARKERS,
    SPECIAL,
    toy_library_tokenizer,
    toy_tokenizer,
    write_tokenizer_folder,
)

TOKENIZER = toy_tokenizer()
LIBRARY = toy_library_tokenizer()


@pytest.mark.parametrize("control", [*SPECIAL, *MARKERS])
def test_typed_control_tokens_stay_text(control: str) -> None:
    assert TOKENIZER.control_tokens[control] in LIBRARY.encode(f"a {control} b").ids
    ids = TOKENIZER.encode(f"a {control} b{control}")
    assert set(ids).isdisjoint(TOKENIZER.control_tokens.values())
    assert TOKENIZER.decode(ids) == f"a {control} b{control}"


@given(
    st.lists(st.sampled_from([*SPECIAL, *MARKERS, "<|", "|>", "im", "hello", " ", "你", "\n"]), max_size=12)
)
def test_no_text_becomes_a_control_token(parts: list[str]) -> None:
    text = "".join(parts)
    ids = TOKENIZER.encode(text)
    assert set(ids).isdisjoint(TOKENIZER.control_tokens.values())
    assert TOKENIZER.decode(ids) == text


@given(st.text())
def test_plain_text_encodes_as_the_library_does_and_decodes_to_itself(text: str) -> None:
    ids = TOKENIZER.encode(text)
    if not any(control in text for control in (*SPECIAL, *MARKERS)):
        assert ids == LIBRARY.encode(text).ids
    assert TOKENIZER.decode(ids) == text


@given(st.lists(st.integers(0, LIBRARY.get_vocab_size() - 1)))
def test_decode_of_any_tokens_is_the_librarys(ids: list[int]) -> None:
    assert TOKENIZER.decode(ids) == LIBRARY.decode(ids)


def test_bytes_of_tokens() -> None:
    assert b"".join(map(TOKENIZER.token_bytes, TOKENIZER.encode("hello 你😀"))) == "hello 你😀".encode()
    end = TOKENIZER.control_tokens["<|im_end|>"]
    assert TOKENIZER.token_bytes(end) == b"<|im_end|>"
    assert TOKENIZER.shown_bytes(end) == b""
    assert TOKENIZER.shown_bytes(TOKENIZER.control_tokens["<tool_call>"]) == b"<tool_call>"
    assert TOKENIZER.token_bytes(10**6) == b""  # a padded logit


def test_split_control_finds_the_templates_tokens() -> None:
    end, start = TOKENIZER.control_tokens["<|im_end|>"], TOKENIZER.control_tokens["<|im_start|>"]
    assert TOKENIZER.split_control("a<|im_end|>\n<|im_start|><|im_") == ["a", end, "\n", start, "<|im_"]
    assert TOKENIZER.split_control("") == []


@pytest.mark.parametrize(
    ("eos", "expected"),
    [(5, {5}), ([5, 6], {5, 6}), (None, set()), ([], set())],
)
def test_stop_ids_come_from_generation_config(eos: object, expected: set[int], tmp_path: Path) -> None:
    folder = write_tokenizer_folder(
        tmp_path, config={"eos_token": {"content": "<tool_call>"}}, generation={"eos_token_id": eos}
    )
    names = {TOKENIZER.control_tokens[name] for name in ("<|endoftext|>", "<|im_end|>", "<tool_call>")}
    assert Tokenizer.from_folder(folder).stop_ids == expected | names


def test_a_folder_with_the_tokenizer_alone_will_do(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(write_tokenizer_folder(tmp_path))
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"
    assert tokenizer.vocab_size == LIBRARY.get_vocab_size()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("tokenizer.json", None, "does not exist"),
        ("tokenizer.json", "{", "not a tokenizer"),
        ("tokenizer.json", "[]", "not a tokenizer"),
        ("generation_config.json", "{", "cannot be read"),
        ("generation_config.json", "[]", "not a JSON object"),
        ("generation_config.json", '{"eos_token_id": "x"}', "eos_token_id 'x'"),
        ("generation_config.json", '{"eos_token_id": [true]}', "eos_token_id"),
    ],
)
def test_damaged_files_are_named(name: str, content: str | None, words: str, tmp_path: Path) -> None:
    write_tokenizer_folder(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=words) as caught:
        Tokenizer.from_folder(tmp_path)
    assert name in str(caught.value)


def test_other_kinds_of_tokenizer_are_refused() -> None:
    inner = toy_library_tokenizer()
    inner.decoder = decoders.WordPiece()
    with pytest.raises(ConfigError, match="WordPiece"):
        Tokenizer(inner)


def test_merges_that_spell_a_control_token_are_refused(tmp_path: Path) -> None:
    content = json.loads(toy_library_tokenizer().to_str())
    marker = content["added_tokens"][-1]
    content["model"]["vocab"]["hello"], marker["content"] = 256 + 3, "hello"
    marker["id"] = 256 + 3
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="plain text"):
        Tokenizer.from_folder(tmp_path)


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InputError, match="character 3"):
        TOKENIZER.encode("ab\ud800")
