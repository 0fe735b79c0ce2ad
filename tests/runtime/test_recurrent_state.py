"""Models with a recurrent state go back to a copy of it, and read again only what came after that."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bmqwen.artifact.bundle import Bundle
from bmqwen.emit.export import export_onnx
from bmqwen.quant.precision import Precision
from bmqwen.runtime.base import Feed, RuntimeSequence
from bmqwen.runtime.cpu import TAIL, CpuRuntime
from bmqwen.weights.checkpoint import open_checkpoint
from support.checkpoints import as_stored, random_weights, tiny_config, write_checkpoint, write_safetensors

CONFIG = tiny_config("qwen3.5", layers=4, max_position_embeddings=1024)
TOKENS = np.random.default_rng(3).integers(0, 300, 700).tolist()
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("recurrent")
    with open_checkpoint(write_checkpoint(folder / "model", CONFIG, seed=2)) as checkpoint:
        return export_onnx(checkpoint, folder / "cpu", Precision("f32", 32, "f32"))


class Counting(CpuRuntime):
    """Counts the rows that are computed."""

    computed = 0

    def _run(self, place, ids, *args, **kwargs):  # type: ignore[no-untyped-def]
        self.computed += sum(map(len, ids))
        return super()._run(place, ids, *args, **kwargs)


def fresh(bundle: Bundle, tokens: list[int]) -> NDArray[np.float32]:
    """What a runtime says that has seen nothing else."""
    runtime = CpuRuntime(bundle, threads=1)
    (*_, last) = RuntimeSequence(runtime).read(tokens)
    logits = last.logits().copy()
    runtime.close()
    return logits


def test_going_back_costs_what_comes_after_a_copy(bundle: Bundle) -> None:
    runtime = Counting(bundle, threads=1)
    sequence = RuntimeSequence(runtime)
    for _ in sequence.read(TOKENS[:600]):
        pass
    assert runtime.computed == 600
    for token in TOKENS[600:640]:
        sequence.feed([token])
    runtime.computed = 0
    # The same question again: its last token is computed once more, with those since the copy before the prompt's end.
    sequence.truncate(599)
    again = sequence.feed(TOKENS[599:600]).logits()
    assert runtime.computed == TAIL
    np.testing.assert_allclose(again, fresh(bundle, TOKENS[:600]), atol=TOLERANCE)
    # The next turn has another end.
    sequence.truncate(596)
    for output in sequence.read(TOKENS[640:660]):
        last = output.logits().copy()
    assert runtime.computed == TAIL + (596 - 592) + 20
    np.testing.assert_allclose(last, fresh(bundle, TOKENS[:596] + TOKENS[640:660]), atol=TOLERANCE)


def test_without_a_copy_all_is_read_again(bundle: Bundle) -> None:
    runtime = Counting(bundle, threads=1)
    sequence = RuntimeSequence(runtime)
    for token in TOKENS[:5]:
        sequence.feed([token])
    sequence.feed(TOKENS[5:400])
    sequence.truncate(350)
    runtime.computed = 0
    logits = sequence.feed(TOKENS[400:401]).logits()
    assert runtime.computed == 351
    np.testing.assert_allclose(logits, fresh(bundle, [*TOKENS[:350], TOKENS[400]]), atol=TOLERANCE)


def test_saved_and_restored(bundle: Bundle) -> None:
    runtime = CpuRuntime(bundle, threads=1, sequences=2)
    one, other = RuntimeSequence(runtime, 0), RuntimeSequence(runtime, 1)
    for _ in one.read(TOKENS[:100]):
        pass
    saved = one.save()
    assert saved.nbytes > saved.rows.nbytes
    for _ in one.read(TOKENS[300:320]):
        pass
    for position in (100, 99, 50):
        other.restore(saved, position)
        logits = other.feed(TOKENS[200:201]).logits()
        np.testing.assert_allclose(logits, fresh(bundle, [*TOKENS[:position], TOKENS[200]]), atol=TOLERANCE)


def test_sequences_have_states_of_their_own(bundle: Bundle) -> None:
    runtime = CpuRuntime(bundle, threads=1, sequences=2)
    runtime.step([Feed(0, TOKENS[:30]), Feed(1, TOKENS[50:90])])
    both = runtime.step([Feed(0, TOKENS[30:31]), Feed(1, TOKENS[90:91])])
    for output, tokens in zip(both, (TOKENS[:31], TOKENS[50:91]), strict=True):
        np.testing.assert_allclose(output.logits(), fresh(bundle, tokens), atol=TOLERANCE)


def test_pictures_are_left_aside(bundle: Bundle, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", CONFIG, seed=2)
    text = as_stored(CONFIG, random_weights(CONFIG, 2))
    named = {name.replace("model.", "model.language_model.", 1): values for name, values in text.items()}
    others = {
        "model.visual.patch_embed.proj.weight": np.ones((2, 2), np.float32),
        "mtp.fc.weight": np.ones(3, np.float32),
    }
    write_safetensors(folder / "model.safetensors", named | others, "float32")
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.note == "model: used for text only, 2 tensors of other parts left aside"
        made = export_onnx(checkpoint, tmp_path / "cpu", Precision("f32", 32, "f32"))
    np.testing.assert_array_equal(fresh(made, TOKENS[:20]), fresh(bundle, TOKENS[:20]))
