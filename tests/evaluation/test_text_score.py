"""Perplexity and nearness to the float model, against what is computed the plain way."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bmqwen.artifact.bundle import Bundle, write_manifest
from bmqwen.compiler.plan import make_plan
from bmqwen.emit.export import export_onnx
from bmqwen.errors import DeviceError, InputError
from bmqwen.evaluation.divergence import Divergence, Scores
from bmqwen.evaluation.kept_scores import KeptScores
from bmqwen.evaluation.model_pair import FLOAT, Arithmetic, open_pair
from bmqwen.evaluation.text_score import PIECE, TextScore, Window, evaluate_text, read_text, windows
from bmqwen.quant.precision import Precision
from bmqwen.resolve import resolve_bundle
from bmqwen.runtime.base import RuntimeSequence
from bmqwen.runtime.cpu import CpuRuntime
from bmqwen.util.paths import cache_folder
from bmqwen.util.progress import Silent
from bmqwen.util.storage import path_lock
from bmqwen.weights.checkpoint import open_checkpoint
from support.checkpoints import tiny_config, write_checkpoint

# About 190 tokens of the tiny tokenizer: several pieces.
TEXT = "hello you and the system, 你好。 " * 12
INT4, INT8 = Precision("int4", 32, "int4"), Precision("int8", 32, "int8")


@pytest.fixture(scope="module", name="folder")
def folder_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("evaluate") / "tiny", tiny_config("qwen2.5"), seed=3)


def score(folder: Path, precision: Precision, arithmetic: Arithmetic = "float", **options: Any) -> TextScore:
    alone = options.pop("alone", False)
    with open_pair(str(folder), precision, arithmetic=arithmetic, alone=alone, threads=1) as pair:
        return evaluate_text(pair, TEXT, **options)


def tokens(folder: Path) -> list[int]:
    with open_pair(str(folder), FLOAT, alone=True, threads=1) as pair:
        return pair.tokenizer.encode(TEXT)


def naive_losses(folder: Path, ids: list[int]) -> NDArray[np.float64]:
    """Minus log probability of every token but the first, from one pass over all."""
    runtime = CpuRuntime(resolve_bundle(str(folder), FLOAT, progress=Silent()), threads=1)
    logits = RuntimeSequence(runtime).feed(ids, every_row=True).logits().astype(np.float64)
    runtime.close()
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    losses: NDArray[np.float64] = -np.log(chances[np.arange(len(ids) - 1), ids[1:]])
    return losses


def test_a_model_is_no_distance_from_itself(folder: Path) -> None:
    near = score(folder, FLOAT).nearness
    assert near is not None
    assert abs(near.mean_kl) < 1e-9
    assert abs(near.p99_kl) < 1e-9
    assert near.top1_agreement == 1


def test_perplexity_is_the_plain_one(folder: Path) -> None:
    ids = tokens(folder)
    assert PIECE < len(ids) < 250
    got = score(folder, FLOAT, window=256)
    assert (got.tokens, got.scored) == (len(ids), len(ids) - 1)
    assert math.isclose(got.perplexity, math.exp(naive_losses(folder, ids).mean()), rel_tol=1e-5)
    assert got.nearness is not None
    assert math.isclose(got.nearness.perplexity, got.perplexity, rel_tol=1e-12)


def test_windows_are_read_from_an_empty_cache(folder: Path) -> None:
    ids = tokens(folder)
    got = score(folder, FLOAT, window=64, stride=24, alone=True)
    assert got.nearness is None
    expected = [naive_losses(folder, ids[:64])]
    for start in range(24, len(ids) - 64 + 24, 24):
        piece = ids[start : start + 64]
        new = min(24, len(ids) - start - 40)
        expected.append(naive_losses(folder, piece)[-new:])
    assert sum(map(len, expected)) == got.scored == len(ids) - 1
    assert math.isclose(got.perplexity, math.exp(np.concatenate(expected).mean()), rel_tol=1e-5)


def test_every_token_but_the_first_is_scored_once_and_with_enough_before_it() -> None:
    for count in (2, 63, 64, 65, 96, 97, 1000):
        for stride in (1, 31, 32, 63):
            seen: list[int] = []
            for span in windows(count, 64, stride):
                assert 0 <= span.start < span.first < span.stop <= min(count, span.start + 64)
                assert span.start == 0 or span.first - span.start >= 64 - stride
                seen += range(span.first, span.stop)
            assert seen == list(range(1, count))


def test_windows_side_by_side_leave_out_their_first_tokens() -> None:
    assert list(windows(129, 64, 64)) == [Window(0, 1, 64), Window(64, 65, 128)]
    assert list(windows(130, 64, 64))[-1] == Window(128, 129, 130)


def test_coarser_grids_are_farther_away(folder: Path) -> None:
    kl = []
    for precision in (Precision.choose("f16"), INT8, INT4):
        near = score(folder, precision).nearness
        assert near is not None
        assert near.p99_kl > near.mean_kl > 0
        assert 0 < near.top1_agreement <= 1
        kl.append(near.mean_kl)
    assert kl[0] < kl[1] < kl[2]


def test_the_cpu_engine_adds_its_own_rounding(folder: Path) -> None:
    grid, engine = (score(folder, INT8, how).nearness for how in ("float", "int8"))
    assert grid is not None
    assert engine is not None
    assert 0 < grid.mean_kl < engine.mean_kl


def test_the_mean_is_that_of_the_divergences(folder: Path) -> None:
    got = score(folder, INT4, window=256).nearness
    assert got is not None
    ids = tokens(folder)
    rows = []
    with open_pair(str(folder), INT4, threads=1) as pair:
        assert pair.reference is not None
        for runtime in (pair.reference, pair.model):
            logits = RuntimeSequence(runtime).feed(ids[:-1], every_row=True).logits().astype(np.float64)
            rows.append(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    p, q = rows
    kl = (p * np.log(p / q)).sum(axis=1)
    assert math.isclose(got.mean_kl, kl.mean(), rel_tol=1e-4)
    assert math.isclose(got.p99_kl, np.quantile(kl, 0.99), rel_tol=1e-3)
    assert math.isclose(got.kl_standard_error, kl.std(ddof=1) / math.sqrt(len(kl)), rel_tol=1e-3)
    assert got.top1_agreement == (p.argmax(axis=1) == q.argmax(axis=1)).mean()


def test_documents_do_not_see_each_other_and_are_what_intervals_resample(folder: Path) -> None:
    documents = [TEXT[:40], TEXT[40:90], TEXT[90:]]
    with open_pair(str(folder), INT4, threads=1) as pair:
        together = evaluate_text(pair, documents, window=256)
        apart = [evaluate_text(pair, document, window=256) for document in documents]
    assert together.scored == sum(one.scored for one in apart)
    near, parts = together.nearness, [one.nearness for one in apart]
    assert near is not None
    assert near.blocks == 3
    mean = sum(part.mean_kl * one.scored for part, one in zip(parts, apart, strict=True) if part is not None)
    assert math.isclose(near.mean_kl, mean / together.scored, rel_tol=1e-9)
    low, high = near.mean_kl_interval
    assert min(part.mean_kl for part in parts if part) <= low < near.mean_kl < high
    assert near.p99_kl_interval[0] <= near.p99_kl <= near.p99_kl_interval[1]
    assert near.top1_interval[0] <= near.top1_agreement <= near.top1_interval[1]


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    rng, held = np.random.default_rng(3), 0
    for _ in range(100):
        scores = Divergence()
        for level in rng.gamma(2, 0.5, 40):  # documents differ, tokens of one are alike
            scores.begin_block()
            kl = rng.gamma(1, level, 20)
            scores.add_scores(Scores(kl, kl, kl, (kl < 1).astype(np.float64)))
        near = scores.nearness
        assert near is not None
        held += near.mean_kl_interval[0] <= 1.0 <= near.mean_kl_interval[1]
    assert 85 <= held <= 100


def test_what_is_scored_already_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [TEXT[:40], TEXT[40:90]]
    with open_pair(str(folder), INT4, threads=1) as pair:
        first = evaluate_text(pair, documents, window=256, kept=KeptScores("tiny", pair.identity))
        [file, _] = cache_folder("scores").glob("*/*.safetensors")
        file.write_bytes(file.read_bytes()[:50])  # damaged: computed again
        again = evaluate_text(pair, documents, window=256, kept=KeptScores("tiny", pair.identity))
        monkeypatch.setattr("bmqwen.evaluation.text_score._logits", None)
        third = evaluate_text(pair, documents, window=256, kept=KeptScores("tiny", pair.identity))
    for other in (again, third):
        assert other.nearness is not None
        assert first.nearness is not None
        assert math.isclose(other.nearness.mean_kl, first.nearness.mean_kl, rel_tol=1e-6)


@pytest.mark.reference
def test_perplexity_equals_that_of_transformers(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([tokens(folder)])
    with torch.no_grad():
        expected = math.exp(model(ids, labels=ids).loss.item())
    assert math.isclose(score(folder, FLOAT, window=256).perplexity, expected, rel_tol=1e-4)


def test_limit_and_steps(folder: Path) -> None:
    steps: list[tuple[int, int, float]] = []
    got = score(folder, INT8, limit=100, window=64, stride=32, step=lambda *step: steps.append(step))
    assert (got.tokens, got.scored) == (100, 99)
    assert [total for _, total, _ in steps] == [99] * len(steps)
    assert [done for done, _, _ in steps] == [63, 95, 99]
    assert steps[-1][2] == got.perplexity


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 1}, "between 2 and"),
        ({"window": 257}, "256"),
        ({"window": 64, "stride": 65}, "stride"),
        ({"stride": 0}, "stride"),
        ({"limit": 1}, "limit"),
    ],
)
def test_numbers_out_of_range_are_refused(folder: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        score(folder, FLOAT, **options)


def test_logits_that_are_not_numbers_are_an_error() -> None:
    for broken in (np.nan, np.inf, -np.inf):
        logits = np.zeros((3, 8), np.float32)
        logits[1, 2] = broken
        with pytest.raises(DeviceError, match="not numbers"):
            Divergence().add([1, 2, 3], logits, None)


def test_nothing_scored_is_an_error() -> None:
    with pytest.raises(InputError, match="no token"):
        _ = Divergence().perplexity


def test_the_copy_of_the_grid_is_gone_afterwards(folder: Path) -> None:
    score(folder, INT4)

    def interrupt(*_: object) -> None:
        assert list(cache_folder("evaluate").iterdir())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(folder, INT4, step=interrupt)
    assert not list(cache_folder("evaluate").iterdir())
    # What a killed process left behind goes as well, but nothing that another one still uses.
    left, used, unlocked = (cache_folder("evaluate") / name for name in ("left", "used", "unlocked"))
    for other in (left, used, unlocked):
        other.mkdir()
    left.with_suffix(".lock").touch()
    with path_lock(used):
        score(folder, INT4)
        assert {path.stem for path in cache_folder("evaluate").iterdir()} == {"used"}
    # Also by a run that needs no such copy itself.
    score(folder, FLOAT)
    assert not list(cache_folder("evaluate").iterdir())
    assert [b.name[:9] for b in cache_folder("bundles").iterdir() if b.is_dir()] == ["tiny-f32-"]


def test_more_memory_than_there_is_is_refused(folder: Path) -> None:
    opening = open_pair(str(folder), INT4, threads=1, memory=1 << 20)
    with pytest.raises(InputError, match=r"takes about .*B of memory, but only 1 MB are free"), opening:
        pass


def test_another_checkpoint_as_the_float_model(folder: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", tiny_config("qwen2.5"), seed=4)
    with open_pair(str(folder), FLOAT, against=str(other), threads=1) as pair:
        near = evaluate_text(pair, TEXT, window=256).nearness
        assert pair.reference_name == "other"
    assert near is not None
    assert near.mean_kl > 0.1
    wider = write_checkpoint(tmp_path / "wider", tiny_config("qwen2.5", vocab_size=400), seed=4)
    with (
        pytest.raises(InputError, match="vocabulary of 400"),
        open_pair(str(folder), FLOAT, against=str(wider)),
    ):
        pass


@pytest.fixture(name="bundle")
def bundle_fixture(folder: Path, tmp_path: Path) -> Iterator[Path]:
    with open_checkpoint(folder) as checkpoint:
        yield export_onnx(checkpoint, tmp_path / "bundle", INT4).folder


def test_a_bundle_is_evaluated_at_its_own_precision(folder: Path, bundle: Path) -> None:
    with open_pair(str(bundle), FLOAT, against=str(folder), threads=1) as pair:
        assert (pair.name, pair.precision, pair.reference_name) == ("bundle", INT4, "tiny")
        got = evaluate_text(pair, TEXT, window=256)
    assert got.to_dict() == score(folder, INT4, window=256).to_dict()


def test_a_bundle_needs_the_checkpoint_that_it_was_made_from(bundle: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", tiny_config("qwen2.5"), seed=4)
    with (
        pytest.raises(InputError, match="was not made from"),
        open_pair(str(bundle), INT4, against=str(other)),
    ):
        pass
    with pytest.raises(InputError, match="--against"), open_pair(str(bundle), INT4):
        pass


def compiled(folder: Path, target: Path, *, drafts: bool = True, **details: str) -> Path:
    """A compiled bundle as far as an evaluation looks at it: its manifest and its tokenizer."""
    target.mkdir()
    with open_checkpoint(folder) as checkpoint:
        plan = make_plan(checkpoint, INT4, 128, "f16", None, drafts=drafts)
        for name, content in checkpoint.tokenizer_files().items():
            (target / name).write_bytes(content)
    known = {"context": 128, "half": "f16", "sequences": plan.sequences, "drafts": plan.drafts} | details
    write_manifest(
        Bundle(target, "bmodel", "tiny", plan.config, INT4.to_dict(), details=known, source=plan.key)
    )
    return target


def test_a_compiled_bundle_finds_its_checkpoint(folder: Path, tmp_path: Path) -> None:
    named = compiled(folder, tmp_path / "named")
    recorded = compiled(folder, tmp_path / "recorded", checkpoint=str(folder), drafts=False)
    expected = score(folder, INT4, window=256).to_dict()
    for path, against in ((named, str(folder)), (recorded, None)):
        with open_pair(str(path), FLOAT, against=against, threads=1) as pair:
            assert pair.precision == INT4
            assert evaluate_text(pair, TEXT, window=256).to_dict() == expected
    with pytest.raises(InputError, match="--against"), open_pair(str(named), FLOAT):
        pass
    # Another half type is another model.
    altered = compiled(folder, tmp_path / "altered", half="bf16")
    with (
        pytest.raises(InputError, match="not made from"),
        open_pair(str(altered), FLOAT, against=str(folder)),
    ):
        pass


def test_texts_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    with pytest.raises(InputError, match="cannot be read"):
        read_text(path)
    for content, words in (
        (b"", "empty"),
        (b" \n\t\n", "empty"),
        (b"a\0b", "binary"),
        ("é".encode("latin-1"), "UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=words):
            read_text(path)
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    assert read_text(path) == "one\ntwo"
