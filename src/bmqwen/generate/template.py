"""Chat messages to a prompt, by the model's own template."""

import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from bmqwen.errors import ConfigError, InputError
from bmqwen.generate.answer_parts import TAGS
from bmqwen.generate.sandbox import SANDBOX
from bmqwen.generate.tokenizer import Tokenizer, read_config, token_text
from bmqwen.generate.tool_calls import ToolCall

Role = Literal["system", "user", "assistant", "tool"]
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_LONGEST_SOURCE = 1_000_000
_PRIVATE_USE = range(0xF0000, 0xFFFFE)  # code points that mean nothing to anybody


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat.

    `ids`, if given, are the tokens that the model itself sampled for `content` and `calls` (they must show exactly
    that): a prompt takes them as they are, because encoding the text again may give other tokens than the cache
    holds. `calls` are what an answer called; their arguments are whole. A message of the role "tool" has the result
    of one of them. `thoughts` are what came before an answer; the template decides whether the model sees them again.
    """

    role: Role
    content: str
    ids: tuple[int, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    thoughts: str = ""

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            roles = ", ".join(get_args(Role))
            raise InputError(f"a message has the role {self.role!r}, but must have one of {roles}")
        if not isinstance(self.content, str):
            raise InputError(f"a message's content is a {type(self.content).__name__}, but must be text")


class ChatTemplate:
    """A Jinja chat template, run in a process of its own with limits.

    Attributes:
        source: its text.
        special_tokens: variables for it, "eos_token" and its kin.
    """

    def __init__(
        self,
        source: str,
        *,
        special_tokens: Mapping[str, str] | None = None,
        origin: str = "tokenizer_config.json",
    ) -> None:
        """Compile `source`.

        `special_tokens` ("eos_token": "<|im_end|>") are variables for it; `origin` is for messages.

        Raises ConfigError for a source that is no template, DeviceError where no process can be started for it.
        """
        self.source = source
        self._origin = origin
        self.special_tokens = dict(special_tokens or {})
        count = len(source)
        if count > _LONGEST_SOURCE:
            raise ConfigError(f"the chat template in {origin} has {count:,} characters, too many for one")
        try:
            SANDBOX.check(source)
        except InputError as error:
            raise ConfigError(f"the chat template in {origin} cannot be used: {error}") from error

    @classmethod
    def from_folder(cls, folder: str | Path) -> "ChatTemplate":
        """Read one from a checkpoint's folder: chat_template.jinja if there is one, else tokenizer_config.json.

        Raises ConfigError for a missing or damaged file.
        """
        config_path = origin = Path(folder) / "tokenizer_config.json"
        config = read_config(config_path)
        path = Path(folder) / "chat_template.jinja"
        try:
            source = path.read_text(encoding="utf-8")
            origin = path
        except FileNotFoundError:
            source = _choose(config.get("chat_template"), str(config_path))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}; download the model again") from error
        tokens = {name: token_text(config.get(name)) for name in _SPECIAL_TOKENS}
        special_tokens = {name: text for name, text in tokens.items() if text is not None}
        return cls(source, special_tokens=special_tokens, origin=str(origin))

    @property
    def has_tools(self) -> bool:
        """Whether the template shows tools to the model."""
        return re.search(r"\btools\b", self.source) is not None

    @property
    def has_xml_calls(self) -> bool:
        """Whether the template shows calls as XML, as Qwen3-Coder's does."""
        return "<function=" in self.source

    @property
    def thinks(self) -> bool:
        """Whether the template knows thoughts, so that the model's answers may begin with some."""
        return TAGS["thought"][1] in self.source

    @property
    def can_switch_thinking(self) -> bool:
        """Whether thinking can be turned on or off."""
        return "enable_thinking" in self.source

    @cached_property
    def thinks_unless_told(self) -> bool:
        """Whether it has the model think where nobody turns thinking on or off. Raises InputError as `render` does."""
        question = [Message("user", "?")]
        return self.render(question) == self.render(question, variables={"enable_thinking": True})

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """Return the prompt as text, for people: typed control tokens look like real ones (`encode` knows better).

        `tools` are as in requests, `variables` the template's own, such as enable_thinking.

        Raises InputError if the template refuses the messages.
        """
        chat = [_entry(message, message.content) for message in messages]
        return self._render(chat, tools, variables, add_generation_prompt)

    def encode(
        self,
        messages: Sequence[Message],
        tokenizer: Tokenizer,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """Return the prompt's token ids. Only the template's own text can become control tokens.

        Each character of a message that could begin or end a control token goes through the template as a
        private-use character that occurs nowhere else, and comes back once the control tokens are found. So
        nothing that a template does to a message (trim, split, replace) makes a control token of it; on the
        other hand, a template that looks for such text in a message does not find it. The same goes for tools, their
        calls and results. `variables` are the template's own, such as enable_thinking.

        Raises InputError if the template refuses the messages.
        """
        edges = {edge for token in tokenizer.control_tokens for edge in (token[0], token[-1])}
        kept = {place: message.ids for place, message in enumerate(messages) if message.ids}
        calls = [call for message in messages for call in message.calls]
        texts = [
            self.source,
            *(text for message in messages for text in (message.content, message.thoughts)),
            json.dumps(tools, ensure_ascii=False),
        ]
        texts += [text for call in calls for text in (call.name, _decoded(call.arguments))]
        marks = _unused_characters(len(edges) + len(kept), texts)
        hide = {ord(edge): next(marks) for edge in sorted(edges)}
        show = {ord(mark): chr(edge) for edge, mark in hide.items()}
        answers = {next(marks): place for place in kept}
        shown_tools = _translated(list(tools), hide)
        chat = [_translated(_entry(message, message.content), hide) for message in messages]
        for mark, place in answers.items():
            # The tokens have the calls as well.
            chat[place] = {"role": messages[place].role, "content": mark}
        text = self._render(chat, shown_tools, variables, add_generation_prompt)
        lost = [mark for mark in answers if text.count(mark) != 1]
        if lost:  # a template that rewrites answers: those are encoded from their text
            for mark in lost:
                place = answers.pop(mark)
                chat[place] = _translated(_entry(messages[place], messages[place].content), hide)
            text = self._render(chat, shown_tools, variables, add_generation_prompt)
        ids: list[int] = []
        for part in tokenizer.split_control(text):
            if isinstance(part, int):
                ids.append(part)
                continue
            for stretch in re.split(f"([{''.join(answers)}])", part) if answers else [part]:
                if stretch in answers:
                    ids.extend(kept[answers[stretch]])
                elif stretch:
                    ids.extend(tokenizer.encode(stretch.translate(show)))
        return ids

    def begun(self, answer: Message, prompt: Sequence[int], tokenizer: Tokenizer) -> list[int]:
        """Return the tokens of an answer that has begun, to stand behind a prompt, so that the model goes on with its
        text, or with its thoughts while there is no text.

        The thoughts stand before the text, between tags: less what the prompt has of them, for a template may have
        opened the thoughts, or closed them for a model that is not to think.
        """
        opening, closing = TAGS["thought"]
        end = tokenizer.end_of_prompt(prompt)
        opened = end.endswith(opening)
        if not self.thinks or end.endswith(closing) or not (opened or answer.thoughts):
            return list(answer.ids) or tokenizer.encode(answer.content)
        ids = [] if opened else tokenizer.encode_prompt(opening)
        thoughts = answer.thoughts if opened else f"\n{answer.thoughts}"
        if not answer.content:
            return ids + tokenizer.encode(thoughts)
        ids += [*tokenizer.encode(f"{thoughts}\n"), *tokenizer.encode_prompt(closing)]
        if answer.ids:
            return [*ids, *tokenizer.encode("\n\n"), *answer.ids]
        return ids + tokenizer.encode(f"\n\n{answer.content}")

    def _render(
        self,
        chat: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any] | None,
        add_generation_prompt: bool,
    ) -> str:
        known = {
            **self.special_tokens,
            **(variables or {}),
            "messages": chat,
            "add_generation_prompt": add_generation_prompt,
            "tools": list(tools) or None,
            "documents": None,
        }
        try:
            return SANDBOX.render(self.source, known)
        except InputError as error:
            raise InputError(f"the chat template in {self._origin} refused: {error}") from error


