"""The tokenizer built from GGUF metadata, against the one that Qwen1.5 was published with."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from bmqwen.errors import BmqwenError, CheckpointError, ConfigError
from bmqwen.weights.checkpoint import open_checkpoint
from bmqwen.weights.gguf_file import GgufFile
from bmqwen.weights.gguf_tokenizer import gguf_tokenizer_files
from support.checkpoints import SPECIAL_TOKENS, Kind, tiny_config, write_checkpoint, write_gguf
from support.published_tokenizers import qwen15_folder

gguf = pytest.importorskip("gguf")

TEXTS = {
    "English": "It's the user's turn: I'LL say \"don't\", won't you? They've 3 e-mails.",
    "Chinese": "请使用python写一段冒泡排序算法。你好，世界！今天天气怎么样？",
    "code": "def f(x: int) -> int:\n\treturn x ** 2  # comment\n\n\nclass A:\r\n    pass\r\n",
    "emoji": "😀👩‍👩‍👧‍👦 🇨🇳 👍🏽!!! ❤️",
    "whitespace": " \t  a   b\n \n\n  c\u00a0\u3000d \r\n\r\n\t\t  ",
    "digits": "1234567890 3.14159 1,000,000 ½ ² ٣٤ 三 0x1F",
    "NFC": "e\u0301 A\u030a \u1100\u1161\u11a8 \u212b ﬁ \ufb1d",
    "control tokens": "<|im_start|>user\nhi<|im_end|>\n<|endoftext|> <|im_end <|im_start|>",
    "mixed scripts": "Привет, мир! שלום עולם مرحبا こんにちは 안녕하세요 สวัสดี",
    "rare": "\ufeff\u200b\u0000\u001f\ue000\U0001f9ff\U000e0041 ́",
    "nothing": "",
}


@pytest.fixture(scope="module")
def published() -> Path:
    """tokenizer.json of Qwen1.5."""
    return qwen15_folder() / "tokenizer.json"


def write_vocabulary(path: Path, values: dict[str, Any], pre: str = "qwen2", padding: int = 293) -> Path:
    """The vocabulary of a tokenizer.json in a GGUF file, as llama.cpp's converter writes it."""
    tokens = {index: (token, 1) for token, index in values["model"]["vocab"].items()}
    for token in values["added_tokens"]:
        tokens[token["id"]] = (token["content"], 3 if token["special"] else 4)
    count = len(tokens)
    tokens |= {index: (f"[PAD{index}]", 5) for index in range(count, count + padding)}
    ordered = [tokens[index] for index in range(len(tokens))]
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([token for token, _ in ordered])
    writer.add_token_types([kind for _, kind in ordered])
    merges = values["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def both(published: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Tokenizer]:
    """The published tokenizer, and the one rebuilt from a GGUF file with its vocabulary."""
    path = tmp_path_factory.mktemp("vocabulary") / "m.gguf"
    write_vocabulary(path, json.loads(published.read_bytes()))
    file = GgufFile(path)
    rebuilt = Tokenizer.from_str(gguf_tokenizer_files(file)["tokenizer.json"].decode())
    file.close()
    return Tokenizer.from_file(str(published)), rebuilt


@pytest.mark.parametrize("kind", TEXTS)
def test_same_ids_as_the_published_tokenizer(kind: str, both: tuple[Tokenizer, Tokenizer]) -> None:
    theirs, ours = both
    text = TEXTS[kind]
    assert ours.encode(text).ids == theirs.encode(text).ids
    assert ours.encode(text).offsets == theirs.encode(text).offsets
    ids = theirs.encode(text).ids
    assert ours.decode(ids) == theirs.decode(ids)
    assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids, skip_special_tokens=False)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60) | st.text("aB'st \n\r\t1２。你，é\u0301😀", max_size=60))
def test_same_ids_on_any_text(text: str, both: tuple[Tokenizer, Tokenizer]) -> None:
    theirs, ours = both
    assert ours.encode(text).ids == theirs.encode(text).ids


