"""A toy bmodel in the layout of the vendor's published ones, written from their description."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bmqwen.bundle import Bundle, write_manifest
from bmqwen.checkpoint.checkpoint import Checkpoint
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.compiler.tpuc import AddressMode, Mode, Recipe, combine, compile_net
from bmqwen.network.mlir_file import MlirFile, WeightFile
from bmqwen.network.mlir_ops import MlirOps, Rows
from bmqwen.network.qwen2 import block_prefix, emit_block, head_weight
from bmqwen.network.weight_blocks import WeightBlocks
from bmqwen.quant.precision import Precision
from bmqwen.steps import StepShape

PRECISION = Precision("f16", 32, "f16")
WEIGHTS = "weights.npz"


@dataclass(frozen=True)
class Variant:
    """What published bmodels differ in."""

    mode: Mode = "F16"
    address_mode: AddressMode = "io_alone"
    mask_input: bool = True
    fused_token: bool = False
    greedy_head: bool = True


class NetOps(MlirOps):
    """The nets of the layout, one at a time; a history of 0 is a prompt's net."""

    def begin(self, masked: bool) -> Rows:
        """Inputs of a decoder layer."""
        f, c, tokens, history = self.file, self.config, self.shape.tokens, self.shape.history
        states = f.input("input_states", [1, tokens, c.hidden_size])
        positions = f.input("position_ids", [1, tokens], np.int32)
        width = history + tokens
        self._masks = {}
        if masked:
            self._mask = f.input("attention_mask", [1, 1, tokens, width])
        else:
            # Made in the net from the position: a table with a row for each.
            rows = np.arange(self.context)[:, None]
            open_ = (np.arange(width) < rows) | (np.arange(width) == (width - 1 if history else rows))
            table = np.where(open_, 0, -10000).astype(np.float32)
            self._store("mask.table", np.float32, table.shape, lambda _: [table])
            taken = f.op(
                "Gather",
                [f.weight("mask.table", table.shape), positions],
                [1, tokens, width],
                "mask.rows",
                axis="0 : si32",
            )
            self._mask = f.op("Reshape", [taken], [1, 1, tokens, width], "mask")
        if history:
            shape = [1, history, c.num_key_value_heads, c.head_dim]
            self._history = [(f.input("history_k", shape), f.input("history_v", shape))] * c.num_hidden_layers
        self._cos, self._sin = (
            f.op("Gather", [table, positions], [1, tokens, 1, c.head_dim], f"{name}.rows", axis="0 : si32")
            for name, table in self._rope_tables().items()
        )
        return (states,)

    def attention(self, qkv: Rows, layer: int) -> Rows:
        """Without a history there is nothing to concatenate."""
        if self.shape.history:
            return super().attention(qkv, layer)
        f, c, tokens = self.file, self.config, self.shape.tokens
        q, k, v = (
            f.op("Reshape", [part], [1, tokens, part.shape[2] // c.head_dim, c.head_dim], f"{label}.heads")
            for part, label in zip(qkv, "qkv", strict=True)
        )
        q, k = (
            f.op(
                "Rope",
                [part, self._sin, self._cos],
                part.shape,
                f"{label}.rotated",
                rope_mode='"contiguous_halves"',
            )
            for part, label in ((q, "q"), (k, "k"))
        )
        self._caches += [k, v]
        attributes = {
            "batch": 1,
            "q_head": c.num_attention_heads,
            "kv_head": c.num_key_value_heads,
            "dim": c.head_dim,
            "mq": tokens,
            "mk": tokens,
        }
        shape = [1, tokens, c.q_size]
        return (
            f.op(
                "FAttention",
                [q, k, v, self._mask, f.none],
                shape,
                "attended",
                scale=f"{c.head_dim**-0.5:.12e} : f64",
                keep_dims="false",
                **{key: f"{value} : i64" for key, value in attributes.items()},
            ),
        )

    def embedding(self) -> None:
        """input_ids to states."""
        f, c, tokens = self.file, self.config, self.shape.tokens
        name, shape = "model.embed_tokens.table", (c.vocab_size, c.hidden_size)
        self._store(name, np.float32, shape, lambda b: b.floats(["model.embed_tokens.weight"], np.float32))
        ids = f.input("input_ids", [1, tokens], np.int32)
        table = f.weight(name, shape)
        f.output(f.op("Gather", [table, ids], [1, tokens, c.hidden_size], "hidden_states", axis="0 : si32"))

    def block(self, layer: int, masked: bool) -> None:
        """One decoder layer."""
        x = self.begin(masked)
        x, mlp = emit_block(
            self.config, self, layer, x, self.rms_norm(x, f"{block_prefix(layer)}.input_layernorm")
        )
        self.file.output(self.file.op("Add", [x[0], mlp[0]], x[0].shape, "hidden_states"))
        for value in self._caches:
            self.file.output(value)

    def head(self, fused: bool) -> None:
        """Norm and head for one row."""
        f, c = self.file, self.config
        row = f.op("Reshape", [f.input("hidden_states", [1, c.hidden_size])], [1, 1, c.hidden_size], "row")
        wide = self._product(self.rms_norm((row,), "model.norm")[0], head_weight(c), bias=False)
        logits = f.op("Reshape", [wide], [1, c.vocab_size], "m_logits")
        f.output(f.arg_max(logits, "token_id") if fused else logits)

    def greedy(self) -> None:
        """Logits to the most likely token."""
        logits = self.file.input("m_logits", [1, self.config.vocab_size])
        # The sum gives the input the half precision that our lm_head's output has.
        twice = self.file.op("Add", [logits, logits], logits.shape, "twice")
        self.file.output(self.file.arg_max(twice, "token_id"))


def published_bundle(
    toolchain: Toolchain, checkpoint: Checkpoint, folder: Path, length: int, variant: Variant
) -> Bundle:
    """Compile the nets for prompts of `length` and make a bundle of them."""
    config = checkpoint.config
    prompt, step = StepShape(length, 0), StepShape(1, length)
    nets: dict[str, tuple[StepShape, Callable[[NetOps], None]]] = {
        "embedding": (prompt, NetOps.embedding),
        "embedding_cache": (step, NetOps.embedding),
        "lm_head": (step, lambda ops: ops.head(variant.fused_token)),
    }
    if variant.greedy_head:
        nets["greedy_head"] = (step, NetOps.greedy)
    for layer in range(config.num_hidden_layers):
        for name, shape in ((f"block_{layer}", prompt), (f"block_cache_{layer}", step)):
            nets[name] = (shape, lambda ops, layer=layer: ops.block(layer, variant.mask_input))  # type: ignore[misc]
    work = folder.with_name(f"{folder.name}.work")
    compiled = []
    for name, (shape, write) in nets.items():
        (work / name).mkdir(parents=True)
        mlir = work / name / f"{name}.mlir"
        file = MlirFile(name)
        with WeightFile(work / name / WEIGHTS) as weights:
            blocks = WeightBlocks(checkpoint.weights)
            write(NetOps(file, config, shape, length, PRECISION, weights, blocks))
        mlir.write_text(file.text(WEIGHTS))
        recipe = Recipe(variant.mode, address_mode=variant.address_mode)
        compiled.append(compile_net(toolchain, mlir, recipe).bmodel)
    folder.mkdir()
    combine(toolchain, compiled, folder / "model.bmodel")
    for name, content in checkpoint.tokenizer_files().items():
        (folder / name).write_bytes(content)
    details = {"layout": "sophon-demo", "chip": "BM1684X", "context": length}
    return write_manifest(
        Bundle(folder, "bmodel", checkpoint.name, config, PRECISION.to_dict(), details, "published", "0")
    )
