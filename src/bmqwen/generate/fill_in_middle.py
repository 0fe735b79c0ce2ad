"""Prompts that ask for what stands between two texts, with a model's own control tokens for that."""

from collections.abc import Sequence
from dataclasses import dataclass

from bmqwen.generate.tokenizer import Tokenizer

# What is left out at the front of a text goes in steps of so many tokens, so that the rest stays cached as it grows.
_STEP = 256


@dataclass(frozen=True, slots=True)
class FimFamily:
    """How a family of models is asked: prefix, text before, suffix, text after, middle.

    Attributes:
        repository, file: begin a repository's name and each of its files' names; empty where there is no such token.
        ends: other tokens at which a middle ends.
    """

    prefix: str
    suffix: str
    middle: str
    repository: str = ""
    file: str = ""
    ends: tuple[str, ...] = ()


FAMILIES = (
    # Qwen2.5-Coder (arXiv 2409.12186, section 3.2.2); Qwen2.5 and Qwen3 know the tokens too.
    FimFamily(
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        "<|repo_name|>",
        "<|file_sep|>",
        ("<|fim_pad|>",),
    ),
    # StarCoder2 and its kin.
    FimFamily("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<repo_name>", "<file_sep>", ("<fim_pad>",)),
    # DeepSeek-Coder.
    FimFamily("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
)
_REPOSITORY, _FILE = "project\n", "file\n"


@dataclass(frozen=True, slots=True)
class Gap:
    """What stands before and after a gap, and pieces of other files by their names, the most useful last."""

    before: str
    after: str
    others: Sequence[tuple[str, str]] = ()


class FillInMiddle:
    """Makes prompts for the middle of texts.

    Attributes:
        stop_ids: tokens that end a middle, beside the model's own stop tokens.
    """

    def __init__(self, family: FimFamily, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        known = tokenizer.control_tokens
        self._prefix, self._suffix, self._middle = (
            known[name] for name in (family.prefix, family.suffix, family.middle)
        )
        self._repository, self._file = known.get(family.repository), known.get(family.file)
        names = (*family.ends, family.prefix, family.suffix, family.middle, family.repository, family.file)
        self.stop_ids = tuple(known[name] for name in names if name in known)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "FillInMiddle | None":
        """Return that of a tokenizer; None for one without the tokens."""
        known = tokenizer.control_tokens
        for family in FAMILIES:
            if {family.prefix, family.suffix, family.middle} <= set(known):
                return cls(family, tokenizer)
        return None

    def prompt(self, gap: Gap, room: int | None = None) -> tuple[list[int], bool]:
        """Return a prompt's token ids, and whether text had to be left out to keep within `room` of them.

        Names of control tokens in the texts are text. A keystroke costs what is typed and what stands after the gap:
        all before it stays cached. (With the line of the gap as the beginning of the middle it would cost the typed
        tokens only, but Qwen2.5-Coder then completes half as much of a line rightly.)

        Of a text that is too long, three quarters of the room are for what stands before the gap; files are left out
        first.
        """
        encode = self._tokenizer.encode
        before, after = encode(gap.before), encode(gap.after)
        files = [self._chunk(name, text) for name, text in gap.others]
        cut = False
        if room is not None:
            left = max(0, room - 3)
            kept_after = min(len(after), max(left // 4, left - len(before)))
            skipped = _skipped(len(before), left - kept_after)
            left -= kept_after + len(before) - skipped
            kept_files = _last_fitting(files, left - len(self._head()) - len(self._current()))
            cut = bool(skipped) or kept_after < len(after) or len(kept_files) < len(files)
            before, after, files = before[skipped:], after[:kept_after], kept_files
        ids: list[int] = []
        if files:
            ids = [*self._head(), *(token for chunk in files for token in chunk), *self._current()]
        return [*ids, self._prefix, *before, self._suffix, *after, self._middle], cut

    def _head(self) -> list[int]:
        """The beginning of a prompt with other files."""
        return [] if self._repository is None else [self._repository, *self._tokenizer.encode(_REPOSITORY)]

    def _current(self) -> list[int]:
        """What the file with the gap begins with, after others."""
        return [] if self._file is None else [self._file, *self._tokenizer.encode(_FILE)]

    def _chunk(self, name: str, text: str) -> list[int]:
        if self._file is None:
            return self._tokenizer.encode(f"{text}\n\n")
        return [self._file, *self._tokenizer.encode(f"{name}\n{text}\n")]


def _skipped(count: int, room: int) -> int:
    """How many of `count` tokens to leave out at the front so that the rest fits, in whole steps if that leaves any."""
    over = max(0, count - room)
    steps = -(-over // _STEP) * _STEP
    return steps if steps < count else over


def _last_fitting(chunks: Sequence[list[int]], room: int) -> list[list[int]]:
    """The last of the chunks that fit together."""
    kept = len(chunks)
    while kept and room >= len(chunks[kept - 1]):
        kept -= 1
        room -= len(chunks[kept])
    return list(chunks[kept:])
