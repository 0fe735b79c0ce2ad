"""Requests to token ids."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bmqwen.errors import ContextLengthError, RequestError, UnsupportedFieldError
from bmqwen.generate.fill_in_middle import FillInMiddle, Gap
from bmqwen.generate.template import ChatTemplate, Message
from bmqwen.generate.text_stream import tokens_showing
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.generate.tool_calls import ToolCall
from bmqwen.serve.defaults import Limits
from bmqwen.serve.history import check_unicode, read_history
from bmqwen.serve.http.protocol import ChatMessage, CompletionRequest
from bmqwen.serve.http.tools import FunctionTool
from bmqwen.serve.pool.wire import EngineFacts

_MOST_ANSWERS = 1000


class Prompts:
    """Makes prompts of requests, within limits. Safe to call from several threads, as the tokenizer is."""

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate, limits: Limits, facts: Callable[[], EngineFacts]
    ) -> None:
        """`facts` returns what the engine can read, or raises NotReadyError."""
        self._tokenizer, self._template, self._limits, self._facts = tokenizer, template, limits, facts
        self._fill = FillInMiddle.of(tokenizer)
        # The tokens that the model itself sampled for an answer, by owner and text: encoding its text again may give
        # others than are cached.
        self._answers: OrderedDict[bytes, tuple[int, ...]] = OrderedDict()

    def of_chat(
        self,
        messages: Sequence[ChatMessage],
        owner: str,
        tools: Sequence[FunctionTool] = (),
        *,
        variables: Mapping[str, Any] | None = None,
        fitting: bool = True,
        continued: bool = False,
    ) -> list[int]:
        """Return the prompt's token ids; `variables` are the chat template's.

        `continued`: the last message is an answer that has begun, and the model is to go on with it.

        Raises:
            RequestError: too many messages or characters, text that is not valid Unicode, results of calls that are not
                there, or tools for a model that has none; it names the message.
            ContextLengthError: it leaves no room for an answer (only with `fitting`).
            InputError: the template refuses the messages.
        """
        chat, shown = self._checked(messages, tools, owner)
        begun = chat.pop() if continued else None
        if begun is not None and (begun.role != "assistant" or begun.calls or not chat):
            raise RequestError(
                "continue_final_message is true, but the last message is not an answer in text: leave it out",
                "messages",
            )
        ids = self._template.encode(chat, self._tokenizer, tools=shown, variables=variables)
        if begun is not None:
            ids += self._template.begun(begun, ids, self._tokenizer)
        if fitting:
            self._check_length(ids)
        return ids

    def text_of_chat(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[FunctionTool] = (),
        *,
        variables: Mapping[str, Any] | None = None,
        continued: bool = False,
    ) -> str:
        """Return the prompt as text. Raises as `of_chat` does."""
        if continued:
            ids = self.of_chat(messages, "", tools, variables=variables, fitting=False, continued=True)
            return b"".join(map(self._tokenizer.token_bytes, ids)).decode("utf-8", "replace")
        chat, shown = self._checked(messages, tools, "")
        return self._template.render(chat, tools=shown, variables=variables)

    def of_completion(self, request: CompletionRequest) -> list[list[int]]:
        """Return the token ids of each prompt of a request. Raises as `of_chat` does."""
        given: Any = request.prompt
        if request.suffix:
            return self._gaps([given] if isinstance(given, str) else given, request.suffix)
        prompts = [given] if isinstance(given, str) or isinstance(given[0], int) else given
        found = []
        for place, prompt in enumerate(prompts):
            param = "prompt" if len(prompts) == 1 else f"prompt[{place}]"
            ids = self.of_text(prompt, param, control=True) if isinstance(prompt, str) else prompt
            # An empty text is the beginning of any document.
            ids = ids or [self._tokenizer.end_of_text]
            self._check_ids(ids, param)
            self._check_length(ids)
            found.append(ids)
        return found

    def of_gap(self, gap: Gap, answer: int) -> tuple[list[int], bool]:
        """Return the token ids of a prompt for the middle of a text, and whether some of the text was left out.

        It leaves room for an answer of so many tokens, at most for half of the context.

        Raises RequestError for too much text, and for invalid Unicode; UnsupportedFieldError for a model that cannot do
        it.
        """
        fill = self.fill_in_middle("input_suffix")
        texts = {"input_prefix": gap.before, "input_suffix": gap.after}
        texts |= {f"input_extra[{place}]": "".join(other) for place, other in enumerate(gap.others)}
        self._check_characters(sum(map(len, texts.values())), "input_prefix")
        for param, text in texts.items():
            check_unicode(text, param)
        context = self._facts().context_length
        return fill.prompt(gap, context - min(max(answer, 1), context // 2))

    def fill_in_middle(self, param: str) -> FillInMiddle:
        """Return what asks for the middle of texts. Raises UnsupportedFieldError for a model that cannot do it."""
        if self._fill is None:
            raise UnsupportedFieldError(
                f"{param} is given, but this model has no tokens for filling in the middle of a text: "
                "serve a coder model such as Qwen2.5-Coder",
                param,
            )
        return self._fill

    def of_tokens(self, ids: Sequence[int]) -> str:
        """Return the text that tokens show. Raises RequestError for one that the model does not have."""
        self._check_ids(ids, "tokens")
        return self._tokenizer.decode(ids)

    def of_text(self, text: str, param: str, *, control: bool) -> list[int]:
        """Return the token ids of a text; with `control`, the names of control tokens in it are these tokens.

        Raises RequestError for too much of it, and for invalid Unicode.
        """
        self._check_characters(len(text), param)
        check_unicode(text, param)
        return self._tokenizer.encode_prompt(text) if control else self._tokenizer.encode(text)

    def keep_answer(self, owner: str, text: str, ids: Sequence[int], calls: Sequence[ToolCall] = ()) -> None:
        """Remember the tokens of an answer that was given, for when it comes back as part of a prompt.

        Those of an answer with calls must be all of it, and the calls whole.
        """
        shown = ids if calls else tokens_showing(self._tokenizer, ids, text)
        if shown:
            self._answers[_key(owner, text, calls)] = tuple(shown)
            while len(self._answers) > _MOST_ANSWERS:
                self._answers.popitem(last=False)

    def _checked(
        self, messages: Sequence[ChatMessage], tools: Sequence[FunctionTool], owner: str
    ) -> tuple[list[Message], list[dict[str, Any]]]:
        if len(messages) > self._limits.messages:
            raise RequestError(
                f"{len(messages):,} messages are more than the {self._limits.messages:,} that this server takes",
                "messages",
            )
        chat = read_history(messages, thinks=self._template.thinks)
        texts = [
            text
            for message in chat
            for text in (message.content, message.thoughts, *(call.arguments for call in message.calls))
        ]
        self._check_characters(sum(map(len, texts)), "messages")
        shown = [tool.shown() for tool in tools]
        if (
            tools or any(message.role == "tool" or message.calls for message in chat)
        ) and not self._template.has_tools:
            raise UnsupportedFieldError(
                "this model cannot call tools, because its chat template does not support them: leave tools out, "
                "or serve a model that can, such as Qwen2.5-Instruct or Qwen3",
                "tools" if tools else "messages",
            )
        self._check_characters(sum(len(json.dumps(tool)) for tool in shown), "tools")
        return [
            replace(message, ids=self._answers.get(_key(owner, message.content, message.calls), ()))
            if message.role == "assistant"
            else message
            for message in chat
        ], shown

    def _gaps(self, prompts: Sequence[Any], suffix: str) -> list[list[int]]:
        fill = self.fill_in_middle("suffix")
        found = []
        for text in (suffix, *prompts):
            if not isinstance(text, str):
                raise RequestError("with a suffix, prompt must be text, not token ids", "prompt")
            param = "suffix" if text is suffix else "prompt"
            check_unicode(text, param)
            self._check_characters(len(text), param)
        for prompt in prompts:
            ids, _ = fill.prompt(Gap(prompt, suffix))
            self._check_length(ids)
            found.append(ids)
        return found

    def _check_characters(self, count: int, param: str) -> None:
        if count > self._limits.characters:
            raise RequestError(
                f"{count:,} characters are more than the {self._limits.characters:,} that this server takes",
                param,
            )

    def _check_ids(self, ids: Sequence[int], param: str) -> None:
        last = self._facts().vocab_size - 1
        if ids and max(ids) > last:
            raise RequestError(f"{param} has the token {max(ids)}, but the last one is {last}", param)

    def _check_length(self, ids: Sequence[int]) -> None:
        longest = self._facts().context_length - 1
        if len(ids) > longest:
            raise ContextLengthError(longest, len(ids), "shorten the messages or leave old ones out")


def _key(owner: str, text: str, calls: Sequence[ToolCall]) -> bytes:
    """Names an answer, however a client writes its calls' arguments."""
    called = [(call.name, json.loads(call.arguments)) for call in calls]
    return hashlib.sha256(f"{owner}\0{text}\0{json.dumps(called, sort_keys=True)}".encode()).digest()
