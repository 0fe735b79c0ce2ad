"""The CPU runtime keeps the Runtime protocol, and says what is wrong with what it is given."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bmqwen.artifact.bundle import Bundle
from bmqwen.emit.export import export_onnx
from bmqwen.errors import BundleError, ContextLengthError, DeviceError, InputError
from bmqwen.quant.precision import Precision
from bmqwen.runtime.base import Runtime, RuntimeSequence
from bmqwen.runtime.cpu import CpuRuntime
from bmqwen.weights.checkpoint import open_checkpoint
from support.checkpoints import tiny_config, write_checkpoint


@pytest.fixture(scope="module", name="bundle")
def bundle_fixture(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("ort")
    write_checkpoint(folder / "checkpoint", tiny_config("qwen2.5", max_position_embeddings=2048), seed=5)
    with open_checkpoint(folder / "checkpoint") as checkpoint:
        return export_onnx(checkpoint, folder / "bundle", Precision("f32", 32, "f32"))


@pytest.fixture(name="runtime")
def runtime_fixture(bundle: Bundle) -> Iterator[CpuRuntime]:
    runtime = CpuRuntime(bundle, threads=1)
    yield runtime
    runtime.close()


def test_it_is_a_runtime(runtime: CpuRuntime) -> None:
    assert isinstance(runtime, Runtime)
    assert runtime.vocab_size == 320
    assert runtime.context_length == 2048


@pytest.mark.parametrize("precision", [Precision("f32", 32, "f32"), Precision("int4", 32, "int4")], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_prompt_has_the_same_logits_whatever_is_cached(
    bundle: Bundle, tmp_path: Path, precision: Precision, threads: int
) -> None:
    with open_checkpoint(bundle.folder.parent / "checkpoint") as checkpoint:
        runtime = CpuRuntime(export_onnx(checkpoint, tmp_path / "bundle", precision), threads=threads)
    ids = np.random.default_rng(0).integers(0, 300, 400).tolist()

    def read(tokens: list[int]) -> NDArray[np.float32]:
        *_, output = RuntimeSequence(runtime).read(tokens)
        return output.logits()

    # Ends of the kernels' groups and blocks, and one beyond.
    for count in (2, 5, 33, 64, 65, 129, 257, 258, 385):
        RuntimeSequence(runtime).truncate(0)
        fresh, rows = read(ids[:count]), RuntimeSequence(runtime).save().rows
        assert RuntimeSequence(runtime).position == count
        for cached in {1, 3, count // 2, count - 65, count - 5, count - 2, count - 1} & set(range(1, count)):
            RuntimeSequence(runtime).truncate(0)
            read(ids[:cached])
            assert np.array_equal(read(ids[cached:count]), fresh), (count, cached)
            assert np.array_equal(RuntimeSequence(runtime).save().rows, rows), (count, cached)
        # Answered, and asked again.
        for token in ids[:3]:
            RuntimeSequence(runtime).feed([token])
        RuntimeSequence(runtime).truncate(count - 1)
        assert np.array_equal(read(ids[count - 1 : count]), fresh), count
    runtime.close()


@pytest.mark.parametrize("question", [1, 2, 7])
@pytest.mark.parametrize("answer", [1, 6])
def test_a_second_turn_asked_again_has_the_same_logits(
    runtime: CpuRuntime, question: int, answer: int
) -> None:
    """The first answer's rows stay as they were computed, one at a time, so that a turn costs its new tokens."""
    ids = np.random.default_rng(1).integers(0, 300, 50).tolist()
    first, end = 29, 29 + answer + question
    *_, _ = RuntimeSequence(runtime).read(ids[:first])
    for token in ids[first : first + answer]:
        RuntimeSequence(runtime).feed([token])
    *_, output = RuntimeSequence(runtime).read(ids[first + answer : end])
    wanted = output.logits()
    for known in range(first + answer, end):
        RuntimeSequence(runtime).feed([7])
        saved = RuntimeSequence(runtime).save()
        RuntimeSequence(runtime).truncate(0)
        RuntimeSequence(runtime).feed([1, 2])
        RuntimeSequence(runtime).restore(saved, known)
        *_, output = RuntimeSequence(runtime).read(ids[known:end])
        assert np.array_equal(output.logits(), wanted), known


