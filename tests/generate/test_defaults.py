"""A model answers as its publisher recommends: by its own file, else as its family does."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bmqwen.cli.repl.commands import change_setting
from bmqwen.errors import ConfigError
from bmqwen.generate.defaults import default_params
from bmqwen.generate.params import MAX_TOKENS, SamplingParams, choose_params
from bmqwen.model.llama import Llama
from support.checkpoints import Kind, tiny_config

FAMILY: dict[str, Any] = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "max_tokens": MAX_TOKENS}


# What templates say of thoughts: that a variable turns them off, or on; that they are always there.
OFF = "{% if enable_thinking is false %}<think></think>{% endif %}"
ON = "{% if enable_thinking is true %}<think>{% else %}<think></think>{% endif %}"
ALWAYS = "<think>{# </think> #}"


def sampled(
    kind: Kind, template: str, folder: Path, hidden_size: int = 64
) -> tuple[SamplingParams, list[float]]:
    """The defaults of a model of that kind with such a template, and their numbers."""
    (folder / "chat_template.jinja").write_text(template)
    (folder / "tokenizer_config.json").write_text("{}")
    found = default_params(folder, tiny_config(kind, hidden_size=hidden_size))
    return found, numbers(found)


def numbers(params: SamplingParams) -> list[float]:
    return [params.temperature, params.top_p, params.top_k, params.presence_penalty]


def params(folder: Path, own: object = None) -> SamplingParams:
    """Of a Qwen1.5 with that generation_config.json."""
    if own is not None:
        (folder / "generation_config.json").write_text(json.dumps(own))
    return default_params(folder, tiny_config("qwen1.5"))


def test_without_a_file_it_is_the_familys(tmp_path: Path) -> None:
    assert params(tmp_path) == SamplingParams(repetition_penalty=1.05, **FAMILY)


def test_another_family_has_no_penalty(tmp_path: Path) -> None:
    config = replace(tiny_config("qwen1.5"), architecture=Llama)
    assert default_params(tmp_path, config) == SamplingParams(**FAMILY)


def test_qwen3_has_others_where_thinking_is_turned_off(tmp_path: Path) -> None:
    """As its card recommends, unless the folder's file says something else, as the published one does."""
    config = tiny_config("qwen3")
    thinks, found = sampled("qwen3", OFF, tmp_path)
    assert found == [0.6, 0.95, 20, 0]
    off = choose_params(thinks, {"enable_thinking": False})
    assert (off.temperature, off.top_p, off.top_k, off.enable_thinking) == (0.7, 0.8, 20, False)
    own = choose_params(thinks, {"enable_thinking": False, "top_p": 0.5})
    assert (own.temperature, own.top_p) == (0.7, 0.5)
    # A server that was started without thinking, and a request that wants it.
    again = choose_params(off, {"enable_thinking": True})
    assert (again.temperature, again.top_p, again.enable_thinking) == (0.6, 0.95, True)
    assert choose_params(off, {"enable_thinking": False}) == off
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.95, "top_k": 20}')
    stated = choose_params(default_params(tmp_path, config), {"enable_thinking": False})
    assert (stated.temperature, stated.top_p) == (0.6, 0.95)


def test_the_template_says_whether_a_model_thinks(tmp_path: Path) -> None:
    """Qwen3's 2507 releases do one thing only, DeepSeek's models always think, Qwen3.5's small ones if they are told to
    (the numbers are those of the cards).
    """
    instruct, found = sampled("qwen3", "a template without thoughts", tmp_path)
    assert (found, instruct.other_mode, instruct.enable_thinking) == ([0.7, 0.8, 20, 0], {}, None)
    thinking, found = sampled("qwen3", ALWAYS, tmp_path)
    assert (found, thinking.other_mode, thinking.enable_thinking) == ([0.6, 0.95, 20, 0], {}, None)
    distilled, found = sampled("qwen2.5", ALWAYS, tmp_path)
    assert (found, distilled.repetition_penalty) == ([0.6, 0.95, 0, 0], 1)
    assert sampled("qwen2.5", "a template without thoughts", tmp_path)[1] == [0.7, 0.8, 20, 0]
    small, found = sampled("qwen3.5", ON, tmp_path)
    assert (found, small.enable_thinking) == ([1.0, 1.0, 20, 2.0], False)
    assert numbers(choose_params(small, {"enable_thinking": True})) == [1.0, 0.95, 20, 1.5]
    large, found = sampled("qwen3.5", OFF, tmp_path, hidden_size=2560)
    assert (found, large.enable_thinking) == ([1.0, 0.95, 20, 1.5], None)
    assert numbers(choose_params(large, {"enable_thinking": False})) == [0.7, 0.8, 20, 1.5]
    assert numbers(choose_params(large, {"temperature": 0})) == [0, 1, 0, 0]
    # In a conversation the template's own way is back with "none".
    on, _ = change_setting(small, "enable_thinking on", small)
    assert numbers(on) == [1.0, 0.95, 20, 1.5]
    back, _ = change_setting(on, "enable_thinking none", small)
    assert (numbers(back), back.enable_thinking) == ([1.0, 1.0, 20, 2.0], None)
    assert numbers(change_setting(back, "enable_thinking on", small)[0]) == numbers(on)


def test_turning_thinking_off_in_a_conversation_keeps_what_was_set(tmp_path: Path) -> None:
    defaults, _ = sampled("qwen3", OFF, tmp_path)
    params, _ = change_setting(defaults, "top_p 0.5", defaults)
    params, _ = change_setting(params, "enable_thinking off", defaults)
    assert (params.temperature, params.top_p, params.enable_thinking) == (0.7, 0.5, False)
    params, _ = change_setting(params, "enable_thinking none", defaults)
    assert (params.temperature, params.top_p, params.enable_thinking) == (0.6, 0.5, None)


def test_its_own_values_go_before_the_familys(tmp_path: Path) -> None:
    own = {"eos_token_id": [1], "do_sample": True, "top_p": 0.9, "repetition_penalty": 1.2, "min_p": None}
    assert params(tmp_path, own) == SamplingParams(**FAMILY | {"top_p": 0.9, "repetition_penalty": 1.2})


def test_a_model_that_is_not_to_be_sampled_is_greedy(tmp_path: Path) -> None:
    assert params(tmp_path, {"do_sample": False, "temperature": 0.9}).temperature == 0


def test_a_model_without_logits_is_greedy(tmp_path: Path) -> None:
    found = default_params(tmp_path, tiny_config("qwen1.5"), can_sample=False)
    assert found == SamplingParams(max_tokens=MAX_TOKENS)


@pytest.mark.parametrize(
    "own", [{"temperature": 3}, {"top_p": 0}, {"top_k": 1.5}, {"repetition_penalty": True}]
)
def test_a_value_that_cannot_be_used_is_named_with_its_file(tmp_path: Path, own: dict[str, Any]) -> None:
    name = next(iter(own))
    with pytest.raises(ConfigError, match=rf"generation_config\.json cannot be used: {name} is .*correct it"):
        params(tmp_path, own)