def test_vocabulary_has_no_padding_tokens(both: tuple[Tokenizer, Tokenizer]) -> None:
    theirs, ours = both
    assert ours.get_vocab() == theirs.get_vocab()


@pytest.mark.parametrize("pre", ["qwen2", "deepseek-r1-qwen"])
def test_files_of_a_tiny_model_equal_the_folder_s(pre: str, tmp_path: Path) -> None:
    config = tiny_config()
    write_checkpoint(tmp_path / "folder", config)
    write_gguf(tmp_path / "m.gguf", config, values={"tokenizer.ggml.pre": pre})
    with open_checkpoint(tmp_path / "folder") as first, open_checkpoint(tmp_path / "m.gguf") as second:
        theirs, ours = first.tokenizer_files(), second.tokenizer_files()
    one, other = (Tokenizer.from_str(files["tokenizer.json"].decode()) for files in (theirs, ours))
    assert one.get_vocab() == other.get_vocab()
    for text in TEXTS.values():
        assert other.encode(text).ids == one.encode(text).ids
    generation = json.loads(ours["generation_config.json"])
    assert generation["eos_token_id"] == json.loads(theirs["generation_config.json"])["eos_token_id"]
    settings_ = json.loads(ours["tokenizer_config.json"])
    for key in ("chat_template", "eos_token", "pad_token"):
        assert settings_[key] == json.loads(theirs["tokenizer_config.json"])[key]
    assert settings_["additional_special_tokens"] == list(SPECIAL_TOKENS)


def tokenizer_of(path: Path) -> Tokenizer:
    """The tokenizer that a GGUF file gives."""
    with GgufFile(path) as file:
        return Tokenizer.from_str(gguf_tokenizer_files(file)["tokenizer.json"].decode())


@pytest.mark.parametrize("kind", ["qwen2.5", "qwen3", "qwen3.5"])
def test_an_early_file_has_the_splitting_of_its_architecture(kind: Kind, tmp_path: Path) -> None:
    named = {"tokenizer.ggml.pre": "qwen35" if kind == "qwen3.5" else "qwen2"}
    expected = tokenizer_of(write_gguf(tmp_path / "named.gguf", tiny_config(kind), values=named))
    early = write_gguf(tmp_path / "m.gguf", tiny_config(kind), values={"tokenizer.ggml.pre": None})
    assert tokenizer_of(early).to_str() == expected.to_str()


def test_sampling_that_the_converter_stated(tmp_path: Path) -> None:
    stated = {"temp": 0.6, "top_p": 0.95, "top_k": 20, "penalty_repeat": 1.05}
    values = {f"general.sampling.{name}": value for name, value in stated.items()}
    with open_checkpoint(write_gguf(tmp_path / "m.gguf", tiny_config("qwen3"), values=values)) as checkpoint:
        said = json.loads(checkpoint.tokenizer_files()["generation_config.json"])
    wanted = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.05}
    assert {name: said.get(name) for name in wanted} == wanted


def test_a_llama_without_its_splitting_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", tiny_config("llama"), values={"tokenizer.ggml.pre": None})
    with pytest.raises(ConfigError, match=r"tokenizer\.ggml\.pre = 'None', which is unsupported"):
        tokenizer_of(path)


