"""What a bmodel says of its nets: shapes, types, memory. Read from the file alone, on any machine."""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bmqwen.errors import BundleError
from bmqwen.util.storage import storage_errors

_Item = TypeVar("_Item")
# bm_data_type_t.
TYPES = ("f32", "f16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "bf16")
# MODEL_HEADER_T: magic, its own size, the description's, the data's (32 bits, wrapped beyond 4 GiB).
HEADER = struct.Struct("<4I48x")
MAGIC = 0xFF55AAEE
# The address mode in which a net's inputs are kept apart from what others compute.
IO_ALONE = 1
# A description of hundreds of nets has some MB.
LARGEST = 256 << 20
# Fields of a stage: bytes of intermediate results, and those of each part of a chip's memory.
_NEURON_BYTES, _NEURON_PARTS = 3, 14
# Nothing in a damaged file may make this program read or list more than that.
LONGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class TensorDescription:
    """An input or output: its name, type ("f16") and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StageDescription:
    """One set of shapes of a net.

    Attributes:
        inputs, outputs: in order.
        weights: bytes of weights by their hash (hex); stages with the same hash share them.
        instruction_bytes, neuron_bytes, io_bytes: device memory of commands, intermediate results, and of inputs and
            outputs where they are kept apart.
    """

    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]
    weights: Mapping[str, int]
    instruction_bytes: int
    neuron_bytes: int
    io_bytes: int


@dataclass(frozen=True, slots=True)
class NetDescription:
    """A net: `address_mode` 0 is basic, 1 io_alone."""

    name: str
    address_mode: int
    dynamic: bool
    stages: tuple[StageDescription, ...]


@dataclass(frozen=True, slots=True)
class BmodelDescription:
    """What a bmodel says: kind and number of its chips, version of its compiler, nets by name; and the file's size."""

    path: Path
    chip: str
    compiler: str
    chips: int
    nets: Mapping[str, NetDescription]
    bytes: int

    @property
    def pieces(self) -> list[int]:
        """Bytes of each allocation of device memory: equal weights and the inputs of a net's stages once, intermediate
        results of one net at a time, commands."""
        stages = [stage for net in self.nets.values() for stage in net.stages]
        weights = {key: size for stage in stages for key, size in stage.weights.items()}
        kept = [max((s.io_bytes for s in net.stages), default=0) for net in self.nets.values()]
        neurons = max((stage.neuron_bytes for stage in stages), default=0)
        return [*weights.values(), *kept, neurons, *(s.instruction_bytes for s in stages)]

    @property
    def further_stages(self) -> list[int]:
        """Bytes of inputs and outputs of each net's other stages, which an old runtime allocates as well."""
        return [size for net in self.nets.values() for size in sorted(s.io_bytes for s in net.stages)[:-1]]

    @property
    def device_bytes(self) -> int:
        """Device memory that it takes, within 2 %."""
        return sum(self.pieces)


def read_description(path: Path) -> BmodelDescription:
    """Read it. Raises BundleError for a file that cannot be read, is no bmodel, is truncated or damaged."""
    start, size = check_bmodel(path)
    if size > LARGEST:
        raise BundleError(f"{path} is damaged: its description claims to have {size:,} bytes")
    try:
        with path.open("rb") as file:
            file.seek(start)
            model = Table.root(file.read(size))
        nets = [_net(net) for net in model.tables(4)]
        return BmodelDescription(
            path=path,
            chip=model.text(3),
            compiler=model.text(1),
            chips=max(1, model.integer(7, "<I")),
            nets={net.name: net for net in nets},
            bytes=path.stat().st_size,
        )
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error


def reserve_intermediates(path: Path) -> None:
    """Have the first stage of each net ask for the memory of intermediate results that its neediest stage takes.

    libbmrt takes that memory while it loads the stages in their order, and where a later one needs more, it takes
    other memory and frees the first, to which the commands of the earlier stages go on writing.
    """
    start, size = check_bmodel(path)
    with storage_errors(path), path.open("r+b") as file:
        file.seek(start)
        description = bytearray(file.read(size))
        for net in Table.root(bytes(description)).tables(4):
            stages = net.tables(3)
            most = max(map(_intermediates, stages))
            for place in stages[0].places(_NEURON_BYTES, _NEURON_PARTS):
                struct.pack_into("<Q", description, place, most)
        file.seek(start)
        file.write(description)


def check_intermediates(path: Path) -> None:
    """Raise BundleError for a bmodel that `reserve_intermediates` should have changed, as before 28 November 2026."""
    start, size = check_bmodel(path)
    try:
        with path.open("rb") as file:
            file.seek(start)
            nets = Table.root(file.read(size)).tables(4)
        needs = [list(map(_intermediates, net.tables(3))) for net in nets]
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise _damaged(path, error) from error
    if any(first < max(rest) for first, *rest in filter(None, needs) if rest):
        raise BundleError(
            f"{path} was compiled by an earlier bmqwen, and the chip's runtime would overwrite its commands: "
            "compile the model again with `bmqwen compile`"
        )


class Table:
    """A table of a FlatBuffer, its fields found by number. What does not fit into the buffer is a ValueError."""

    def __init__(self, data: bytes, place: int) -> None:
        """The table at a byte of `data`."""
        self._data, self._place = data, place
        start = place - self._number("<i", place)
        size = self._number("<H", start)
        self._fields = [self._number("<H", start + 4 + 2 * i) for i in range(max(0, size - 4) // 2)]

    @classmethod
    def root(cls, data: bytes) -> "Table":
        """Return the table that a buffer holds."""
        return cls(data, _unpack("<I", data, 0))

    def integer(self, field: int, form: str = "<i") -> int:
        """Return a number, as `struct` writes its form; 0 where it is left out."""
        place = self._find(field)
        return self._number(form, place) if place else 0

    def text(self, field: int) -> str:
        """Return a string, made fit for a terminal; empty where it is left out."""
        place = self._follow(field)
        if not place:
            return ""
        start, size = place + 4, self._number("<I", place)
        if size > LONGEST:
            raise ValueError("a string is too long")
        if start + size > len(self._data):
            raise ValueError("a string runs out of the buffer")
        text = self._data[start : start + size].decode("utf-8", "replace")
        return "".join(c if c.isprintable() else "?" for c in text)

    def table(self, field: int) -> "Table | None":
        """Return a table inside; None where it is left out."""
        place = self._follow(field)
        return Table(self._data, place) if place else None

    def tables(self, field: int) -> list["Table"]:
        """Return a list of tables."""
        return self._list(field, 4, lambda place: Table(self._data, place + self._number("<I", place)))

    def numbers(self, field: int, form: str) -> list[int]:
        """Return a list of numbers."""
        return self._list(field, struct.calcsize(form), lambda place: self._number(form, place))

    def pair(self, field: int) -> tuple[int, int]:
        """Return a struct of two 64-bit numbers; zeros where it is left out."""
        place = self._find(field)
        return (self._number("<Q", place), self._number("<Q", place + 8)) if place else (0, 0)

    def places(self, number: int, only: int) -> list[int]:
        """Return where a number's bytes are, and those of another field's list, if that has a single item."""
        found = [self._find(number), self._follow(only) + 4 if len(self.numbers(only, "<Q")) == 1 else 0]
        return [place for place in found if place]

    def _find(self, field: int) -> int:
        offset = self._fields[field] if field < len(self._fields) else 0
        return self._place + offset if offset else 0

    def _follow(self, field: int) -> int:
        place = self._find(field)
        return place + self._number("<I", place) if place else 0

    def _list(self, field: int, width: int, item: Callable[[int], _Item]) -> list[_Item]:
        place = self._follow(field)
        if not place:
            return []
        count = self._number("<I", place)
        if count > LONGEST or count * width > len(self._data):
            raise ValueError("a list is too long")
        return [item(place + 4 + i * width) for i in range(count)]

    def _number(self, form: str, place: int) -> int:
        return _unpack(form, self._data, place)


def _unpack(form: str, data: bytes, place: int) -> int:
    if place < 0:
        raise ValueError("a place before the buffer")
    try:
        return int(struct.unpack_from(form, data, place)[0])
    except struct.error as error:
        raise ValueError("a place behind the buffer") from error


def check_bmodel(path: Path) -> tuple[int, int]:
    """Return where the description of the nets begins in a bmodel, and its bytes.

    Raises BundleError unless the file starts like one and is as long as it says: libbmrt would end the process on some.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(HEADER.size)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error
    if len(head) < HEADER.size:
        raise BundleError(f"{path} is not a bmodel: it has only {size} bytes")
    magic, header, description, data = HEADER.unpack(head)
    if magic != MAGIC:
        raise BundleError(f"{path} is not a bmodel: it starts with {head[:4].hex()}")
    # The data's size is stored in 32 bits.
    expected = header + description + data
    if size < expected or (size - expected) % (1 << 32):
        raise BundleError(f"{path} is truncated or damaged: {size:,} bytes instead of {expected:,}")
    return header, description


def _damaged(path: Path, error: Exception) -> BundleError:
    return BundleError(f"{path} is damaged ({error}): download or compile it again")


def _net(net: Table) -> NetDescription:
    stages = net.tables(3)
    return NetDescription(
        name=net.text(0),
        address_mode=net.integer(5),
        dynamic=any(stage.integer(5) for stage in stages),
        stages=tuple(_stage(stage) for stage in stages),
    )


def _stage(stage: Table) -> StageDescription:
    weights = stage.table(4)
    hashed = {bytes(weights.numbers(1, "<B")).hex(): weights.pair(2)[1]} if weights else {}
    return StageDescription(
        inputs=tuple(_tensor(tensor) for tensor in stage.tables(0)),
        outputs=tuple(_tensor(tensor) for tensor in stage.tables(1)),
        weights=hashed,
        instruction_bytes=_instructions(stage),
        neuron_bytes=_intermediates(stage),
        io_bytes=stage.integer(18, "<Q"),
    )


def _intermediates(stage: Table) -> int:
    """Bytes of memory for intermediate results."""
    parts = stage.numbers(_NEURON_PARTS, "<Q")
    return sum(parts) if parts else stage.integer(_NEURON_BYTES, "<Q")


def _instructions(stage: Table) -> int:
    """Bytes of the commands of all parts of a net."""
    groups = [
        *stage.tables(8),
        *(group for part in stage.tables(12) for group in part.tables(1)),
        *(group for part in stage.tables(12) for core in part.tables(14) for group in core.tables(0)),
    ]
    # Parts may point at the same commands.
    return sum(size for _, size in {group.pair(field) for group in groups for field in (2, 3)})


def _tensor(tensor: Table) -> TensorDescription:
    shapes = tensor.tables(5)
    dims = shapes[0].numbers(0, "<Q") if shapes else []
    kind = tensor.integer(1, "<I")
    dtype = TYPES[kind] if kind < len(TYPES) else f"type {kind}"
    return TensorDescription(tensor.text(0), dtype, tuple(dims))
