"""The CPU: a step graph in ONNX Runtime, with the KV caches in memory of our own."""

import os
import time
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bmqwen.artifact.bundle import BESIDE_FILE, MODEL_FILE, Bundle
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
from bmqwen.runtime.cpu_pace import GROUP, Pace
from bmqwen.runtime.graph_caches import GraphCaches
from bmqwen.runtime.kv_memory import KvMemory
from bmqwen.runtime.recurrent_state import HostState
from bmqwen.util.installation import install_command
from bmqwen.util.text import counted, first_line

# Tokens fed at once. Long enough that the products are efficient, short enough that Ctrl-C takes effect at once.
CHUNK = 256
# Kernels compute rows in groups of two or GROUP, and a row that is left over with other rounding. Products work through
# blocks of 128 rows, attention through blocks of twice the head's size, and a row alone in a block is another kernel's.
# (ONNX Runtime 1.32, found by comparing bits.)
BLOCK = 128
# The last tokens of a prompt, read by themselves where there is a recurrent state: a copy of it from before them serves
# the same prompt with another end, such as the next turn's, which has this answer without its thoughts.
TAIL = 8
# Of steps of so many rows of a sequence, after 256 tokens: the demo model on two threads, with AVX-512. (With AVX2
# several rows cost less: 1.84 for 4, 3.2 for 8.)
ROW_COSTS = {1: 1.0, 2: 1.25, 3: 1.8, 4: 2.15, 6: 3.0, 8: 3.8, 12: 5.45, 16: 7.1}
# Most rows that a kernel computes together: beyond the sequences so many places are there, for rows that nobody wants.
GROUPS = (1, 2, 4)
MOST_SEQUENCES = 64
# Rows of so many texts are compared to find it: a few may be alike by chance.
GROUP_TEXTS = 4
SPARE = 2 * GROUPS[-1]


