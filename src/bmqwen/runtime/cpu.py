"""The CPU: a step graph in ONNX Runtime, with the KV cache in memory of our own."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.artifact.bundle import Bundle
from bmqwen.errors import BundleError, DeviceError, FeedInterruptedError, InputError, MissingDependencyError
from bmqwen.runtime.base import (
    HostOutput,
    SavedCache,
    check_feed,
    check_saved,
    check_truncate,
    chosen_context,
)
from bmqwen.runtime.huge_pages import use_huge_pages
from bmqwen.util.installation import install_command
from bmqwen.util.text import counted

# Tokens fed at once. Long enough that the products are efficient, short enough that Ctrl-C is felt at once.
CHUNK = 256
# Rows of the KV cache to begin with; doubled when needed, so that short conversations stay small.
FIRST_ROWS = 512


def onnxruntime_package() -> Any:
    """The package. Raises MissingDependencyError."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(f"the CPU engine needs onnxruntime: {install_command('cpu')}") from error
    return onnxruntime


class CpuRuntime:
    """Runs an ONNX bundle (dialect "onnxruntime") on the CPU.

    Args:
        bundle: the bundle.
        threads: threads to compute with; None: one for each core that this process may use.
        context_length: most tokens to keep; None: what the model was trained for.

    Raises:
        BundleError: the graph cannot be loaded.
        InputError: threads or context length out of range.
    """

    def __init__(
        self, bundle: Bundle, *, threads: int | None = None, context_length: int | None = None
    ) -> None:
        ort = onnxruntime_package()
        if bundle.kind != "onnx" or bundle.details.get("dialect") != "onnxruntime":
            raise BundleError(
                f"{bundle.folder} is a plain export for other tools: export it without --plain to run it"
            )
        cores = len(os.sched_getaffinity(0))
        if threads is not None and not 1 <= threads <= 256:
            raise InputError(f"threads must be between 1 and 256, not {threads}")
        self._config = bundle.config
        self._context_length = chosen_context(
            context_length, self._config.max_position_embeddings, "the model's"
        )
        self._threads = threads or cores
        self._ort: Any = ort
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 4
        path = bundle.path("model.onnx")
        try:
            self._session: Any = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise BundleError(
                f"ONNX Runtime {ort.__version__} cannot load {path}: {_first_line(error)}"
            ) from error
        # Each token reads all weights: about 10 % faster from large pages.
        use_huge_pages()
        self._run_options: Any = ort.RunOptions()
        self._position = 0
        self._inputs: dict[str, NDArray[Any]] = {}
        self._binding: Any = self._session.io_binding()
        self._cache: list[NDArray[np.float32]] = []
        self._grow(min(FIRST_ROWS, self._context_length))

    @property
    def name(self) -> str:
        """Engine, version and threads."""
        return f"CPU, ONNX Runtime {self._ort.__version__}, {counted(self._threads, 'thread')}"

    @property
    def vocab_size(self) -> int:
        """Width of a row of logits."""
        return self._config.vocab_size

    @property
    def context_length(self) -> int:
        """Most tokens that the cache can hold."""
        return self._context_length

    @property
    def position(self) -> int:
        """Tokens in the cache."""
        return self._position

    def plan(self, position: int, count: int) -> list[int]:  # noqa: ARG002  (the CPU's pieces don't depend on it)
        """Pieces of CHUNK tokens and a rest."""
        whole, rest = divmod(count, CHUNK)
        return [CHUNK] * whole + ([rest] if rest else [])

    def feed(self, tokens: Sequence[int], *, every_row: bool = False) -> HostOutput:
        """Append tokens and compute the logits after the last one (or after each)."""
        if self._session is None:
            raise DeviceError("the CPU engine was closed")
        check_feed(self, tokens)
        ids = np.asarray(tokens, np.int64).reshape(1, -1)
        count = ids.shape[1]
        total = self._position + count
        rows = self._cache[0].shape[2]
        if total > rows:
            self._grow(min(max(total, 2 * rows), self._context_length))
        logits = np.empty((1, count if every_row else 1, self.vocab_size), np.float32)
        binding = self._binding
        # Bound memory is not copied: the arrays must outlive the run.
        self._inputs = {
            "input_ids": ids,
            "logits_from": np.array([0 if every_row else count - 1], np.int64),
            "seqlens_k": np.array([total - 1], np.int32),
            "total_sequence_length": np.array(total, np.int32),
        }
        for name, array in self._inputs.items():
            binding.bind_cpu_input(name, array)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        options = self._run_options
        options.terminate = False
        try:
            self._session.run_with_iobinding(binding, options)
        except Exception as error:
            if options.terminate:
                raise FeedInterruptedError("reading was interrupted") from error
            raise DeviceError(f"ONNX Runtime failed: {_first_line(error)}") from error
        self._position = total
        return HostOutput(logits[0])

    def truncate(self, position: int) -> None:
        """Forget all tokens from `position` on; their rows are overwritten later."""
        check_truncate(self, position)
        self._position = position

    def save_cache(self) -> SavedCache:
        """Copy the rows in use: float32 [2 * layers, kv_heads, position, head_dim]."""
        rows = np.empty(self._saved_shape(self._position), np.float32)
        for part, buffer in zip(rows, self._cache, strict=True):
            part[:] = buffer[0, :, : self._position]
        return SavedCache(self._position, rows)

    def restore_cache(self, saved: SavedCache, position: int) -> None:
        """Copy rows back."""
        check_saved(saved, position, self._saved_shape(saved.position))
        self._position = 0
        rows = self._cache[0].shape[2]
        if position > rows:
            self._grow(min(max(position, 2 * rows), self._context_length))
        for part, buffer in zip(saved.rows, self._cache, strict=True):
            buffer[0, :, :position] = part[:, :position]
        self._position = position

    def interrupt(self) -> None:
        """End a feed between two of the graph's nodes: within about 10 ms."""
        self._run_options.terminate = True

    def close(self) -> None:
        """Free the session and the cache."""
        self._session = self._binding = None
        self._cache = []

    def _saved_shape(self, position: int) -> tuple[int, int, int, int]:
        config = self._config
        return 2 * config.num_hidden_layers, config.num_key_value_heads, position, config.head_dim

    def _grow(self, rows: int) -> None:
        """Give the cache `rows` rows, keeping what it holds; past and present are the same memory."""
        shape = (1, self._config.num_key_value_heads, rows, self._config.head_dim)
        for index in range(2 * self._config.num_hidden_layers):
            buffer = np.zeros(shape, np.float32)
            if index < len(self._cache):
                buffer[:, :, : self._position] = self._cache[index][:, :, : self._position]
                self._cache[index] = buffer
            else:
                self._cache.append(buffer)
            name = f"{index // 2}.{('key', 'value')[index % 2]}"
            args = ("cpu", 0, np.float32, shape, buffer.ctypes.data)
            self._binding.bind_input(f"past_key_values.{name}", *args)
            self._binding.bind_output(f"present.{name}", *args)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
