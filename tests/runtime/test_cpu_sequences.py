"""Several sequences on the CPU runtime: each goes on as if it were alone, and takes memory for what it holds."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from bmqwen.artifact.bundle import BESIDE_FILE, Bundle, write_manifest
from bmqwen.emit.export import export_onnx
from bmqwen.errors import DeviceError, FeedInterruptedError, InputError
from bmqwen.quant.precision import Precision
from bmqwen.runtime.base import Feed, RuntimeSequence
from bmqwen.runtime.cpu import CpuRuntime
from bmqwen.weights.checkpoint import open_checkpoint
from support.checkpoints import tiny_config, write_checkpoint

SEQUENCES = 5


@pytest.fixture(scope="module", name="bundle", params=["int4", "int8"])
def bundle_fixture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """By kernels that compute each row by itself (int4, with AVX-512), and by those that compute two together."""
    folder = tmp_path_factory.mktemp("sequences")
    write_checkpoint(folder / "checkpoint", tiny_config("qwen3", max_position_embeddings=16384), seed=5)
    with open_checkpoint(folder / "checkpoint") as checkpoint:
        return export_onnx(checkpoint, folder / "bundle", Precision(request.param, 32, request.param))


@pytest.fixture(name="runtime")
def runtime_fixture(bundle: Bundle) -> Iterator[CpuRuntime]:
    runtime = CpuRuntime(bundle, threads=1, sequences=SEQUENCES)
    yield runtime
    runtime.close()


def follow(runtime: CpuRuntime, random: Random) -> dict[int, list[NDArray[np.float32]]]:
    """Conversations that begin, pause, go on and are put elsewhere in any order; the logits of each conversation."""
    texts = [np.random.default_rng(seed).integers(0, 300, 40).tolist() for seed in range(9)]
    waiting, done = list(range(9)), dict.fromkeys(range(9), 0)
    found: dict[int, list[NDArray[np.float32]]] = {seed: [] for seed in range(9)}
    at: dict[int, int] = {}
    while waiting or at:
        while waiting and len(at) < runtime.sequences and random.random() < 0.5:
            sequence = random.choice([s for s in range(runtime.sequences) if s not in at])
            runtime.truncate(sequence, 0)
            at[sequence] = waiting.pop(0)
        feeds = []
        for sequence, seed in at.items():
            if random.random() < 0.7:
                # A prompt whose length tells its number, in pieces; then a token at a time.
                start, prompt = done[seed], 5 + 3 * seed
                size = runtime.piece(sequence, prompt - start, 1) if start < prompt else 1
                piece = texts[seed][start : start + size]
                goes_on = start + size < prompt
                feeds.append(Feed(sequence, piece, prompt=start < prompt, goes_on=goes_on))
                done[seed] += size
        for feed, output in zip(feeds, runtime.step(feeds), strict=True):
            seed = at[feed.sequence]
            if done[seed] >= 5 + 3 * seed:
                found[seed].append(output.logits()[-1].copy())
        for sequence, seed in list(at.items()):
            if done[seed] == 40:
                del at[sequence]
            elif random.random() < 0.1:
                free = [s for s in range(runtime.sequences) if s not in at]
                if free:
                    runtime.restore(free[0], runtime.save(sequence), runtime.position(sequence))
                    at[free[0]] = at.pop(sequence)
    return found


@pytest.mark.parametrize("reproducible", [True, False])
def test_every_sequence_goes_on_as_if_it_were_alone(bundle: Bundle, *, reproducible: bool) -> None:
    alone = CpuRuntime(bundle, threads=1, reproducible=reproducible)
    several = CpuRuntime(bundle, threads=1, sequences=SEQUENCES, reproducible=reproducible)
    wanted = follow(alone, Random(0))
    for seed in range(2):
        found = follow(several, Random(seed))
        for number, rows in wanted.items():
            assert len(rows) == len(found[number]) == 40 - (5 + 3 * number) + 1
            for row, other in zip(rows, found[number], strict=True):
                if reproducible:
                    assert np.array_equal(row, other)
                else:
                    # Rounding of activations to int8 makes much of little.
                    assert np.dot(row, other) / np.linalg.norm(row) / np.linalg.norm(other) > 0.995
    for runtime in (alone, several):
        runtime.close()


def test_a_full_sequence_keeps_its_last_row_while_others_fill_a_group(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = CpuRuntime(bundle, threads=1, context_length=8, sequences=2, reproducible=True)
    full, other = RuntimeSequence(runtime, 0), RuntimeSequence(runtime, 1)
    full.feed([1, 2, 3, 4, 5, 6, 7, 8])
    before = full.save().rows
    for token in range(8):
        other.feed([token])
    assert np.array_equal(full.save().rows, before)

    run = runtime._run

    def failing(*args: Any, **kwargs: Any) -> NDArray[np.float32]:
        run(*args, **kwargs)
        raise DeviceError("gone")

    monkeypatch.setattr(runtime, "_run", failing)
    other.truncate(0)
    with pytest.raises(DeviceError):
        other.feed([9])
    assert np.array_equal(full.save().rows, before)
    runtime.close()


def test_a_reader_is_not_computed_as_a_row_that_fills_a_group(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = CpuRuntime(bundle, threads=1, sequences=2, reproducible=True)
    joined, run = [], runtime._run

    def counted(*args: Any, **kwargs: Any) -> NDArray[np.float32]:
        joined.append(kwargs["piece"] is not None)
        return run(*args, **kwargs)

    for answer, reader in ((0, 1), (1, 0)):
        runtime.truncate(reader, 0)
        runtime.truncate(answer, 0)
        runtime.step([Feed(answer, [1, 2, 3])])
        with monkeypatch.context() as patch:
            patch.setattr(runtime, "_run", counted)
            for _ in range(3):
                piece = Feed(reader, [5, 6, 7, 8], prompt=True, goes_on=True)
                runtime.step([Feed(answer, [4]), piece])
    assert joined == [True] * 6
    runtime.close()


def test_memory_is_what_is_cached(runtime: CpuRuntime) -> None:
    def shared() -> int:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssShmem"))

    before = shared()
    row = 4 * 2 * 2 * tiny_config("qwen3").kv_size
    runtime.step([Feed(1, [7] * 4096)])
    runtime.step([Feed(3, [7] * 4)])
    assert 4100 * row <= shared() - before < 5000 * row
    runtime.truncate(1, 64)
    assert shared() - before < 400 * row
    with pytest.raises(InputError, match="no sequence 5"):
        runtime.step([Feed(5, [7])])
    with pytest.raises(InputError, match="once"):
        runtime.step([Feed(1, [7]), Feed(1, [7])])


def test_an_interrupted_step_changes_no_position(
    runtime: CpuRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.step([Feed(0, [1, 2, 3]), Feed(1, [4, 5])])
    run = runtime._run

    def interrupted(place: int, ids: list[list[int]], *args: Any, **kwargs: Any) -> NDArray[np.float32]:
        if len(ids[0]) > 1:
            runtime.interrupt()
        return run(place, ids, *args, **kwargs)

    monkeypatch.setattr(runtime, "_run", interrupted)
    with pytest.raises(FeedInterruptedError):
        runtime.step([Feed(0, [6]), Feed(1, [7]), Feed(2, [8, 9], prompt=True)])
    assert [runtime.position(sequence) for sequence in range(3)] == [3, 2, 0]


def test_a_graph_made_before_has_one_sequence(bundle: Bundle, tmp_path: Path) -> None:
    """As exported before graphs took several: every first dimension is 1."""
    for name in bundle.files.keys() - {BESIDE_FILE}:
        (tmp_path / name).write_bytes(bundle.path(name).read_bytes())
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    for value in (*graph.graph.input, *graph.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == "B":
                dimension.dim_value = 1
    onnx.save(graph, tmp_path / "model.onnx")
    values = {name: getattr(bundle, name) for name in ("kind", "model", "config", "precision", "details")}
    older = CpuRuntime(write_manifest(Bundle(folder=tmp_path, **values)), sequences=8, reproducible=True)
    newer = CpuRuntime(bundle)
    assert (older.sequences, newer.sequences) == (1, 1)
    outputs = [RuntimeSequence(runtime).feed([1, 2, 3]).logits() for runtime in (older, newer)]
    assert np.array_equal(outputs[0], outputs[1])


def test_a_piece_of_a_prompt_is_computed_in_one_run_with_answers(
    bundle: Bundle, runtime: CpuRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    run = runtime._run

    def counted(*args: Any, **kwargs: Any) -> NDArray[np.float32]:
        runs.append(kwargs.get("piece"))
        return run(*args, **kwargs)

    tokens = np.random.default_rng(3).integers(0, 300, 30).tolist()
    runtime.step([Feed(0, tokens[:9]), Feed(3, tokens[:6])])
    alone = RuntimeSequence(CpuRuntime(bundle, threads=1))
    alone.feed(tokens[:9])
    monkeypatch.setattr(runtime, "_run", counted)
    for start in (0, 8, 16):
        feeds = [Feed(0, [tokens[start]]), Feed(3, [tokens[start]])]
        piece = Feed(1, tokens[start : start + 8], prompt=True, goes_on=True)
        first, _, read = runtime.step([*feeds, piece])
        assert read.logits().shape == (0, runtime.vocab_size)
        row, other = first.logits()[-1], alone.feed([tokens[start]]).logits()[-1]
        assert np.dot(row, other) / np.linalg.norm(row) / np.linalg.norm(other) > 0.995
    assert len(runs) == 3
    assert None not in runs
    assert runtime.position(1) == 24
    # The end of a prompt, and what ends in the middle of a group, are runs of their own.
    runtime.step([Feed(0, [5]), Feed(1, tokens[24:27], prompt=True, goes_on=True)])
    end = runtime.step([Feed(0, [5]), Feed(1, tokens[27:], prompt=True)])[1].logits()
    assert runs[3:] == [None] * 4
    (whole,) = runtime.step([Feed(2, tokens, prompt=True)])
    np.testing.assert_array_equal(end, whole.logits())


def test_a_prompt_holds_answers_up_for_two_steps(runtime: CpuRuntime) -> None:
    pieces = [(beside, runtime.piece(0, 800, beside)) for beside in (1, 2, 4, 7, 15, 31)]
    assert pieces == [(1, 4), (2, 4), (4, 8), (7, 12), (15, 20), (31, 40)]
    crowded = [(beside, runtime.piece(0, 800, beside, 8 - beside)) for beside in (1, 3, 6)]
    assert crowded == [(1, 20), (3, 16), (6, 12)]
    # On a processor that computes more while it reads the weights.
    runtime._pace.note(1, 0.01)
    runtime._pace.note(63, 0.01)
    assert [runtime.piece(0, 800, beside) for beside in (1, 7)] == [4, 12]
    runtime._pace.note(100, 0.16)
    runtime._pace.note(200, 1.0)
    assert [runtime.piece(0, 800, beside) for beside in (1, 7)] == [8, 20]
    runtime._pace.note(1, 1e-9)
    assert runtime.piece(0, 800, 1) == 4
    # Whatever its length, each piece has tokens, and the last one is the prompt's end.
    for length in range(1, 300):
        runtime.truncate(0, 0)
        read = 0
        while read < length:
            size = runtime.piece(0, length - read, 1)
            # The end, a run of its own, is short as well.
            assert 0 < size <= min(5, length - read)
            assert size > 1 or length == 1
            read += size
            runtime._tokens[0].extend([1] * size)


def test_a_piece_that_goes_on_has_no_logits_and_the_end_has_the_same(runtime: CpuRuntime) -> None:
    tokens = np.random.default_rng(2).integers(0, 300, 43).tolist()
    (whole,) = runtime.step([Feed(0, tokens, prompt=True)])
    expected = whole.logits().copy()
    for start in range(0, 40, 8):
        (output,) = runtime.step([Feed(1, tokens[start : start + 8], prompt=True, goes_on=True)])
        assert output.logits().shape == (0, runtime.vocab_size)
        assert output.greedy() == []
    (last,) = runtime.step([Feed(1, tokens[40:], prompt=True)])
    np.testing.assert_array_equal(last.logits(), expected)
