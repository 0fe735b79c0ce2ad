"""The Top-MLIR dialect: what the vendor's compiler turns into a net of the chip."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.artifact.footprint import joins_heads
from bmqwen.artifact.steps import StepShape
from bmqwen.chip.spec import DEFAULT_CHIP, ChipSpec
from bmqwen.emit.mlir_delta import DeltaLayers
from bmqwen.emit.mlir_file import MlirFile, Value, WeightFile
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.errors import InputError
from bmqwen.model.config import ModelConfig
from bmqwen.model.ops import Heads
from bmqwen.model.rope import rope_tables
from bmqwen.quant.formats import GridFormat
from bmqwen.quant.precision import GATES, Precision

Rows = tuple[Value, ...]
# Columns of such a piece: the fastest of 64 to 512 for one row, and all alike for more (docs/notes/faster-nets.md).
PIECE = 128


class MlirOps:
    """Emits one step net. A value is a tuple of tensors [1, C, width]; gate and up, which share an input, stay apart.

    Inputs: `input_states` [1, C, hidden] half, embedded by the host; `position_ids` int32 [1, C];
    `attention_mask` half [1, 1, C, history + C]: 0 where a row may look, -10000 where not, the history's columns first;
    `last_row` int32 [results], the rows whose logits are wanted; `history_k.N` and `history_v.N` half
    [1, history, kv_heads, head_dim], keys after rotation. A step without history has one row there, the one before
    the cache's first, and does not look at it: stages of one net have equally many inputs.
    Outputs: `token_id` int32 [results, 1], `logits` float32 [results, vocab] (without a head the hidden states, and
    the place of the largest of each, which has no use), then `k_cache.N` and `v_cache.N` half
    [1, C, kv_heads, head_dim]. Inputs and outputs are the same at every length: stages of one net.
    A part of a model without the head has, in place of the first two outputs, `hidden` half [1, C, hidden], which is
    the next part's `input_states`, and of its rows the wanted ones, `last_hidden`.
    Layers with a state have no K/V rows, but inputs and outputs of their own: see `DeltaLayers`.

    With `weights` and `blocks` None only the text is made: the weights are in an npz already.

    Attributes:
        delta_layers: what emits the layers with a state.
    """

    delta_layers: type[DeltaLayers] = DeltaLayers

    def __init__(
        self,
        file: MlirFile,
        config: ModelConfig,
        shape: StepShape,
        context: int,
        precision: Precision,
        weights: WeightFile | None,
        blocks: WeightBlocks | None,
        chip: ChipSpec = DEFAULT_CHIP,
    ) -> None:
        self.file, self.config, self.shape, self.precision = file, config, shape, precision
        self.context, self._chip = context, chip
        self._weights, self._blocks = weights, blocks
        self._caches: list[Value] = []
        self._delta: DeltaLayers | None = None
        self._shapes = config.network.shapes()

    def embed(self, weight: str) -> Rows:  # noqa: ARG002  (the table stays with the host)
        """Declare the inputs; the host looks the rows up."""
        f, c, tokens = self.file, self.config, self.shape.tokens
        states = f.input("input_states", [1, tokens, c.hidden_size])
        small = self.shape.inputs
        positions = self._positions = f.input("position_ids", small["position_ids"], np.int32)
        self._mask = f.input("attention_mask", small["attention_mask"])
        self._last_row = f.input("last_row", small["last_row"], np.int32)
        self._masks: dict[int, Value] = {}
        history = [1, self.shape.history or 1, c.num_key_value_heads, c.head_dim]
        self._history = {
            i: (f.input(f"history_k.{i}", history), f.input(f"history_v.{i}", history)) for i in c.kv_layers
        }
        tables = self._rope_tables()
        self._cos, self._sin = (
            f.op("Gather", [table, positions], [1, tokens, 1, c.rotary_dim], f"{name}.rows", axis="0 : si32")
            for name, table in tables.items()
        )
        if c.state_layers:
            self._delta = self.delta_layers(f, c, self.shape, self._store)
        return (states,)

    def move(self) -> None:
        """Emit, in place of a network, the net that copies rows of the cache: `position_ids` names them.

        Its inputs and outputs are those of every net; token and logits are of no use.
        """
        f, c, tokens, (states,) = self.file, self.config, self.shape.tokens, self.embed("")
        for i, pair in self._history.items():
            for old, name in zip(pair, ("k_cache", "v_cache"), strict=True):
                rows = f.op("Reshape", [old], old.shape[1:], f"{name}.{i}.rows")
                shape = [1, tokens, c.num_key_value_heads, c.head_dim]
                self._caches.append(
                    f.op("Gather", [rows, self._positions], shape, f"{name}.{i}", axis="0 : si32")
                )

        def seen() -> Value:
            return f.op("Reshape", [f.slice(self._mask, 3, 0, 1, "mask.first")], [1, 1, 1], "mask.row")

        # The compiler drops an input that nothing uses.
        if not c.is_last:
            self.hand_over((states,), (seen(),))
            return
        row = f.op("Gather", [states, self._last_row], [1, 1, c.hidden_size], "last_hidden", axis="1 : si32")
        used = f.op("Add", [row, seen()], [1, 1, c.hidden_size], "last_hidden.used")
        logits = f.op("Reshape", [used], [1, c.hidden_size], "logits")
        for value in (f.arg_max(logits, "token_id"), logits, *self._kept):
            f.output(value)

    def hand_over(self, x: Rows, delta: Rows) -> None:
        """Emit, in place of the head, the sum as what the next part of the model goes on with.

        The wanted rows come out as well, so that the inputs are those of every net.
        """
        f, width = self.file, self.config.hidden_size
        hidden = f.op("Add", [x[0], delta[0]], x[0].shape, "hidden")
        shape = [1, self.shape.rows or 1, width]
        last = f.op("Gather", [hidden, self._last_row], shape, "last_hidden", axis="1 : si32")
        for value in (hidden, last, *self._kept):
            f.output(value)

    def rms_norm(self, x: Rows, weight: str) -> Rows:
        """Emit one operation."""
        return (self._norm(x[0], weight),)

    def add_rms_norm(self, x: Rows, delta: Rows, weight: str) -> tuple[Rows, Rows]:
        """Emit the sum, then the norm."""
        total = (self.file.op("Add", [x[0], delta[0]], x[0].shape, f"{weight}.residual"),)
        return total, self.rms_norm(total, weight)

    def linear(self, x: Rows, *weights: str, bias: bool = False) -> Rows:
        """Emit a product for each weight, the first one last: what uses it follows directly, as one layer group.

        Queries, keys and values are one product where `joins_heads` says so.
        """
        if joins_heads(self.config) and weights[-1].endswith(".v_proj"):
            return (self._product(x[0], *weights, bias=bias),)
        if weights[0].endswith(GATES):
            return tuple(self._delta_layers.gate(x[0], weight) for weight in weights)
        return tuple(self._product(x[0], weight, bias=bias) for weight in reversed(weights))[::-1]

    def heads(self, qkv: Rows, layer: int) -> Heads[Value]:
        """Reshape to [1, C, heads, head_dim]; the values are ready for the cache, and named so."""
        f, c, dim, place = self.file, self.config, self.config.head_dim, f"layer.{layer}"
        if len(qkv) == 1:
            ends = (0, c.q_size, c.q_size + c.kv_size, c.q_size + 2 * c.kv_size)
            query, key, value = (
                f.slice(qkv[0], 2, start, stop, f"{place}.{name}")
                for name, start, stop in zip("qkv", ends, ends[1:], strict=False)
            )
            # Only an operation that computes leaves its result where the cache goes on, as attention needs it.
            one = {"const_val": "1.0 : f64", "do_relu": "false"}
            qkv = query, key, f.op("MulConst", [value], value.shape, f"{place}.v.once", **one)
        names = (f"{place}.q.heads", f"{place}.k.heads", f"v_cache.{layer}")
        return Heads(
            layer,
            *(
                f.op("Reshape", [part], [*part.shape[:2], part.shape[2] // dim, dim], name)
                for part, name in zip(qkv, names, strict=True)
            ),
        )

    def head_norm(self, heads: Heads[Value], query: str, key: str) -> Heads[Value]:
        """Emit one operation each."""
        return replace(heads, query=self._norm(heads.query, query), key=self._norm(heads.key, key))

    def rope(self, heads: Heads[Value]) -> Heads[Value]:
        """Emit one operation each; the keys are then ready for the cache, and named so."""
        query, key = (
            self._rotated(x, name)
            for x, name in (
                (heads.query, f"layer.{heads.layer}.q.rotated"),
                (heads.key, f"k_cache.{heads.layer}"),
            )
        )
        return replace(heads, query=query, key=key)

    def attend(self, heads: Heads[Value]) -> Rows:
        """Lay history and new rows side by side without a copy; emit one kernel for the rest."""
        tokens, place = self.shape.tokens, f"layer.{heads.layer}"
        self._caches += [heads.key, heads.value]
        keys, values = (
            self._seen(old, new, f"{place}.{label}")
            for old, new, label in zip(
                self._history[heads.layer], (heads.key, heads.value), "kv", strict=True
            )
        )
        parts = [
            self._attention_part(heads.query, keys, values, start, place)
            for start in range(0, tokens, self._chip.most_queries)
        ]
        if len(parts) == 1:
            return (parts[0],)
        return (self._side_by_side(parts, 1, f"{place}.attention"),)

    def sigmoid_gate(self, x: Rows, gate: Rows) -> Rows:
        """Emit x * sigmoid(gate)."""
        place = gate[0].name
        opened = self.file.op("Sigmoid", [gate[0]], gate[0].shape, f"{place}.sigmoid")
        return (self.file.op("Mul", [x[0], opened], x[0].shape, f"{place}.gated"),)

    def short_convolution(self, x: Rows, weight: str, layer: int) -> Rows:
        """Emit it with the rows that the state has."""
        return (self._delta_layers.short_convolution(x[0], weight, layer),)

    def gated_delta(self, qkv: Rows, decay: Rows, beta: Rows, a_log: str, dt_bias: str, layer: int) -> Rows:
        """Emit it in plain operations."""
        return (self._delta_layers.gated_delta(qkv[0], decay[0], beta[0], a_log, dt_bias, layer),)

    def gated_norm(self, x: Rows, gate: Rows, weight: str) -> Rows:
        """Emit the norm by head, then the product with silu."""
        f, one, shape = self.file, self.config.linear_sizes, x[0].shape
        heads = [1, shape[1], one.linear_num_value_heads, one.linear_value_head_dim]
        normed = self._norm(f.op("Reshape", [x[0]], heads, f"{weight}.heads"), weight)
        flat = f.op("Reshape", [normed], shape, f"{weight}.flat")
        active = f.op("SiLU", [gate[0]], shape, f"{weight}.silu")
        return (f.op("Mul", [flat, active], shape, f"{weight}.gated"),)

    def swiglu(self, gate_up: Rows) -> Rows:
        """Emit silu(gate) * up, where there are fewer rows than lanes in pieces of rows that keep all lanes busy."""
        f, (gate, up) = self.file, gate_up
        whole = shape = gate.shape
        if whole[1] < self._chip.lanes and not whole[2] % PIECE:
            shape = (1, math.prod(whole) // PIECE, PIECE)
            # In this order: nothing may come between gate and what uses it.
            up = f.op("Reshape", [up], shape, f"{up.name}.pieces")
            gate = f.op("Reshape", [gate], shape, f"{gate.name}.pieces")
        active = f.op("SiLU", [gate], shape, f"{gate.name}.silu")
        made = f.op("Mul", [active, up], shape, f"{up.name}.swiglu")
        return (made if shape == whole else f.op("Reshape", [made], whole, f"{up.name}.rows"),)

    def last_layer_rows(self, x: Rows, attended: Rows) -> tuple[Rows, Rows]:
        """Keep all: a step takes as long as reading the weights."""
        return x, attended

    def wanted_rows(self, x: Rows) -> Rows:
        """Take the rows that `last_row` names."""
        shape = [1, self.shape.rows, self.config.hidden_size]
        return (self.file.op("Gather", [x[0], self._last_row], shape, "last_hidden", axis="1 : si32"),)

    def hidden(self, x: Rows) -> Rows:
        """Make the rows the result."""
        return self._result(x[0])

    def logits(self, x: Rows, weight: str) -> Rows:
        """Emit the head, and each row's most likely token beside it."""
        return self._result(self._product(x[0], weight))

    @property
    def _kept(self) -> list[Value]:
        """What later steps need: new rows of K/V, and states."""
        return [*self._caches, *(self._delta.states if self._delta else ())]

    @property
    def _delta_layers(self) -> DeltaLayers:
        """Of a network that has such layers, once `embed` has declared their inputs."""
        assert self._delta is not None
        return self._delta

    def _rotated(self, x: Value, name: str) -> Value:
        """Heads whose first elements are rotated."""
        f, size = self.file, self.config.rotary_dim
        whole = size == x.shape[3]
        turned = f.op(
            "Rope",
            [f.slice(x, 3, 0, size, f"{name}.first"), self._sin, self._cos],
            (*x.shape[:3], size),
            name if whole else f"{name}.turned",
            rope_mode='"contiguous_halves"',
        )
        if whole:
            return turned
        return f.concat([turned, f.slice(x, 3, size, x.shape[3], f"{name}.rest")], 3, name)

    def _result(self, rows: Value) -> Rows:
        f = self.file
        logits = f.op("Reshape", [rows], [self.shape.rows, self.config.width], "logits")
        for value in (f.arg_max(logits, "token_id"), logits, *self._kept):
            f.output(value)
        return (logits,)

    def _seen(self, old: Value, new: Value, location: str) -> Value:
        """Rows of K or V that the step may look at: history and new ones, where they lie."""
        rows = self._side_by_side([old, new], 1, f"{location}.all")
        return rows if self.shape.history else self.file.slice(rows, 1, 1, rows.shape[1], f"{location}.own")

    def _attention_part(self, query: Value, keys: Value, values: Value, start: int, place: str) -> Value:
        """Attention of the queries from `start` on over all rows that they may see."""
        f, c, tokens = self.file, self.config, self.shape.tokens
        heads, dim = c.num_attention_heads, c.head_dim
        stop = min(start + self._chip.most_queries, tokens)
        count, rows = stop - start, self.shape.history + stop
        place = f"{place}.{start}"
        query = f.slice(query, 1, start, stop, f"{place}.q")
        keys, values = (f.slice(x, 1, 0, rows, f"{place}.{n}") for x, n in ((keys, "k"), (values, "v")))
        fewest = self._chip.fewest_queries
        short = 1 < count < fewest
        # Heads that share keys are as good as further queries, where there are few.
        group = c.group if short and self.shape.rows == tokens else 1
        copies = -(-fewest // (count * group)) * group if short else 1
        if start not in self._masks:
            mask = f.slice(self._mask, 2, start, stop, f"mask.rows.{start}")
            mask = f.slice(mask, 3, 0, rows, f"mask.part.{start}")
            self._masks[start] = f.concat([mask] * copies, 2, f"mask.copies.{start}") if copies > 1 else mask
        if group > 1:
            kv_heads = heads // group
            query = f.permute(query, (1, count, kv_heads, group, dim), (0, 3, 1, 2, 4), f"{place}.q.grouped")
            query = f.op("Reshape", [query], [1, group * count, kv_heads, dim], f"{place}.q.rows")
            heads = kv_heads
        if copies > group:
            query = f.concat([query] * (copies // group), 1, f"{place}.q.copies")
        made = f.op(
            "FAttention",
            [query, keys, values, self._masks[start], f.none],
            [1, count * copies, heads * dim],
            f"{place}.attention",
            scale=f"{dim**-0.5:.12e} : f64",
            batch="1 : i64",
            q_head=f"{heads} : i64",
            kv_head=f"{c.num_key_value_heads} : i64",
            dim=f"{dim} : i64",
            mq=f"{count * copies} : i64",
            mk=f"{rows} : i64",
            keep_dims="false",
        )
        made = f.slice(made, 1, 0, count * group, f"{place}.attention.own")
        if group > 1:
            apart = f.permute(
                made, (1, group, count, heads, dim), (0, 2, 3, 1, 4), f"{place}.attention.heads"
            )
            made = f.op("Reshape", [apart], [1, count, c.q_size], f"{place}.attention.rows")
        return made

    def _side_by_side(self, parts: Sequence[Value], axis: int, location: str) -> Value:
        """Parts that are laid out side by side in memory instead of being copied together."""
        return self.file.concat(parts, axis, location, only_merge="true")

    def _norm(self, x: Value, weight: str) -> Value:
        """RMS norm over the last axis."""
        name, shape = f"{weight}.weight", (*[1] * (len(x.shape) - 1), x.shape[-1])
        self._store(name, np.float32, shape, lambda blocks: [blocks.vector(name)])
        return self.file.op(
            "RMSNorm",
            [x, self.file.weight(name, shape)],
            x.shape,
            f"{weight}.out",
            eps=f"{self.config.rms_norm_eps:.12e} : f64",
        )

    def _product(self, x: Value, *weights: str, bias: bool = False) -> Value:
        """x @ W^T (+ b) of weights that lie side by side, in their own format, which is the same for all."""
        f, form = self.file, self.precision.of(weights[0])
        weight, names = "+".join(weights), [f"{name}.weight" for name in weights]
        name = f"{weight}.weight"
        rows, columns = sum(self._shape(name)[0] for name in weights), self._shape(weights[0])[1]
        out = [*x.shape[:-1], rows]
        added = f.none
        if bias:
            vector, biases = f"{weight}.bias", [f"{name}.bias" for name in weights]
            self._store(vector, np.float32, (1, 1, rows), lambda blocks: [blocks.vector(*biases)])
            added = f.weight(vector, (1, 1, rows))
        if not isinstance(form, GridFormat):
            # As [K, N]: with right_transpose a step of one token takes 30 % longer.
            self._store(name, np.float32, (columns, rows), lambda blocks: [_turned(blocks, names)])
            return f.op(
                "MatMul", [x, f.weight(name, (columns, rows)), added], out, f"{weight}.out", do_relu="false"
            )
        size = form.group(columns)
        if columns % size:
            raise InputError(
                f"{name} has {columns} columns, which the group size {size} does not divide: "
                "choose another --group-size"
            )
        grids = self._blocks.grids(names, form) if self._blocks else ()
        parts = form.for_a16_matmul(grids, rows, columns)
        for part in parts:
            self._store(f"{weight}.{part.name}", part.type, part.shape, partial(_given, part.blocks))
        return f.op(
            "A16MatMul",
            [x, *(f.weight(f"{weight}.{part.name}", part.shape, part.type) for part in parts), added],
            out,
            f"{weight}.out",
            right_transpose="true",
            q_group_size=f"{size} : i64",
            weight_bits=f"{form.bits} : i64",
        )

    def _store(
        self,
        name: str,
        dtype: Any,
        shape: Sequence[int],
        parts: Callable[[WeightBlocks], Iterable[NDArray[Any]]],
    ) -> None:
        """Stream a weight to the npz, if there is one to write."""
        if self._weights is not None and self._blocks is not None:
            self._weights.add(name, dtype, shape, parts(self._blocks))

    def _shape(self, weight: str) -> tuple[int, int]:
        """Shape [N, K] of a weight, from the configuration alone."""
        shape = self._shapes[f"{weight}.weight"]
        return shape[0], shape[1]

    def _rope_tables(self) -> dict[str, Value]:
        """Cosines and sines [context, 1, elements that are rotated], both halves alike."""
        halves = dict(zip(("rope.cos", "rope.sin"), rope_tables(self.config, self.context), strict=True))
        tables = {name: np.concatenate([half, half], axis=1)[:, None] for name, half in halves.items()}
        for name, table in tables.items():
            self._store(name, np.float32, table.shape, partial(_given, [table]))
        return {name: self.file.weight(name, table.shape) for name, table in tables.items()}


def _given(parts: Iterable[NDArray[Any]], _blocks: WeightBlocks) -> Iterable[NDArray[Any]]:
    """Parts that are there, or under way, as `_store` takes them."""
    return parts


def _turned(blocks: WeightBlocks, names: Sequence[str]) -> NDArray[np.float32]:
    """Matrices stacked to [N, K] as [K, N]; in memory once."""
    rows, columns = blocks.shape(names)
    turned = np.empty((columns, rows), np.float32)
    start = 0
    for block in blocks.floats(names, np.float32):
        turned[:, start : start + len(block)] = block.T
        start += len(block)
    return turned
