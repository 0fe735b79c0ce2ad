"""Opening a model: what is accepted, what is refused, and with which words."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from bmqwen.errors import CheckpointError, ConfigError
from bmqwen.weights.checkpoint import identity, open_checkpoint
from support.checkpoints import Kind, random_weights, tiny_config, write_checkpoint, write_gguf


@pytest.mark.parametrize("kind", ["qwen1.5", "qwen2.5", "qwen3", "llama"])
def test_folder(kind: Kind, tmp_path: Path) -> None:
    config = tiny_config(kind)
    write_checkpoint(tmp_path / "model", config, shards=2, dtype="bfloat16")
    with open_checkpoint(tmp_path / "model") as checkpoint:
        assert checkpoint.config == config
        assert (checkpoint.name, checkpoint.precision) == ("model", "BF16")
        assert checkpoint.parameters == sum(t.size for t in random_weights(config).values())
        stored = sum(file.stat().st_size for file in (tmp_path / "model").glob("*.safetensors"))
        assert checkpoint.bytes_on_disk == stored
        files = checkpoint.tokenizer_files()
        assert set(files) == {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}
        assert files["tokenizer.json"] == (tmp_path / "model" / "tokenizer.json").read_bytes()


def test_tensors_are_those_of_transformers() -> None:
    """The names and shapes are the state dictionary's of the real class."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    for kind in ("qwen1.5", "qwen2.5", "qwen3", "llama"):
        config = tiny_config(kind)
        values = {key: value for key, value in config.to_dict().items() if key != "architectures"}
        theirs = transformers.AutoConfig.for_model(**values)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(theirs)
        state = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        if config.tie_word_embeddings:
            del state["lm_head.weight"]
        assert state == config.network.shapes()


def test_chat_template_file_is_taken_along(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tiny_config())
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.tokenizer_files()["chat_template.jinja"] == b"{{ messages }}"


def test_missing_or_damaged_tokenizer(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tiny_config(), with_tokenizer=False)
    with open_checkpoint(tmp_path) as checkpoint:
        with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
            checkpoint.tokenizer_files()
        (tmp_path / "tokenizer.json").write_text("{")
        with pytest.raises(CheckpointError, match=r"tokenizer\.json is not valid JSON"):
            checkpoint.tokenizer_files()


