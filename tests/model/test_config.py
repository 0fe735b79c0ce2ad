"""config.json, read strictly."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bmqwen.errors import ConfigError
from bmqwen.model.config import ModelConfig
from bmqwen.model.llama import Llama
from bmqwen.model.qwen2 import Qwen2
from bmqwen.model.qwen3 import Qwen3
from bmqwen.model.qwen3_5 import Qwen35
from bmqwen.model.registry import PUBLISHED_CONFIGS, gguf_architecture, parse_config, read_config
from bmqwen.model.rope import Yarn
from support.checkpoints import Kind, tiny_config

YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}

# As published with Qwen1.5-1.8B-Chat.
QWEN15: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 5504,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "model_type": "qwen2",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "num_key_value_heads": 16,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.37.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "hidden_act": "silu",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-05,
    "rope_interleaved": False,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}


def test_published_qwen15_config_is_read() -> None:
    config = parse_config(QWEN15, "config.json")
    assert config == ModelConfig(
        architecture=Qwen2,
        vocab_size=151936,
        hidden_size=2048,
        intermediate_size=5504,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=16,
        head_dim=128,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        max_position_embeddings=32768,
        tie_word_embeddings=False,
    )
    assert (config.group, config.q_size, config.kv_size) == (1, 2048, 2048)


def test_published_llama_type_config_is_read() -> None:
    config = parse_config(LLAMA, "config.json")
    assert (config.architecture, config.head_dim, config.group) == (Llama, 64, 3)
    assert (config.tie_word_embeddings, config.rope_theta) == (True, 100000.0)


def test_the_text_of_a_model_with_pictures_is_read() -> None:
    # As published with Qwen3.5-0.8B, less what does not matter here.
    text = {
        "attn_output_gate": True,
        "full_attention_interval": 4,
        "head_dim": 256,
        "hidden_act": "silu",
        "hidden_size": 1024,
        "intermediate_size": 3584,
        "layer_types": ([*["linear_attention"] * 3, "full_attention"]) * 6,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 16,
        "linear_value_head_dim": 128,
        "max_position_embeddings": 262144,
        "model_type": "qwen3_5_text",
        "mtp_num_hidden_layers": 1,
        "num_attention_heads": 8,
        "num_hidden_layers": 24,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_parameters": {
            "mrope_interleaved": True,
            "mrope_section": [11, 11, 10],
            "partial_rotary_factor": 0.25,
            "rope_theta": 10000000,
            "rope_type": "default",
        },
        "tie_word_embeddings": True,
        "vocab_size": 248320,
    }
    whole = {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "model_type": "qwen3_5",
        "text_config": text,
        "vision_config": {"depth": 12},
    }
    config = parse_config(whole, "c")
    assert (config.architecture, config.rotary_dim, config.rope_theta) == (Qwen35, 64, 1e7)
    assert config.kv_layers == [3, 7, 11, 15, 19, 23]
    assert config == parse_config(PUBLISHED_CONFIGS["Qwen/Qwen3.5-0.8B"], "c")
    with pytest.raises(ConfigError, match="layer_types"):
        parse_config(whole | {"text_config": text | {"layer_types": ["full_attention"]}}, "c")
    with pytest.raises(ConfigError, match="text_config is missing"):
        parse_config(whole | {"text_config": None}, "c")


@pytest.mark.parametrize("kind", ["qwen1.5", "qwen2.5", "qwen3", "qwen3.5", "llama"])
def test_to_dict_round_trips_through_json(kind: Kind) -> None:
    config = tiny_config(kind)
    assert parse_config(json.loads(json.dumps(config.to_dict())), "config.json") == config


def test_yarn_as_qwen_recommends_it_and_as_deepseek_has_it() -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = parse_config(QWEN15 | {"rope_scaling": scaling}, "c")
    assert config.max_position_embeddings == 131072
    assert config.yarn == Yarn(4.0, 32768, 0.1 * math.log(4) + 1)
    assert parse_config(json.loads(json.dumps(config.to_dict())), "c") == config
    # transformers passes over attn_factor, so that the result is the same.
    deepseek = scaling | {"attn_factor": 0.8782488562869419}
    assert parse_config(QWEN15 | {"rope_scaling": deepseek}, "c") == config
    newer = scaling | {"rope_theta": 1e6, "attention_factor": 1.0}
    assert parse_config(QWEN15 | {"rope_parameters": newer}, "c").yarn == Yarn(4.0, 32768, 1.0)
    with pytest.raises(ConfigError, match="given twice and differs"):
        parse_config(QWEN15 | {"rope_scaling": scaling, "rope_parameters": newer}, "c")


def test_newer_spelling_of_rope_gives_the_same() -> None:
    newer = {key: value for key, value in QWEN15.items() if key != "rope_theta"}
    newer["rope_parameters"] = {"rope_theta": 1000000.0, "rope_type": "default"}
    assert parse_config(newer, "c") == parse_config(QWEN15, "c")
    assert parse_config(QWEN15 | {"rope_scaling": {"type": "default"}}, "c").rope_theta == 1e6


def test_without_architectures_the_type_of_model_says_it() -> None:
    without = {key: value for key, value in QWEN15.items() if key != "architectures"}
    assert parse_config(without, "c") == parse_config(QWEN15, "c")


def test_llama_without_key_value_heads_is_multi_head() -> None:
    values = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
    assert parse_config(values, "c").num_key_value_heads == 9
    with pytest.raises(ConfigError, match="num_key_value_heads is missing"):
        parse_config({k: v for k, v in QWEN15.items() if k != "num_key_value_heads"}, "c")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"architectures": ["MistralForCausalLM"]},
            ("architectures", "MistralForCausalLM", "Qwen2ForCausalLM"),
        ),
        ({"model_type": "llama"}, ("model_type", "llama", "contradicts")),
        ({"hidden_act": "gelu"}, ("hidden_act", "gelu", "silu")),
        ({"rope_scaling": {"type": "yarn"}}, ("rope_scaling", "factor is missing")),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "mscale": 1.0}}, ("rope_scaling", "mscale")),
        ({"rope_scaling": {"rope_type": "llama3"}}, ("rope_scaling", "llama3")),
        ({"rope_scaling": {"factor": 2.0}}, ("rope_scaling", "factor", "2.0")),
        ({"rope_scaling": "yarn"}, ("rope_scaling", "yarn")),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e6}}, ("rope_parameters", "linear")),
        ({"rope_parameters": {"rope_theta": 5.0}}, ("rope_theta", "twice")),
        ({"use_sliding_window": True, "sliding_window": 4096}, ("use_sliding_window", "True")),
        ({"use_sliding_window": 1}, ("use_sliding_window", "true or false")),
        ({"use_sliding_window": True, "rope_scaling": YARN}, ("use_sliding_window", "True")),
        ({"is_causal": False}, ("is_causal", "later tokens")),
        ({"use_bidirectional_attention": True}, ("use_bidirectional_attention", "True")),
        ({"architectures": None, "model_type": "mamba"}, ("architectures", "None")),
        ({"layer_types": ["full_attention", "sliding_attention"]}, ("layer_types", "sliding_attention")),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, ("quantization_config", "GPTQ")),
        ({"quantization_config": {}}, ("quantization_config",)),
        ({"hidden_size": 0}, ("hidden_size", "0")),
        ({"hidden_size": -2048}, ("hidden_size", "-2048")),
        ({"hidden_size": 10**4000}, ("hidden_size",)),
        ({"hidden_size": 10**5000}, ("hidden_size",)),
        ({"hidden_size": "2048"}, ("hidden_size", "'2048'")),
        ({"hidden_size": 2048.0}, ("hidden_size", "2048.0")),
        ({"hidden_size": True}, ("hidden_size", "True")),
        ({"hidden_size": 2050}, ("hidden_size", "2050", "16")),
        ({"hidden_size": None}, ("hidden_size is missing",)),
        ({"num_key_value_heads": 5}, ("num_key_value_heads", "5", "16")),
        ({"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 65}, ("head_dim", "65")),
        ({"rms_norm_eps": 0}, ("rms_norm_eps", "0")),
        ({"rms_norm_eps": float("nan")}, ("rms_norm_eps", "nan")),
        ({"rope_theta": float("inf")}, ("rope_theta", "inf")),
        ({"rope_theta": 10**400}, ("rope_theta",)),
        ({"tie_word_embeddings": "yes"}, ("tie_word_embeddings", "yes")),
    ],
)
def test_refusal_names_file_key_and_value(change: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(QWEN15 | change, "some/config.json")
    message = str(caught.value)
    assert all(word in message for word in ("some/config.json", *words)), message
    assert "\n" not in message
    assert len(message) < 300


def test_qwen3_without_head_dim_is_lasts_of_128() -> None:
    values = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False}
    config = parse_config(QWEN15 | values, "c")
    assert (config.architecture, config.head_dim, config.q_size) == (Qwen3, 128, 2048)
    assert parse_config(QWEN15 | values | {"hidden_size": 1000}, "c").head_dim == 128
    for key in ("attention_bias", "use_sliding_window"):
        with pytest.raises(ConfigError, match=key):
            parse_config(QWEN15 | values | {key: True, "sliding_window": 4096}, "c")


@pytest.mark.parametrize(
    "without_effect",
    [
        {"sliding_window": 32768},
        {"sliding_window": None},
        {"sliding_window": 4096, "max_window_layers": 24},
        {"sliding_window": 4096, "layer_types": ["full_attention"] * 24},
    ],
)
def test_a_sliding_window_without_effect_is_read(without_effect: dict[str, Any]) -> None:
    changed = QWEN15 | {"use_sliding_window": True} | without_effect
    assert parse_config(changed, "c") == parse_config(QWEN15, "c")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"architectures": ["Qwen3MoeForCausalLM"]},
            "a mixture of experts, whose layers are unsupported: use a dense",
        ),
        ({"architectures": ["Qwen2MoeForCausalLM"]}, "a mixture of experts"),
        ({"architectures": ["Qwen3NextForCausalLM"]}, "a mixture of experts"),
        ({"architectures": ["Qwen3VLMoeForConditionalGeneration"]}, "a mixture of experts"),
        ({"architectures": ["MixtralForCausalLM"]}, "a mixture of experts"),
        ({"architectures": ["SomethingForCausalLM"], "num_local_experts": 8}, "a mixture of experts"),
        (
            {"architectures": ["Qwen2VLForConditionalGeneration"]},
            "a model of pictures, which is unsupported: use a te",
        ),
        ({"architectures": ["Qwen2_5_VLForConditionalGeneration"]}, "a model of pictures"),
        ({"architectures": ["LlavaQwenForCausalLM"]}, "a model of pictures"),
        ({"architectures": ["Qwen2AudioForConditionalGeneration"]}, "a model of sound"),
        ({"architectures": ["Qwen2_5OmniModel"]}, "a model of sound"),
        ({"architectures": ["Qwen3ASRForConditionalGeneration"]}, "a model of sound"),
        (
            {"architectures": ["BertModel"]},
            "an encoder, a classifier or a part of a model, which writes no text: use a",
        ),
        ({"architectures": ["Qwen2ForSequenceClassification"]}, "an encoder, a classifier"),
        ({"architectures": ["Qwen2ForRewardModel"]}, "an encoder, a classifier"),
        ({"architectures": ["Qwen2Model"]}, "an encoder, a classifier"),
        (
            {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
            "an encoder, a classifier",
        ),
        (
            {"architectures": ["QWenLMHeadModel"]},
            "the first Qwen, whose network is another one: use its successor",
        ),
    ],
)
def test_other_kinds_of_models_are_refused_by_what_they_are(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse_config(QWEN15 | values, "some/config.json")
    assert str(caught.value).startswith(f"some/config.json: architectures = {values['architectures']}, ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("qwen3moe", "a mixture of experts"),
        ("qwen35moe", "a mixture of experts"),
        ("qwen3next", "a mixture of experts"),
        ("qwen2vl", "a model of pictures"),
        ("clip", "a model of pictures"),
        ("bert", "an encoder"),
        ("nomic-bert", "an encoder"),
        ("t5", "an encoder"),
        ("qwen", "the first Qwen"),
        ("mamba", "which is unsupported; supported are qwen2, qwen3, qwen35 and llama"),
    ],
)
def test_other_kinds_of_gguf_files(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"m\.gguf: general\.architecture = '{name}', {words}"):
        gguf_architecture(name, "m.gguf")


@pytest.mark.parametrize("key", ["attention_bias", "mlp_bias", "rope_interleaved"])
def test_llama_features_that_are_unsupported(key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        parse_config(LLAMA | {key: True}, "c")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "object"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"hidden_size": ' + b"9" * 10_000 + b"}", "not valid JSON"),
        (b" " * (5 << 20), "larger"),
    ],
)
def test_damaged_file(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        read_config(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing"):
        read_config(tmp_path / "config.json")
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "config.json")
