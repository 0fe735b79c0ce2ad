"""Checkpoints that the compressed-tensors package wrote, and fp8 ones, against what the packages make of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.errors import CheckpointError, ConfigError
from bmqwen.model.registry import parse_config
from bmqwen.quant.formats import GridFormat
from bmqwen.weights.checkpoint import open_checkpoint
from bmqwen.weights.weights import GridSource
from support.checkpoints import random_weights, tiny_config, write_tokenizer

pytestmark = pytest.mark.reference
torch: Any


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    """Import what takes seconds only where it is used: every worker collects all tests."""
    global torch
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("compressed_tensors")


CONFIG = tiny_config("qwen3", layers=1)
MATRICES = [name for name in random_weights(CONFIG) if "_proj" in name]


def write(folder: Path, tensors: dict[str, Any], stated: dict[str, Any]) -> Path:
    """Write a checkpoint whose tensors and quantization_config are as given."""
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    write_tokenizer(folder)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG.to_dict() | {"quantization_config": stated}))
    return folder


def plain_tensors() -> dict[str, Any]:
    """What is not quantised."""
    weights = random_weights(CONFIG, 5)
    return {name: torch.tensor(values) for name, values in weights.items() if name not in MATRICES}


class Compressed:
    """A checkpoint by the package: its tensors, its configuration and, dequantised in float32, its weights."""

    def __init__(self, form: str, scale_type: str, **args: Any) -> None:
        from compressed_tensors.compressors import BaseCompressor
        from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
        from compressed_tensors.quantization.utils.helpers import calculate_qparams

        scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
        self.config = QuantizationConfig(
            config_groups={"group_0": scheme},
            format=form,
            quantization_status="compressed",
            ignore=["lm_head"],
        ).model_dump(mode="json")
        compressor = BaseCompressor.get_value_from_registry(form)
        self.tensors, self.truth = plain_tensors(), {}
        for name in MATRICES:
            weight = torch.tensor(random_weights(CONFIG, 5)[name])
            rows, columns = weight.shape
            size = {"group": args.get("group_size"), "channel": columns, "tensor": columns}.get(
                args["strategy"]
            )
            if args["strategy"] == "block":
                high, wide = args["block_structure"]
                blocks = weight.reshape(rows // high, high, columns // wide, wide)
                low, top = blocks.amin((1, 3)), blocks.amax((1, 3))
            elif args["strategy"] == "tensor":
                low, top = weight.amin().reshape(1), weight.amax().reshape(1)
            else:
                groups = weight.reshape(rows, columns // size, size)
                low, top = groups.amin(-1), groups.amax(-1)
            scale, zero = calculate_qparams(low, top, scheme.weights)
            state = {"weight": weight, "weight_scale": scale.to(getattr(torch, scale_type))}
            if not args["symmetric"]:
                state["weight_zero_point"] = zero.to(torch.int8)
            packed = compressor.compress(state, scheme)
            plain = name.removesuffix(".weight")
            self.tensors |= {f"{plain}.{part}": tensor.contiguous() for part, tensor in packed.items()}
            exact = packed | {"weight_scale": packed["weight_scale"].float()}
            self.truth[name] = compressor.decompress(exact, scheme)["weight"].float().numpy()


INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
FORMS: dict[str, tuple[str, str, dict[str, Any], tuple[int, int] | None]] = {
    "W4A16": ("pack-quantized", "bfloat16", {**INT4, "symmetric": True}, (4, 32)),
    "W4A16_ASYM": ("pack-quantized", "float16", {**INT4, "symmetric": False}, (4, 32)),
    "W8A16": ("pack-quantized", "float16", {**INT4, "num_bits": 8, "symmetric": True}, (8, 32)),
    "W8A8": (
        "int-quantized",
        "bfloat16",
        {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True},
        (8, 64),
    ),
    "int8 with zero points": (
        "naive-quantized",
        "float32",
        {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": False},
        (8, 64),
    ),
    "FP8": (
        "float-quantized",
        "float32",
        {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True},
        None,
    ),
    "FP8_DYNAMIC": (
        "float-quantized",
        "bfloat16",
        {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True},
        None,
    ),
    "FP8_BLOCK": (
        "float-quantized",
        "bfloat16",
        {
            "num_bits": 8,
            "type": "float",
            "strategy": "block",
            "block_structure": [16, 32],
            "symmetric": True,
        },
        None,
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_what_the_package_compresses(name: str, tmp_path: Path) -> None:
    form, scale_type, args, grid = FORMS[name]
    made = Compressed(form, scale_type, **args)
    with open_checkpoint(write(tmp_path / "model", made.tensors, made.config)) as checkpoint:
        weights = checkpoint.weights
        assert checkpoint.precision.startswith("compressed-tensors ")
        assert isinstance(weights, GridSource)
        for matrix, expected in made.truth.items():
            np.testing.assert_array_equal(weights.read(matrix), expected)
            np.testing.assert_array_equal(weights.read_rows(matrix, 3, 9), expected[3:9])
        first = MATRICES[0]
        assert weights.grid_of(first) == grid
        assert bool(checkpoint.note) == (grid is None)
        if grid is not None:
            # The nets' grid has scales in half precision; those of bfloat16 that are not tiny are among them.
            (kept,) = WeightBlocks(weights).grids([first], GridFormat(grid[0], (32,)))
            np.testing.assert_allclose(
                kept.dequantize(), made.truth[first], rtol=2**-11 if form[0] == "n" else 0
            )


def test_groups_in_the_order_of_activations(tmp_path: Path) -> None:
    """As earlier versions of the package wrote them (actorder = group): weight_g_idx says which group a column has."""
    form, _, args, _ = FORMS["W4A16"]
    made = Compressed(form, "float32", **args)
    name = MATRICES[0]
    plain = name.removesuffix(".weight")
    scales = made.tensors[f"{plain}.weight_scale"].numpy()
    codes = made.truth[name] / np.repeat(scales, 32, axis=1)
    order = np.random.default_rng(2).permutation(np.arange(codes.shape[1]) // 32).astype(np.int32)
    made.tensors[f"{plain}.weight_g_idx"] = torch.tensor(order)
    with open_checkpoint(write(tmp_path / "model", made.tensors, made.config)) as checkpoint:
        assert "1 tensor stored in the order of activations" in checkpoint.note
        np.testing.assert_array_equal(checkpoint.weights.read(name), np.round(codes) * scales[:, order])


@pytest.mark.parametrize("block", [[16, 32], None])
def test_fp8_as_transformers_dequantises_it(block: list[int] | None, tmp_path: Path) -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    tensors, truth = plain_tensors(), {}
    for name in MATRICES:
        weight = torch.tensor(random_weights(CONFIG, 5)[name])
        rows, columns = weight.shape
        high, wide = block or (rows, columns)
        blocks = weight.reshape(rows // high, high, columns // wide, wide)
        scales = blocks.abs().amax((1, 3)) / 448
        codes = (blocks / scales[:, None, :, None]).reshape(rows, columns).to(torch.float8_e4m3fn)
        tensors |= {name: codes, f"{name}_scale_inv": scales if block else scales.reshape(())}
        truth[name] = Fp8Dequantize(None)._dequantize_one(codes, scales, torch.float32).numpy()
    stated = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "weight_block_size": block,
        "modules_to_not_convert": ["lm_head"],
    }
    with open_checkpoint(write(tmp_path / "model", tensors, stated)) as checkpoint:
        assert checkpoint.precision == "FP8 F8_E4M3 blocks " + ("16x32" if block else "128x64")
        assert "7 tensors stored as FP8" in checkpoint.note
        for name, expected in truth.items():
            np.testing.assert_array_equal(checkpoint.weights.read(name), expected)
    by_autoround = {"bits": 8, "data_type": "fp8", "group_size": block or -1, "sym": True, "act_bits": 8}
    with open_checkpoint(write(tmp_path / "model", tensors, stated | by_autoround)) as checkpoint:
        np.testing.assert_array_equal(checkpoint.weights.read(MATRICES[0]), truth[MATRICES[0]])
    del tensors[f"{MATRICES[0]}_scale_inv"]
    with pytest.raises(
        CheckpointError, match=r"q_proj\.weight as F8_E4M3, but not .*q_proj\.weight_scale_inv"
    ):
        open_checkpoint(write(tmp_path / "model", tensors, stated))


def test_blocks_at_the_edges_may_be_smaller(tmp_path: Path) -> None:
    """As DeepSeek's description of its blocks of 128 by 128 has it; a scale says nothing about what is beyond."""
    codes = torch.randn(CONFIG.intermediate_size, CONFIG.hidden_size).to(torch.float8_e4m3fn)
    scales = torch.rand(3, 2)
    name = "model.layers.0.mlp.up_proj.weight"
    weights = random_weights(CONFIG)
    tensors: dict[str, Any] = {key: torch.tensor(values) for key, values in weights.items() if key != name}
    tensors |= {name: codes, f"{name}_scale_inv": scales}
    stated = {"quant_method": "fp8", "weight_block_size": [60, 48]}
    with open_checkpoint(write(tmp_path / "model", tensors, stated)) as checkpoint:
        whole = np.repeat(np.repeat(scales.numpy(), 60, axis=0), 48, axis=1)[:128, :64]
        np.testing.assert_array_equal(checkpoint.weights.read(name), codes.float().numpy() * whole)
    tensors[f"{name}_scale_inv"] = torch.rand(5, 3)
    with pytest.raises(
        CheckpointError, match=r"scale_inv has shape \[5, 3\], which does not fit .*\[60, 48\]"
    ):
        open_checkpoint(write(tmp_path / "model", tensors, stated))


