"""Writing safetensors files, and grids in them as GPTQ's second layout has them (GPTQModel's "gptq_v2")."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.util.storage import write_file
from bmqwen.weights.weights import Grid

WORD = 32
_TYPES = {"float32": "F32", "float16": "F16", "int32": "I32", "uint16": "BF16"}


def gptq_tensors(plain: str, grid: Grid) -> dict[str, NDArray[Any]]:
    """Return qweight, qzeros, scales and g_idx of a matrix [N, K] by their names, which begin with `plain`.

    Codes are packed along k, zero points along n, the lowest bits first; zero points are stored as they are.
    """
    columns = np.arange(grid.codes.shape[1], dtype=np.int32)
    return {
        f"{plain}.qweight": _packed(grid.codes.T, grid.bits, 0),
        f"{plain}.qzeros": _packed(grid.zeros.T, grid.bits, 1),
        f"{plain}.scales": np.ascontiguousarray(grid.scales.T, np.float16),
        f"{plain}.g_idx": columns // grid.group_size,
    }


def write_safetensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write float32, float16, int32 and, as uint16, bfloat16 tensors. Raises StorageError."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start, parts = 0, []
    for name, values in tensors.items():
        data = np.ascontiguousarray(values).tobytes()
        header[name] = {
            "dtype": _TYPES[values.dtype.name],
            "shape": list(values.shape),
            "data_offsets": [start, start + len(data)],
        }
        start += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    write_file(path, b"".join([len(text).to_bytes(8, "little"), text, *parts]))


def _packed(codes: NDArray[np.uint8], bits: int, axis: int) -> NDArray[np.int32]:
    """Codes of a matrix in 32-bit words along an axis, which is a multiple of a word's codes."""
    per = WORD // bits
    codes = np.moveaxis(codes, axis, -1)
    split = codes.reshape(*codes.shape[:-1], -1, per).astype(np.uint32)
    words = np.zeros(split.shape[:-1], np.uint32)
    for place in range(per):
        words |= split[..., place] << np.uint32(bits * place)
    return np.ascontiguousarray(np.moveaxis(words, -1, axis)).view(np.int32)
