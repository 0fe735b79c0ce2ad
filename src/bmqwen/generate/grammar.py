"""Answers that keep to a JSON schema: which tokens may come next."""

import json
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import MissingDependencyError, SchemaError
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.util.installation import install_command

# Room for indented JSON, but no endless blanks, which small models fall into.
BLANKS = r"[\x20\x0A]{1,40}"
_MOST_KEPT = 32
_KEYS = re.compile(r"Unimplemented keys: \[(.+?)\]")


class Grammar:
    """One answer's way through its schema, or through those of the tools that it calls."""

    holds = True

    def __init__(self, matcher: Any, param: str = "response_format") -> None:
        """`param` is the request's field that has the schema. Raises SchemaError if it cannot be used."""
        self._matcher, self._param = matcher, param
        self._check()

    def allowed(self, size: int) -> NDArray[np.bool_]:
        """Return which of `size` tokens may come next; that which ends the answer only once it is complete.

        Raises SchemaError if that takes too much to find out.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        found = np.zeros(size, np.bool_)
        known = np.unpackbits(bits, bitorder="little", count=min(size, 8 * len(bits)))
        found[: len(known)] = known
        if not found.any():
            raise SchemaError("the JSON schema leads to a place where nothing can follow", self._param)
        return found

    def accept(self, token_id: int) -> None:
        """Go on by a token that was allowed. Raises SchemaError as `allowed` does."""
        self._matcher.consume_token(token_id)
        self._check()

    def follow(self, ids: Sequence[int]) -> bool:
        """Go on by several tokens; False, and nowhere, if not all of them are allowed."""
        return bool(self._matcher.try_consume_tokens(list(ids)) == len(ids))

    def _check(self) -> None:
        if self._matcher.is_error():
            raise _unusable(self._matcher.get_error(), self._param)


def _unusable(reason: object, param: str) -> SchemaError:
    """Say what of a schema cannot be held, without the library's account of its own state."""
    text = " ".join(str(reason).partition("<state>")[0].split())
    # Of a grammar with several schemas the library also shows the place, and its lines.
    text = text.rpartition("failed to compile JSON schema: ")[2].partition(" 1 | ")[0]
    if found := _KEYS.search(text):
        return SchemaError(f"answers cannot be held to {found[1]} of a JSON schema: leave it out", param)
    return SchemaError(f"the JSON schema cannot be used: {text[:300]}", param)


class GrammarMaker:
    """Makes grammars for one tokenizer; the tokenizer's tables are made with the first."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._tables: Any = None
        # Conversations with tools have the same ones in each request.
        self._matchers: OrderedDict[str, Any] = OrderedDict()

    def of_schema(self, schema: str) -> Grammar:
        """Return a grammar of a JSON schema, given as JSON.

        Raises:
            SchemaError: it is none, or has something that is not supported.
            MissingDependencyError: llguidance is not installed.
        """
        llguidance = _library("answers that keep to a JSON schema")
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(
                schema, overrides={"whitespace_pattern": BLANKS}
            )
        except (ValueError, RecursionError) as error:
            raise _unusable(error, "response_format") from error
        return self._begin(llguidance, grammar, "response_format")

    def of_lark(self, text: str, param: str) -> Grammar:
        """Return a grammar given in Lark's language, as llguidance has it; `param` is the field that has its schemas.

        Raises as `of_schema` does.
        """
        llguidance = _library("calls of tools")
        try:
            grammar = llguidance.LLMatcher.grammar_from_lark(text)
        except (ValueError, RecursionError) as error:
            raise _unusable(error, param) from error
        return self._begin(llguidance, grammar, param)

    def _begin(self, llguidance: Any, grammar: str, param: str) -> Grammar:
        if self._tables is None:
            self._tables = llguidance.LLTokenizer(
                llguidance.TokenizerWrapper(_Vocabulary(self.tokenizer)),
                eos_token=sorted(self.tokenizer.stop_ids),
            )
        matcher = self._matchers.pop(grammar, None) or llguidance.LLMatcher(
            self._tables, grammar, log_level=0
        )
        made = Grammar(matcher.deep_copy(), param)
        self._matchers[grammar] = matcher
        if len(self._matchers) > _MOST_KEPT:
            self._matchers.popitem(last=False)
        return made


def guided(schema: Mapping[str, Any], *, lenient: bool) -> str:
    """Return a schema as JSON for a grammar in Lark's language; a `lenient` one leaves out what cannot be held."""
    return json.dumps({**schema, "x-guidance": {"whitespace_pattern": BLANKS, "lenient": lenient}})


def _library(purpose: str) -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise MissingDependencyError(f"{purpose} need llguidance: {install_command('schema')}") from error
    return llguidance


class _Vocabulary:
    """A tokenizer as llguidance wants it."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = min(tokenizer.stop_ids)
        self.tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        self.special_token_ids = sorted(tokenizer.control_tokens.values())

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", "replace"))