def test_identity_follows_the_content(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "a", tiny_config(), seed=1)
    first = identity(folder)
    assert first == identity(folder)
    folder.rename(tmp_path / "b")
    folder = tmp_path / "b"
    assert first == identity(folder)
    status = (folder / "model.safetensors").stat()
    os.utime(folder / "model.safetensors", ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    second = identity(folder)
    assert second != first
    os.utime(folder / "tokenizer.json", ns=(0, 0))
    assert identity(folder) not in (first, second)
    gguf_file = write_gguf(tmp_path / "m.gguf", tiny_config(), seed=1)
    assert identity(gguf_file) == identity(gguf_file)


def test_folder_with_one_gguf_file(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", tiny_config())
    with open_checkpoint(tmp_path) as checkpoint:
        assert (checkpoint.name, checkpoint.config) == ("m.gguf", tiny_config())
    shutil.copy(tmp_path / "m.gguf", tmp_path / "n.gguf")
    with pytest.raises(CheckpointError, match="name one of them"):
        open_checkpoint(tmp_path)
    mmproj = ("mmproj-BF16.gguf", "Qwen3.5-2B.mmproj-f16.gguf")
    for beside in (*mmproj, "imatrix_unsloth.gguf", "imatrix.gguf", "Qwen2.5-7B.imatrix.gguf"):
        shutil.move(tmp_path / "n.gguf", tmp_path / beside)
        open_checkpoint(tmp_path).close()
        shutil.move(tmp_path / beside, tmp_path / "n.gguf")
    shutil.move(tmp_path / "n.gguf", tmp_path / "Qwen2.5-7B-imatrix-Q4_K_M.gguf")
    with pytest.raises(CheckpointError, match="name one of them"):
        open_checkpoint(tmp_path)


def test_a_pointer_in_place_of_the_file(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tiny_config())
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 7031645\n"
    words = r"is only Git LFS's pointer to the file: run `git lfs pull` in its folder, or download it"
    with open_checkpoint(tmp_path) as checkpoint:
        (tmp_path / "tokenizer.json").write_text(pointer)
        with pytest.raises(CheckpointError, match=rf"tokenizer\.json {words}"):
            checkpoint.tokenizer_files()
    for name in ("model.safetensors", "m.gguf"):
        (tmp_path / name).write_text(pointer)
        with pytest.raises(CheckpointError, match=rf"{name} {words}"):
            open_checkpoint(tmp_path / name if name.endswith("gguf") else tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": 128, "head_dim": 16}, r"embed_tokens\.weight has shape \[320, 64\].*\[320, 128\]"),
        ({"vocab_size": 321}, r"embed_tokens.*config\.json demands \[321, 64\]"),
        ({"num_hidden_layers": 3}, r"lacks tensor model\.layers\.2\..* and 11 more"),
        ({"num_hidden_layers": 1}, r"holds tensor model\.layers\.1\."),
        ({"num_key_value_heads": 4}, r"k_proj\.weight has shape \[32, 64\]"),
        ({"tie_word_embeddings": False}, r"lacks tensor lm_head\.weight"),
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, r"holds tensor .*k_proj\.bias"),
    ],
)
def test_config_that_lies(change: dict[str, object], words: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tiny_config())
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=words) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_biases(tmp_path: Path) -> None:
    config = tiny_config()
    tensors = {name: t for name, t in random_weights(config).items() if not name.endswith("q_proj.bias")}
    write_checkpoint(tmp_path, config, weights=tensors)
    with pytest.raises(
        CheckpointError, match=r"lacks tensor model\.layers\.0\.self_attn\.q_proj\.bias and 1 more"
    ):
        open_checkpoint(tmp_path)


def test_stored_copy_of_a_tied_head_is_allowed(tmp_path: Path) -> None:
    config = tiny_config(tied=True)
    tensors = random_weights(config)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    write_checkpoint(tmp_path, config, weights=tensors)
    open_checkpoint(tmp_path).close()


def test_a_head_that_differs_from_the_table_counts_more_than_the_flag(tmp_path: Path) -> None:
    """As transformers has it: what is stored apart and differs is not tied, whatever tie_word_embeddings says."""
    config = tiny_config(tied=True)
    tensors = random_weights(config)
    head = tensors["model.embed_tokens.weight"].copy()
    head[-1, -1] += 1
    write_checkpoint(tmp_path, config, weights=tensors | {"lm_head.weight": head})
    with open_checkpoint(tmp_path) as checkpoint:
        assert not checkpoint.config.tie_word_embeddings
        np.testing.assert_array_equal(checkpoint.weights.read("lm_head.weight"), head)


def test_pickles_are_refused_with_what_to_do(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tiny_config())
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin only, a pickle.*safetensors"):
        open_checkpoint(tmp_path)


def test_an_adapter_is_refused_by_its_name(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tiny_config())
    (tmp_path / "model.safetensors").rename(tmp_path / "adapter_model.safetensors")
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "Org/Base-1B", "r": 8}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    for files in (("config.json",), ()):  # most have no config.json at all
        with pytest.raises(
            CheckpointError,
            match=r"holds a LoRA adapter of Org/Base-1B, not a model: name that model, and this folder with --adapter",
        ):
            open_checkpoint(tmp_path)
        for name in files:
            (tmp_path / name).unlink()
    # A whole model that an adapter lies beside is a model.
    write_checkpoint(tmp_path, tiny_config())
    open_checkpoint(tmp_path).close()


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="missing"):
        open_checkpoint(tmp_path / "nothing.gguf")
    with pytest.raises(CheckpointError, match="no weights"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="neither"):
        open_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"config\.json is missing"):
        open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_checkpoint(tmp_path / ("x" * 5000))
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(CheckpointError, match="no plain file"):
        open_checkpoint(tmp_path / "pipe.gguf")