def test_parts_that_do_not_fit(tmp_path: Path) -> None:
    made = Compressed(*FORMS["int8 with zero points"][:2], **FORMS["int8 with zero points"][2])
    place = MATRICES[0].removesuffix(".weight")
    right = made.tensors[f"{place}.weight_zero_point"]
    made.tensors[f"{place}.weight_zero_point"] = right[:3]
    with pytest.raises(
        CheckpointError, match=r"weight_zero_point has another shape than .*weight_scale: download"
    ):
        open_checkpoint(write(tmp_path / "model", made.tensors, made.config))
    made.tensors[f"{place}.weight_zero_point"] = right
    made.tensors[f"{place}.weight"] = made.tensors[f"{place}.weight"][None]
    with pytest.raises(CheckpointError, match=r"q_proj\.weight of type I8 must have two dimensions"):
        open_checkpoint(write(tmp_path / "model", made.tensors, made.config))


def test_values_that_are_not_numbers(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    tensors: dict[str, Any] = {key: torch.tensor(values) for key, values in random_weights(CONFIG).items()}
    tensors[name] = torch.full((CONFIG.intermediate_size, CONFIG.hidden_size), torch.nan).to(
        torch.float8_e4m3fn
    )
    tensors[f"{name}_scale_inv"] = torch.ones(())
    folder = write(tmp_path / "model", tensors, {"quant_method": "fp8"})
    with (
        open_checkpoint(folder) as checkpoint,
        pytest.raises(CheckpointError, match=r"up_proj\.weight holds NaN"),
    ):
        checkpoint.weights.read(name)


WEIGHTS = {"num_bits": 4, "type": "int"}


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        (
            {"format": "nvfp4-pack-quantized"},
            "format = 'nvfp4-pack-quantized' is unsupported: use one of pack-",
        ),
        ({"format": "marlin-24"}, "format = 'marlin-24' is unsupported"),
        ({"config_groups": {}}, "has no weights, which is unsupported"),
        (
            {"config_groups": {"a": {"weights": {**WEIGHTS, "num_bits": 3}}}},
            "has int of 3 bits, which is unsupp",
        ),
        ({"config_groups": {"a": {"weights": {**WEIGHTS, "type": "float"}}}}, "has float of 4 bits"),
        (
            {"sparsity_config": {"format": "sparse-24-bitmask"}},
            "has a sparsity_config, which is unsupported: use",
        ),
        ({"transform_config": {"config_groups": {"R1": {}}}}, "has a transform_config, which is unsupported"),
        ({"new_kind_of_scales": True}, "has the key 'new_kind_of_scales', which is not known"),
        (
            {"quant_method": "fp8", "weight_block_size": [128]},
            r"has blocks of \[128\]: use one with two sizes",
        ),
        (
            {"quant_method": "fp8", "bits": 4},
            "bits = 4 and data_type = 'fp' is unsupported: use one of 8 bits",
        ),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "fmt = 'e5m2' and scale_fmt = 'None' is unsupported"),
    ],
)
def test_what_is_refused(stated: dict[str, Any], words: str) -> None:
    base: dict[str, Any] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": WEIGHTS}},
    }
    base = stated if "quant_method" in stated else base | stated
    with pytest.raises(ConfigError, match=words) as caught:
        parse_config(CONFIG.to_dict() | {"quantization_config": base}, "config.json")
    assert str(caught.value).endswith(", or the checkpoint that is not quantised")


def test_weights_that_only_were_compressed_once(tmp_path: Path) -> None:
    stated = {"quant_method": "compressed-tensors", "format": "dense", "config_groups": {}}
    tensors = {key: torch.tensor(values) for key, values in random_weights(CONFIG).items()}
    with open_checkpoint(write(tmp_path / "model", tensors, stated)) as checkpoint:
        assert (checkpoint.precision, checkpoint.note) == ("F32", "")
