"""A checkpoint quantised on text: nearer to the float model than rounding, taken as it is, resumed where it stopped."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bmqwen.calibration import passes
from bmqwen.calibration.quantize import METHOD, Quantised, quantize
from bmqwen.calibration.rotation import rotated
from bmqwen.emit.numpy import NumpyOps, Rows
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.errors import InputError, StorageError
from bmqwen.quant.formats import GridFormat
from bmqwen.quant.grid_weights import GridWeights
from bmqwen.quant.precision import Precision, PrecisionOptions
from bmqwen.util.paths import cache_folder
from bmqwen.util.progress import Silent
from bmqwen.weights.checkpoint import Checkpoint, open_checkpoint
from bmqwen.weights.gptq_writer import write_safetensors
from bmqwen.weights.weights import GridSource, Weights
from support.checkpoints import tiny_config, write_checkpoint

PRECISION = Precision("int4", 32, "int4")


@pytest.fixture(scope="module", name="source")
def source_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("calibration") / "tiny", tiny_config("qwen2.5"), seed=3)


def text(checkpoint: Checkpoint, seed: int, count: int = 24) -> list[list[int]]:
    """Sequences of tokens of which few are frequent."""
    rng = np.random.default_rng(seed)
    words = np.minimum(rng.zipf(1.3, (count, 48)) - 1, checkpoint.config.vocab_size - 1)
    return [[int(word) for word in row] for row in words]


def run(source: Path, folder: Path, precision: Precision = PRECISION) -> Quantised:
    with open_checkpoint(source) as checkpoint:
        return quantize(
            checkpoint, folder, precision, text(checkpoint, 1), calibration="random", progress=Silent()
        )


@pytest.fixture(scope="module", name="made")
def made_fixture(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(source, tmp_path_factory.mktemp("made") / "quantised").folder


def logits(weights: Weights, checkpoint: Checkpoint, tokens: list[list[int]]) -> NDArray[np.float32]:
    flat, config = [token for row in tokens for token in row], checkpoint.config
    ops = NumpyOps(config, WeightBlocks(weights), flat, range(len(flat)), [len(row) for row in tokens])
    return config.network.emit(ops)


def test_it_is_nearer_to_the_float_model_than_rounding(source: Path, made: Path) -> None:
    with open_checkpoint(source) as floats, open_checkpoint(made) as quantised:
        unseen = text(floats, 2)
        wanted = logits(floats.weights, floats, unseen)
        rounded = GridWeights(floats.weights, floats.config, PRECISION)
        nearest = GridWeights(floats.weights, floats.config, PRECISION, search=False)
        errors = [
            float(np.square(logits(weights, checkpoint, unseen) - wanted).mean())
            for weights, checkpoint in (
                (quantised.weights, quantised),
                (rounded, floats),
                (nearest, floats),
            )
        ]
    assert errors[0] < 0.75 * min(errors[1:])


def test_the_grid_is_taken_as_it_is(source: Path, made: Path) -> None:
    with open_checkpoint(source) as checkpoint, open_checkpoint(made) as quantised:
        floats = rotated(checkpoint)
        assert isinstance(quantised.weights, GridSource)
        assert not quantised.config.tie_word_embeddings
        form = PRECISION.layers
        assert isinstance(form, GridFormat)
        for name, shape in quantised.config.network.shapes().items():
            if len(shape) == 2 and "embed" not in name:
                stored = quantised.weights.read_grid(name, 0, shape[0])
                used = form.grid(quantised.weights, name, 0, shape[0])
                np.testing.assert_array_equal(used.codes, stored.codes)
                np.testing.assert_array_equal(used.scales, stored.scales)
                np.testing.assert_array_equal(used.zeros, stored.zeros)
            elif len(shape) == 1:
                np.testing.assert_array_equal(quantised.weights.read(name), floats.weights.read(name))
        assert quantised.rounded_by == METHOD


def test_what_it_says_of_itself(made: Path) -> None:
    stated = json.loads((made / "config.json").read_text())["quantization_config"]
    assert stated["checkpoint_format"] == "gptq_v2"
    assert (stated["bits"], stated["group_size"], stated["lm_head"]) == (4, 32, True)
    assert (stated["desc_act"], stated["sym"]) == (False, False)
    assert stated["meta"]["calibration_tokens"] == 24 * 48
    assert (made / "tokenizer.json").is_file()


def test_the_safetensors_library_reads_it(made: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    places = json.loads((made / "model.safetensors.index.json").read_text())["weight_map"]
    tensors = {
        name: value
        for shard in set(places.values())
        for name, value in safetensors.load_file(made / shard).items()
    }
    assert tensors.keys() == places.keys()
    assert tensors["model.layers.0.self_attn.q_proj.qweight"].dtype == np.int32
    assert tensors["model.layers.0.self_attn.q_proj.scales"].dtype == np.float16


def test_a_mixture_of_formats_is_taken_as_it_is(source: Path, tmp_path: Path) -> None:
    precision = Precision("int4", 32, "int8", projections={"qkv_proj": "int4:16", "down_proj": "int8"})
    run(source, tmp_path / "mixed", precision)
    with open_checkpoint(tmp_path / "mixed") as quantised:
        assert PrecisionOptions().of_checkpoint(quantised) == precision
        assert PrecisionOptions(group_size=16).of_checkpoint(quantised) == Precision(
            "int4", 16, "int8", projections={"down_proj": "int8"}
        )
        weights = quantised.weights
        assert isinstance(weights, GridSource)
        grids: dict[str, tuple[int, int]] = {}
        wanted = {
            "lm_head": 8,
            "self_attn.k_proj": 4,
            "self_attn.o_proj": 4,
            "mlp.up_proj": 4,
            "mlp.down_proj": 8,
        }
        for plain, bits in wanted.items():
            name = f"{plain}.weight" if plain == "lm_head" else f"model.layers.1.{plain}.weight"
            form, stored = precision.of(name), weights.read_grid(name, 0, 32)
            assert isinstance(form, GridFormat)
            grids[plain if plain == "lm_head" else f"model.layers.1.{plain}"] = stored.bits, stored.group_size
            assert stored.bits == bits
            assert stored.group_size == form.group(weights.shape(name)[1])
            np.testing.assert_array_equal(form.grid(weights, name, 0, 32).codes, stored.codes)
    # GPTQModel matches a rule with the beginning of a module's name.
    stated = json.loads((tmp_path / "mixed" / "config.json").read_text())["quantization_config"]
    rules = {rule.removeprefix("+:"): sizes for rule, sizes in stated["dynamic"].items()}

    def sizes(module: str) -> dict[str, int] | None:
        return next((found for rule, found in rules.items() if re.match(rule, module)), None)

    assert (stated["bits"], stated["group_size"]) == (4, 32)
    # vLLM looks for the joined projections.
    for module in ("v_proj", "qkv_proj"):
        assert sizes(f"model.layers.1.self_attn.{module}") == {"bits": 4, "group_size": 16}
    assert sizes("model.layers.0.self_attn.o_proj") is sizes("model.layers.0.mlp.gate_proj") is None
    for module in ("model.layers.1.mlp.down_proj", "lm_head"):
        assert sizes(module) == dict(zip(("bits", "group_size"), grids[module], strict=True))


def test_an_interrupted_run_goes_on_where_it_was(
    source: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, reached = passes.RoundingPass.layer, list[int]()

    def watched(self: passes.RoundingPass, index: int, x: Rows, norm: str) -> Rows:
        reached.append(index)
        if reached == [0, 1]:
            raise KeyboardInterrupt
        return layer(self, index, x, norm)

    monkeypatch.setattr(passes.RoundingPass, "layer", watched)
    folder = tmp_path / "resumed"
    with pytest.raises(KeyboardInterrupt):
        run(source, folder)
    assert not folder.exists()
    run(source, folder)
    assert reached == [0, 1, 1]
    for file in made.glob("*.safetensors"):
        assert (folder / file.name).read_bytes() == file.read_bytes()
    assert not list(cache_folder("quantize").iterdir())


def test_a_damaged_state_is_made_again(
    source: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = passes.RoundingPass.layer

    def stopping(self: passes.RoundingPass, index: int, x: Rows, norm: str) -> Rows:
        if index == 1:
            raise KeyboardInterrupt
        return layer(self, index, x, norm)

    monkeypatch.setattr(passes.RoundingPass, "layer", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "damaged")
    monkeypatch.setattr(passes.RoundingPass, "layer", layer)
    [state] = cache_folder("quantize").glob("*/streams.safetensors")
    state.write_bytes(state.read_bytes()[:1000])
    run(source, tmp_path / "damaged")
    for file in made.glob("*.safetensors"):
        assert (tmp_path / "damaged" / file.name).read_bytes() == file.read_bytes()


def test_a_full_disk_leaves_nothing_half_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _content: bytes) -> None:
        raise StorageError("no space left")

    monkeypatch.setattr("bmqwen.calibration.quantize.write_file", full)
    with pytest.raises(StorageError):
        run(source, tmp_path / "full")
    assert not (tmp_path / "full").exists()


def test_activations_beyond_half_precision_are_named(source: Path, tmp_path: Path) -> None:
    with open_checkpoint(source) as checkpoint:
        tensors = {name: checkpoint.weights.read(name) for name in checkpoint.config.network.shapes()}
        tensors["model.layers.1.mlp.up_proj.weight"] *= 3e4
        folder = tmp_path / "loud"
        folder.mkdir()
        for file in source.iterdir():
            if file.suffix != ".safetensors":
                (folder / file.name).write_bytes(file.read_bytes())
    write_safetensors(folder / "model.safetensors", tensors)
    made = run(folder, tmp_path / "made")
    assert made.overflowing == [1]
    assert made.to_dict()["overflowing_layers"] == [1]


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        (Precision("f16", 64, "f16"), "leaves nothing to quantise"),
        (Precision("int4", 256, "int4"), "groups of 256 do not divide"),
    ],
)
def test_what_cannot_be_quantised(source: Path, tmp_path: Path, precision: Precision, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(source, tmp_path / "none", precision)


def test_a_folder_that_is_there_is_left_alone(source: Path, made: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        run(source, made)
