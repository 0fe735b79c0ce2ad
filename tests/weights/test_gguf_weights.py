"""The GGUF reader against the gguf package, and on damaged files."""

import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bmqwen.emit.numpy import NumpyOps
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.errors import CheckpointError, ConfigError
from bmqwen.model.rope import Yarn, yarn_attention_factor
from bmqwen.weights.checkpoint import identity, open_checkpoint
from bmqwen.weights.gguf import GgufWeights, gguf_config
from bmqwen.weights.gguf_file import GgufFile
from support.checkpoints import Kind, random_weights, tiny_config, write_checkpoint, write_gguf

gguf = pytest.importorskip("gguf")


@pytest.mark.parametrize("kind", ["qwen1.5", "qwen2.5", "qwen3", "qwen3.5", "llama"])
def test_config_and_weights_come_back(kind: Kind, tmp_path: Path) -> None:
    """So a GGUF file computes what the safetensors of the same weights do."""
    config = tiny_config(kind)
    path = write_gguf(tmp_path / "m.gguf", config, seed=3)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.config == config
        expected = random_weights(config, seed=3)
        assert checkpoint.weights.names() == set(expected)
        for name, values in expected.items():
            # The file has -exp(A_log), from which the logarithm leads back within its rounding.
            np.testing.assert_allclose(
                checkpoint.weights.read(name), values, rtol=1e-6 * name.endswith("A_log"), atol=0
            )


@pytest.mark.parametrize("kind", ["qwen2.5", "qwen3", "qwen3.5", "llama"])
def test_both_kinds_of_files_give_the_same_logits(kind: Kind, tmp_path: Path) -> None:
    config = tiny_config(kind)
    folder = write_checkpoint(tmp_path / "model", config, seed=7)
    gguf_file = write_gguf(tmp_path / "m.gguf", config, seed=7)
    ids, logits = [7 * i % config.vocab_size for i in range(12)], []
    for path in (folder, gguf_file):
        with open_checkpoint(path) as checkpoint:
            ops = NumpyOps(checkpoint.config, WeightBlocks(checkpoint.weights), ids, [4, 11])
            logits.append(checkpoint.config.network.emit(ops))
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-5 if kind == "qwen3.5" else 0)
    assert logits[0].std() > 0.1


