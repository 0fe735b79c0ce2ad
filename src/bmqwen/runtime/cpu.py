"""The CPU: a step graph in ONNX Runtime, with the KV cache in memory of our own."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.artifact.bundle import Bundle
from bmqwen.errors import BundleError, DeviceError, FeedInterruptedError, InputError, MissingDependencyError
from bmqwen.runtime.base import (
    Feed,
    HostOutput,
    Output,
    SavedCache,
    check_saved,
    check_step,
    check_truncate,
    chosen_context,
)
from bmqwen.runtime.huge_pages import heap_of_huge_pages, use_huge_pages
from bmqwen.util.installation import install_command
from bmqwen.util.text import counted, first_line

# Tokens fed at once. Long enough that the products are efficient, short enough that Ctrl-C takes effect at once.
CHUNK = 256
# Kernels compute rows in groups of two or four, and a row that is left over with other rounding. Products work through
# blocks of 128 rows, attention through blocks of twice the head's size, and a row alone in a block is another kernel's.
# (ONNX Runtime 1.32, found by comparing bits.)
GROUP, BLOCK = 4, 128
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
    """Runs an ONNX bundle (dialect "onnxruntime") on the CPU: a `bmqwen.runtime.base.Runtime` of one sequence.

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
        if threads is not None and not 1 <= threads <= 256:
            raise InputError(f"threads must be between 1 and 256, not {threads}")
        self._config = bundle.config
        self.vocab_size = self._config.vocab_size
        self.context_length = chosen_context(
            context_length, self._config.max_position_embeddings, "the model's"
        )
        self.sequences = 1
        self._blocks = BLOCK, 2 * self._config.head_dim
        threads = threads or len(os.sched_getaffinity(0))
        self.name = f"CPU, ONNX Runtime {ort.__version__}, {counted(threads, 'thread')}"
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        path = bundle.path("model.onnx")
        try:
            # Each token reads all weights: about 10 % faster from large pages.
            with heap_of_huge_pages(bundle.total_bytes):
                self._session: Any = ort.InferenceSession(
                    str(path), options, providers=["CPUExecutionProvider"]
                )
            use_huge_pages()
        except Exception as error:
            raise BundleError(
                f"ONNX Runtime {ort.__version__} cannot load {path}: {first_line(error, 500)}"
            ) from error
        self._run_options: Any = ort.RunOptions()
        # The package asks for this entry before each run, and finding none takes it a tenth of a millisecond.
        self._run_options.add_run_config_entry("gpu_graph_id", "0")
        # Kept because rows are read in groups, also those that begin or end in the middle of one.
        self._tokens: list[list[int]] = [[]]
        self._inputs: dict[str, NDArray[Any]] = {}
        self._binding: Any = self._session.io_binding()
        empty = np.empty((1, self._config.num_key_value_heads, 0, self._config.head_dim), np.float32)
        self._cache = [empty] * (2 * self._config.num_hidden_layers)
        self._grow(FIRST_ROWS)

    def position(self, sequence: int) -> int:
        return len(self._tokens[sequence])

    def piece(self, sequence: int, count: int, most: int | None = None) -> int:
        """As many as end a group, at most CHUNK with those of an incomplete group before; the rest is no row alone."""
        before = self.position(sequence) - self._group_start(sequence, count)
        left = before + count
        size = min(CHUNK if most is None else max(2 * GROUP, min(CHUNK, most) // GROUP * GROUP), left)
        if left > 1 and any(left % block == 1 for block in self._blocks):
            size = min(size, left - 1) - GROUP
        return size - before

    def step(self, feeds: Sequence[Feed]) -> list[Output]:
        """Append tokens, those of each sequence in a run of the graph.

        Every row of a prompt is computed by the kernels for many rows, at its place in a group: cached tokens of an
        incomplete group are read again. So the logits after a prompt are the same to the bit, however much of it was
        read before. Rows of an answer, computed one at a time, stay as they are.
        """
        check_step(self, feeds)
        return [self._run(feed) for feed in feeds]

    def _group_start(self, sequence: int, count: int) -> int:
        """The position from which on rows are computed when `count` tokens of a prompt are fed."""
        position = self.position(sequence)
        start = position - position % GROUP
        return start - GROUP if start and position + count == start + 1 else start

    def _run(self, feed: Feed) -> HostOutput:
        if self._session is None:
            raise DeviceError("the CPU engine was closed")
        known, tokens = self._tokens[feed.sequence], feed.tokens
        position = self._group_start(feed.sequence, len(tokens)) if feed.prompt else len(known)
        ids = np.asarray([*known[position:], *tokens], np.int64).reshape(1, -1)
        count = ids.shape[1]
        total = position + count
        self._grow(total)
        rows = len(tokens) if feed.every_row else 1
        logits = np.empty((1, rows, self.vocab_size), np.float32)
        binding = self._binding
        # Bound memory is not copied: the arrays must outlive the run.
        self._inputs = {
            "input_ids": ids,
            "logits_from": np.array([count - rows], np.int64),
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
            raise DeviceError(f"ONNX Runtime failed: {first_line(error, 500)}") from error
        known.extend(tokens)
        return HostOutput(logits[0])

    def truncate(self, sequence: int, position: int) -> None:
        check_truncate(self, sequence, position)
        del self._tokens[sequence][position:]

    def save(self, sequence: int) -> SavedCache:
        """Copy the rows in use: float32 [2 * layers, kv_heads, position, head_dim]."""
        position = self.position(sequence)
        rows = np.empty(self._saved_shape(position), np.float32)
        for part, buffer in zip(rows, self._cache, strict=True):
            part[:] = buffer[0, :, :position]
        return SavedCache(position, rows, tuple(self._tokens[sequence]))

    def restore(self, sequence: int, saved: SavedCache, position: int) -> None:
        check_saved(saved, position, self._saved_shape(saved.position))
        self._tokens[sequence].clear()
        self._grow(position)
        for part, buffer in zip(saved.rows, self._cache, strict=True):
            buffer[0, :, :position] = part[:, :position]
        self._tokens[sequence].extend(saved.tokens[:position])

    def interrupt(self) -> None:
        """End a step between two of the graph's nodes: within about 10 ms."""
        self._run_options.terminate = True

    def close(self) -> None:
        self._session = self._binding = None
        self._cache = []

    def _saved_shape(self, position: int) -> tuple[int, int, int, int]:
        config = self._config
        return 2 * config.num_hidden_layers, config.num_key_value_heads, position, config.head_dim

    def _grow(self, needed: int) -> None:
        """Give the cache `needed` rows or more, keeping what it holds; past and present are the same memory."""
        rows = self._cache[0].shape[2]
        if needed <= rows:
            return
        rows = min(max(needed, 2 * rows), self.context_length)
        shape = (1, self._config.num_key_value_heads, rows, self._config.head_dim)
        kept = self.position(0)
        for index, old in enumerate(self._cache):
            buffer = self._cache[index] = np.zeros(shape, np.float32)
            buffer[:, :, :kept] = old[:, :, :kept]
            name = f"{index // 2}.{('key', 'value')[index % 2]}"
            args = ("cpu", 0, np.float32, shape, buffer.ctypes.data)
            self._binding.bind_input(f"past_key_values.{name}", *args)
            self._binding.bind_output(f"present.{name}", *args)
