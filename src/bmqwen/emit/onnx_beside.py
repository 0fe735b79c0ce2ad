"""The graph for several sequences: a piece of a prompt and the rows of answers in one run, which reads weights once."""

from typing import Any

import numpy as np

from bmqwen.model.config import ModelConfig


class BesideGraph:
    """Changes a graph of the dialect "onnxruntime" so that attention takes rows of two kinds. Layers have no states.

    All rows of a run lie in one line: `input_ids` is int64 [1, rows], whatever the graph states. Further inputs:
    `has_piece` bool [], whether the first of them are a piece of a prompt and the rest a row of each answer; else all
    are of one kind, and `batch_shape` int64 [3] is what attention sees of them: B, C, -1.
    `row_counts` int64 [2]: rows of the piece, and of the answers; `piece_seqlens_k` int32 [1] and
    `piece_total_sequence_length` int32 []: as `seqlens_k` and `total_sequence_length`, of the piece's sequence.
    `past_piece.N.key` and `.value` with `present_piece.N.key` and `.value`: its cache. Without a piece the past is not
    read, and the present need not be asked for. `logits` are those of rows from `logits_from` on: [1, rows, vocab].
    """

    def __init__(self, config: ModelConfig) -> None:
        import onnx

        self._onnx, self._helper, self._config = onnx, onnx.helper, config

    def change(self, graph: Any) -> None:
        """Change a GraphProto as `OnnxFile.save` has it."""
        helper, types = self._helper, self._onnx.TensorProto
        nodes = [made for node in graph.node for made in self._changed(node)]
        del graph.node[:]
        graph.node.extend(nodes)
        c = self._config
        numbers = {
            "has_piece": (types.BOOL, []),
            "row_counts": (types.INT64, [2]),
            "batch_shape": (types.INT64, [3]),
            "piece_seqlens_k": (types.INT32, [1]),
            "piece_total_sequence_length": (types.INT32, []),
        }
        graph.input.extend(helper.make_tensor_value_info(name, *kind) for name, kind in numbers.items())
        rows = [1, c.num_key_value_heads, "piece_past", c.head_dim]
        for layer in c.kv_layers:
            for part in ("key", "value"):
                for time, ends in (("past", graph.input), ("present", graph.output)):
                    name = f"{time}_piece.{layer}.{part}"
                    ends.append(helper.make_tensor_value_info(name, types.FLOAT, rows))
        constants = {
            "in_a_line": np.array([1, -1, c.q_size], np.int64),
            "no_rows": np.empty((0, c.num_key_value_heads, 0, c.head_dim), np.float32),
        }
        graph.initializer.extend(
            self._onnx.numpy_helper.from_array(array, name) for name, array in constants.items()
        )

    def _changed(self, node: Any) -> list[Any]:
        """The nodes in place of one."""
        if node.op_type != "GroupQueryAttention":
            return [node]
        attended, *present = node.output
        layer = attended.rpartition(".")[2]
        made = [attended, *present, f"present_piece.{layer}.key", f"present_piece.{layer}.value"]
        branches = {"then_branch": self._both(node, layer), "else_branch": self._alone(node, layer)}
        return [self._helper.make_node("If", ["has_piece"], made, name=f"rows.{layer}", **branches)]

    def _alone(self, node: Any, layer: str) -> Any:
        """Rows of one kind: a prompt's, or of answers."""
        make = self._helper.make_node
        names = [f"{layer}.{name}" for name in ("rows", "key", "value", "piece_key", "piece_value")]
        nodes, parts = [], []
        for i, line in enumerate(node.input[:3]):
            parts.append(f"{layer}.batch_{i}" if line else "")
            if line:
                nodes.append(make("Reshape", [line, "batch_shape"], [parts[-1]]))
        nodes += [
            self._attention(node, parts, node.input[3:7], [f"{layer}.attended", *names[1:3]]),
            make("Reshape", [f"{layer}.attended", "in_a_line"], names[:1]),
            *(make("Identity", ["no_rows"], [name]) for name in names[3:]),
        ]
        return self._graph(nodes, f"alone.{layer}", names)

    def _both(self, node: Any, layer: str) -> Any:
        """A piece of a prompt, then answers."""
        make = self._helper.make_node
        names = [f"{layer}.both_{name}" for name in ("rows", "key", "value", "piece_key", "piece_value")]
        nodes, pieces, answers = [], [], []
        for i, whole in enumerate(node.input[:3]):
            pieces.append(f"{layer}.piece_{i}" if whole else "")
            answers.append(f"{layer}.answers_{i}" if whole else "")
            if whole:
                line = f"{layer}.line_{i}"
                nodes.append(make("Split", [whole, "row_counts"], [pieces[-1], line], axis=1))
                nodes.append(make("Transpose", [line], [answers[-1]], perm=[1, 0, 2]))
        past = [f"past_piece.{layer}.key", f"past_piece.{layer}.value"]
        lengths = ["piece_seqlens_k", "piece_total_sequence_length"]
        nodes += [
            self._attention(node, pieces, [*past, *lengths], [f"{layer}.piece_attended", *names[3:]]),
            self._attention(node, answers, node.input[3:7], [f"{layer}.answers_attended", *names[1:3]]),
            make("Reshape", [f"{layer}.answers_attended", "in_a_line"], [f"{layer}.answers_line"]),
            make("Concat", [f"{layer}.piece_attended", f"{layer}.answers_line"], names[:1], axis=1),
        ]
        return self._graph(nodes, f"both.{layer}", names)

    def _attention(self, node: Any, parts: list[str], past: Any, made: list[str]) -> Any:
        """The operation for some of the rows, with their cache."""
        attributes = {one.name: self._helper.get_attribute_value(one) for one in node.attribute}
        inputs = [*parts, *past, *node.input[7:]]
        return self._helper.make_node(node.op_type, inputs, made, domain=node.domain, **attributes)

    def _graph(self, nodes: list[Any], name: str, outputs: list[str]) -> Any:
        kind = self._onnx.TensorProto.FLOAT
        ends = [self._helper.make_tensor_value_info(output, kind, None) for output in outputs]
        return self._helper.make_graph(nodes, name, [], ends)
