"""Small nets for tests on the simulator, as Top-MLIR text, compiled by the real compiler."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bmqwen.compiler.toolchain import Toolchain
from bmqwen.compiler.tpuc import CompiledNet, Recipe
from support.kept_nets import compile_net

WIDTH = 64
ATTRIBUTES = (
    'module.platform = "LLM", module.state = "TOP_F32", module.chip = "ALL", module.top_run_mode = "STATIC"'
)


def linear_text(name: str, rows: int) -> str:
    """y [1, rows, WIDTH] = x [1, rows, WIDTH] @ w, as one net."""
    tensor = f"tensor<1x{rows}x{WIDTH}xf32>"
    square = f"tensor<{WIDTH}x{WIDTH}xf32>"
    return f"""module @"{name}" attributes {{module.weight_file = "weights.npz", {ATTRIBUTES}}} {{
  func.func @main(%arg0: {tensor} loc(unknown)) -> {tensor} {{
    %0 = "top.None"() : () -> none loc(unknown)
    %1 = "top.Input"(%arg0) : ({tensor}) -> {tensor} loc("x")
    %2 = "top.Weight"() : () -> {square} loc("w")
    %3 = "top.MatMul"(%1, %2, %0) {{do_relu = false}} : ({tensor}, {square}, none) -> {tensor} loc("y")
    return %3 : {tensor} loc(unknown)
  }} loc(unknown)
}} loc(unknown)
"""


def attention_text(rows: int, history: int, heads: int, dim: int) -> str:
    """Attention of `rows` queries over `history` keys: lowered through a kernel that is compiled just in time."""
    q, k = f"tensor<1x{rows}x{heads}x{dim}xf32>", f"tensor<1x{history}x{heads}x{dim}xf32>"
    mask, out = f"tensor<1x1x{rows}x{history}xf32>", f"tensor<1x{rows}x{heads * dim}xf32>"
    return f"""module @"attention" attributes {{module.weight_file = "weights.npz", {ATTRIBUTES}}} {{
  func.func @main(%arg0: {q} loc(unknown), %arg1: {k} loc(unknown), %arg2: {k} loc(unknown),
                  %arg3: {mask} loc(unknown)) -> {out} {{
    %0 = "top.None"() : () -> none loc(unknown)
    %1 = "top.Input"(%arg0) : ({q}) -> {q} loc("q")
    %2 = "top.Input"(%arg1) : ({k}) -> {k} loc("k")
    %3 = "top.Input"(%arg2) : ({k}) -> {k} loc("v")
    %4 = "top.Input"(%arg3) : ({mask}) -> {mask} loc("mask")
    %5 = "top.FAttention"(%1, %2, %3, %4, %0) {{scale = {dim**-0.5:.9e} : f64, batch = 1 : i64,
      q_head = {heads} : i64, kv_head = {heads} : i64, dim = {dim} : i64, mq = {rows} : i64, mk = {history} : i64,
      keep_dims = false}} : ({q}, {k}, {k}, {mask}, none) -> {out} loc("y")
    return %5 : {out} loc(unknown)
  }} loc(unknown)
}} loc(unknown)
"""


def square_weight() -> NDArray[np.float32]:
    """The weight of `linear_text`."""
    return (np.random.default_rng(5).standard_normal((WIDTH, WIDTH)) / 8).astype(np.float32)


def write_net(folder: Path, name: str, text: str) -> Path:
    """Write a net and its weights to a folder of its own."""
    folder.mkdir(parents=True)
    np.savez(folder / "weights.npz", w=square_weight())
    mlir = folder / f"{name}.mlir"
    mlir.write_text(text)
    return mlir


def compile_text(toolchain: Toolchain, folder: Path, name: str, text: str, recipe: Recipe) -> CompiledNet:
    """Write a net and have it compiled, if no earlier run has."""
    return compile_net(toolchain, write_net(folder, name, text), recipe)
