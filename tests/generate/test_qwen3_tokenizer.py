"""The real tokenizer and template of Qwen3: prompts as transformers makes them, and the thoughts of a real answer."""

from pathlib import Path

import pytest

from bmqwen.generate.params import SamplingParams
from bmqwen.generate.template import ChatTemplate, Message
from bmqwen.generate.text_stream import AnswerText
from bmqwen.generate.tokenizer import Tokenizer
from support.published_tokenizers import qwen3_folder

CHAT = [
    Message("system", "Be brief."),
    Message("user", "Hi /no_think"),
    Message("assistant", "Hello <b>", thoughts="hm"),
    Message("user", "And 中文?"),
]


@pytest.fixture(scope="module")
def folder() -> Path:
    return qwen3_folder()


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder)


@pytest.mark.reference
def test_prompts_are_those_of_transformers(folder: Path, tokenizer: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    library, template = transformers.AutoTokenizer.from_pretrained(folder), ChatTemplate.from_folder(folder)
    chat = [
        {"role": message.role, "content": message.content}
        | ({"reasoning_content": message.thoughts} if message.thoughts else {})
        for message in CHAT
    ]
    for variables in ({}, {"enable_thinking": False}, {"enable_thinking": True}):
        expected = library.apply_chat_template(chat, add_generation_prompt=True, tokenize=False, **variables)
        ids = template.encode(CHAT, tokenizer, variables=variables)
        assert ids == library(expected, add_special_tokens=False).input_ids
    assert template.thinks
    assert template.can_switch_thinking
    assert "hm" not in expected


def test_thoughts_of_a_real_answer(folder: Path, tokenizer: Tokenizer) -> None:
    template = ChatTemplate.from_folder(folder)
    said = "<think>\nOkay, 17 + 25.\n</think>\n\n42"
    parts = tokenizer.split_control(said)
    ids = [token for part in parts for token in ([part] if isinstance(part, int) else tokenizer.encode(part))]
    for off in (False, True):
        prompt = template.encode(CHAT[1:2], tokenizer, variables={"enable_thinking": not off})
        answer = AnswerText(tokenizer, SamplingParams(thoughts=True), prompt)
        for token in ids:
            answer.push(token)
        answer.finish(complete=True)
        # After thoughts that the template closed, a tag is text.
        assert answer.text() == (said if off else "42")
        assert answer.text("thought") == ("" if off else "Okay, 17 + 25.")
