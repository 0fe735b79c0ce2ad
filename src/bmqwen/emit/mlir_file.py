"""A Top-MLIR file being written: the operations as text, the weights straight to their npz."""

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.util.closing import Closing

MLIR_TYPES: dict[str, str] = {"float32": "f32", "float16": "f16", "int32": "si32", "uint8": "ui8"}


@dataclass(frozen=True, slots=True)
class Value:
    """An SSA value: its name, shape and element type ("f32"); NONE has no shape."""

    name: str
    shape: tuple[int, ...]
    type: str = "f32"

    def __str__(self) -> str:
        return f"tensor<{'x'.join(map(str, self.shape))}x{self.type}>" if self.shape else "none"


class WeightFile(Closing):
    """The npz that Top-MLIR files take their weights from; several nets can share one."""

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)
        self._names: set[str] = set()

    def add(self, name: str, dtype: Any, shape: Sequence[int], blocks: Iterable[NDArray[Any]]) -> None:
        """Stream a tensor: `blocks` are consecutive parts of it. A name that is there already is left alone."""
        if name in self._names:
            return
        self._names.add(name)
        # A fixed date: equal weights must give equal files.
        entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": tuple(shape)}
        with self._zip.open(entry, "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for block in blocks:
                file.write(np.ascontiguousarray(block, dtype).data)

    def close(self) -> None:
        """Finish the file."""
        self._zip.close()


class MlirFile:
    """One function in Top-MLIR, built operation by operation.

    Locations name values for the compiler: those of inputs and outputs become the names of the bmodel's tensors.
    """

    def __init__(self, name: str, platform: str = "LLM") -> None:
        self._name, self._platform = name, platform
        self._lines: list[str] = []
        self._arguments: list[Value] = []
        self._outputs: list[Value] = []
        self._weights: dict[str, Value] = {}
        self._count = 0
        self.none = self._add('"top.None"() : () -> none', "none")

    def op(
        self, kind: str, inputs: Sequence[Value], shape: Sequence[int], location: str, **attributes: str
    ) -> Value:
        """Add `top.KIND` with one float result. Attributes are given in MLIR's own notation."""
        text = ", ".join(f"{key} = {value}" for key, value in attributes.items())
        names, types = ", ".join(v.name for v in inputs), ", ".join(map(str, inputs))
        result = Value("", tuple(shape))
        return self._add(f'"top.{kind}"({names}) {{{text}}} : ({types}) -> {result}', location, result)

    def concat(self, parts: Sequence[Value], axis: int, location: str, **attributes: str) -> Value:
        """Join tensors along an axis."""
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        return self.op("Concat", parts, shape, location, axis=f"{axis} : si32", **attributes)

    def slice(self, x: Value, axis: int, start: int, stop: int, location: str) -> Value:
        """Take elements `start` to `stop` along an axis; `x` itself if that is all. After axes of 1: no copy."""
        shape = list(x.shape)
        if (start, stop) == (0, shape[axis]):
            return x
        shape[axis] = stop - start
        starts, ends = [0] * len(shape), list(x.shape)
        starts[axis], ends[axis] = start, stop
        return self.op(
            "Slice",
            [x, self.none, self.none, self.none],
            shape,
            location,
            offset=str(starts),
            steps=str([1] * len(shape)),
            ends=str(ends),
            axes="[]",
        )

    def permute(self, x: Value, shape: Sequence[int], order: Sequence[int], location: str) -> Value:
        """See a tensor in another shape of as many elements, and put its axes into another order."""
        seen = self.op("Reshape", [x], shape, f"{location}.axes")
        moved = [shape[axis] for axis in order]
        return self.op("Permute", [seen], moved, location, order=str(list(order)))

    def arg_max(self, x: Value, location: str) -> Value:
        """Find each row's largest element; comes out of the bmodel as int32 [rows, 1]."""
        result = Value("", (x.shape[0], 1))
        text = (
            f'"top.Arg"({x.name}) {{axis = 1 : i64, keepdims = true, mode = "ArgMax", select_last_index = false}} '
            f": ({x}) -> ({result}, none)"
        )
        value = self._add(text, location, result, results=2)
        return Value(f"{value.name}#0", value.shape)

    def input(self, name: str, shape: Sequence[int], dtype: Any = np.float32) -> Value:
        """Declare an input. Inside of the function it is always float, float16 if that is given.

        What float32 is on the chip, the compiler decides by the first operation that takes it.
        """
        outside = Value(f"%arg{len(self._arguments)}", tuple(shape), MLIR_TYPES[np.dtype(dtype).name])
        self._arguments.append(outside)
        result = Value("", tuple(shape), "f16" if outside.type == "f16" else "f32")
        return self._add(f'"top.Input"({outside.name}) : ({outside}) -> {result}', name, result)

    def output(self, value: Value) -> None:
        """Declare an output, in order."""
        self._outputs.append(value)

    def weight(self, name: str, shape: Sequence[int], dtype: Any = np.float32) -> Value:
        """Declare a weight of the npz."""
        if name not in self._weights:
            value = Value("", tuple(shape), MLIR_TYPES[np.dtype(dtype).name])
            self._weights[name] = self._add(f'"top.Weight"() : () -> {value}', name, value)
        return self._weights[name]

    def text(self, weight_file: str) -> str:
        """Return the module; `weight_file` is relative to the folder that the compiler runs in."""
        arguments = ", ".join(f"{a.name}: {a} loc(unknown)" for a in self._arguments)
        types = ", ".join(map(str, self._outputs))
        body = "\n".join(self._lines)
        return (
            f'module @"{self._name}" attributes {{module.weight_file = "{weight_file}", '
            f'module.platform = "{self._platform}", '
            'module.state = "TOP_F32", module.chip = "ALL", module.top_run_mode = "STATIC"} {\n'
            f"  func.func @main({arguments}) -> ({types}) {{\n{body}\n"
            f"    return {', '.join(v.name for v in self._outputs)} : {types} loc(unknown)\n"
            "  } loc(unknown)\n} loc(unknown)\n"
        )

    def _add(self, text: str, location: str, result: Value | None = None, results: int = 1) -> Value:
        name = f"%{self._count}"
        self._count += 1
        bound = name if results == 1 else f"{name}:{results}"
        self._lines.append(f'    {bound} = {text} loc(fused["{location}"])')
        return Value(name, result.shape, result.type) if result else Value(name, ())
