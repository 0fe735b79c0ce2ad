"""The embedding table of a compiled model: it stays on the host's disk, and only the rows used are read."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import BundleError


class EmbeddingTable:
    """Rows of a raw file [vocab_size, hidden_size] of 16-bit floats, as bits: F16 and BF16 are not told apart."""

    def __init__(self, path: Path, vocab_size: int, hidden_size: int) -> None:
        """Map the file.

        Raises:
            BundleError: it cannot be read or has another size.
        """
        expected = 2 * vocab_size * hidden_size
        try:
            size = path.stat().st_size
            if size != expected:
                raise BundleError(
                    f"{path} has {size:,} bytes instead of {expected:,}: it is not the table of "
                    f"{vocab_size:,} rows of {hidden_size}"
                )
            table = np.memmap(path, np.uint16, "r", shape=(vocab_size, hidden_size))
            self._table: NDArray[np.uint16] = np.asarray(table)
        except OSError as error:
            raise BundleError(f"cannot read {path}: {error.strerror}") from error

    def rows(self, tokens: Sequence[int]) -> NDArray[np.uint16]:
        """Embeddings of tokens: the bits of their halves [len(tokens), hidden_size]."""
        return self._table[np.asarray(tokens, np.int64)]
