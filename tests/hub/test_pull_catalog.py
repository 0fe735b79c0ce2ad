"""Short names and hub ids."""

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmqwen.errors import InputError
from bmqwen.hub.catalog import DEMO, HUGGINGFACE, MODELS, MODELSCOPE, find, models_in


@pytest.mark.parametrize(
    ("name", "repo"),
    [
        ("qwen1.5-0.5b-chat", "Qwen/Qwen1.5-0.5B-Chat"),
        ("qwen1.5-1.8b-chat", "Qwen/Qwen1.5-1.8B-Chat"),
        ("qwen1.5-4b-chat", "Qwen/Qwen1.5-4B-Chat"),
        ("qwen1.5-7b-chat", "Qwen/Qwen1.5-7B-Chat"),
        ("qwen2-7b-instruct", "Qwen/Qwen2-7B-Instruct"),
        ("qwen2.5-3b-instruct", "Qwen/Qwen2.5-3B-Instruct"),
        ("qwen2.5-coder-1.5b-instruct", "Qwen/Qwen2.5-Coder-1.5B-Instruct"),
        ("Qwen1.5-0.5B-Chat", "Qwen/Qwen1.5-0.5B-Chat"),
        ("demo", "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF"),
    ],
)
def test_a_short_name_leads_to_both_hubs(name: str, repo: str) -> None:
    assert find(name).repos == {HUGGINGFACE: repo, MODELSCOPE: repo}


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"did you mean qwen1\.5-0\.5b-chat"):
        find("qwen1.5-0.5b")
    with pytest.raises(InputError, match=r"`bmqwen list` shows the names"):
        find("???")


def test_a_hub_id_of_a_known_model_is_that_model() -> None:
    assert find("Qwen/Qwen1.5-0.5B-Chat") is MODELS["qwen1.5-0.5b-chat"]
    assert find("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF:q4_k_m") is DEMO


def test_parts_of_a_hub_id() -> None:
    model = find("me/My.Model-GGUF:Q8_0@refs/pr/1")
    assert model.repos[HUGGINGFACE] == "me/My.Model-GGUF"
    assert (model.variant, model.revision) == ("Q8_0", "refs/pr/1")
    assert find("Qwen/Qwen1.5-0.5B-Chat@v1").name != find("Qwen/Qwen1.5-0.5B-Chat").name


@pytest.mark.parametrize("revision", ["..", "../../x", "a/../../b", "/etc", "./x"])
def test_a_revision_that_leads_out_of_its_folder_is_refused(revision: str) -> None:
    with pytest.raises(InputError, match="unknown model"):
        find(f"me/x@{revision}")


@pytest.mark.parametrize(
    ("repo", "files", "names"),
    [
        ("me/x", ["config.json", "model.safetensors"], ["me/x"]),
        ("me/x", ["x-q8_0.gguf"], ["me/x"]),
        ("me/x", ["x-q8_0.gguf", "mmproj-F16.gguf"], ["me/x"]),
        ("me/x", ["x-q8_0.gguf", "x.Q4_K_M.gguf"], ["me/x:q8_0", "me/x:Q4_K_M"]),
        ("me/x", ["x-q8_0-00001-of-00002.gguf", "x-q8_0-00002-of-00002.gguf"], ["me/x"]),
        ("me/x", ["x-q4_0.gguf", "x-q8_0-00001-of-00001.gguf"], ["me/x:q4_0", "me/x:q8_0"]),
        ("Qwen/Qwen1.5-0.5B-Chat", ["config.json"], ["qwen1.5-0.5b-chat"]),
        (DEMO.repos[HUGGINGFACE], [DEMO.file], [DEMO.name]),
        (DEMO.repos[HUGGINGFACE], [], [DEMO.name]),
        (DEMO.repos[HUGGINGFACE], ["x-q8_0.gguf"], [DEMO.repos[HUGGINGFACE]]),
        (DEMO.repos[HUGGINGFACE], [DEMO.file, "x-q8_0.gguf"], [DEMO.name, f"{DEMO.repos[HUGGINGFACE]}:q8_0"]),
    ],
)
def test_what_a_folder_holds_has_a_name_that_finds_it(
    repo: str, files: list[str], names: list[str], tmp_path: Path
) -> None:
    for file in files:
        (tmp_path / file).touch()
    models = list(models_in(repo, None, tmp_path))
    assert {model.title for model in models} == set(names)
    assert [find(model.title) for model in models] == models
    if repo == "me/x":
        assert {model.title for model in models_in(repo, "v2", tmp_path)} == {f"{name}@v2" for name in names}


@given(st.text() | st.from_regex(re.compile(r"[\w.-]+/[\w.:@/-]+")))
def test_any_text_is_a_model_with_a_harmless_folder_or_an_input_error(text: str) -> None:
    with contextlib.suppress(InputError):
        model = find(text)
        assert re.fullmatch(r"[\w@][\w.@-]*", model.name, re.ASCII), model.name