def onnxruntime_package() -> Any:
    """The package. Raises MissingDependencyError."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(f"the CPU engine needs onnxruntime: {install_command('cpu')}") from error
    return onnxruntime


class _Piece(NamedTuple):
    """A piece of a prompt: where its cache is, its tokens, and how many there are with those before."""

    place: int
    ids: Sequence[int]
    total: int


class CpuRuntime:
    """Runs an ONNX bundle (dialect "onnxruntime") on the CPU: a `bmqwen.runtime.base.Runtime`.

    Answers of several sequences are computed together, a row each, with a piece of a prompt beside them: so weights are
    read once. One row goes through other kernels than two, which round differently: the digits of an answer depend a
    little on how many are computed together, unless `reproducible` says otherwise.

    Args:
        bundle: the bundle.
        threads: threads to compute with; None: one for each core that this process may use.
        context_length: most tokens of each sequence; None: what the model was trained for.
        sequences: how many; a bundle made by an older version has one.
        reproducible: compute an answer's rows in whole groups of the kernels, filled up with rows that nobody wants:
            no bit depends on the other sequences then. One sequence alone takes a fifth longer, or more.

    Raises:
        BundleError: the graph cannot be loaded.
        InputError: a number out of range.
        DeviceError: no room for the K/V caches.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        context_length: int | None = None,
        sequences: int = 1,
        reproducible: bool = False,
    ) -> None:
        ort = onnxruntime_package()
        if bundle.kind != "onnx" or bundle.details.get("dialect") != "onnxruntime":
            raise BundleError(
                f"{bundle.folder} is a plain export for other tools: export it without --plain to run it"
            )
        if threads is not None and not 1 <= threads <= 256:
            raise InputError(f"threads must be between 1 and 256, not {threads}")
        if not 1 <= sequences <= MOST_SEQUENCES:
            raise InputError(f"sequences must be between 1 and {MOST_SEQUENCES}, not {sequences}")
        self._config = bundle.config
        self.vocab_size = self._config.vocab_size
        self.context_length = chosen_context(
            context_length, self._config.max_position_embeddings, "the model's"
        )
        self._blocks = BLOCK, 2 * self._config.head_dim
        threads = threads or len(os.sched_getaffinity(0))
        self.name = f"CPU, ONNX Runtime {ort.__version__}, {counted(threads, 'thread')}"
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        # Deciding in each layer what rows there are takes up to 2 % of a step. Older bundles have no such graph.
        self._joins = sequences > 1 and BESIDE_FILE in bundle.files
        path = bundle.path(BESIDE_FILE if self._joins else MODEL_FILE)
        try:
            self._session: Any = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise BundleError(
                f"ONNX Runtime {ort.__version__} cannot load {path}: {first_line(error, 500)}"
            ) from error
        self._run_options: Any = ort.RunOptions()
        # The package asks for this entry before each run, and finding none takes it a tenth of a millisecond.
        self._run_options.add_run_config_entry("gpu_graph_id", "0")
        # Bundles made before have graphs of one sequence.
        batched = not isinstance(self._session.get_inputs()[0].shape[0], int)
        self.sequences = sequences if batched else 1
        self._states = (
            [HostState(self._config) for _ in range(self.sequences)] if self._config.state_layers else []
        )
        places = self.sequences + (SPARE if batched and reproducible and not self._states else 0)
        # Attention computes several rows of a sequence in another order than one, even in whole groups.
        self.rounds_by_rows = True
        self._kv = KvMemory(self._config, places, self.context_length)
        # Of spare places too, which stay empty. Kept because a prompt is read in groups, even if it begins or ends in
        # the middle of one.
        self._tokens: list[list[int]] = [[] for _ in range(places)]
        # Where each sequence's rows are: those that are computed together must lie side by side.
        self._places = list(range(places))
        self._inputs: dict[str, NDArray[Any]] = {}
        self._pace = Pace()
        self._caches = GraphCaches(self._session, self._config, self._kv, pieces=self._joins)
        self._group = self._find_group() if places > self.sequences else 1

    def position(self, sequence: int) -> int:
        return len(self._tokens[sequence])

    def piece(self, sequence: int, count: int, beside: int = 0, waiting: int = 1) -> int:
        """As many as end a group, at most CHUNK with those of an incomplete group before; the rest is no row alone."""
        if self._states:
            size = min(CHUNK, max(GROUP, beside) if beside else CHUNK, count)
            return count - TAIL if size > count - TAIL > 0 else size
        before = self.position(sequence) - self._group_start(sequence, count)
        left = before + count
        size = min(CHUNK, left)
        if beside:
            size = min(size, self._pace.rows_beside(left, beside, waiting, joined=self._joins))
        # The last row is read with a group before it, but not alone in a block.
        if left - size <= 1 and size > GROUP + 1 and any(left % block == 1 for block in self._blocks):
            size = min(size, left - 1) - GROUP
        return size - before

    def row_costs(self, sequence: int, beside: int = 0) -> Mapping[int, float]:
        """As measured. Beside other answers, whose rows share a run, several rows of one never pay, nor where a draft
        that was wrong has a recurrent state go back to a copy.
        """
        del sequence
        return {1: 1.0} if beside or self._states else ROW_COSTS

    def reads_apart(self, sequence: int, count: int, beside: int) -> bool:
        """Never: one run of the graph is the least work."""
        del sequence, count, beside
        return False

    def steps_at_once(self, answers: int, *, reading: bool = False) -> int:
        """One: a step is computed when it is called."""
        del answers, reading
        return 1

    def step(self, feeds: Sequence[Feed]) -> list[Output]:
        """Append tokens: the rows of all answers in a run of the graph, with a piece of a prompt that goes on, if there
        is one; each other prompt in a run of its own.

        Every row of a prompt is computed by the kernels for many rows, at its place in a group: cached tokens of an
        incomplete group are read again. So the logits after a prompt are the same to the bit, however much of it was
        read before. Rows of an answer, computed one at a time, stay as they are. A recurrent state only goes forward:
        there logits depend on the pieces that were read, by rounding, and each sequence has a run of its own.
        """
        check_step(self, feeds)
        if self._session is None:
            raise DeviceError("the CPU engine was closed")
        self._run_options.terminate = False
        rows: dict[int, NDArray[np.float32]] = {}
        single = [feed for feed in feeds if len(feed.tokens) == 1 and not feed.prompt and not self._states]
        if single:
            piece = next((feed for feed in feeds if self._may_join(feed)), None)
            rows |= self._decode({feed.sequence: feed.tokens[0] for feed in single}, piece)
        for feed in feeds:
            if feed.sequence not in rows:
                rows[feed.sequence] = self._go_on(feed) if self._states else self._feed(feed)
        for feed in feeds:
            self._tokens[feed.sequence].extend(feed.tokens)
        return [HostOutput(rows[feed.sequence]) for feed in feeds]

    def _group_start(self, sequence: int, count: int) -> int:
        """The position from which on rows are computed when `count` tokens of a prompt are fed."""
        position = self.position(sequence)
        start = position - position % GROUP
        return start - GROUP if start and position + count == start + 1 else start

    def _may_join(self, feed: Feed) -> bool:
        """Whether a piece of a prompt is whole groups, which are computed alike with any rows behind them."""
        end = self.position(feed.sequence) + len(feed.tokens)
        return self._joins and feed.prompt and not _results(feed) and end % GROUP == 0

    def _feed(self, feed: Feed) -> NDArray[np.float32]:
        """Compute tokens of one sequence; logits [rows wanted, vocab]."""
        known, count = self._tokens[feed.sequence], len(feed.tokens)
        position = self._group_start(feed.sequence, count) if feed.prompt else len(known)
        ids = [*known[position:], *feed.tokens]
        # Rows alone in a group are rounded otherwise; what is read of a prompt ends with its own.
        fill = 0 if feed.prompt else min(-len(ids) % self._group, self.context_length - position - len(ids))
        rows = _results(feed)
        place = self._places[feed.sequence]
        total = position + len(ids) + fill
        logits = self._run(place, [ids + [0] * fill], [total], rows + fill)
        return logits[0, :rows]

    def _go_on(self, feed: Feed) -> NDArray[np.float32]:
        """Compute tokens of one sequence from where its recurrent state is; logits [rows wanted, vocab]."""
        known, state = self._tokens[feed.sequence], self._states[feed.sequence]
        ids, rows = [*known, *feed.tokens], _results(feed)
        place = self._places[feed.sequence]
        state.go_back(len(known))  # of a step that failed for another sequence
        # Cached tokens that only a later state has seen, which is gone, are read again.
        while len(known) - state.position > CHUNK:
            end = state.position + CHUNK
            self._run(place, [ids[end - CHUNK : end]], [end], 0, state)
            state.advance(end)
        logits = self._run(place, [ids[state.position :]], [len(ids)], rows, state)
        state.advance(len(ids))
        if feed.prompt:
            state.keep(CHUNK)
        answer: NDArray[np.float32] = logits[0]
        return answer

    def _decode(self, tokens: Mapping[int, int], piece: Feed | None) -> dict[int, NDArray[np.float32]]:
        """Compute a token of each sequence, and a piece of a prompt if possible; logits [1, vocab] of each, and [0,
        vocab] of the piece if it was.
        """
        width = -(-len(tokens) // self._group) * self._group
        start = self._side_by_side(list(tokens), width, None if piece is None else piece.sequence)
        at = {place: sequence for sequence, place in enumerate(self._places)}
        row_of = [at[place] for place in range(start, start + width)]
        # A row that nobody wants is written behind what its sequence has, or in its last row, which is then put back.
        totals = [min(self.position(sequence) + 1, self.context_length) for sequence in row_of]
        full = [
            place
            for place, sequence in enumerate(row_of, start)
            if sequence not in tokens and self.position(sequence) == self.context_length
        ]
        last = self._kv.rows[:, full, :, -1].copy()
        found, beside = {}, None
        if piece is not None and piece.sequence not in row_of:
            begin = self._group_start(piece.sequence, len(piece.tokens))
            prompt = [*self._tokens[piece.sequence][begin:], *piece.tokens]
            beside = _Piece(self._places[piece.sequence], prompt, begin + len(prompt))
            found[piece.sequence] = np.empty((0, self._config.width), np.float32)
        try:
            logits = self._run(
                start, [[tokens.get(sequence, 0)] for sequence in row_of], totals, 1, piece=beside
            )
        finally:
            self._kv.rows[:, full, :, -1] = last
        return found | {s: row for s, row in zip(row_of, logits, strict=True) if s in tokens}

    def _side_by_side(self, sequences: Sequence[int], width: int, reading: int | None) -> int:
        """Give sequences places side by side; returns the first of them. Others may lie behind, `width` in all, the one
        that is `reading` a prompt only where it cannot be helped.
        """
        places = {sequence: self._places[sequence] for sequence in sequences}

        def moved(start: int) -> int:
            """Tokens that are copied to have the places from `start` on."""
            inside = range(start, start + len(places))
            away = sum(self.position(s) for s, place in places.items() if place not in inside)
            return away + sum(
                self.position(s)
                for s, place in enumerate(self._places)
                if place in inside and s not in places
            )

        reader = None if reading is None else self._places[reading]
        starts = range(len(self._places) - width + 1)
        start = min(starts, key=lambda start: (reader in range(start, start + width), moved(start)))
        inside = range(start, start + len(places))
        outside = [sequence for sequence, place in places.items() if place not in inside]
        others = [s for s, place in enumerate(self._places) if place in inside and s not in places]
        for one, other in zip(outside, others, strict=True):
            here, there = self._places[one], self._places[other]
            self._kv.swap(here, self.position(one), there, self.position(other))
            self._places[one], self._places[other] = there, here
        return start

    def _run(
        self,
        place: int,
        ids: Sequence[Sequence[int]],
        totals: Sequence[int],
        rows: int,
        state: HostState | None = None,
        piece: _Piece | None = None,
    ) -> NDArray[np.float32]:
        """Compute tokens of the sequences from a place on, up to `totals` tokens each, and a piece of a prompt, which
        has no results; logits [B, rows, vocab].
        """
        batch, count = len(ids), len(ids[0])
        logits = np.empty((batch, rows, self._config.width), np.float32)
        binding = self._caches.binding(place, batch, piece.place if piece else None)
        before, total = (len(piece.ids), piece.total) if piece else (0, 0)
        # Bound memory is not copied: the arrays must outlive the run.
        self._inputs = {
            "logits_from": np.array([before + count - rows], np.int64),
            "seqlens_k": np.array(totals, np.int32) - 1,
            "total_sequence_length": np.array(max(totals), np.int32),
        }
        shape: tuple[int, ...] = logits.shape
        if self._joins:
            # All rows in a line, those of the piece first.
            shape = (1, batch * rows, self._config.width)
            self._inputs |= {
                "input_ids": np.array([[*(piece.ids if piece else ()), *chain(*ids)]], np.int64),
                "has_piece": np.array(piece is not None),
                "row_counts": np.array([before, batch], np.int64),
                "batch_shape": np.array([batch, count, -1], np.int64),
                "piece_seqlens_k": np.array([total - 1], np.int32),
                "piece_total_sequence_length": np.array(total, np.int32),
            }
        else:
            self._inputs["input_ids"] = np.array(ids, np.int64)
        for name, array in self._inputs.items():
            binding.bind_cpu_input(name, array)
        if state is not None:
            state.bind(binding)
        result = "last_hidden_state" if self._config.headless else "logits"
        binding.bind_output(result, "cpu", 0, np.float32, shape, logits.ctypes.data)
        for offset, total in enumerate(totals):
            self._kv.use(place + offset, total)
        if piece:
            self._kv.use(piece.place, piece.total)
        started = time.perf_counter()
        try:
            self._session.run_with_iobinding(binding, self._run_options)
        except Exception as error:
            if self._run_options.terminate:
                raise FeedInterruptedError("reading was interrupted") from error
            raise DeviceError(f"ONNX Runtime failed: {first_line(error, 500)}") from error
        if batch == 1 and rows <= 1 and piece is None:
            self._pace.note(count, time.perf_counter() - started)
        return logits

    def _find_group(self) -> int:
        """How many rows the kernels for many rows compute together, at least; found by comparing bits."""
        first, totals = self.sequences, [1] * SPARE
        texts = [[[7 * i + j + 1] for j in range(SPARE)] for i in range(GROUP_TEXTS)]
        wanted = [self._run(first, ids, totals, 1) for ids in texts]
        for group in GROUPS:
            # The first that differs ends it: a run of a large model takes a while.
            alike = (
                np.array_equal(self._run(first, ids[:count], totals[:count], 1), whole[:count])
                for ids, whole in zip(texts, wanted, strict=True)
                for count in (group, SPARE - group)
            )
            if all(alike):
                return group
        return SPARE

    def truncate(self, sequence: int, position: int) -> None:
        check_truncate(self, sequence, position)
        del self._tokens[sequence][position:]
        self._kv.release(self._places[sequence], position)
        if self._states:
            self._states[sequence].go_back(position)

    def save(self, sequence: int) -> SavedCache:
        """Copy the rows in use: float32 [2 * layers with a KV cache, kv_heads, position, head_dim]."""
        tokens = tuple(self._tokens[sequence])
        states = self._states[sequence].save() if self._states else ()
        return SavedCache(len(tokens), self._kv.copy(self._places[sequence], len(tokens)), tokens, states)

    def restore(self, sequence: int, saved: SavedCache, position: int) -> None:
        config = self._config
        shape = (2 * len(config.kv_layers), config.num_key_value_heads, saved.position, config.head_dim)
        check_saved(saved, position, shape)
        place = self._places[sequence]
        self._kv.write(place, saved.rows[:, :, :position])
        self._kv.release(place, position)
        self._tokens[sequence][:] = saved.tokens[:position]
        if self._states:
            self._states[sequence].load(saved.states, position)

    def interrupt(self) -> None:
        """End a step between two of the graph's nodes: within about 10 ms."""
        self._run_options.terminate = True

    def close(self) -> None:
        self._session = None
        self._caches.close()


def _results(feed: Feed) -> int:
    """Return after how many of its last tokens logits are computed."""
    return len(feed.tokens) if feed.every_row else int(not feed.goes_on)
