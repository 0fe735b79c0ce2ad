"""The headers of a model's GGUF files: metadata and where the tensors are.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package's own reader makes an
array object of every string, which takes ten seconds for a vocabulary of 150,000 tokens; this one takes
a fraction of a second, and trusts no number that the file holds.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bmqwen.errors import CheckpointError, MissingDependencyError
from bmqwen.util.closing import Closing
from bmqwen.util.installation import install_command
from bmqwen.util.paths import gguf_parts
from bmqwen.weights.raw_file import RawFile

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# Letters of the `struct` module for GGUF's numbers of types.
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9
# Far above what models have: a damaged count must not fill the memory, however large the file is.
_MOST_ITEMS, _MOST_TEXT, _MOST_ENTRIES = 1 << 21, 1 << 24, 1 << 16

_Info = tuple[int, tuple[int, ...], int]
"""Number of the type, shape, and offset in the data, of a tensor."""
Value = int | float | bool | str | list[int] | list[float] | list[bool] | list[bytes]


def gguf_package() -> Any:
    """Import the `gguf` package. Raises MissingDependencyError."""
    try:
        import gguf
    except ImportError:
        raise MissingDependencyError(f"GGUF files need the package gguf: {install_command('cpu')}") from None
    return gguf


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor: shape as in PyTorch (slowest axis first), `offset` from the start of its file, `raw`."""

    raw: RawFile
    type_name: str
    shape: tuple[int, ...]
    offset: int
    row_bytes: int

    @property
    def bytes(self) -> int:
        """Size of the data."""
        return math.prod(self.shape[:-1]) * self.row_bytes