def _entry(message: Message, content: str) -> dict[str, Any]:
    """A message as templates take it: arguments of calls are no text there."""
    entry: dict[str, Any] = {"role": message.role, "content": content}
    if message.thoughts:
        entry["reasoning_content"] = message.thoughts
    if message.calls:
        entry["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.loads(call.arguments)},
            }
            for call in message.calls
        ]
    return entry


def _decoded(arguments: str) -> str:
    """JSON without escapes, behind which characters may hide."""
    return json.dumps(json.loads(arguments), ensure_ascii=False)


def _translated(value: Any, table: Mapping[int, str]) -> Any:
    """A value of JSON with characters of all of its texts replaced."""
    if isinstance(value, str):
        return value.translate(table)
    if isinstance(value, list):
        return [_translated(item, table) for item in value]
    if isinstance(value, dict):
        return {_translated(name, table): _translated(item, table) for name, item in value.items()}
    return value


def require_template(files: Mapping[str, bytes], place: Path) -> None:
    """Raise ConfigError unless a tokenizer's files, by name, hold a chat template that can be used.

    `place` is their folder or GGUF.
    """
    name = "chat_template.jinja" if "chat_template.jinja" in files else "tokenizer_config.json"
    origin = str(place / name if place.is_dir() else place)
    try:
        text = files.get(name, b"{}").decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{origin} cannot be read: {error}; download the model again") from error
    ChatTemplate(
        text if name.endswith(".jinja") else _choose(json.loads(text).get("chat_template"), origin),
        origin=origin,
    )


def _choose(value: object, origin: str) -> str:
    """The template text out of what chat_template may be: text, or a list of named templates."""
    if isinstance(value, list):
        named = {
            item["name"]: item["template"]
            for item in value
            if isinstance(item, dict) and "name" in item and "template" in item
        }
        value = named.get("default", next(iter(named.values())) if len(named) == 1 else None)
    if isinstance(value, str) and value.strip():
        return value
    if value is None or value == "":
        beside = ", or put a chat_template.jinja beside it" if origin.endswith(".json") else ""
        raise ConfigError(
            f"{origin} has no chat_template, which turns messages into a prompt: take the chat or instruct version of "
            f"the model{beside}"
        )
    raise ConfigError(f"{origin} has a chat_template that is neither text nor a list of named templates")


def _unused_characters(count: int, texts: Sequence[str]) -> Iterator[str]:
    """`count` private-use characters that none of the texts holds, random so that none can be aimed at."""
    used = set().union(*texts)
    found: set[str] = set()
    while len(found) < count:
        mark = chr(secrets.choice(_PRIVATE_USE))
        if mark not in used:
            found.add(mark)
    return iter(found)
