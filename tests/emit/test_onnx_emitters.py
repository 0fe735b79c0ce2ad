"""The emitted graphs against transformers: float32 logits on tiny checkpoints of every supported kind."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bmqwen.artifact.bundle import MODEL_FILE, Bundle
from bmqwen.emit.export import estimated_bytes, export_onnx
from bmqwen.errors import CheckpointError
from bmqwen.model.config import ModelConfig
from bmqwen.model.rope import Yarn
from bmqwen.quant.precision import Format, Precision
from bmqwen.runtime.base import Feed, RuntimeSequence
from bmqwen.runtime.cpu import CpuRuntime
from bmqwen.weights.checkpoint import open_checkpoint
from support.checkpoints import tiny_config, write_checkpoint

FLOAT = Precision("f32", 32, "f32")
TOLERANCE = 1e-3
KINDS = {
    "qwen1.5 (multi-head, untied)": tiny_config("qwen1.5"),
    "qwen1.5 tied": tiny_config("qwen1.5", tied=True),
    "qwen2.5 (grouped, tied)": tiny_config("qwen2.5"),
    "qwen2.5 untied, 1 kv head": tiny_config("qwen2.5", kv_heads=1, tied=False),
    "llama (no biases)": tiny_config("llama"),
    "qwen3 (head norms, tied)": tiny_config("qwen3"),
    "qwen3 untied, multi-head": tiny_config("qwen3", kv_heads=4, tied=False),
    "qwen3 stretched by YaRN": replace(tiny_config("qwen3"), yarn=Yarn(4.0, 64, 1.1)),
    "qwen3.5": tiny_config("qwen3.5", layers=4),
    "wide heads": tiny_config("qwen2.5", head_dim=32, layers=3),
}
TOKENS = np.random.default_rng(7).integers(0, 300, 50).tolist()


@pytest.fixture(params=list(KINDS), name="config")
def config_fixture(request: pytest.FixtureRequest) -> ModelConfig:
    return KINDS[request.param]


@pytest.fixture(name="folder")
def folder_fixture(config: ModelConfig, tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "checkpoint", config, seed=3)
    return tmp_path / "checkpoint"


def export(folder: Path, name: str, precision: Precision, *, plain: bool = False) -> Bundle:
    with open_checkpoint(folder) as checkpoint:
        return export_onnx(checkpoint, folder.parent / name, precision, plain=plain)


def reference_logits(folder: Path, tokens: list[int]) -> NDArray[np.float32]:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        logits: NDArray[np.float32] = model(torch.tensor([tokens])).logits[0].numpy()
    return logits


def run_plain(bundle: Bundle, pieces: list[list[int]]) -> NDArray[np.float32]:
    ort: Any = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(bundle.path(MODEL_FILE), providers=["CPUExecutionProvider"])
    # No past: no rows, or states of zeros.
    cache = {
        value.name: np.zeros([size if isinstance(size, int) else 0 for size in value.shape], np.float32)
        for value in session.get_inputs()
        if value.name.startswith("past_")
    }
    rows, position = [], 0
    for piece in pieces:
        feeds = {
            "input_ids": np.array([piece], np.int64),
            "position_ids": np.arange(position, position + len(piece), dtype=np.int64)[None],
            "logits_from": np.zeros(1, np.int64),
            **cache,
        }
        names = [output.name for output in session.get_outputs()]
        results = dict(zip(names, session.run(names, feeds), strict=True))
        rows.append(results.pop("logits")[0])
        own = {name.partition(".")[2]: name for name in cache}
        cache = {own[name.removeprefix("present.")]: value for name, value in results.items()}
        position += len(piece)
    return np.concatenate(rows)


@pytest.mark.reference
def test_float32_equals_transformers(folder: Path) -> None:
    expected = reference_logits(folder, TOKENS)
    runtime = CpuRuntime(export(folder, "contrib", FLOAT), threads=1)
    got = RuntimeSequence(runtime).feed(TOKENS, every_row=True).logits()
    assert np.abs(expected).max() > 0.1  # a reference of zeros would prove nothing
    np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=0)
    plain = run_plain(export(folder, "plain", FLOAT, plain=True), [TOKENS])
    np.testing.assert_allclose(plain, expected, atol=TOLERANCE, rtol=0)


def test_cached_equals_fresh_and_chunked_equals_whole(folder: Path) -> None:
    runtime = CpuRuntime(export(folder, "contrib", FLOAT), threads=1)
    whole = RuntimeSequence(runtime).feed(TOKENS, every_row=True).logits().copy()
    RuntimeSequence(runtime).truncate(0)
    pieces = [
        RuntimeSequence(runtime).feed(TOKENS[a:b], every_row=True).logits().copy()
        for a, b in ((0, 1), (1, 18), (18, 19), (19, 50))
    ]
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-4, rtol=0)
    RuntimeSequence(runtime).truncate(10)
    again = RuntimeSequence(runtime).feed(TOKENS[10:]).logits()
    np.testing.assert_allclose(again[0], whole[-1], atol=1e-4, rtol=0)


def test_a_piece_beside_answers_equals_whole(folder: Path) -> None:
    runtime = CpuRuntime(export(folder, "contrib", FLOAT), threads=1, sequences=3)
    whole = RuntimeSequence(runtime).feed(TOKENS, every_row=True).logits().copy()
    runtime.truncate(0, 10)
    runtime.step([Feed(2, TOKENS[:20])])
    for start in range(0, 24, 8):
        piece = Feed(1, TOKENS[start : start + 8], prompt=True, goes_on=True)
        answers = [Feed(0, [TOKENS[10 + start // 8]]), Feed(2, [TOKENS[20 + start // 8]])]
        first, second, _ = runtime.step([*answers, piece])
        np.testing.assert_allclose(first.logits()[0], whole[10 + start // 8], atol=1e-4, rtol=0)
        np.testing.assert_allclose(second.logits()[0], whole[20 + start // 8], atol=1e-4, rtol=0)
    rest = RuntimeSequence(runtime, 1).feed(TOKENS[24:], every_row=True).logits()
    np.testing.assert_allclose(rest, whole[24:], atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", ["f16", "int8", "int4"])
def test_dialects_agree_on_quantised_weights(config: ModelConfig, folder: Path, form: Any) -> None:
    precision = Precision(form, 32, form)
    runtime = CpuRuntime(export(folder, "contrib", precision), threads=1)
    fast = RuntimeSequence(runtime).feed(TOKENS, every_row=True).logits()
    bundle = export(folder, "plain", precision, plain=True)
    plain = run_plain(bundle, [TOKENS[:20], TOKENS[20:]])
    # The fast dialect rounds activations to int8 as well; the weights' grid is the same.
    if form == "f16":
        np.testing.assert_allclose(fast, plain, atol=1e-3, rtol=0)
    cosine = (fast * plain).sum(1) / np.linalg.norm(fast, axis=1) / np.linalg.norm(plain, axis=1)
    # A state adds up what rounding does to each token.
    assert cosine.min() > (0.995 if config.linear is None else 0.9)


def test_plain_export_passes_the_checker_with_standard_operations_only(folder: Path) -> None:
    onnx: Any = pytest.importorskip("onnx")
    for form in ("f32", "f16", "int8", "int4"):
        bundle = export(folder, f"plain-{form}", Precision(form, 32, form), plain=True)
        onnx.checker.check_model(str(bundle.path(MODEL_FILE)), full_check=True)
        model = onnx.load(str(bundle.path(MODEL_FILE)), load_external_data=False)
        assert {node.domain for node in model.graph.node} == {""}
        assert [opset.version for opset in model.opset_import] == [21]


def test_fast_export_passes_the_checker(folder: Path) -> None:
    onnx: Any = pytest.importorskip("onnx")
    bundle = export(folder, "contrib", Precision("int4", 32, "int8"))
    onnx.checker.check_model(str(bundle.path(MODEL_FILE)))


@pytest.mark.parametrize("lm_head", ["f32", "int4"])
@pytest.mark.parametrize(
    "weights", [*(pytest.param(form, marks=pytest.mark.thorough) for form in ("f32", "f16")), "int8", "int4"]
)
def test_the_room_that_is_asked_for_is_a_little_more_than_is_used(
    tmp_path: Path, weights: Format, lm_head: Format
) -> None:
    config = tiny_config("qwen1.5", hidden_size=256, intermediate_size=1024, vocab_size=16384)
    write_checkpoint(tmp_path / "checkpoint", config)
    precision = Precision(weights, 64, lm_head)
    used = export(tmp_path / "checkpoint", "bundle", precision).total_bytes
    with open_checkpoint(tmp_path / "checkpoint") as checkpoint:
        asked = estimated_bytes(checkpoint, precision) - (64 << 20)
    assert 0.95 * used < asked < 1.2 * used


def test_only_rows_that_are_wanted_go_through_the_last_mlp(tmp_path: Path) -> None:
    onnx: Any = pytest.importorskip("onnx")
    ort: Any = pytest.importorskip("onnxruntime")
    config = KINDS["qwen1.5 tied"]
    write_checkpoint(tmp_path / "checkpoint", config, seed=3)
    path = export(tmp_path / "checkpoint", "plain", FLOAT, plain=True).path(MODEL_FILE)
    model = onnx.load(path, load_external_data=False)
    weight = f"model.layers.{config.num_hidden_layers - 1}.mlp.down_proj.weight"
    nodes = model.graph.node
    turned = next(node.output[0] for node in nodes if weight in node.input)
    product = next(node.output[0] for node in nodes if turned in node.input)
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(product))
    onnx.save(model, path)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    past = {
        value.name: np.zeros((1, *value.shape[1:2], 0, *value.shape[3:]), np.float32)
        for value in session.get_inputs()
        if value.name.startswith("past_")
    }
    for wanted in (0, 1, 3):
        feeds = {
            "input_ids": np.array([TOKENS]),
            "position_ids": np.arange(len(TOKENS))[None],
            "logits_from": np.array([len(TOKENS) - wanted]),
        }
        (rows,) = session.run([product], feeds | past)
        assert rows.shape == (1, wanted, config.hidden_size)


def test_exporting_again_leaves_the_bundle_alone(folder: Path) -> None:
    first = export(folder, "again", FLOAT)
    before = first.path(MODEL_FILE).stat().st_mtime_ns
    assert export(folder, "again", FLOAT).path(MODEL_FILE).stat().st_mtime_ns == before


def test_a_checkpoint_without_a_tokenizer_is_refused_before_the_work(
    config: ModelConfig, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "checkpoint", config, seed=3, with_tokenizer=False)
    converted: list[int] = []
    with (
        open_checkpoint(tmp_path / "checkpoint") as checkpoint,
        pytest.raises(CheckpointError, match="tokenizer"),
    ):
        export_onnx(checkpoint, tmp_path / "bundle", FLOAT, advance=converted.append)
    assert not converted
    assert not (tmp_path / "bundle").exists()