class GgufFile(Closing):
    """Metadata and tensor table of a model in one GGUF file, or in several parts; version 2 or 3, little-endian.

    Attributes:
        path: the file, the first one of several.
        parts: the open files.
        metadata: values by key, those of the first file. Strings inside of arrays stay bytes (UTF-8), because most
            callers need none.
        tensors: by GGUF's names.
    """

    def __init__(self, path: Path) -> None:
        """Read the headers; `path` may be any of several parts.

        Raises:
            CheckpointError: a file is damaged, a part is missing, or parts do not belong together.
            MissingDependencyError: there is no `gguf` package.
        """
        self._gguf = gguf_package()
        self._kinds = {int(kind): (kind, *sizes) for kind, sizes in self._gguf.GGML_QUANT_SIZES.items()}
        self._readable: dict[str, bool] = {}
        names = gguf_parts(path.name)
        self.path = path.with_name(names[0])
        self.parts: list[RawFile] = []
        self.tensors: dict[str, GgufTensor] = {}
        self.metadata = self._open(self.path, 0, names)
        for number, name in enumerate(names[1:], 1):
            self._open(path.with_name(name), number, names)
        stated = self.metadata.get("split.tensors.count")
        if len(names) > 1 and stated != len(self.tensors):
            raise CheckpointError(
                f"{self.path}: its {len(names)} parts have {len(self.tensors):,} tensors where "
                f"{str(stated)[:20]} are stated, so they are of different models: download all of one"
            )

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(part.size for part in self.parts)

    def close(self) -> None:
        """Close the files. May be called twice."""
        for part in self.parts:
            part.close()

    def _open(self, path: Path, number: int, names: list[str]) -> dict[str, Value]:
        """Read the header of part `number` of those called `names`: take in its tensors, return its metadata."""
        if len(names) > 1 and not path.exists():
            raise CheckpointError(
                f"{path} is missing, one of {len(names)} parts of a model: download it into the same folder"
            )
        raw = RawFile(path)
        self.parts.append(raw)
        try:
            if raw.size < 24:
                raise CheckpointError(
                    f"{path} is not a GGUF file: it has only {raw.size:,} bytes; download it again"
                )
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                header = _Cursor(view, path)
                metadata, infos = _read_header(header)
                alignment = metadata.get("general.alignment", 32)
                if type(alignment) is not int or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
                    raise CheckpointError(
                        f"{path}: general.alignment = {str(alignment)[:40]} is not a power of two"
                    )
                start = -(-header.position // alignment) * alignment
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
        _require_part(path, metadata, number, len(names))
        placed = self._place(raw, infos, start, alignment)
        if twice := placed.keys() & self.tensors.keys():
            raise CheckpointError(
                f"{path} has tensor {min(twice)}, as another part has: they are of different models, or one of them "
                "was renamed"
            )
        self.tensors |= placed
        return metadata

    def strings(self, key: str) -> list[str] | None:
        """Return an array of strings, or None if there is none. Raises CheckpointError for another type."""
        values = self.metadata.get(key)
        if values is None or values == []:
            return None
        if not isinstance(values, list) or not isinstance(values[0], bytes):
            raise CheckpointError(f"{self.path}: {key} is not a list of strings")
        try:
            return [value.decode() for value in values if isinstance(value, bytes)]
        except UnicodeDecodeError:
            raise CheckpointError(f"{self.path}: {key} holds text that is not UTF-8") from None

    def _place(
        self, raw: RawFile, infos: dict[str, _Info], start: int, alignment: int
    ) -> dict[str, GgufTensor]:
        tensors: dict[str, GgufTensor] = {}
        for name, (number, shape, offset) in infos.items():
            kind, block, block_bytes = self._kinds.get(number, (None, 1, 1))
            if kind is None or not self._can_read(kind, block_bytes):
                raise CheckpointError(
                    f"{raw.path}: tensor {name} has type {kind.name if kind else f'number {number}'}, which the "
                    "package gguf cannot dequantise: use the file of another quantisation, or a newer gguf"
                )
            if shape[-1] % block:
                raise CheckpointError(
                    f"{raw.path}: tensor {name} has rows of {shape[-1]:,} values, which "
                    f"{kind.name} cannot hold in blocks of {block}"
                )
            if offset % alignment:
                raise CheckpointError(f"{raw.path}: the offset of tensor {name} is not aligned")
            row_bytes = shape[-1] // block * block_bytes
            tensors[name] = GgufTensor(raw, kind.name, shape, start + offset, row_bytes)
        position = start
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
            if tensor.offset < position:
                raise CheckpointError(f"{raw.path}: the bytes of tensor {name} overlap others")
            position = tensor.offset + tensor.bytes
        if position > raw.size:
            raise CheckpointError(
                f"{raw.path} is truncated: it has {raw.size:,} bytes where its header names "
                f"{position:,}; download it again"
            )
        return tensors

    def _can_read(self, kind: Any, block_bytes: int) -> bool:
        """Whether the package dequantises a type; it has no list of those, so that one block is tried."""
        if kind.name not in self._readable:
            try:
                with np.errstate(all="ignore"):
                    self._gguf.quants.dequantize(np.zeros((1, block_bytes), np.uint8), kind)
            except NotImplementedError:
                self._readable[kind.name] = False
            else:
                self._readable[kind.name] = True
        return self._readable[kind.name]


def _require_part(path: Path, metadata: Mapping[str, Value], number: int, count: int) -> None:
    """Raise CheckpointError unless a file's metadata say that it is that part, counted from 0, of so many."""
    found, parts = metadata.get("split.no", 0), metadata.get("split.count", 1) or 1
    if parts != count:
        raise CheckpointError(
            f"{path} is one of {str(parts)[:20]} parts of a model by its metadata, but not by its name: call the "
            f"parts as they were published, NAME-00001-of-{str(parts)[:20]:0>5}.gguf and so on"
        )
    if count > 1 and found != number:
        raise CheckpointError(
            f"{path} is part {found + 1 if isinstance(found, int) else str(found)[:20]} by its metadata, but not by "
            "its name: give the parts their published names back, or download them again"
        )


class _Cursor:
    """Reads forward through a buffer; every number is checked against what is left of it."""

    def __init__(self, view: mmap.mmap, path: Path) -> None:
        self._view = view
        self.path = path
        self.position = 0

    def error(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is damaged: {what}; download it again")

    def take(self, layout: str) -> Any:
        """Read one little-endian value in `struct`'s notation."""
        try:
            (value,) = struct.unpack_from(f"<{layout}", self._view, self.position)
        except struct.error:
            raise self.error("it ends inside of its header") from None
        self.position += struct.calcsize(f"<{layout}")
        return value

    def count(self, what: str, item_bytes: int, most: int) -> int:
        """Read a number of items that need at least `item_bytes` each."""
        value: int = self.take("Q")
        if value > most:
            raise self.error(f"it names {value:,} {what}, at most {most:,} are possible")
        if value * item_bytes > len(self._view) - self.position:
            raise self.error(f"it is too short for the {value:,} {what} that it names")
        return value

    def raw_string(self) -> bytes:
        length = self.count("bytes of text", 1, _MOST_TEXT)
        self.position += length
        return self._view[self.position - length : self.position]

    def text(self) -> str:
        try:
            return self.raw_string().decode()
        except UnicodeDecodeError:
            raise self.error("a name or text is not UTF-8") from None

    def value(self, kind: int) -> Value:
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            number: int | float | bool = self.take(self._layout(kind))
            return number
        item_kind: int = self.take("I")
        if item_kind == _STRING:
            return [self.raw_string() for _ in range(self.count("strings", 8, _MOST_ITEMS))]
        layout = self._layout(item_kind)
        size = struct.calcsize(f"<{layout}")
        count = self.count("numbers", size, _MOST_ITEMS)
        values = struct.unpack_from(f"<{count}{layout}", self._view, self.position)
        self.position += count * size
        return list(values)

    def _layout(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise self.error(f"a value has the unknown type {kind}")
        return _SCALARS[kind]


def _read_header(header: _Cursor) -> tuple[dict[str, Value], dict[str, _Info]]:
    magic = header.take("4s")
    if magic != _MAGIC:
        raise CheckpointError(
            f"{header.path} is not a GGUF file: it does not begin with GGUF; download it again"
        )
    version = header.take("I")
    if version not in _VERSIONS:
        raise header.error(f"its GGUF version is {version}, but only 2 and 3 (little-endian) are supported")
    tensor_count = header.count("tensors", 24, _MOST_ENTRIES)
    value_count = header.count("values", 13, _MOST_ENTRIES)
    metadata: dict[str, Value] = {}
    for _ in range(value_count):
        key = header.text()
        if key in metadata:
            raise header.error(f"it has the key {key[:80]!r} twice")
        metadata[key] = header.value(header.take("I"))
    infos: dict[str, _Info] = {}
    for _ in range(tensor_count):
        name = header.text()
        if name in infos:
            raise header.error(f"it has tensor {name[:80]!r} twice")
        dimensions = header.take("I")
        if not 1 <= dimensions <= 4:
            raise header.error(f"tensor {name[:80]!r} has {dimensions:,} dimensions")
        # GGUF counts from the fastest axis.
        shape = tuple(header.take("Q") for _ in range(dimensions))[::-1]
        if 0 in shape or math.prod(shape) >= 1 << 50:
            raise header.error(f"tensor {name[:80]!r} has the shape {list(shape)}")
        infos[name] = (header.take("I"), shape, header.take("Q"))
    return metadata, infos
