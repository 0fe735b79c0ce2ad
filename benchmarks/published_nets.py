"""Emits the nets of the vendor's published programs: embedding, a net a layer, head, as they were exported."""

from dataclasses import replace

import numpy as np

from bmqwen.emit.mlir import MlirOps, Rows
from bmqwen.emit.mlir_file import Value
from bmqwen.model.architecture import block_prefix
from bmqwen.model.ops import Heads

# What the files say they come from: the compiler treats some operations of its own converter's files otherwise.
PLATFORM = "ONNX"


class PublishedOps(MlirOps):
    """Emits the nets of the layout, one at a time; a history of 0 is a prompt's net."""

    def begin(self, masked: bool) -> Rows:
        """Declare the inputs of a decoder layer; `masked`: the mask is one of them, else the net makes it."""
        f, c, tokens, history = self.file, self.config, self.shape.tokens, self.shape.history
        states = f.input("input_states", [1, tokens, c.hidden_size])
        positions = f.input("position_ids", [1, tokens], np.int32)
        width = history + tokens
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
            pair = f.input("history_k", shape), f.input("history_v", shape)
            self._history = dict.fromkeys(c.layers, pair)
        self._cos, self._sin = (
            f.op("Gather", [table, positions], [1, tokens, 1, c.head_dim], f"{name}.rows", axis="0 : si32")
            for name, table in self._rope_tables().items()
        )
        return (states,)

    def linear(self, x: Rows, *weights: str, bias: bool = False) -> Rows:
        """Emit a product for each weight, in the order in which they were exported."""
        return tuple(self._product(x[0], weight, bias=bias) for weight in weights)

    def swiglu(self, gate_up: Rows) -> Rows:
        """Emit it as it was exported."""
        gate, up = gate_up
        active = self.file.op("SiLU", [gate], gate.shape, f"{gate.name}.silu")
        return (self.file.op("Mul", [active, up], up.shape, f"{up.name}.swiglu"),)

    def heads(self, qkv: Rows, layer: int) -> Heads[Value]:
        """Cut into heads: [1, C, heads, head_dim] each."""
        dim = self.config.head_dim
        return Heads(
            layer,
            *(
                self.file.op(
                    "Reshape",
                    [part],
                    [*part.shape[:2], part.shape[2] // dim, dim],
                    f"layer.{layer}.{label}.heads",
                )
                for part, label in zip(qkv, "qkv", strict=True)
            ),
        )

    def rope(self, heads: Heads[Value]) -> Heads[Value]:
        """Rotate as it was exported: x cos + (-second half, first half) sin."""
        place = f"layer.{heads.layer}"
        query, key = self._rotated(heads.query, f"{place}.q"), self._rotated(heads.key, f"{place}.k")
        return replace(heads, query=query, key=key)

    def attend(self, heads: Heads[Value]) -> Rows:
        """Attend as it was exported, operation by operation; the compiler finds its kernel and copies the keys."""
        f, c, tokens, history = self.file, self.config, self.shape.tokens, self.shape.history
        count, dim, rows = c.num_attention_heads, c.head_dim, self.shape.history + self.shape.tokens
        place = f"layer.{heads.layer}"
        q, k, v = heads.query, heads.key, heads.value
        self._caches += [k, v]
        if history:
            old_k, old_v = self._history[heads.layer]
            k, v = f.concat([old_k, k], 1, f"{place}.k.all"), f.concat([old_v, v], 1, f"{place}.v.all")
        if c.group > 1:
            return (self._kernel(q, k, v, place),)
        q = f.op("Permute", [q], [1, count, tokens, dim], f"{place}.q.turned", order="[0, 2, 1, 3]")
        k = f.op("Permute", [k], [1, count, dim, rows], f"{place}.k.turned", order="[0, 2, 3, 1]")
        v = f.op("Permute", [v], [1, count, rows, dim], f"{place}.v.turned", order="[0, 2, 1, 3]")
        scores = f.op("MatMul", [q, k, f.none], [1, count, tokens, rows], f"{place}.scores")
        scale = f"{dim**-0.5:.12e} : f64"
        scores = f.op("MulConst", [scores], scores.shape, f"{place}.scaled", const_val=scale, do_relu="false")
        scores = f.op("Add", [scores, self._mask], scores.shape, f"{place}.masked")
        scores = f.op("Softmax", [scores], scores.shape, f"{place}.softmax", axis="3 : si32")
        made = f.op("MatMul", [scores, v, f.none], [1, count, tokens, dim], f"{place}.made")
        made = f.op("Permute", [made], [1, tokens, count, dim], f"{place}.made.turned", order="[0, 2, 1, 3]")
        return (f.op("Reshape", [made], [1, tokens, c.q_size], f"{place}.attention"),)

    def _rotated(self, x: Value, place: str) -> Value:
        """x cos + (-second half, first half) sin."""
        f, half = self.file, x.shape[3] // 2
        first, second = (
            f.slice(x, 3, 0, half, f"{place}.first"),
            f.slice(x, 3, half, 2 * half, f"{place}.second"),
        )
        negated = f.op(
            "MulConst", [second], second.shape, f"{place}.negated", const_val="-1.0 : f64", do_relu="false"
        )
        turned = f.concat([negated, first], 3, f"{place}.halves")
        products = [
            f.op("Mul", [part, table], x.shape, f"{place}.{name}")
            for part, table, name in ((x, self._cos, "cos"), (turned, self._sin, "sin"))
        ]
        return f.op("Add", products, x.shape, f"{place}.rotated")

    def _kernel(self, q: Value, k: Value, v: Value, place: str) -> Value:
        """Attention whose key/value heads serve several query heads."""
        c, tokens = self.config, self.shape.tokens
        sizes = {
            "batch": 1,
            "q_head": c.num_attention_heads,
            "kv_head": c.num_key_value_heads,
            "dim": c.head_dim,
            "mq": tokens,
            "mk": k.shape[1],
        }
        return self.file.op(
            "FAttention",
            [q, k, v, self._mask, self.file.none],
            [1, tokens, c.q_size],
            f"{place}.attention",
            scale=f"{c.head_dim**-0.5:.12e} : f64",
            keep_dims="false",
            **{key: f"{value} : i64" for key, value in sizes.items()},
        )

    def embedding(self) -> None:
        """Emit the net from input_ids to states."""
        f, c, tokens = self.file, self.config, self.shape.tokens
        name, shape = "model.embed_tokens.table", (c.vocab_size, c.hidden_size)
        self._store(name, np.float32, shape, lambda b: b.floats(["model.embed_tokens.weight"], np.float32))
        ids = f.input("input_ids", [1, tokens], np.int32)
        table = f.weight(name, shape)
        f.output(f.op("Gather", [table, ids], [1, tokens, c.hidden_size], "hidden_states", axis="0 : si32"))

    def block(self, layer: int, masked: bool) -> None:
        """Emit the net of one decoder layer."""
        x = self.begin(masked)
        normed = self.rms_norm(x, f"{block_prefix(layer)}.input_layernorm")
        x, mlp = self.config.network.emit_block(self, layer, x, normed)
        self.file.output(self.file.op("Add", [x[0], mlp[0]], x[0].shape, "hidden_states"))
        for value in self._caches:
            self.file.output(value)

    def head(self, fused: bool) -> None:
        """Emit norm and head for one row; `fused`: the most likely token in place of logits."""
        f, c = self.file, self.config
        row = f.op("Reshape", [f.input("hidden_states", [1, c.hidden_size])], [1, 1, c.hidden_size], "row")
        wide = self._product(self.rms_norm((row,), "model.norm")[0], c.network.head_weight)
        logits = f.op("Reshape", [wide], [1, c.vocab_size], "m_logits")
        f.output(f.arg_max(logits, "token_id") if fused else logits)

    def greedy(self) -> None:
        """Emit the net from logits to the most likely token."""
        logits = self.file.input("m_logits", [1, self.config.vocab_size])
        # The sum gives the input the half precision that our lm_head's output has.
        twice = self.file.op("Add", [logits, logits], logits.shape, "twice")
        self.file.output(self.file.arg_max(twice, "token_id"))
