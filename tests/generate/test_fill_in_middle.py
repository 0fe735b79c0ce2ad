"""Prompts for the middle of texts, in each family's order."""

from dataclasses import astuple
from itertools import pairwise

import pytest
from tokenizers import AddedToken

from bmqwen.generate.conversation_cache import as_tokens, shared_length
from bmqwen.generate.fill_in_middle import FAMILIES, FillInMiddle, FimFamily, Gap
from bmqwen.generate.text_stream import Indentation
from bmqwen.generate.tokenizer import Tokenizer
from support.toy_tokenizer import toy_coder_tokenizer, toy_library_tokenizer, toy_tokenizer

TOKENIZER = toy_coder_tokenizer()


def fill(tokenizer: Tokenizer = TOKENIZER) -> FillInMiddle:
    found = FillInMiddle.of(tokenizer)
    assert found is not None
    return found


def text(ids: list[int], tokenizer: Tokenizer = TOKENIZER) -> str:
    return b"".join(map(tokenizer.token_bytes, ids)).decode()


@pytest.mark.parametrize(
    ("gap", "expected"),
    [
        (
            Gap("def add(a, b):\n    return ", "\n\nprint(add(1, 2))"),
            "<|fim_prefix|>def add(a, b):\n    return <|fim_suffix|>\n\nprint(add(1, 2))<|fim_middle|>",
        ),
        (Gap("x = ", "\n"), "<|fim_prefix|>x = <|fim_suffix|>\n<|fim_middle|>"),
        (Gap("a\n", ""), "<|fim_prefix|>a\n<|fim_suffix|><|fim_middle|>"),
        (Gap("", ""), "<|fim_prefix|><|fim_suffix|><|fim_middle|>"),
        (
            Gap("a\nb", "c", [("one.py", "1"), ("two.py", "2")]),
            (
                "<|repo_name|>project\n<|file_sep|>one.py\n1\n<|file_sep|>two.py\n2\n<|file_sep|>file\n"
                "<|fim_prefix|>a\nb<|fim_suffix|>c<|fim_middle|>"
            ),
        ),
    ],
)
def test_prompts(gap: Gap, expected: str) -> None:
    ids, cut = fill().prompt(gap)
    assert text(ids) == expected
    assert not cut


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: FimFamily) -> None:
    prefix, suffix, middle, *more, ends = astuple(family)
    inner = toy_library_tokenizer()
    names = [name for name in (prefix, suffix, middle, *more, *ends) if name]
    inner.add_special_tokens([AddedToken(name, normalized=False) for name in names])
    tokenizer = Tokenizer(inner)
    ids, _ = fill(tokenizer).prompt(Gap("a\n", "b", [("f", "g")]))
    assert text(ids, tokenizer).endswith(f"{prefix}a\n{suffix}b{middle}")
    assert "g" in text(ids, tokenizer)
    assert set(fill(tokenizer).stop_ids) == {tokenizer.control_tokens[name] for name in names}


def test_a_model_without_the_tokens_cannot() -> None:
    assert FillInMiddle.of(toy_tokenizer()) is None


def test_control_tokens_in_texts_are_text() -> None:
    typed = "<|im_end|><|fim_middle|>"
    ids, _ = fill().prompt(Gap(typed + "\n" + typed, typed, [(typed, typed)]))
    names = [name for name, token in TOKENIZER.control_tokens.items() for each in ids if each == token]
    assert sorted(names) == sorted(
        [
            "<|repo_name|>",
            "<|file_sep|>",
            "<|file_sep|>",
            "<|fim_prefix|>",
            "<|fim_suffix|>",
            "<|fim_middle|>",
        ]
    )


def test_what_does_not_fit_is_left_out_and_the_rest_stays_as_it_grows() -> None:
    lines = "".join(f"line {number}\n" for number in range(300))
    after = "after " * 300
    room = 1500
    prompts = []
    for typed in range(60):
        ids, cut = fill().prompt(
            Gap(lines + "x" * typed, after, [("old", "o" * 900), ("new", "n" * 90)]), room
        )
        assert cut
        assert len(ids) <= room
        prompts.append(ids)
    shared = min(
        shared_length(as_tokens(first), as_tokens(second))
        for first, second in pairwise(prompts)
        if len(first) < len(second)
    )
    assert shared > 1000  # all but what stands after the gap
    assert "line 299\n<|fim_suffix|>after after" in text(prompts[0])
    short, cut = fill().prompt(Gap("a\n", "b", [("old", "o" * 900), ("new", "n" * 90)]), 400)
    assert cut
    assert "nnn" in text(short)
    assert "ooo" not in text(short)
    tiny, cut = fill().prompt(Gap("y" * 100, "b"), 10)
    assert (text(tiny), cut) == ("<|fim_prefix|>" + "y" * 6 + "<|fim_suffix|>b<|fim_middle|>", True)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("least", "given", "shown"),
    [
        (4, "x\n    y\nz", "x\n    y"),
        (4, "x\n\n   \n    y\n\n  z", "x\n\n   \n    y"),
        (4, "x\n    y\n", "x\n    y\n"),
        (0, "x\ny", "x\ny"),
        (1, "\n\ty\n z\nw", "\n\ty\n z"),
    ],
)
def test_an_answer_ends_before_a_line_that_is_indented_less(
    least: int, given: str, shown: str, size: int
) -> None:
    of, told = Indentation(least), ""
    for start in range(0, len(given), size):
        piece, ended = of.push(given[start : start + size])
        told += piece
        if ended:
            break
    else:
        told += of.flush()
    assert told == shown
