"""GPTQ and AWQ checkpoints: packed here by the published layouts' definitions, read back on just their grid."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.errors import CheckpointError, ConfigError, InputError
from bmqwen.model.registry import parse_config
from bmqwen.quant import Format
from bmqwen.quant.formats import GridFormat
from bmqwen.quant.grid_weights import GridWeights
from bmqwen.quant.precision import Precision, PrecisionOptions
from bmqwen.weights.checkpoint import open_checkpoint
from bmqwen.weights.packed import PackedWeights
from support.checkpoints import random_weights, tiny_config, write_tokenizer

GROUP = 32
Method = Literal["gptq", "awq"]


def pack(codes: NDArray[np.int64], bits: int) -> NDArray[np.int32]:
    """Codes [r, c] to words [r, c * bits / 32] along the last axis, the lowest bits first."""
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

    def __init__(self, folder: Path, method: Method, bits: int, **stated: Any) -> None:
        self.folder, self.config = folder, tiny_config("qwen1.5", layers=1)
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
            groups, top = columns // GROUP, 1 << bits
            codes = rng.integers(0, top, (rows, columns))
            zeros = rng.integers(1 if method == "gptq" else 0, top, (rows, groups))
            scales = rng.uniform(0.001, 0.01, (rows, groups)).astype(np.float16)
            steps = (codes - np.repeat(zeros, GROUP, axis=1)).astype(np.float32)
            self.truth[name] = steps * np.repeat(scales.astype(np.float32), GROUP, axis=1)
            if method == "gptq":
                # Zero points are stored less one.
                self.tensors[f"{plain}.qweight"] = pack(codes, bits).T.copy()
                self.tensors[f"{plain}.qzeros"] = pack((zeros - 1).T, bits)
                self.tensors[f"{plain}.g_idx"] = (np.arange(columns) // GROUP).astype(np.int32)
                if f"{plain}.bias" not in self.truth:
                    self.tensors[f"{plain}.bias"] = np.zeros(rows, np.float16)
            else:
                self.tensors[f"{plain}.qweight"] = pack_awq(codes.T)
                self.tensors[f"{plain}.qzeros"] = pack_awq(zeros.T)
            self.tensors[f"{plain}.scales"] = scales.T.copy()
        self.stated = {"quant_method": method, "bits": bits, "group_size": GROUP, **stated}
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


def test_order_of_activations_is_refused_and_a_trivial_one_is_not(tmp_path: Path) -> None:
    packed = Packed(tmp_path / "model", "gptq", 4, desc_act=True)
    open_checkpoint(packed.folder).close()
    index = packed.tensors["model.layers.0.mlp.down_proj.g_idx"]
    index[[0, -1]] = index[[-1, 0]]
    packed.write()
    with pytest.raises(
        CheckpointError, match=r"down_proj was quantised in the order of activations \(desc_act\)"
    ):
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


def test_zero_point_that_does_not_fit(tmp_path: Path) -> None:
    packed = Packed(tmp_path / "model", "gptq", 4)
    packed.tensors["model.layers.0.mlp.up_proj.qzeros"][:] = -1
    packed.write()
    with (
        open_checkpoint(packed.folder) as checkpoint,
        pytest.raises(CheckpointError, match="zero point of 16"),
    ):
        checkpoint.weights.read("model.layers.0.mlp.up_proj.weight")


def test_parts_that_do_not_fit_together(tmp_path: Path) -> None:
    packed = Packed(tmp_path / "model", "awq", 4)
    del packed.tensors["model.layers.0.mlp.up_proj.scales"]
    packed.write()
    with pytest.raises(
        CheckpointError, match=r"up_proj\.qweight, but not model\.layers\.0\.mlp\.up_proj\.scales"
    ):
        open_checkpoint(packed.folder)
    packed = Packed(tmp_path / "other", "gptq", 4)
    packed.tensors["model.layers.0.mlp.up_proj.bias"][0] = 1
    packed.write()
    with pytest.raises(CheckpointError, match=r"holds tensor model\.layers\.0\.mlp\.up_proj\.bias"):
        open_checkpoint(packed.folder)
    packed = Packed(tmp_path / "third", "gptq", 4)
    packed.tensors["model.layers.0.mlp.up_proj.scales"] = np.ones((1, 128), np.float16)
    packed.write()
    with pytest.raises(CheckpointError, match=r"up_proj\.scales has shape \[1, 128\]"):
        open_checkpoint(packed.folder)


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
        ({}, "quant_method = 'None' is unsupported"),
        ({**GPTQ, "bits": 3}, "bits = 3 and group_size = 128 is unsupported for GPTQ"),
        ({**GPTQ, "group_size": -1}, "group_size = -1 is unsupported"),
        ({**AWQ, "bits": 8}, "bits = 8 and group_size = 128 is unsupported for AWQ"),
        ({**AWQ, "version": "gemv"}, "AWQ of version 'gemv' is unsupported"),
        ("gptq", "quantization_config must be an object"),
    ],
)
def test_other_packings_are_refused(stated: object, message: str) -> None:
    values = tiny_config("qwen1.5").to_dict() | {"quantization_config": stated}
    with pytest.raises(ConfigError, match=message):
        parse_config(values, "some/config.json")