def test_rows_of_qwen35_equal_the_whole(tmp_path: Path) -> None:
    """Halves of query heads, and value heads that lie apart; blocks that predict further tokens are left aside."""
    config = tiny_config("qwen3.5")
    weights = random_weights(config)
    path = write_gguf(
        tmp_path / "m.gguf", config, values={"qwen35.block_count": 3, "qwen35.nextn_predict_layers": 1}
    )
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.config == config
        for name, values in weights.items():
            if values.ndim == 2:
                for start, stop in ((0, len(values)), (1, 3), (0, 0), (len(values) // 2 - 1, len(values))):
                    rows = checkpoint.weights.read_rows(name, start, stop)
                    np.testing.assert_array_equal(rows, values[start:stop])


def test_yarn_is_read(tmp_path: Path) -> None:
    values: dict[str, str | int | float] = {
        "qwen3.rope.scaling.type": "yarn",
        "qwen3.rope.scaling.factor": 4.0,
        "qwen3.rope.scaling.original_context_length": 64,
    }
    path = write_gguf(tmp_path / "m.gguf", tiny_config("qwen3"), values=values)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.config.yarn == Yarn(4.0, 64, yarn_attention_factor(4.0))


@pytest.mark.parametrize("dtype", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
@pytest.mark.parametrize("kind", ["qwen2.5", "llama"])
def test_dequantises_as_the_package_does(dtype: str, kind: Kind, tmp_path: Path) -> None:
    config = tiny_config(kind)
    path = write_gguf(tmp_path / "m.gguf", config, seed=4, dtype=dtype)
    expected = random_weights(config, seed=4)
    ggml = gguf.GGMLQuantizationType[dtype]
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.precision == dtype
        for name, values in expected.items():
            if values.ndim == 2:
                values = gguf.quants.dequantize(gguf.quants.quantize(values, ggml), ggml)
            np.testing.assert_array_equal(checkpoint.weights.read(name), values)


@pytest.mark.parametrize("kind", ["qwen2.5", "llama"])
def test_rows_equal_the_whole(kind: Kind, tmp_path: Path) -> None:
    config = tiny_config(kind, hidden_size=96, heads=6, kv_heads=3, head_dim=16)
    with open_checkpoint(write_gguf(tmp_path / "m.gguf", config, dtype="Q8_0")) as checkpoint:
        weights = checkpoint.weights
        for name in ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"):
            whole = weights.read(name)
            # Ranges that begin and end inside of a head, span several, or are empty.
            for start, stop in ((0, 1), (3, 9), (15, 33), (16, 32), (5, 5), (40, len(whole))):
                np.testing.assert_array_equal(weights.read_rows(name, start, stop), whole[start:stop])
        with pytest.raises(CheckpointError, match="rows"):
            weights.read_rows("model.embed_tokens.weight", 0, config.vocab_size + 1)
        with pytest.raises(CheckpointError, match=r"no\.such"):
            weights.read("no.such")


@pytest.mark.parametrize("kind", sorted(gguf.quants._type_traits), ids=lambda kind: kind.name)
def test_every_type_as_the_package_dequantises_it(kind: Any, tmp_path: Path) -> None:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    # Below 0x40 no half-precision scale is infinite or NaN, wherever it lies.
    raw = np.random.default_rng(0).integers(0, 0x40, (37, 3 * size), dtype=np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "qwen2")
    writer.add_tensor("token_embd.weight", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GgufFile(tmp_path / "m.gguf") as file:
        weights = GgufWeights(file, tiny_config())
        expected = gguf.quants.dequantize(raw, kind)
        assert weights.dtype("model.embed_tokens.weight") == kind.name
        assert weights.shape("model.embed_tokens.weight") == (37, 3 * block)
        np.testing.assert_array_equal(weights.read("model.embed_tokens.weight"), expected)
        np.testing.assert_array_equal(weights.read_rows("model.embed_tokens.weight", 17, 36), expected[17:36])


PARTS = [f"m-0000{n}-of-00003.gguf" for n in (1, 2, 3)]


def split_model(folder: Path, seed: int = 0) -> None:
    """The parts of a model that the package's own writer cut into three."""
    folder.mkdir()
    write_gguf(folder / "m.gguf", tiny_config(), seed=seed, parts=3)
    assert sorted(path.name for path in folder.iterdir()) == PARTS


@pytest.mark.parametrize("name", [".", *PARTS])
def test_any_part_names_the_whole_model(name: str, tmp_path: Path) -> None:
    split_model(tmp_path / "model")
    expected = random_weights(tiny_config())
    with open_checkpoint(tmp_path / "model" / name) as checkpoint:
        assert checkpoint.config == tiny_config()
        assert checkpoint.name == "m.gguf"
        assert checkpoint.weights.names() == set(expected)
        for tensor, values in expected.items():
            np.testing.assert_array_equal(checkpoint.weights.read(tensor), values)
        sizes = [path.stat().st_size for path in (tmp_path / "model").iterdir()]
        assert checkpoint.bytes_on_disk == sum(sizes)
        assert set(checkpoint.tokenizer_files()) >= {"tokenizer.json"}
    first = identity(tmp_path / "model" / name)
    os.utime(tmp_path / "model" / PARTS[2], ns=(0, 0))
    assert identity(tmp_path / "model" / name) != first


@pytest.mark.parametrize("missing", PARTS)
def test_a_missing_part(missing: str, tmp_path: Path) -> None:
    split_model(tmp_path / "model")
    (tmp_path / "model" / missing).unlink()
    for name in (".", *{*PARTS} - {missing}):
        with pytest.raises(
            CheckpointError, match=rf"{missing} is missing, one of 3 parts of a model: download"
        ):
            open_checkpoint(tmp_path / "model" / name)


def test_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    model = tmp_path / "model"
    split_model(model)
    whole = {name: (model / name).read_bytes() for name in PARTS}
    (model / PARTS[1]).write_bytes(whole[PARTS[2]])
    with pytest.raises(CheckpointError, match="is part 3 by its metadata, but not by its name"):
        open_checkpoint(model)
    (model / PARTS[1]).write_bytes(whole[PARTS[1]])
    (model / "m.gguf").write_bytes(whole[PARTS[0]])
    with pytest.raises(CheckpointError, match=r"one of 3 parts.*, but not by its name: .*-of-00003\.gguf"):
        open_checkpoint(model / "m.gguf")
    other = tmp_path / "other"
    other.mkdir()
    write_gguf(other / "m.gguf", tiny_config(layers=1), parts=3)
    (model / PARTS[2]).write_bytes((other / PARTS[2]).read_bytes())
    with pytest.raises(CheckpointError, match=r"has tensor .*, as another part has: they are of different"):
        open_checkpoint(model / PARTS[0])
    (model / PARTS[2]).write_bytes(whole[PARTS[2]])
    place = whole[PARTS[0]].index(b"split.tensors.count") + len(b"split.tensors.count") + 4
    (model / PARTS[0]).write_bytes(whole[PARTS[0]][:place] + bytes([99]) + whole[PARTS[0]][place + 1 :])
    with pytest.raises(
        CheckpointError, match=r"3 parts have 26 tensors where 99 are stated, so they are of dif"
    ):
        open_checkpoint(model / PARTS[0])


def test_header_agrees_with_the_package(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", tiny_config(), dtype="Q5_1")
    file, reader = GgufFile(path), gguf.GGUFReader(path)
    theirs = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert set(file.metadata) == set(theirs)
    for key, value in file.metadata.items():
        if isinstance(value, list) and isinstance(value[0], bytes):
            assert file.strings(key) == theirs[key]
        else:
            assert value == theirs[key]
    for tensor in reader.tensors:
        mine = file.tensors[tensor.name]
        assert mine.shape == tuple(int(size) for size in reversed(tensor.shape))
        assert (mine.offset, mine.bytes) == (tensor.data_offset, tensor.n_bytes)
        assert mine.type_name == tensor.tensor_type.name
    file.close()


def test_names() -> None:
    names = {tensor.gguf: tensor.name for tensor in tiny_config(layers=12).network.tensors()}
    assert names["blk.11.attn_q.bias"] == "model.layers.11.self_attn.q_proj.bias"
    assert names["output_norm.weight"] == "model.norm.weight"
    assert not names.keys() & {"blk.01.attn_q.bias", "blk.12.attn_q.bias", "output.weight"}


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    config = tiny_config()
    tensors = random_weights(config)
    tensors["model.norm.weight"][3] = np.inf
    path = write_gguf(tmp_path / "m.gguf", config, weights=tensors)
    with open_checkpoint(path) as checkpoint, pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
        checkpoint.weights.read("model.norm.weight")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"general.architecture": "mamba"}, "mamba"),
        ({"qwen2.rope.scaling.type": "linear"}, "linear"),
        ({"qwen2.expert_count": 8}, "expert_count"),
        ({"qwen2.attention.causal": False}, "is_causal"),
        ({"qwen2.rope.dimension_count": 8}, "dimension_count"),
        ({"qwen2.attention.head_count_kv": 3}, "num_key_value_heads"),
        ({"qwen2.embedding_length": "wide"}, "hidden_size"),
        ({"qwen2.block_count": 0}, "num_hidden_layers"),
        ({"qwen2.attention.layer_norm_rms_epsilon": float("nan")}, "rms_norm_eps"),
    ],
)
def test_unsupported_metadata(values: dict[str, str | int | float], words: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", tiny_config(), values=values)
    with pytest.raises(ConfigError, match=words) as caught:
        open_checkpoint(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"qwen2.embedding_length": 128, "qwen2.attention.key_length": 16}, r"\[320, 64\].*\[320, 128\]"),
        ({"split.count": 2}, r"one of 2 parts of a model by its metadata, but not by its name"),
        ({"qwen2.block_count": 3}, r"lacks tensor model\.layers\.2\."),
        ({"qwen2.block_count": 1}, r"holds tensor blk\.1\."),
    ],
)
def test_metadata_that_lies_about_shapes(
    values: dict[str, str | int | float], words: str, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "m.gguf", tiny_config(), values=values)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(path)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def header(*, tensors: int = 0, values: int = 0, version: int = 3, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, values)


