"""The peer's 4-bit file: a GGUF file's tensors once more, in llama.cpp's Q4_0."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from bmqwen.errors import InputError
from bmqwen.util.paths import cache_folder
from bmqwen.util.storage import require_free, storage_errors
from bmqwen.weights.checkpoint import Checkpoint, identity
from bmqwen.weights.gguf_file import gguf_package

HEAD = "output.weight"


def q4_0_file(checkpoint: Checkpoint, making: Callable[[], None] = lambda: None) -> Path:
    """The Q4_0 file of a GGUF checkpoint, made on first use (about a minute) and kept in the cache.

    Matrices become Q4_0; the head, where it is a tensor of its own, Q8_0: what `llama-quantize` writes for rows that
    are no multiple of 256 values (else it writes Q6_K, which the `gguf` package cannot). Vectors stay as they are.

    Args:
        checkpoint: an open GGUF file.
        making: is called before the file is made, if it is not there yet.

    Raises:
        InputError: no GGUF file, or one whose rows Q4_0 cannot hold.
        StorageError: no room in the cache.
    """
    if checkpoint.path.suffix != ".gguf":
        raise InputError(
            f"{checkpoint.path} is not a GGUF file, which llama.cpp needs: name one with --model"
        )
    name = f"{checkpoint.path.stem}-q4_0-{identity(checkpoint.path)[:12]}.gguf"
    final = cache_folder("benchmarks") / name
    with storage_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(final.with_name(f".{name}.lock")):
        if not final.exists():
            making()
            require_free(final.parent, checkpoint.bytes_on_disk, "the Q4_0 file")
            part = final.with_name(f".{name}.part")
            try:
                with storage_errors(final):
                    _write(checkpoint.path, part)
                    part.replace(final)
            finally:
                part.unlink(missing_ok=True)
    return final


def _write(source: Path, target: Path) -> None:
    gguf: Any = gguf_package()
    types = gguf.GGMLQuantizationType
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    try:
        for field in reader.fields.values():
            if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.alignment"):
                continue
            if field.name == "general.file_type":
                writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
                continue
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
        for tensor in reader.tensors:
            if len(tensor.shape) == 1:
                writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
                continue
            if tensor.shape[0] % 32:
                raise InputError(
                    f"{source}: Q4_0 needs rows of a multiple of 32 values, but those of {tensor.name} "
                    f"have {tensor.shape[0]}"
                )
            kind = types.Q8_0 if tensor.name == HEAD else types.Q4_0
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            writer.add_tensor(tensor.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