@pytest.mark.parametrize("head_dim", [16, 80])
def test_heads_of_any_size_are_read_in_whole_groups(tmp_path: Path, head_dim: int) -> None:
    config = tiny_config("qwen1.5", hidden_size=96, heads=2, head_dim=head_dim, max_position_embeddings=512)
    write_checkpoint(tmp_path / "checkpoint", config, seed=2)
    with open_checkpoint(tmp_path / "checkpoint") as checkpoint:
        runtime = CpuRuntime(export_onnx(checkpoint, tmp_path / "bundle", Precision("f32", 32, "f32")))
    for count in (1, 2, 5, 9, 17, 161, 257):
        RuntimeSequence(runtime).truncate(0)
        *_, output = RuntimeSequence(runtime).read([7] * count)
        fresh = output.logits()
        RuntimeSequence(runtime).truncate(count // 2)
        *_, output = RuntimeSequence(runtime).read([7] * (count - count // 2))
        assert RuntimeSequence(runtime).position == count
        assert np.array_equal(output.logits(), fresh), count
    runtime.close()


def test_greedy_is_the_best_of_the_last_row(runtime: CpuRuntime) -> None:
    output = RuntimeSequence(runtime).feed([1, 2, 3], every_row=True)
    assert output.logits().shape == (3, 320)
    assert output.greedy()[-1] == int(output.logits()[-1].argmax())


def test_a_refused_feed_changes_nothing(bundle: Bundle) -> None:
    runtime = CpuRuntime(bundle, threads=1, context_length=8)
    RuntimeSequence(runtime).feed([1, 2, 3, 4, 5])
    for tokens, error in (
        ([], InputError),
        ([320], InputError),
        ([-1], InputError),
        ([1] * 4, ContextLengthError),
    ):
        with pytest.raises(error):
            RuntimeSequence(runtime).feed(tokens)
        assert RuntimeSequence(runtime).position == 5
    for position in (-1, 6):
        with pytest.raises(InputError):
            RuntimeSequence(runtime).truncate(position)
    RuntimeSequence(runtime).feed([6, 7, 8])
    assert RuntimeSequence(runtime).position == 8


def test_closing_twice_is_fine_and_using_it_afterwards_is_not(bundle: Bundle) -> None:
    runtime = CpuRuntime(bundle, threads=1)
    runtime.close()
    runtime.close()
    with pytest.raises(DeviceError, match="closed"):
        RuntimeSequence(runtime).feed([1])


@pytest.mark.parametrize(
    "arguments",
    [
        {"threads": 0},
        {"threads": 1000},
        {"context_length": 0},
        {"context_length": 4096},
        {"sequences": 0},
        {"sequences": 1000},
    ],
)
def test_numbers_out_of_range_are_refused(bundle: Bundle, arguments: Any) -> None:
    with pytest.raises(InputError):
        CpuRuntime(bundle, **arguments)


def test_a_plain_export_is_refused_with_the_cure(bundle: Bundle, tmp_path: Path) -> None:
    with open_checkpoint(bundle.folder.parent / "checkpoint") as checkpoint:
        plain = export_onnx(checkpoint, tmp_path / "plain", Precision("f32", 32, "f32"), plain=True)
    with pytest.raises(BundleError, match="without --plain"):
        CpuRuntime(plain)


def test_a_damaged_graph_is_an_error_in_words(bundle: Bundle) -> None:
    graph = bundle.path("model.onnx")
    original = graph.read_bytes()
    try:
        graph.write_bytes(original[: len(original) // 2])
        with pytest.raises(BundleError, match="cannot load"):
            CpuRuntime(bundle)
    finally:
        graph.write_bytes(original)
