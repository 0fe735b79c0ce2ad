"""Weights in safetensors files, one or several with an index."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import CheckpointError
from bmqwen.util.float16 import from_half
from bmqwen.util.json_file import parse_json_object, read_json_object
from bmqwen.weights.raw_file import RawFile
from bmqwen.weights.weights import require_finite, require_rows

_FLOATS = ("F32", "F16", "BF16")
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "I64": 8, "I8": 1, "U8": 1, "F8_E4M3": 1}
# The format allows 100 MB; a header of 6,000 tensors has about 1 MB.
_MOST_HEADER_BYTES = 32 << 20
# Plain names only, so that an index cannot point out of its folder.
_SHARD_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}\.safetensors")


@dataclass(frozen=True, slots=True)
class _Entry:
    """One tensor of a file; `offset` counts from the file's start."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


class SafetensorsWeights:
    """The tensors of one file, or of a folder's shards. Keeps the `Weights` protocol; close it after use.

    Attributes:
        path: the file, or the index.
    """

    stated_precision: str | None = None
    """What the checkpoint calls its mixture of types, for people; None: nothing."""

    def __init__(self, path: Path) -> None:
        """Open `path`: a *.safetensors file or a *.safetensors.index.json.

        Raises:
            CheckpointError: a file is missing, truncated, contradicts itself or the index, or holds a
                type that no supported form has.
        """
        self.path = path
        self._tensors: dict[str, tuple[RawFile, _Entry]] = {}
        self._files: list[RawFile] = []
        if path.name.endswith(".json"):
            self._open_shards(path)
        else:
            self._tensors = self._open(path)

    def names(self) -> frozenset[str]:
        return frozenset(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._find(name)[1].shape

    def dtype(self, name: str) -> str:
        """Return the file's name of the type: "BF16". Raises CheckpointError for an unknown name."""
        return self._find(name)[1].dtype

    def read(self, name: str) -> NDArray[np.float32]:
        shape = self.shape(name)
        return self._read(name, 0, math.prod(shape)).reshape(shape)

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        columns = require_rows(name, self.shape(name), start, stop)
        return self._read(name, start * columns, stop * columns).reshape(stop - start, columns)

    def read_words(self, name: str) -> NDArray[np.uint32]:
        """Read a tensor of packed 32-bit words, or of indices. Raises CheckpointError for one of another type."""
        file, entry = self._find(name)
        if entry.dtype != "I32":
            raise CheckpointError(f"{file.path}: tensor {name} has type {entry.dtype} where I32 is expected")
        raw = file.read(entry.offset, 4 * math.prod(entry.shape))
        return raw.view("<u4").astype(np.uint32, copy=False).reshape(entry.shape)

    def read_bytes(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Read rows [start, stop) of a tensor of single bytes: uint8 [stop - start, columns].

        Raises CheckpointError for a tensor that has no such rows.
        """
        file, entry = self._find(name)
        columns = require_rows(name, entry.shape, start, stop)
        if _ITEM_BYTES[entry.dtype] != 1:
            raise CheckpointError(
                f"{file.path}: tensor {name} has type {entry.dtype} where bytes are expected"
            )
        raw = file.read(entry.offset + start * columns, (stop - start) * columns)
        return raw.reshape(stop - start, columns)

    def read_integers(self, name: str) -> NDArray[np.int64]:
        """Read a tensor of whole numbers. Raises CheckpointError for one of another type."""
        file, entry = self._find(name)
        types = {"I64": "<i8", "I32": "<i4", "I8": "i1", "U8": "u1"}
        if entry.dtype not in types:
            raise CheckpointError(
                f"{file.path}: tensor {name} has type {entry.dtype} where whole numbers are expected"
            )
        raw = file.read(entry.offset, _ITEM_BYTES[entry.dtype] * math.prod(entry.shape))
        return raw.view(types[entry.dtype]).astype(np.int64).reshape(entry.shape)

    @property
    def bytes_on_disk(self) -> int:
        """Size of all files of weights."""
        return sum(file.size for file in self._files)

    def close(self) -> None:
        """Close all files. May be called twice."""
        for file in self._files:
            file.close()

    def _find(self, name: str) -> tuple[RawFile, _Entry]:
        try:
            return self._tensors[name]
        except KeyError:
            raise CheckpointError(f"{self.path} has no tensor {name}") from None

    def _read(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        file, entry = self._find(name)
        if entry.dtype not in _FLOATS:
            raise CheckpointError(
                f"{file.path}: tensor {name} has type {entry.dtype} where weights of {', '.join(_FLOATS)} are expected"
            )
        width = _ITEM_BYTES[entry.dtype]
        raw = file.read(entry.offset + start * width, (stop - start) * width)
        with np.errstate(invalid="ignore"):
            values = raw.view("<f4") if width == 4 else from_half(raw.view("<u2"), entry.dtype.lower())
        return require_finite(values, name, file.path)

    def _open(self, path: Path) -> dict[str, tuple[RawFile, _Entry]]:
        file = RawFile(path)
        length = int.from_bytes(file.read(0, 8).tobytes(), "little")
        if length > min(_MOST_HEADER_BYTES, file.size - 8):
            raise CheckpointError(
                f"{path} is truncated or not a safetensors file: its header would have {length:,} bytes of "
                f"the file's {file.size:,}"
            )
        header = file.read(8, length).tobytes()
        self._files.append(file)
        return {name: (file, entry) for name, entry in _entries(header, 8 + length, file).items()}

    def _open_shards(self, index: Path) -> None:
        weight_map = read_json_object(index, CheckpointError, _MOST_HEADER_BYTES).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{index} has no weight_map that names the tensors' files")
        opened: dict[str, dict[str, tuple[RawFile, _Entry]]] = {}
        for name, file_name in weight_map.items():
            if not isinstance(file_name, str) or not _SHARD_NAME.fullmatch(file_name):
                raise CheckpointError(
                    f"{index} places {name} in {str(file_name)[:80]!r}, which is not a safetensors file"
                )
            if file_name not in opened:
                if not (index.parent / file_name).exists():
                    raise CheckpointError(f"{index} names {file_name}, which is missing; download it again")
                opened[file_name] = self._open(index.parent / file_name)
            if name not in opened[file_name]:
                raise CheckpointError(f"{index} places {name} in {file_name}, which has no such tensor")
            self._tensors[name] = opened[file_name][name]


def _entries(header: bytes, data_start: int, file: RawFile) -> dict[str, _Entry]:
    values = parse_json_object(header, f"the header of {file.path}", CheckpointError)
    values.pop("__metadata__", None)
    spans: list[tuple[int, int, str]] = []
    entries: dict[str, _Entry] = {}
    for name, value in values.items():
        begin, end, dtype, shape = _fields(name, value, file.path)
        if end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
            raise CheckpointError(
                f"{file.path}: tensor {name} of shape {list(shape)} and type {dtype} cannot have "
                f"{end - begin:,} bytes"
            )
        spans.append((begin, end, name))
        entries[name] = _Entry(dtype, shape, data_start + begin)
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            raise CheckpointError(f"{file.path}: the bytes of tensor {name} overlap others or leave a gap")
        position = end
    if data_start + position > file.size:
        raise CheckpointError(
            f"{file.path} is truncated: it has {file.size:,} bytes where its header names "
            f"{data_start + position:,}; download it again"
        )
    if data_start + position < file.size:
        raise CheckpointError(
            f"{file.path} has {file.size - data_start - position:,} bytes that its header does not name"
        )
    return entries


def _fields(name: str, value: object, path: Path) -> tuple[int, int, str, tuple[int, ...]]:
    entry = value if isinstance(value, dict) else {}
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not (_is_sizes(shape) and len(shape) <= 8 and _is_sizes(offsets) and len(offsets) == 2):
        raise CheckpointError(f"{path}: the header's entry of tensor {name[:200]} is damaged")
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise CheckpointError(
            f"{path}: tensor {name} has type {str(dtype)[:20]}; supported are {', '.join(_ITEM_BYTES)}"
        )
    return offsets[0], offsets[1], dtype, tuple(shape)


def _is_sizes(value: object) -> TypeGuard[list[int]]:
    """Whether it is a list of integers that may be sizes or offsets."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)
