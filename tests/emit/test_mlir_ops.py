"""The text of step nets: what of a layer is one operation, and in which order."""

import re
from dataclasses import replace

import pytest

from bmqwen.artifact.steps import StepShape
from bmqwen.emit.mlir import PIECE, MlirOps
from bmqwen.emit.mlir_file import MlirFile
from bmqwen.model.config import LinearAttention
from bmqwen.quant.precision import Precision
from support.checkpoints import tiny_config


def net(shape: StepShape, *, kv_heads: int = 2, inner: int = 2 * PIECE) -> str:
    """Text of a net of one layer."""
    config = tiny_config("qwen3", layers=1, kv_heads=kv_heads, intermediate_size=inner)
    file = MlirFile("net")
    config.network.emit(MlirOps(file, config, shape, 64, Precision("int4", 64, "int4"), None, None))
    return file.text("w.npz")


@pytest.mark.parametrize(("kv_heads", "products"), [(2, 6), (4, 8)])
def test_queries_keys_and_values_are_one_product_where_heads_share_keys(kv_heads: int, products: int) -> None:
    # Of one layer, with output, gate, up, down and the head.
    assert net(StepShape(8, 64, 8), kv_heads=kv_heads).count('"top.A16MatMul"') == products


@pytest.mark.parametrize(
    ("tokens", "inner", "expected"),
    [
        (8, 2 * PIECE, f"1x{2 * 8}x{PIECE}"),
        (1, 2 * PIECE, f"1x2x{PIECE}"),
        # As many rows as lanes, or columns that make no whole pieces.
        (64, 2 * PIECE, f"1x64x{2 * PIECE}"),
        (8, PIECE + 64, f"1x8x{PIECE + 64}"),
    ],
)
def test_few_rows_are_activated_in_pieces(tokens: int, inner: int, expected: str) -> None:
    text = net(StepShape(tokens, 64, 1), inner=inner)
    (shape,) = re.findall(r'"top\.SiLU".*-> tensor<(\S+)xf32>', text)
    assert shape == expected


def test_nothing_stands_between_the_pieces_of_gate_and_what_uses_them() -> None:
    kinds = re.findall(r'"top\.(\w+)"', net(StepShape(8, 64, 8)))
    at = kinds.index("SiLU")
    assert kinds[at - 2 : at + 3] == ["Reshape", "Reshape", "SiLU", "Mul", "Reshape"]


@pytest.mark.parametrize(("values", "tokens", "kernels"), [(16, 1, 3), (16, 8, 0), (32, 1, 0)])
def test_the_rule_for_one_token_is_the_kernel_of_the_chip(values: int, tokens: int, kernels: int) -> None:
    config = replace(tiny_config("qwen3.5", layers=4), linear=LinearAttention(2, 4, 16, values, 4))
    file = MlirFile("net")
    ops = MlirOps(file, config, StepShape(tokens, 64), 64, Precision("int4", 64, "int4"), None, None)
    config.network.emit(ops)
    text = file.text("w.npz")
    assert text.count('"top.RecurrentGatedDeltaRule"') == kernels
    # Every input is used, and there are as many outputs: nets are stages of one.
    (given,) = re.findall(r"@main\((.*)\) ->", text)
    assert all(text.count(f'"top.Input"(%arg{i})') == 1 for i in range(given.count("%arg")))
    used = [re.findall(r"(%\d+) = .top.Input", line) for line in text.splitlines()]
    assert all(len(re.findall(rf"{name[0]}\b", text)) > 1 for name in used if name)
    (returned,) = re.findall(r"return (.*) :", text)
    assert len(returned.split(",")) == 2 + 2 + 2 * 3


def test_gates_of_few_rows_are_read_by_their_long_side() -> None:
    config = tiny_config("qwen3.5", layers=4)
    file = MlirFile("net")
    config.network.emit(MlirOps(file, config, StepShape(8, 64), 64, Precision("f16", 64, "f16"), None, None))
    # Of three layers, each as [4 heads, hidden] times the rows' transpose.
    turned = "tensor<1x4x64xf32>, tensor<1x8x64xf32>, none) -> tensor<1x4x8xf32>"
    assert file.text("w.npz").count(turned) == 2 * 3
