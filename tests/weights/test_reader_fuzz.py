"""Damaged files of every kind: whatever the bytes, only errors of our own come out."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bmqwen.errors import BmqwenError, ConfigError
from bmqwen.model.registry import parse_config
from bmqwen.weights.checkpoint import identity, open_checkpoint
from support.checkpoints import tiny_config, write_checkpoint, write_gguf

pytest.importorskip("gguf")

FUZZ = settings(max_examples=150, deadline=None)
SMALL = tiny_config("llama", layers=1, hidden_size=32, intermediate_size=32, heads=2, vocab_size=300)

# Changes of a valid file: (position as a fraction, byte put there) several times, and how much is kept.
Edits = list[tuple[float, int]]
FRACTION = st.floats(0, 1, exclude_max=True)
EDITS = st.lists(st.tuples(FRACTION, st.integers(0, 255)), max_size=6)


def use(path: Path) -> None:
    """Everything that can be asked of a model; errors of our own are fine, others are not."""
    with contextlib.suppress(BmqwenError), open_checkpoint(path) as checkpoint:
        identity(checkpoint.path)
        assert checkpoint.parameters > 0
        assert checkpoint.precision
        for name in checkpoint.weights.names():
            with contextlib.suppress(BmqwenError):
                checkpoint.weights.read(name)
        checkpoint.tokenizer_files()


def edited(content: bytes, edits: Edits, end: int) -> bytes:
    """`content` with bytes below `end` replaced."""
    data = bytearray(content)
    for fraction, value in edits:
        data[int(fraction * end)] = value
    return bytes(data)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(scope="module")
def gguf_bytes(folder: Path) -> bytes:
    return write_gguf(folder / "valid.gguf", SMALL, dtype="Q8_0").read_bytes()


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return write_checkpoint(folder / "model", SMALL, dtype="bfloat16", shards=2)


@FUZZ
@given(content=st.binary(max_size=400))
@example(content=b"")
def test_gguf_random_bytes(content: bytes, folder: Path) -> None:
    path = folder / "random.gguf"
    for prefix in (b"", b"GGUF\x03\0\0\0", b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0"):
        path.write_bytes(prefix + content)
        with pytest.raises(BmqwenError):
            open_checkpoint(path)


@FUZZ
@given(edits=EDITS, header_only=st.booleans())
def test_gguf_changed_bytes(edits: Edits, header_only: bool, folder: Path, gguf_bytes: bytes) -> None:
    path = folder / "changed.gguf"
    # The header is about 9 kB of the file, of which the vocabulary takes most.
    path.write_bytes(edited(gguf_bytes, edits, 1500 if header_only else len(gguf_bytes)))
    use(path)


@FUZZ
@given(fraction=FRACTION, tail=st.integers(0, 12_000))
def test_gguf_truncated(fraction: float, tail: int, folder: Path, gguf_bytes: bytes) -> None:
    path = folder / "short.gguf"
    for keep in (int(fraction * len(gguf_bytes)), min(tail, len(gguf_bytes) - 1)):
        path.write_bytes(gguf_bytes[:keep])
        with pytest.raises(BmqwenError):
            open_checkpoint(path)


@FUZZ
@given(edits=EDITS, fraction=FRACTION, cut=st.booleans())
def test_safetensors_changed_or_truncated(edits: Edits, fraction: float, cut: bool, model: Path) -> None:
    path = model / "model-00001-of-00002.safetensors"
    valid = path.read_bytes()
    length = 8 + int.from_bytes(valid[:8], "little")
    try:
        path.write_bytes(edited(valid, edits, length)[: int(fraction * len(valid)) if cut else None])
        use(model)
        path.write_bytes(edited(valid, edits, len(valid)))
        use(model)
    finally:
        path.write_bytes(valid)


@FUZZ
@given(header=st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.just("F32"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["dtype", "shape", "data_offsets", "a", "__metadata__"]), inner, max_size=4
    ), max_leaves=20,
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_safetensors_random_header(header: bytes, folder: Path) -> None:
    place = folder / "header"
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps(SMALL.to_dict()))
    (place / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(BmqwenError):
        open_checkpoint(place)


@FUZZ
@given(index=st.binary(max_size=60) | st.dictionaries(
    st.sampled_from(["model.norm.weight", "lm_head.weight", "x"]),
    st.text(max_size=20) | st.none() | st.sampled_from(["model-00001-of-00002.safetensors", "../x"]),
).map(lambda value: json.dumps({"weight_map": value}).encode()))  # fmt: skip
def test_random_index(index: bytes, model: Path) -> None:
    path = model / "model.safetensors.index.json"
    valid = path.read_bytes()
    try:
        path.write_bytes(index)
        with pytest.raises(BmqwenError):
            open_checkpoint(model)
    finally:
        path.write_bytes(valid)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    | st.sampled_from([10**400, -1, 0, 1, "default", "yarn", ["Qwen2ForCausalLM"]]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["rope_type", "type", "rope_theta", "quant_method", "x"]) | st.text(max_size=4),
        inner, max_size=3,
    ), max_leaves=6,
)  # fmt: skip
KEYS = sorted({
    *SMALL.to_dict(), "rope_scaling", "rope_parameters", "quantization_config", "layer_types",
    "use_sliding_window", "rope_interleaved",
})  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(changes=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
def test_config_with_any_values(changes: dict[str, Any]) -> None:
    with contextlib.suppress(ConfigError):
        config = parse_config(SMALL.to_dict() | changes, "config.json")
        assert parse_config(config.to_dict(), "config.json") == config
        assert config.num_attention_heads % config.num_key_value_heads == 0


@FUZZ
@given(content=st.binary(max_size=200), edits=EDITS, fraction=FRACTION)
def test_config_file_of_any_bytes(content: bytes, edits: Edits, fraction: float, model: Path) -> None:
    path = model / "config.json"
    valid = path.read_bytes()
    try:
        for damaged in (content, edited(valid, edits, len(valid)), valid[: int(fraction * len(valid))]):
            path.write_bytes(damaged)
            use(model)
    finally:
        path.write_bytes(valid)
