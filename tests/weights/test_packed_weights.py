"""GPTQ, AWQ and AutoRound checkpoints: packed here by the published layouts' definitions, read back on their grid."""

import contextlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.errors import CheckpointError, ConfigError, InputError
from bmqwen.model.packing import read_packing
from bmqwen.model.registry import parse_config
from bmqwen.quant import Format
from bmqwen.quant.formats import GridFormat, make_format
from bmqwen.quant.grid_weights import GridWeights
from bmqwen.quant.precision import Precision, PrecisionOptions
from bmqwen.weights.checkpoint import open_checkpoint
from bmqwen.weights.packed import PackedWeights
from support.checkpoints import random_weights, tiny_config, write_checkpoint, write_tokenizer

GROUP = 32
Method = Literal["gptq", "awq"]


def pack(codes: NDArray[np.int64], bits: int) -> NDArray[np.int32]:
    """Codes [r, c] to words [r, c * bits / 32] along the last axis, the lowest bits first; they may span words."""
    if 32 % bits:
        planes = (codes[..., None] >> np.arange(bits)) & 1
        stream = planes.reshape(len(codes), -1).astype(np.uint8)
        return np.packbits(stream, axis=-1, bitorder="little").view(np.int32)
    per = 32 // bits
    words = np.zeros((codes.shape[0], codes.shape[1] // per), np.uint64)
    for i in range(per):
        words |= codes[:, i::per].astype(np.uint64) << np.uint64(bits * i)
    return words.astype(np.uint32).view(np.int32)


def pack_awq(codes: NDArray[np.int64]) -> NDArray[np.int32]:
    """The same with the columns of a word in the order that AWQ's kernels want."""
    words = np.zeros((codes.shape[0], codes.shape[1] // 8), np.uint64)
    for i, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
        words |= codes[:, column::8].astype(np.uint64) << np.uint64(4 * i)
    return words.astype(np.uint32).view(np.int32)


class Packed:
    """A tiny checkpoint on disk, and what its weights are."""

    def __init__(
        self, folder: Path, method: Method, bits: int, group: int = GROUP, taken: int = 1, **stated: Any
    ) -> None:
        """`taken` is what GPTQ's zero points are stored less."""
        self.folder, self.config = folder, tiny_config("qwen1.5", layers=1)
        self.zeros: dict[str, NDArray[np.int64]] = {}
        self.truth = random_weights(self.config, 4)
        rng = np.random.default_rng(bits)
        self.tensors: dict[str, NDArray[Any]] = {}
        for name, values in list(self.truth.items()):
            plain = name.removesuffix(".weight")
            if "_proj" not in plain or values.ndim < 2:
                self.tensors[name] = values.astype(np.float16)
                self.truth[name] = self.tensors[name].astype(np.float32)
                continue
            rows, columns = values.shape
            size = columns if group == -1 else group
            groups, top = columns // size, 1 << bits
            codes = rng.integers(0, top, (rows, columns))
            zeros = self.zeros[name] = rng.integers(1 if method == "gptq" else 0, top, (rows, groups))
            scales = rng.uniform(0.001, 0.01, (rows, groups)).astype(np.float16)
            steps = (codes - np.repeat(zeros, size, axis=1)).astype(np.float32)
            self.truth[name] = steps * np.repeat(scales.astype(np.float32), size, axis=1)
            if method == "gptq":
                self.tensors[f"{plain}.qweight"] = pack(codes, bits).T.copy()
                self.tensors[f"{plain}.qzeros"] = pack((zeros - taken).T, bits)
                self.tensors[f"{plain}.g_idx"] = (np.arange(columns) // size).astype(np.int32)
                if f"{plain}.bias" not in self.truth:
                    self.tensors[f"{plain}.bias"] = np.zeros(rows, np.float16)
            else:
                self.tensors[f"{plain}.qweight"] = pack_awq(codes.T)
                self.tensors[f"{plain}.qzeros"] = pack_awq(zeros.T)
            self.tensors[f"{plain}.scales"] = scales.T.copy()
        self.stated = {"quant_method": method, "bits": bits, "group_size": group, **stated}
        self.write()

    def write(self) -> None:
        """(Re)write the files."""
        self.folder.mkdir(exist_ok=True)
        write_tokenizer(self.folder)
        config = self.config.to_dict() | {"quantization_config": self.stated}
        (self.folder / "config.json").write_text(json.dumps(config))
        types = {"float16": "F16", "int32": "I32"}
        header, data = {}, b""
        for name, tensor in self.tensors.items():
            raw = np.ascontiguousarray(tensor).tobytes()
            header[name] = {
                "dtype": types[tensor.dtype.name],
                "shape": list(tensor.shape),
                "data_offsets": [len(data), len(data) + len(raw)],
            }
            data += raw
        text = json.dumps(header).encode()
        (self.folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128}
CASES: list[tuple[Method, int]] = [("gptq", 4), ("gptq", 8), ("awq", 4)]


@pytest.mark.parametrize(("method", "bits"), CASES)
def test_weights_are_those_that_the_grid_stands_for(method: Method, bits: int, tmp_path: Path) -> None:
    packed = Packed(tmp_path / "model", method, bits)
    with open_checkpoint(packed.folder) as checkpoint:
        assert checkpoint.precision == f"{method.upper()} int{bits} group {GROUP}"
        assert checkpoint.weights.names() == packed.truth.keys()
        for name, values in packed.truth.items():
            np.testing.assert_array_equal(checkpoint.weights.read(name), values)
        name = "model.layers.0.mlp.gate_proj.weight"
        rows = checkpoint.weights.read_rows(name, 3, 13)
        np.testing.assert_array_equal(rows, packed.truth[name][3:13])


@pytest.mark.parametrize(("method", "bits"), CASES)
def test_without_options_the_grid_is_kept(method: Method, bits: int, tmp_path: Path) -> None:
    packed = Packed(tmp_path / "model", method, bits)
    form: Format = "int4" if bits == 4 else "int8"
    # The head is not on a grid; groups of 8 bits are their format's own affair.
    kept = Precision(form, GROUP if bits == 4 else 64, form)
    assert PrecisionOptions().at(packed.folder) == kept
    assert PrecisionOptions(lm_head="f16").at(packed.folder).lm_head == "f16"
    # The group size of an 8-bit grid says nothing of a head in 4 bits.
    head = PrecisionOptions(lm_head="int4").at(packed.folder)
    assert head.head == make_format("int4", GROUP if bits == 4 else 64)
    other: Format = "int8" if bits == 4 else "int4"
    assert PrecisionOptions(other).at(packed.folder) == Precision.choose(other)
    with pytest.raises(InputError, match="group size 7"):
        PrecisionOptions(group_size=7)


@pytest.mark.parametrize(("method", "bits"), CASES)
@pytest.mark.parametrize("group_size", [16, GROUP])
def test_both_runtimes_get_the_grid_itself(
    method: Method, bits: int, group_size: int, tmp_path: Path
) -> None:
    packed = Packed(tmp_path / "model", method, bits)
    with open_checkpoint(packed.folder) as checkpoint:
        for name in (n for n in packed.truth if "_proj.weight" in n):
            (grid,) = WeightBlocks(checkpoint.weights).grids([name], GridFormat(bits, (group_size,)))
            assert (grid.bits, grid.group_size) == (bits, group_size)
            np.testing.assert_array_equal(grid.dequantize(), packed.truth[name])
        if bits == 4:
            # What is evaluated is what runs.
            through = GridWeights(checkpoint.weights, packed.config, Precision("int4", group_size, "f16"))
            name = "model.layers.0.mlp.up_proj.weight"
            np.testing.assert_array_equal(through.read(name), packed.truth[name])


def test_another_precision_is_rounded_again(tmp_path: Path) -> None:
    packed = Packed(tmp_path / "model", "gptq", 4)
    name = "model.layers.0.mlp.gate_proj.weight"
    with open_checkpoint(packed.folder) as checkpoint:
        (grid,) = WeightBlocks(checkpoint.weights).grids([name], GridFormat(8, (GROUP,)))
        assert grid.bits == 8
        error = np.abs(grid.dequantize() - packed.truth[name]).max()
        assert 0 < error < 0.01


def test_order_of_activations_is_dequantised_and_said_so(tmp_path: Path) -> None:
    packed = Packed(tmp_path / "model", "gptq", 4, desc_act=True)
    with open_checkpoint(packed.folder) as checkpoint:  # a trivial order changes nothing
        assert checkpoint.note == ""
    place = "model.layers.0.mlp.down_proj"
    order = np.random.default_rng(1).permutation(packed.tensors[f"{place}.g_idx"])
    scales = packed.tensors[f"{place}.scales"].T.astype(np.float32)
    before = packed.truth[f"{place}.weight"].reshape(len(scales), -1, GROUP) / scales[..., None]
    # weight = (code - zero of its group) * scale of its group: undone for the old groups, done for the new ones.
    zeros = packed.zeros[f"{place}.weight"]
    codes = np.round(before).reshape(len(scales), -1) + np.repeat(zeros, GROUP, axis=1)
    expected = (codes - zeros[:, order]).astype(np.float32) * scales[:, order]
    packed.tensors[f"{place}.g_idx"] = order
    packed.write()
    with open_checkpoint(packed.folder) as checkpoint:
        weights = checkpoint.weights
        assert checkpoint.note == (
            "model: 1 tensor stored in the order of activations (desc_act), which no grid of a net holds: dequantised, "
            "and rounded again unless --quant is f16 or f32"
        )
        assert isinstance(weights, PackedWeights)
        assert weights.grid_of(f"{place}.weight") is None
        np.testing.assert_array_equal(weights.read(f"{place}.weight"), expected)
        np.testing.assert_array_equal(weights.read_rows(f"{place}.weight", 5, 20), expected[5:20])
        (grid,) = WeightBlocks(weights).grids([f"{place}.weight"], GridFormat(4, (GROUP,)))
        assert np.abs(grid.dequantize() - expected).max() < 0.02
    packed.tensors[f"{place}.g_idx"][0] = 99
    packed.write()
    with pytest.raises(CheckpointError, match=r"g_idx must name one of 4 groups for each of 128 columns"):
        open_checkpoint(packed.folder)


def test_zero_points_of_the_second_format(tmp_path: Path) -> None:
    packed = Packed(tmp_path / "model", "gptq", 4)
    name = "model.layers.0.self_attn.o_proj"
    first = packed.truth[f"{name}.weight"]
    packed.stated["checkpoint_format"] = "gptq_v2"
    packed.write()
    with open_checkpoint(packed.folder) as checkpoint:
        weights = checkpoint.weights
        assert isinstance(weights, PackedWeights)
        scales = np.repeat(weights.read_grid(f"{name}.weight", 0, first.shape[0]).scales, GROUP, axis=1)
        # A zero point that is one less makes every weight larger by its scale.
        np.testing.assert_allclose(weights.read(f"{name}.weight"), first + scales, atol=1e-6)


@pytest.mark.parametrize("label", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("stored", ["gptq", "gptq_v2"])
def test_symmetric_numbers_count_more_than_their_label(label: str, stored: str, tmp_path: Path) -> None:
    packed = Packed(tmp_path / "model", "gptq", 4, checkpoint_format=label, sym=True)
    for name in packed.zeros:
        zeros = packed.tensors[f"{name.removesuffix('.weight')}.qzeros"]
        zeros.view(np.uint32)[:] = 0x77777777 if stored == "gptq" else 0x88888888
    packed.write()
    with open_checkpoint(packed.folder) as checkpoint:
        weights = checkpoint.weights
        assert isinstance(weights, PackedWeights)
        assert all((weights.read_grid(name, 0, 8).zeros == 8).all() for name in packed.zeros)
        said = f"labelled {label}, but its zero points are those of {stored} and are read as such"
        assert checkpoint.note == ("" if label == stored else f"model: {said}")


def test_zero_points_that_were_taken_from_whole_words(tmp_path: Path) -> None:
    """GPTQModel subtracts from words: a zero point of 0 borrows from its neighbour, and adding gives it back."""
    packed = Packed(tmp_path / "model", "gptq", 4)
    name = "model.layers.0.mlp.up_proj.weight"
    zeros = np.random.default_rng(0).integers(0, 16, packed.zeros[name].shape)
    words = pack(zeros.T, 4).view(np.uint32) - np.uint32(0x11111111)
    packed.tensors[f"{name.removesuffix('.weight')}.qzeros"] = words.view(np.int32)
    packed.write()
    with open_checkpoint(packed.folder) as checkpoint:
        assert isinstance(checkpoint.weights, PackedWeights)
        np.testing.assert_array_equal(checkpoint.weights.read_grid(name, 0, len(zeros)).zeros, zeros)


@pytest.mark.parametrize("bits", [2, 3, 5, 6, 7])
def test_other_widths_lie_on_the_next_wider_grid(bits: int, tmp_path: Path) -> None:
    packed = Packed(tmp_path / "model", "gptq", bits)
    with open_checkpoint(packed.folder) as checkpoint:
        for name in packed.zeros:
            np.testing.assert_array_equal(checkpoint.weights.read(name), packed.truth[name])
            wide = 4 if bits < 4 else 8
            (grid,) = WeightBlocks(checkpoint.weights).grids([name], GridFormat(wide, (GROUP,)))
            np.testing.assert_array_equal(grid.dequantize(), packed.truth[name])


def test_one_group_a_row_is_kept_as_several(tmp_path: Path) -> None:
    packed = Packed(tmp_path / "model", "gptq", 4, group=-1)
    name = "model.layers.0.mlp.down_proj.weight"
    with open_checkpoint(packed.folder) as checkpoint:
        assert checkpoint.precision == "GPTQ int4 group 64"  # most of its matrices have 64 columns
        (grid,) = WeightBlocks(checkpoint.weights).grids([name], GridFormat(4, (GROUP,)))
        assert (grid.group_size, grid.scales.shape[1]) == (GROUP, 4)
        np.testing.assert_array_equal(grid.dequantize(), packed.truth[name])
    assert PrecisionOptions().at(packed.folder) == Precision("int4", 64, "int4")


@pytest.mark.parametrize(
    ("packing", "method", "taken"),
    [
        ("auto_round:auto_gptq", "gptq", 1),
        ("auto_round:gptq", "gptq", 1),
        ("auto_round:gptqmodel", "gptq", 0),
        ("auto_round", "gptq", 0),
        ("auto_round:exllamav2", "gptq", 0),
        ("auto_round:auto_awq", "awq", 0),
    ],
)
def test_packings_of_autoround(packing: str, method: Method, taken: int, tmp_path: Path) -> None:
    """As its export writes them: zero points less one only where GPTQ's name is in the packing's."""
    packed = Packed(tmp_path / "model", method, 4, taken=taken, quant_method="auto-round")
    packed.stated |= {
        "packing_format": packing,
        "data_type": "int",
        "sym": False,
        "autoround_version": "0.16.1",
    }
    packed.write()
    with open_checkpoint(packed.folder) as checkpoint:
        assert checkpoint.precision == f"AutoRound int4 group {GROUP}"
        for name in packed.zeros:
            (grid,) = WeightBlocks(checkpoint.weights).grids([name], GridFormat(4, (GROUP,)))
            np.testing.assert_array_equal(grid.dequantize(), packed.truth[name])


def test_awq_by_autoround_stores_zero_points_that_it_says_are_none(tmp_path: Path) -> None:
    packed = Packed(tmp_path / "model", "awq", 4, zero_point=False, version="gemm", provider="auto-round")
    with open_checkpoint(packed.folder) as checkpoint:
        for name, values in packed.truth.items():
            np.testing.assert_array_equal(checkpoint.weights.read(name), values)


def test_a_label_that_the_tensors_do_not_bear_out(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "plain", tiny_config("qwen1.5", layers=1))
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": GPTQ}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=r"no weights that are stored as its .*\(GPTQ int4 group 128\): download"
    ):
        open_checkpoint(folder)
    packed = Packed(tmp_path / "model", "gptq", 4)
    packed.stated["group_size"] = 64
    packed.write()
    with pytest.raises(CheckpointError, match=r"but the matrix \[64, 128\] in groups of 64 demands"):
        open_checkpoint(packed.folder)
    packed.stated["group_size"] = GROUP
    packed.tensors["model.layers.0.mlp.up_proj.weight"] = np.zeros((128, 64), np.float16)
    packed.write()
    with pytest.raises(
        CheckpointError, match=r"up_proj twice, packed and as model\.layers\.0\.mlp\.up_proj\.weight"
    ):
        open_checkpoint(packed.folder)


def test_parts_that_do_not_fit_together(tmp_path: Path) -> None:
    packed = Packed(tmp_path / "model", "awq", 4)
    del packed.tensors["model.layers.0.mlp.up_proj.scales"]
    packed.write()
    with pytest.raises(
        CheckpointError, match=r"up_proj\.qweight, but not model\.layers\.0\.mlp\.up_proj\.scales: download"
    ):
        open_checkpoint(packed.folder)
    packed = Packed(tmp_path / "other", "gptq", 4)
    packed.tensors["model.layers.0.mlp.up_proj.bias"][0] = 1
    packed.write()
    with pytest.raises(CheckpointError, match=r"holds tensor model\.layers\.0\.mlp\.up_proj\.bias"):
        open_checkpoint(packed.folder)
    packed = Packed(tmp_path / "third", "gptq", 4)
    packed.tensors["model.layers.0.mlp.up_proj.scales"] = np.ones((3, 128), np.float16)
    packed.write()
    with pytest.raises(CheckpointError, match=r"up_proj\.scales has shape \[3, 128\]"):
        open_checkpoint(packed.folder)


@pytest.mark.parametrize(("method", "bits"), [("gptq", 4), ("gptq", 3), ("awq", 4)])
def test_parts_of_any_shape_are_read_or_refused(method: Method, bits: int, tmp_path: Path) -> None:
    packed = Packed(tmp_path / "model", method, bits)
    place = "model.layers.0.mlp.up_proj"
    for part in ("qweight", "qzeros", "scales", "g_idx"):
        whole = packed.tensors.get(f"{place}.{part}")
        if whole is None:
            continue
        for shape in ((), (0,), (1,), (0, 4), (1, 1), (3, 5), (9, 128), (64, 1), (2, 2, 2)):
            packed.tensors[f"{place}.{part}"] = np.ones(shape, whole.dtype)
            packed.write()
            with pytest.raises(CheckpointError) as caught:
                open_checkpoint(packed.folder)
            assert place in str(caught.value)
        packed.tensors[f"{place}.{part}"] = whole


def any_value() -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.integers(-9, 300) | st.text(max_size=5) | st.sampled_from(WORDS)
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
        ),
    )


WORDS = [
    "gptq", "awq", "auto-round", "compressed-tensors", "fp8", "pack-quantized", "float-quantized", "weights", "type",
    "int", "float", "num_bits", "block_structure", "config_groups", "format", "128x²", "dense", "meta", "method",
]  # fmt: skip


KEYS = [
    "bits", "group_size", "sym", "format", "version", "zero_point", "packing_format", "data_type", "meta", "other",
    "config_groups", "weight_block_size", "fmt", "scale_fmt", "sparsity_config", "checkpoint_format",
]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(WORDS[:5]), st.dictionaries(st.sampled_from(KEYS), any_value(), max_size=5))
def test_a_configuration_of_any_values_is_read_or_refused(method: str, stated: dict[str, Any]) -> None:
    with contextlib.suppress(ConfigError):
        read_packing({"quantization_config": {"quant_method": method} | stated}, "config.json")


# As AutoGPTQ and AutoAWQ wrote them.
OWN_FILES: dict[Method, tuple[str, dict[str, object]]] = {
    "gptq": ("quantize_config.json", {"bits": 4, "group_size": GROUP, "desc_act": False, "sym": True}),
    "awq": ("quant_config.json", {"w_bit": 4, "q_group_size": GROUP, "zero_point": True, "version": "GEMM"}),
}


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_packing_stated_in_a_file_of_its_own(method: Method, tmp_path: Path) -> None:
    packed = Packed(tmp_path / "model", method, 4)
    config = json.loads((packed.folder / "config.json").read_text())
    del config["quantization_config"]
    (packed.folder / "config.json").write_text(json.dumps(config))
    name, stated = OWN_FILES[method]
    with pytest.raises(CheckpointError, match=rf"holds packed weights, but .*download .*{name}"):
        open_checkpoint(packed.folder)
    (packed.folder / name).write_text(json.dumps(stated))
    with open_checkpoint(packed.folder) as checkpoint:
        assert checkpoint.precision == f"{method.upper()} int4 group {GROUP}"
        for tensor, values in packed.truth.items():
            np.testing.assert_allclose(checkpoint.weights.read(tensor), values, rtol=1e-3, atol=1e-6)
    (packed.folder / name).write_text(json.dumps({"bits": 4}))
    with pytest.raises(ConfigError, match=rf"{name} with bits = 4 and group_size = None is"):
        open_checkpoint(packed.folder)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "quant_method = 'bitsandbytes' is unsupported"),
        (
            {"bits": 4},
            "quant_method = None is unsupported: use a checkpoint of GPTQ, AWQ, AutoRound, compressed-te",
        ),
        (
            {**GPTQ, "bits": 9},
            "bits = 9 and group_size = 128 is unsupported for GPTQ: use one of 2, 3, 4, 5, 6, 7, 8 bi",
        ),
        ({**GPTQ, "group_size": 0}, "group_size = 0 is unsupported"),
        (
            {**GPTQ, "checkpoint_format": "marlin"},
            "checkpoint_format = 'marlin' is unsupported: use one of 'gptq'",
        ),
        ({**GPTQ, "is_marlin_format": True}, "checkpoint_format = 'marlin' is unsupported"),
        (
            {**GPTQ, "adapter": {"rank": 8}},
            "has the key 'adapter', which is not known and may change the weights: use a",
        ),
        ({**AWQ, "bits": 8}, "bits = 8 and group_size = 128 is unsupported for AWQ"),
        (
            {**AWQ, "version": "gemv"},
            "version = 'gemv' is unsupported: use one of version 'gemm', or the checkpoint that is not quantised",
        ),
        (
            {**GPTQ, "quant_method": "auto-round", "data_type": "mx_fp"},
            "data_type = 'mx_fp' and packing_format",
        ),
        ("gptq", "quantization_config must be an object"),
    ],
)
def test_other_packings_are_refused(stated: object, message: str) -> None:
    values = tiny_config("qwen1.5").to_dict() | {"quantization_config": stated}
    with pytest.raises(ConfigError, match=message):
        parse_config(values, "some/config.json")