@pytest.mark.parametrize("text", TEXTS)
def test_qwen35_splits_as_transformers_says(text: str, tmp_path: Path) -> None:
    from tokenizers import Regex, pre_tokenizers

    module = pytest.importorskip("transformers.models.qwen3_5.tokenization_qwen3_5")
    split = pre_tokenizers.Split(Regex(module.PRETOKENIZE_REGEX), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    theirs = pre_tokenizers.Sequence([split, byte_level])
    path = write_gguf(tmp_path / "m.gguf", tiny_config(), values={"tokenizer.ggml.pre": "qwen35"})
    ours = tokenizer_of(path).pre_tokenizer
    assert ours is not None
    words = TEXTS[text] + " e\u0301\u0302x हिन्दी"
    assert ours.pre_tokenize_str(words) == theirs.pre_tokenize_str(words)


@pytest.mark.parametrize("types", ["none", "normal"])
def test_marks_of_the_template_are_found_whatever_their_types(
    types: Literal["none", "normal"], tmp_path: Path
) -> None:
    good = tokenizer_of(write_gguf(tmp_path / "good.gguf", tiny_config()))
    path = write_gguf(tmp_path / "m.gguf", tiny_config(), token_types=types)
    tokenizer = tokenizer_of(path)
    for text in TEXTS.values():
        text = text.replace("<|endoftext|>", "")  # which the template does not write
        assert tokenizer.encode(text).ids == good.encode(text).ids
    ids = tokenizer.encode("<|im_start|>user").ids
    assert tokenizer.decode(ids) == "user"  # as control tokens they are not shown


def smollm_values() -> dict[str, Any]:
    """A tokenizer like SmolLM2's: special tokens come first and are part of the vocabulary."""
    from support.checkpoints import tiny_vocabulary

    vocab, merges = tiny_vocabulary()
    shifted = {token: index + len(SPECIAL_TOKENS) for token, index in vocab.items()}
    added = [{"id": i, "content": token, "special": True} for i, token in enumerate(SPECIAL_TOKENS)]
    return {"model": {"vocab": shifted, "merges": merges}, "added_tokens": added}


def test_smollm_splits_digits_and_keeps_its_ids(tmp_path: Path) -> None:
    values = smollm_values()
    values["model"]["vocab"]["12"] = len(values["model"]["vocab"]) + len(SPECIAL_TOKENS)
    values["model"]["merges"].append(("1", "2"))
    path = write_vocabulary(tmp_path / "m.gguf", values, pre="smollm")
    file = GgufFile(path)
    tokenizer = Tokenizer.from_str(gguf_tokenizer_files(file)["tokenizer.json"].decode())
    file.close()
    text = "<|im_start|>user\n12 hello  the e\u0301<|im_end|>"
    encoding = tokenizer.encode(text)
    assert (encoding.ids[0], encoding.ids[-1]) == (1, 2)
    assert tokenizer.decode(encoding.ids, skip_special_tokens=False) == text  # no NFC here
    assert {"1", "2", "hello"} <= set(encoding.tokens)


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"tokenizer.ggml.pre": "llama-bpe"}, ConfigError, "llama-bpe"),
        ({"tokenizer.ggml.eos_token_id": 320}, CheckpointError, "eos_token_id = 320"),
    ],
)
def test_refusals(
    values: dict[str, str | int | float], error: type[BmqwenError], words: str, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "m.gguf", tiny_config(), values=values)
    with open_checkpoint(path) as checkpoint, pytest.raises(error, match=words) as caught:
        checkpoint.tokenizer_files()
    assert str(path) in str(caught.value)


def test_file_without_a_tokenizer(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", tiny_config(), with_tokenizer=False)
    with open_checkpoint(path) as checkpoint, pytest.raises(CheckpointError, match="has no tokenizer"):
        checkpoint.tokenizer_files()


def test_merges_of_unknown_tokens(tmp_path: Path) -> None:
    values = smollm_values()
    values["model"]["merges"].append(("no", "such"))
    file = GgufFile(write_vocabulary(tmp_path / "m.gguf", values))
    with pytest.raises(CheckpointError, match="tokenizer is damaged"):
        gguf_tokenizer_files(file)
    file.close()


def test_the_same_token_twice(tmp_path: Path) -> None:
    values = smollm_values()
    values["added_tokens"][1]["content"] = "a"
    file = GgufFile(write_vocabulary(tmp_path / "m.gguf", values))
    with pytest.raises(CheckpointError, match="twice"):
        gguf_tokenizer_files(file)
    file.close()
