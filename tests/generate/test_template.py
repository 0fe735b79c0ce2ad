"""Messages to prompts: control tokens are the template's own, content stays text."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmqwen.errors import ConfigError, InputError
from bmqwen.generate.template import ChatTemplate, Message, Role
from support.toy_tokenizer import CHATML, MARKERS, SPECIAL, toy_library_tokenizer, toy_template, toy_tokenizer

TOKENIZER = toy_tokenizer()
LIBRARY = toy_library_tokenizer()
END, START = TOKENIZER.control_tokens["<|im_end|>"], TOKENIZER.control_tokens["<|im_start|>"]

# What templates do to contents.
REWRITING = {
    "plain": CHATML,
    "trim": CHATML.replace("message['content']", "(message['content'] | trim)"),
    "strip and test": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content and 'zzz' not in m.content %}"
        "{{ m.content.strip() }}{% endif %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    ),
    "replace": CHATML.replace("message['content']", "message['content'].replace('x', '')"),
    "split": CHATML.replace("message['content']", "message['content'].split('x') | join"),
    "loop over characters": CHATML.replace("message['content']", "(message['content'] | list | join)"),
    "slices": CHATML.replace("message['content']", "message['content'][:2] ~ message['content'][2:]"),
    "half a token": CHATML.replace("message['content']", "'<|im_' + message['content'] + 'im_end|>'"),
    "tojson": CHATML.replace("message['content']", "(message['content'] | tojson)"),
}
CONTENTS = st.lists(
    st.sampled_from(
        [*SPECIAL, *MARKERS, "<|im_x", "end|>", "<|", "<|", "x", "|>", "hello", " ", "\n", "你", "<", ">"]
    ),
    max_size=10,
).map("".join)


def control(ids: list[int]) -> list[int]:
    return [token for token in ids if token in TOKENIZER.control_tokens.values()]


@pytest.mark.parametrize("name", REWRITING)
@given(contents=st.lists(CONTENTS, min_size=3, max_size=3))
def test_content_never_becomes_a_control_token(name: str, contents: list[str]) -> None:
    template = ChatTemplate(REWRITING[name])
    roles: list[Role] = ["user", "assistant", "user"]
    messages = [Message(role, content) for role, content in zip(roles, contents, strict=True)]
    assert control(template.encode(messages, TOKENIZER)) == [START, END] * 3 + [START]


@pytest.mark.parametrize("name", REWRITING)
@given(content=st.text())
def test_ordinary_messages_are_encoded_as_the_library_does(name: str, content: str) -> None:
    template = ChatTemplate(REWRITING[name])
    messages = [Message("system", "s"), Message("user", content)]
    text = template.render(messages)
    if not any(token in content for token in (*SPECIAL, *MARKERS)):
        assert template.encode(messages, TOKENIZER) == LIBRARY.encode(text).ids


def test_text_of_typed_control_tokens_survives() -> None:
    ids = toy_template().encode([Message("user", "a<|im_end|>b")], TOKENIZER)
    plain = TOKENIZER.encode("user\na<|im_end|>b")
    assert ids[1 : 1 + len(plain)] == plain


def test_private_use_characters_of_a_message_survive() -> None:
    content = "".join(map(chr, range(0xF0000, 0xF0100)))
    ids = toy_template().encode([Message("user", content)], TOKENIZER)
    assert content in TOKENIZER.decode(ids)


@pytest.mark.parametrize("name", ["plain", "trim"])
def test_sampled_tokens_are_taken_as_they_are(name: str) -> None:
    spelled = tuple(token for char in " hello" for token in TOKENIZER.encode(char))
    assert list(spelled) != TOKENIZER.encode(" hello")
    template = ChatTemplate(REWRITING[name])
    opening = template.encode([Message("user", "hi")], TOKENIZER)
    messages = [Message("user", "hi"), Message("assistant", " hello", spelled), Message("user", "more")]
    ids = template.encode(messages, TOKENIZER)
    assert ids[: len(opening) + len(spelled) + 1] == [*opening, *spelled, END]


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",  # it forgets answers
        "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",  # and it repeats them
    ],
)
def test_templates_that_rewrite_answers_get_their_text(source: str) -> None:
    spelled = tuple(token for char in "hello" for token in TOKENIZER.encode(char))
    messages = [Message("user", "hi"), Message("assistant", "hello", spelled), Message("user", "?")]
    template = ChatTemplate(source)
    assert template.encode(messages, TOKENIZER) == TOKENIZER.encode(template.render(messages))


def test_what_a_template_sees(tmp_path: Path) -> None:
    source = (
        "{{ bos_token }}|{{ eos_token }}|{{ tools is none }}|{{ add_generation_prompt }}|{{ messages | tojson }}"
        "|{{ strftime_now('%Y') | length }}"
    )
    config = {"chat_template": source, "bos_token": "<b>", "eos_token": {"content": "<e>"}, "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    template = ChatTemplate.from_folder(tmp_path)
    assert template.render([Message("user", "é<&'")]) == (
        '<b>|<e>|True|True|[{"role": "user", "content": "é<&\'"}]|4'
    )
    assert "|False|" in template.render([Message("user", "x")], add_generation_prompt=False)


def test_blocks_are_trimmed_as_in_transformers() -> None:
    body = "    {% generation %}\n{{ m.content }}\n    {% endgeneration %}\n"
    source = "  {% for m in messages %}\n" + body + "  {% endfor %}\nx"
    assert toy_template(source).render([Message("user", "a")]) == "a\nx"


def test_where_templates_come_from(tmp_path: Path) -> None:
    config = tmp_path / "tokenizer_config.json"

    def rendered(value: object) -> str:
        config.write_text(json.dumps({"chat_template": value}))
        return ChatTemplate.from_folder(tmp_path).render([Message("user", "x")])

    assert rendered("one") == "one"
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "two"}]
    assert rendered(named) == "two"
    assert rendered(named[:1]) == "tools"
    wrong: list[object] = [None, 5, [], {}, " "]
    for value in (*wrong, [{"name": "a", "template": "1"}, {"name": "b", "template": "2"}]):
        with pytest.raises(ConfigError, match=r"tokenizer_config\.json"):
            rendered(value)
    (tmp_path / "chat_template.jinja").write_text("three")
    assert rendered("one") == "three"
    config.unlink()
    assert ChatTemplate.from_folder(tmp_path).render([Message("user", "x")]) == "three"


def test_a_templates_own_error_is_passed_on() -> None:
    template = toy_template(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system!') }}{% endif %}"
    )
    with pytest.raises(InputError, match="no system!"):
        template.encode([Message("system", "x")], TOKENIZER)


@pytest.mark.parametrize(
    "source", ["{% for %}", "{{ 1 | nofilter }}", "{{ x", "{{" + "(" * 9999, "x" * 1_000_001]
)
def test_damaged_templates_are_refused(source: str) -> None:
    with pytest.raises(ConfigError, match="chat template"):
        toy_template(source)


def test_messages_are_checked() -> None:
    with pytest.raises(InputError, match="'function'"):
        Message("function", "x")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="must be text"):
        Message("user", 5)  # type: ignore[arg-type]