HUGE = (1 << 64) - 1
TENSOR = text(b"token_embd.weight")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (header(magic=b"GGML"), "does not begin with GGUF"),
        (header(version=1), "version is 1"),
        (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "version is"),
        (header(tensors=HUGE), "tensors"),
        (header(values=HUGE), "values"),
        (header(values=1) + struct.pack("<Q", HUGE) + b"x" * 20, "bytes of text"),
        (header(values=1) + text(b"\xff\xff\xff\xff") + b"x" * 20, "UTF-8"),
        (header(values=1) + text(b"k") + struct.pack("<I", 99), "unknown type 99"),
        (header(values=1) + text(b"k") + struct.pack("<IIQ", 9, 8, HUGE), "strings"),
        (header(values=1) + text(b"k") + struct.pack("<IIQ", 9, 4, HUGE), "numbers"),
        (header(values=1) + text(b"k") + struct.pack("<IIQ", 9, 9, 1), "unknown type 9"),
        (header(values=1) + text(b"k") + struct.pack("<IIQ", 9, 0, 3 << 20) + bytes(3 << 20), "numbers"),
        (header(tensors=1) + struct.pack("<Q", 46), "ends inside"),
        (header(values=2) + 2 * (text(b"k") + struct.pack("<II", 4, 7)), "twice"),
        (header(tensors=1) + TENSOR + struct.pack("<I", 1 << 31), "dimensions"),
        (header(tensors=1) + TENSOR + struct.pack("<IQQIQ", 2, 0, 5, 0, 0), "shape"),
        (header(tensors=1) + TENSOR + struct.pack("<IQQIQ", 2, HUGE, HUGE, 0, 0), "shape"),
        (header(tensors=1) + TENSOR + struct.pack("<IQIQ", 1, 1 << 49, 0, 0), "truncated"),
        (header(tensors=1) + TENSOR + struct.pack("<IQIQ", 1, 32, 77, 0), "type number 77"),
        (
            header(tensors=1) + TENSOR + struct.pack("<IQIQ", 1, 256, 15, 0),
            "type Q8_K, which the package gguf cannot",
        ),
        (header(tensors=1) + TENSOR + struct.pack("<IQIQ", 1, 33, 2, 0), "blocks of 32"),
        (header(tensors=1) + TENSOR + struct.pack("<IQIQ", 1, 4, 0, 5), "aligned"),
        (header(tensors=1) + TENSOR + struct.pack("<IQIQ", 1, 4, 0, 1 << 63), "truncated"),
        (header(tensors=2) + 2 * (TENSOR + struct.pack("<IQIQ", 1, 4, 0, 0)), "twice"),
        (header(values=1) + text(b"general.alignment") + struct.pack("<II", 4, 24), "power of two"),
    ],
)
def test_damaged_header(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content + bytes(48))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=words) as caught:
            open_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overlapping_tensors(tmp_path: Path) -> None:
    infos = b"".join(text(n) + struct.pack("<IQIQ", 1, 16, 0, o) for n, o in ((b"a", 0), (b"b", 32)))
    (tmp_path / "m.gguf").write_bytes(header(tensors=2) + infos + bytes(400))
    with pytest.raises(CheckpointError, match="overlap"):
        GgufFile(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("keep", "words"),
    [(0, "only 0 bytes"), (4, "only 4 bytes"), (500, "damaged"), (50_000, "truncated"), (-1, "truncated")],
)
def test_truncated_file(keep: int, words: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", tiny_config())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(path)


def test_weights_with_scales_beside_them_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_tensor("token_embd.weight", np.ones((8, 8), np.float32))
    writer.add_tensor("blk.0.attn_q.scale", np.ones(1, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ConfigError, match=r"has scales beside its weights \(blk\.0\.attn_q\.scale\).*Q4_K_M"):
        open_checkpoint(path)


def test_rope_factors_are_refused(tmp_path: Path) -> None:
    info = text(b"rope_freqs.weight") + struct.pack("<IQIQ", 1, 8, 0, 0)
    info += text(b"token_embd.weight") + struct.pack("<IQQIQ", 2, 8, 8, 0, 32)
    arch = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    (tmp_path / "m.gguf").write_bytes(header(tensors=2, values=1) + arch + info + bytes(400))
    file = GgufFile(tmp_path / "m.gguf")
    with pytest.raises(ConfigError, match="rope_freqs"):
        gguf_config(file)
    file.close()
