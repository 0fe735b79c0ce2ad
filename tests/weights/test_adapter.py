"""LoRA adapters: merged as peft does it, and refused where they belong to another model or are of another kind."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bmqwen.artifact.bundle import read_bundle
from bmqwen.emit.export import export_onnx
from bmqwen.errors import CheckpointError, InputError
from bmqwen.quant.precision import Precision
from bmqwen.resolve import open_model, resolve_bundle
from bmqwen.util.progress import Silent
from bmqwen.weights.checkpoint import Checkpoint, identity, open_checkpoint
from support.checkpoints import (
    as_stored,
    random_weights,
    tiny_config,
    write_checkpoint,
    write_gguf,
    write_safetensors,
)

CONFIG = tiny_config("qwen3", tied=False)
Q0, DOWN1 = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
NORM = "model.layers.0.input_layernorm.weight"


def _write_adapter(
    folder: Path, ranks: dict[str, int], whole: dict[str, Any] | None = None, **values: Any
) -> dict[str, Any]:
    """An adapter of CONFIG as peft's save_pretrained writes it; returns its tensors without peft's prefix."""
    rng = np.random.default_rng(1)
    tensors: dict[str, Any] = dict(whole or {})
    for name, rank in ranks.items():
        out, width = CONFIG.network.shapes()[f"{name}.weight"]
        tensors[f"{name}.lora_A.weight"] = rng.standard_normal((rank, width), dtype=np.float32)
        tensors[f"{name}.lora_B.weight"] = rng.standard_normal((out, rank), dtype=np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    named = {f"base_model.model.{name}": values for name, values in tensors.items()}
    write_safetensors(folder / "adapter_model.safetensors", named, "float32")
    said = {"peft_type": "LORA", "base_model_name_or_path": "Org/Base", "r": 4, "lora_alpha": 6}
    (folder / "adapter_config.json").write_text(json.dumps(said | values))
    return tensors


def _opened(tmp_path: Path) -> Checkpoint:
    if not (tmp_path / "base").exists():
        write_checkpoint(tmp_path / "base", CONFIG)
    return open_checkpoint(tmp_path / "base", tmp_path / "lora")


@pytest.mark.parametrize("stabilised", [False, True])
def test_the_sum_is_pefts(stabilised: bool, tmp_path: Path) -> None:
    """W + alpha / r * B @ A in float32 (alpha / sqrt(r) if rank-stabilised), ranks and alphas by the patterns."""
    norm = np.full(CONFIG.hidden_size, 2, np.float32)
    lora = _write_adapter(
        tmp_path / "lora",
        {Q0: 4, DOWN1: 8},
        {NORM: norm},
        use_rslora=stabilised,
        rank_pattern={"down_proj": 8},
        alpha_pattern={r"^model\.layers\.1\.mlp\.down_proj": 32},
    )
    base = random_weights(CONFIG)
    with _opened(tmp_path) as checkpoint:
        assert checkpoint.name == "base+lora"
        for name, alpha, rank in ((Q0, 6, 4), (DOWN1, 32, 8)):
            scaling = alpha / (math.sqrt(rank) if stabilised else rank)
            product = lora[f"{name}.lora_B.weight"] @ lora[f"{name}.lora_A.weight"]
            wanted = base[f"{name}.weight"] + product * np.float32(scaling)
            got = checkpoint.weights.read(f"{name}.weight")
            # The sums of the products may be taken in another order.
            np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-5)
            rows = checkpoint.weights.read_rows(f"{name}.weight", 3, 9)
            np.testing.assert_allclose(rows, wanted[3:9], rtol=1e-6, atol=1e-5)
        assert np.array_equal(checkpoint.weights.read(NORM), norm)
        other = "model.layers.1.self_attn.q_proj.weight"
        assert np.array_equal(checkpoint.weights.read(other), base[other])


def test_it_merges_into_gguf_and_is_part_of_the_identity(tmp_path: Path) -> None:
    lora = _write_adapter(tmp_path / "lora", {Q0: 4})
    path = write_gguf(tmp_path / "base.gguf", CONFIG)
    with open_checkpoint(path, tmp_path / "lora") as checkpoint:
        assert checkpoint.name == "base+lora"
        change = checkpoint.weights.read(f"{Q0}.weight") - random_weights(CONFIG)[f"{Q0}.weight"]
        product = lora[f"{Q0}.lora_B.weight"] @ lora[f"{Q0}.lora_A.weight"]
        np.testing.assert_allclose(change, 1.5 * product, rtol=0, atol=1e-5)
        assert checkpoint.identity == identity(path, tmp_path / "lora") != identity(path)
    before = identity(path, tmp_path / "lora")
    _write_adapter(tmp_path / "lora", {Q0: 4}, lora_alpha=7)
    assert identity(path, tmp_path / "lora") != before


@pytest.mark.parametrize("trained_on", ["model.", "model.language_model.", ""])
def test_it_fits_every_form_of_its_base(trained_on: str, tmp_path: Path) -> None:
    """The text alone, the text of a model with pictures, a model without its head; GGUF, which has q_proj in halves."""
    config, rng = tiny_config("qwen3.5"), np.random.default_rng(2)
    stored = as_stored(config, random_weights(config))
    a, b = rng.standard_normal((4, 64), dtype=np.float32), rng.standard_normal((512, 4), dtype=np.float32)
    queries, norm = "layers.1.self_attn.q_proj", "layers.0.input_layernorm.weight"
    changed = np.full(64, 2, np.float32)
    lora = {f"{queries}.lora_A.weight": a, f"{queries}.lora_B.weight": b, norm: changed}
    (tmp_path / "lora").mkdir()
    names = {f"base_model.model.{trained_on}{name}": values for name, values in lora.items()}
    write_safetensors(tmp_path / "lora" / "adapter_model.safetensors", names, "float32")
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 4}))
    wanted = random_weights(config)
    merged = stored[f"model.{queries}.weight"] + b @ a
    halves = merged.reshape(-1, 2, config.head_dim, 64).swapaxes(0, 1).reshape(2, -1, 64)
    for half, name in zip(halves, (queries, queries.replace("q_proj", "gate_proj")), strict=True):
        wanted[f"model.{name}.weight"] = half
    wanted[f"model.{norm}"] = changed + 1  # the norms are stored less one
    text = write_checkpoint(tmp_path / "text", config)
    pictures = write_checkpoint(tmp_path / "pictures", config)
    written = {name.replace("model.", "model.language_model.", 1): values for name, values in stored.items()}
    write_safetensors(pictures / "model.safetensors", written, "float32")
    for base in (text, pictures, write_gguf(tmp_path / "m.gguf", config)):
        with open_checkpoint(base, tmp_path / "lora") as checkpoint:
            for name, values in wanted.items():
                np.testing.assert_allclose(checkpoint.weights.read(name), values, rtol=0, atol=1e-5)
            rows = checkpoint.weights.read_rows(f"model.{queries}.weight", 60, 70)
            np.testing.assert_allclose(rows, halves[0][60:70], rtol=0, atol=1e-5)


def test_a_conversion_names_it_and_is_found_again(tmp_path: Path) -> None:
    _write_adapter(tmp_path / "lora", {Q0: 4})
    write_checkpoint(tmp_path / "base", CONFIG)
    base, lora = str(tmp_path / "base"), tmp_path / "lora"
    made = resolve_bundle(base, Precision(), adapter=lora, progress=Silent())
    assert (made.model, made.details["adapter"]) == ("base+lora", str(lora))
    assert made.folder.name.startswith("base+lora-int4-")
    again = resolve_bundle(base, Precision(), adapter=lora, progress=Silent())
    alone = resolve_bundle(base, Precision(), progress=Silent())
    assert again.folder == made.folder != alone.folder
    with _opened(tmp_path) as checkpoint:
        exported = export_onnx(checkpoint, tmp_path / "bundle", Precision())
    assert read_bundle(tmp_path / "bundle").source == exported.source == made.source
    with pytest.raises(InputError, match="is converted already, and an adapter is merged before that"):
        resolve_bundle(str(tmp_path / "bundle"), Precision(), adapter=lora, progress=Silent())
    with pytest.raises(InputError, match="is a bundle already"):
        open_model(str(tmp_path / "bundle"), adapter=lora, offline=True, progress=Silent())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"peft_type": "IA3"}, "is an adapter of the kind IA3: merge the two with peft"),
        ({"use_dora": True}, "has use_dora set, which is unsupported"),
        ({"kasa_config": {"beta": 1e-4}}, "has kasa_config set, which is unsupported"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights = 'lora_ga', which changes"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = 'pissa_niter_4', which changes"),
        ({"r": 16}, "do not fit rank 16"),
        ({"lora_alpha": -1}, "a rank or alpha is -1"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "but only names of modules are supported"),
    ],
)
def test_other_kinds_are_refused(values: dict[str, Any], said: str, tmp_path: Path) -> None:
    _write_adapter(tmp_path / "lora", {Q0: 4}, **values)
    with pytest.raises(CheckpointError) as refused:
        _opened(tmp_path)
    assert said in str(refused.value)


def test_other_bases_are_refused(tmp_path: Path) -> None:
    """By shape, by the name of a tensor, by the name of the model, and where one matrix has two uses."""
    _write_adapter(tmp_path / "lora", {Q0: 4}, base_model_name_or_path="Qwen/Qwen2.5-0.5B-Instruct")
    wide = write_checkpoint(tmp_path / "wide", tiny_config("qwen3", hidden_size=32))
    with pytest.raises(
        CheckpointError, match=r"of shape \[128, 64\], but in wide it has \[64, 32\] \(it was tr"
    ):
        open_checkpoint(wide, tmp_path / "lora")
    short = write_checkpoint(tmp_path / "short", tiny_config("qwen3", layers=1, tied=False))
    coder = write_checkpoint(tmp_path / "Qwen2.5-Coder-0.5B-Instruct", CONFIG)
    with pytest.raises(
        CheckpointError, match=r"an adapter of Qwen/Qwen2.5-0.5B-Instruct, and Qwen2.5-Coder-0.5B"
    ):
        open_checkpoint(coder, tmp_path / "lora")
    _write_adapter(tmp_path / "lora", {DOWN1: 4})
    with pytest.raises(
        CheckpointError, match=r"model\.layers\.1\.mlp\.down_proj\.weight, which short does not have"
    ):
        open_checkpoint(short, tmp_path / "lora")
    _write_adapter(tmp_path / "lora", {Q0: 4, "lm_head": 4})
    tied = write_checkpoint(tmp_path / "tied", tiny_config("qwen3", tied=True))
    with pytest.raises(CheckpointError, match="both for the input and for the output"):
        open_checkpoint(tied, tmp_path / "lora")


def test_a_change_of_the_part_for_pictures_alone_is_refused(tmp_path: Path) -> None:
    base, lora = write_checkpoint(tmp_path / "base", tiny_config("qwen3.5")), tmp_path / "lora"
    lora.mkdir()
    name = "base_model.model.model.visual.blocks.0.attn.proj.lora_{}.weight"
    halves = {name.format("A"): np.ones((4, 8), np.float32), name.format("B"): np.ones((8, 4), np.float32)}
    write_safetensors(lora / "adapter_model.safetensors", halves, "float32")
    (lora / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 4}))
    with pytest.raises(CheckpointError, match="changes only parts of base that bmqwen leaves aside"):
        open_checkpoint(base, lora)


def test_what_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not a LoRA adapter: it has no adapter_config\.json"):
        _opened(tmp_path)
    with pytest.raises(
        CheckpointError, match="is an adapter in GGUF, which is unsupported: name the PEFT folder"
    ):
        open_checkpoint(tmp_path / "base", tmp_path / "lora.gguf")
    model = write_gguf(tmp_path / "lora.gguf", CONFIG, values={"general.type": "adapter"})
    with pytest.raises(
        CheckpointError, match=r"holds an adapter \(LoRA\), not a model: name that model, and with"
    ):
        open_checkpoint(model)
    _write_adapter(tmp_path / "lora", {}, {NORM: np.ones(4, np.float32)})
    with pytest.raises(CheckpointError, match="holds no LoRA weights"):
        _opened(tmp_path)
    _write_adapter(
        tmp_path / "lora", {}, {"model.embed_tokens.lora_embedding_A": np.ones((4, 4), np.float32)}
    )
    with pytest.raises(CheckpointError, match="which is no LoRA of a weight"):
        _opened(tmp_path)
