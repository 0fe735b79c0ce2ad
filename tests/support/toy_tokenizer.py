"""A byte-level tokenizer of 270-odd tokens with Qwen's control tokens, and a ChatML template."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from bmqwen.generate.template import ChatTemplate
from bmqwen.generate.tokenizer import Tokenizer

MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w"), ("a", "b"), ("Ċ", "Ċ")]
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FIM = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")
MARKERS = ("<tool_call>", "</tool_call>")

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# Tools as Qwen2.5's template shows them, but for its sentences.
HERMES = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "<tool_call></tool_call><|im_end|>\n{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + ('user' if m.role == 'tool' else m.role) + '\n' }}"
    "{% if m.role == 'tool' %}{{ '<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{% else %}{{ m.content }}{% for call in m.tool_calls or [] %}{% set call = call.function %}"
    "{{ '\n' if m.content or not loop.first }}<tool_call>\n"
    '{"name": "{{ call.name }}", "arguments": {{ call.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# As Qwen3-Coder's and Qwen3.5's templates show them, but for their sentences.
XML_CALLS = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "<tool_call>\n<function=example_function_name>\n</function>\n</tool_call><|im_end|>\n{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + ('user' if m.role == 'tool' else m.role) + '\n' }}"
    "{% if m.role == 'tool' %}{{ '<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{% else %}{{ m.content }}{% for call in m.tool_calls or [] %}{% set call = call.function %}"
    "{{ '\n' if m.content or not loop.first }}<tool_call>\n<function={{ call.name }}>\n"
    "{% for name, value in call.arguments | items %}<parameter={{ name }}>\n"
    "{{ value if value is string else value | tojson }}\n</parameter>\n{% endfor %}"
    "</function>\n</tool_call>{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def toy_library_tokenizer() -> tokenizers.Tokenizer:
    """All 256 bytes, a few merges, three special tokens and two added ones that are not special."""
    vocab = {char: place for place, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for left, right in MERGES:
        vocab[left + right] = len(vocab)
    inner = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=MERGES))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    inner.add_tokens([AddedToken(token, normalized=False) for token in MARKERS])
    return inner


def toy_tokenizer() -> Tokenizer:
    return Tokenizer(toy_library_tokenizer())


def toy_coder_tokenizer() -> Tokenizer:
    """With Qwen2.5-Coder's tokens for the middle of texts."""
    inner = toy_library_tokenizer()
    inner.add_special_tokens([AddedToken(token, normalized=False) for token in FIM])
    return Tokenizer(inner)


def toy_template(source: str = CHATML) -> ChatTemplate:
    return ChatTemplate(source)


def write_tokenizer_folder(
    folder: Path, *, config: dict[str, Any] | None = None, generation: dict[str, Any] | None = None
) -> Path:
    """The tokenizer files of a checkpoint."""
    (folder / "tokenizer.json").write_text(toy_library_tokenizer().to_str(), encoding="utf-8")
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    return folder
