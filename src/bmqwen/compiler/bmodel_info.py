"""What model_tool says of a bmodel, as facts: its nets, their stages and tensors, and the memory that it takes."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from bmqwen.errors import BundleError
from bmqwen.words import counted

ADDRESS_MODES = {0: "basic", 1: "io_alone", 2: "io_tag", 3: "io_tag_fuse", 4: "io_reloc"}
_NET = re.compile(r"net \d+: \[(?P<name>.*)\]\s+(?P<kind>static|dynamic)")
_TENSOR = re.compile(r"(?P<side>input|output): (?P<name>\S+), \[(?P<shape>[^\]]*)\], (?P<dtype>\w+)")
_MEMORY = re.compile(r"device mem size: (\d+)(?: \(weight: (\d+), instruct: (\d+), runtime: (\d+)\))?")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output: shape and element type as compiled."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(slots=True)
class StageInfo:
    """One set of shapes of a net."""

    inputs: list[TensorInfo] = field(default_factory=list)
    outputs: list[TensorInfo] = field(default_factory=list)

    def input(self, name: str) -> TensorInfo | None:
        """An input by name."""
        return next((tensor for tensor in self.inputs if tensor.name == name), None)


@dataclass(slots=True)
class NetInfo:
    """A net. `address_mode` tells whose memory inputs and outputs are in."""

    name: str
    dynamic: bool
    address_mode: str = ADDRESS_MODES[0]
    stages: list[StageInfo] = field(default_factory=list)


@dataclass(slots=True)
class BmodelInfo:
    """A bmodel.

    Attributes:
        version: of the format and the compiler.
        chip: what it was compiled for.
        created: when, as the compiler wrote it.
        nets: in their order.
        device_bytes: memory of the chip, without inputs and outputs that have memory of their own.
        weight_bytes, instruction_bytes, runtime_bytes: its parts.
    """

    version: str = ""
    chip: str = ""
    created: str = ""
    nets: list[NetInfo] = field(default_factory=list)
    device_bytes: int = 0
    weight_bytes: int = 0
    instruction_bytes: int = 0
    runtime_bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For people; tensors that differ in their number only are one line."""
        for net in self.nets:
            kind = "dynamic" if net.dynamic else "static"
            yield f"\nnet {net.name}: {kind}, address mode {net.address_mode}, {counted(len(net.stages), 'stage')}"
            for number, stage in enumerate(net.stages):
                yield f"  stage {number}"
                for side, tensors in (("in ", stage.inputs), ("out", stage.outputs)):
                    for text in _tensor_lines(tensors):
                        yield f"    {side} {text}"


def parse_info(said: str, path: Path) -> BmodelInfo:
    """Facts from the output of `model_tool --info`. Raises BundleError for one that names no net."""
    info = BmodelInfo()
    for line in map(str.strip, said.splitlines()):
        key, _, value = line.partition(": ")
        if key in ("bmodel version", "chip", "create time"):
            setattr(info, {"bmodel version": "version", "create time": "created"}.get(key, key), value)
        elif found := _NET.fullmatch(line):
            info.nets.append(NetInfo(found["name"], found["kind"] == "dynamic"))
        elif found := _MEMORY.match(line):
            sizes = [int(size or 0) for size in found.groups()]
            info.device_bytes, info.weight_bytes, info.instruction_bytes, info.runtime_bytes = sizes
        elif info.nets:
            _read_net_line(info.nets[-1], line)
    if not info.nets:
        raise BundleError(f"{path} is no bmodel that model_tool can read: it is truncated or foreign")
    return info


def _read_net_line(net: NetInfo, line: str) -> None:
    if line.startswith("addr mode: "):
        mode = line.removeprefix("addr mode: ")
        net.address_mode = ADDRESS_MODES.get(int(mode), mode) if mode.isdigit() else mode
    elif re.match(r"stage \d+", line):
        net.stages.append(StageInfo())
    elif net.stages and (found := _TENSOR.match(line)):
        shape = tuple(int(size) for size in re.findall(r"-?\d+", found["shape"]))
        stage = net.stages[-1]
        tensors = stage.inputs if found["side"] == "input" else stage.outputs
        tensors.append(TensorInfo(found["name"], shape, found["dtype"]))


def _tensor_lines(tensors: list[TensorInfo]) -> Iterator[str]:
    """A line a tensor, or one for a row of layers' tensors."""

    def kind(tensor: TensorInfo) -> tuple[str, tuple[int, ...], str]:
        return re.sub(r"\d+$", "", tensor.name), tensor.shape, tensor.dtype

    # Stable: the first of each kind keeps its place.
    order = {one: place for place, one in reversed(list(enumerate(map(kind, tensors))))}
    ordered = sorted(tensors, key=lambda tensor: order[kind(tensor)])
    for (_, shape, dtype), row in groupby(ordered, key=kind):
        names = [tensor.name for tensor in row]
        name = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        yield f"{name:36} {dtype:8} [{', '.join(map(str, shape))}]"
