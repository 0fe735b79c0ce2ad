"""An ONNX file being written: the graph in memory, the weights straight to their file."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import MissingDependencyError
from bmqwen.util.installation import install_command

# ONNX Runtime maps external data into memory by whole pages.
PAGE = 4096
DATA_SUFFIX = ".data"


class OnnxFile:
    """Collects nodes and values, and streams initialisers into the external data file beside the model."""

    def __init__(self, path: Path, *, opset: int, contrib: bool) -> None:
        try:
            import onnx
        except ImportError as error:
            raise MissingDependencyError(
                f"export needs the package onnx: {install_command('cpu')}"
            ) from error
        self._onnx = onnx
        self._path = path
        self._opsets = [onnx.helper.make_opsetid("", opset)]
        if contrib:
            self._opsets.append(onnx.helper.make_opsetid("com.microsoft", 1))
        self._nodes: list[Any] = []
        self._initializers: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._data: BinaryIO = path.with_name(path.name + DATA_SUFFIX).open("wb")
        self._count = 0

    def close(self) -> None:
        """Close the data file."""
        self._data.close()

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        *,
        outputs: int | Sequence[str] = 1,
        domain: str = "",
        **attributes: Any,
    ) -> list[str]:
        """Add a node and return the names of its outputs (made up, or as given; "" for one that is not wanted)."""
        self._count += 1
        names = (
            list(outputs)
            if not isinstance(outputs, int)
            else [f"{op}_{self._count}_{i}" for i in range(outputs)]
        )
        self._nodes.append(
            self._onnx.helper.make_node(
                op, list(inputs), names, name=f"{op}_{self._count}", domain=domain, **attributes
            )
        )
        return names

    def value(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output and return its name."""
        return self.node(op, inputs, domain=domain, **attributes)[0]

    def scan(
        self,
        name: str,
        state: Mapping[str, tuple[str, Sequence[int]]],
        inputs: Mapping[str, tuple[str, Sequence[int]]],
        steps: Sequence[tuple[str, list[str], str]],
        made: Sequence[int],
    ) -> tuple[str, str]:
        """Add a loop over the first axis of `inputs`, and return the last state and what the steps made.

        Args:
            name: of the loop's graph.
            state: name inside, what it is before the first step, and its shape; the steps make NAME_after of it.
            inputs: names inside, what is looped over, and the shape of one step's part.
            steps: operation, its inputs and its output; the last one's output is gathered. A Transpose turns the last
                two axes.
            made: shape of that output.
        """
        helper = self._onnx.helper
        turned = [*range(len(made) - 2), len(made) - 1, len(made) - 2]
        nodes = [
            helper.make_node(op, given, [out], **({"perm": turned} if op == "Transpose" else {}))
            for op, given, out in steps
        ]
        (own, (_, shape)), last = next(iter(state.items())), steps[-1][2]
        body = helper.make_graph(
            nodes,
            name,
            [self._value_info(key, np.float32, size) for key, (_, size) in {**state, **inputs}.items()],
            [self._value_info(f"{own}_after", np.float32, shape), self._value_info(last, np.float32, made)],
        )
        given = [value for value, _ in (*state.values(), *inputs.values())]
        after, gathered = self.node("Scan", given, outputs=2, body=body, num_scan_inputs=len(inputs))
        return after, gathered

    def input(self, name: str, dtype: Any, shape: Sequence[int | str]) -> str:
        """Declare an input of the graph."""
        self._inputs.append(self._value_info(name, dtype, shape))
        return name

    def output(self, name: str, dtype: Any, shape: Sequence[int | str]) -> str:
        """Declare an output of the graph."""
        self._outputs.append(self._value_info(name, dtype, shape))
        return name

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Add a small constant, kept in the graph itself. Adding it twice is harmless."""
        if all(i.name != name for i in self._initializers):
            self._initializers.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def weight(self, name: str, onnx_type: int, shape: Sequence[int], blocks: Iterable[NDArray[Any]]) -> str:
        """Stream a weight: `blocks` are consecutive parts of it, each written and forgotten.

        Args:
            name: initialiser's name.
            onnx_type: TensorProto data type.
            shape: its shape.
            blocks: arrays whose bytes one after another are the tensor's.
        """
        start = -(-self._data.tell() // PAGE) * PAGE
        self._data.write(b"\0" * (start - self._data.tell()))
        for block in blocks:
            self._data.write(np.ascontiguousarray(block).data)
        tensor = self._onnx.TensorProto(name=name, data_type=onnx_type, dims=list(shape))
        tensor.data_location = self._onnx.TensorProto.EXTERNAL
        place = {
            "location": self._path.name + DATA_SUFFIX,
            "offset": str(start),
            "length": str(self._data.tell() - start),
        }
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
        self._initializers.append(tensor)
        return name

    def save(
        self, producer_version: str, name: str | None = None, change: Callable[[Any], None] | None = None
    ) -> None:
        """Write the graph, by its own name or another one; `change` changes that GraphProto before.

        The model is complete after this.
        """
        self._data.flush()
        helper = self._onnx.helper
        # The cache goes last, as users of other exports expect: `logits, *cache = session.run(...)`.
        inputs = sorted(self._inputs, key=lambda value: value.name.startswith("past_"))
        outputs = sorted(self._outputs, key=lambda value: value.name.startswith("present."))
        graph = helper.make_graph(self._nodes, "step", inputs, outputs, self._initializers)
        if change is not None:
            change(graph)
        model = helper.make_model(
            graph,
            opset_imports=self._opsets,
            ir_version=10,
            producer_name="bmqwen",
            producer_version=producer_version,
        )
        self._path.with_name(name or self._path.name).write_bytes(model.SerializeToString(deterministic=True))

    def _value_info(self, name: str, dtype: Any, shape: Sequence[int | str]) -> Any:
        helper = self._onnx.helper
        return helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape)
        )
