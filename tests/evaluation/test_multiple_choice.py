"""Multiple choice: the letter with the highest logit, counted against a file's answers."""

from pathlib import Path

import pytest

from bmqwen.errors import ContextLengthError, InputError
from bmqwen.evaluation.model_pair import FLOAT, ModelPair, open_pair
from bmqwen.evaluation.multiple_choice import (
    LETTERS,
    Question,
    evaluate_choices,
    letter_tokens,
    read_examples,
    read_questions,
    subject_of,
)
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.quant.precision import Precision
from bmqwen.runtime.base import Runtime, RuntimeSequence
from support.checkpoints import tiny_config, write_checkpoint
from support.published_tokenizers import qwen15_folder

HEADER = "id,question,A,B,C,D,answer,explanation\n"
ROWS = HEADER + (
    '0,"你好, user?",1,2,3,4,C,because\n'
    "1,hello and you,one,two,three,four,A,\n"
    "2,the system,甲,乙,丙,丁,D,\n"
    '3,"two\nlines",w,x,y,z,B,\n'
)


@pytest.fixture(scope="module", name="folder")
def folder_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_config("qwen2.5", max_position_embeddings=1024)
    return write_checkpoint(tmp_path_factory.mktemp("choices") / "tiny", config, seed=8)


@pytest.fixture(name="paper")
def paper_fixture(tmp_path: Path) -> Path:
    path = tmp_path / "computer_network_val.csv"
    path.write_text(ROWS, encoding="utf-8")
    return path


def best_letter(pair: ModelPair, runtime: Runtime, prompt: str) -> str:
    """From an empty cache, with single characters for letters (the tiny tokenizer joins nothing with them)."""
    RuntimeSequence(runtime).truncate(0)
    row = RuntimeSequence(runtime).feed(pair.tokenizer.encode(prompt)).logits()[-1]
    return max(LETTERS, key=lambda letter: row[pair.tokenizer.encode(letter)[0]])


def test_the_letter_with_the_highest_logit_is_the_answer(folder: Path, paper: Path) -> None:
    questions = read_questions(paper)
    shown = [Question("x", "which?", ("a", "b", "c", "d"), "B")]
    with open_pair(str(folder), Precision("int4", 32, "int4"), threads=1) as pair:
        assert pair.reference is not None
        head = (
            "以下是中国关于computer network考试的单项选择题，请选出其中的正确答案。\n\n"
            "which?\nA. a\nB. b\nC. c\nD. d\n答案：B\n\n"
        )
        prompts = [
            f"{head}{q.question}\n"
            + "".join(f"{letter}. {text}\n" for letter, text in zip(LETTERS, q.choices, strict=True))
            + "答案："
            for q in questions
        ]
        expected = [best_letter(pair, pair.model, prompt) for prompt in prompts]
        floats = [best_letter(pair, pair.reference, prompt) for prompt in prompts]
        steps: list[tuple[int, int, int]] = []
        got = evaluate_choices(
            pair,
            questions,
            subject=subject_of(paper),
            examples=shown,
            step=lambda *step: steps.append(step),
        )
    assert [answer.model for answer in got.answers] == expected
    assert [answer.reference for answer in got.answers] == floats
    right = [letter == q.answer for letter, q in zip(expected, questions, strict=True)]
    assert [done for _, _, done in steps] == [sum(right[: n + 1]) for n in range(4)]
    assert got.accuracy == sum(right) / 4


def test_accuracy_counts_the_right_ones(folder: Path, paper: Path) -> None:
    with open_pair(str(folder), FLOAT, alone=True, threads=1) as pair:
        questions = read_questions(paper)
        picked = [a.model for a in evaluate_choices(pair, questions, subject="x").answers]
        wrong = LETTERS[(LETTERS.index(picked[3]) + 1) % 4]
        marked = [
            Question(q.id, q.question, q.choices, letter)
            for q, letter in zip(questions, [*picked[:3], wrong], strict=True)
        ]
        got = evaluate_choices(pair, marked, subject="x")
    assert got.accuracy == 0.75
    assert got.float_accuracy is None
    assert "float_accuracy" not in got.to_dict()
    assert [a["id"] for a in got.to_dict()["answers"]] == ["0", "1", "2", "3"]


def test_a_float_model_is_counted_beside_it(folder: Path, paper: Path) -> None:
    with open_pair(str(folder), FLOAT, threads=1) as pair:
        got = evaluate_choices(pair, read_questions(paper), subject="x").to_dict()
    assert got["float_accuracy"] == got["accuracy"]
    assert got["same_answer"] == 1


def test_a_prompt_longer_than_the_context_is_refused(folder: Path) -> None:
    question = Question("0", "hello " * 2000, ("a", "b", "c", "d"), "A")
    with open_pair(str(folder), FLOAT, alone=True, threads=1) as pair, pytest.raises(ContextLengthError):
        evaluate_choices(pair, [question], subject="x")


def test_the_file_is_read_as_it_is(paper: Path) -> None:
    questions = read_questions(paper)
    assert [q.answer for q in questions] == ["C", "A", "D", "B"]
    assert questions[0].question == "你好, user?"
    assert questions[3].question == "two\nlines"
    assert questions[2].text("D") == "the system\nA. 甲\nB. 乙\nC. 丙\nD. 丁\n答案：D"


def test_examples_come_from_a_file_or_a_folder(paper: Path, tmp_path: Path) -> None:
    dev = tmp_path / "dev" / "computer_network_dev.csv"
    dev.parent.mkdir()
    dev.write_text(HEADER + "9,q,a,b,c,d,B,\n", encoding="utf-8")
    assert read_examples(dev, paper) == read_examples(dev.parent, paper) == read_questions(dev)
    assert subject_of(paper) == subject_of(dev) == "computer network"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("id,question,A,B,C,D\n0,q,a,b,c,d\n", "lacks the column answer"),
        ("just some text\n", "lacks the column question"),
        (HEADER, "no questions"),
        (HEADER + "0,q,a,b,c,d,E,\n", "line 2: the answer is 'E'"),
        (HEADER + "0,q,a,b,c,d,AB,\n", "line 2: the answer is 'AB'"),
        (HEADER + "0,q,a,b,c,d,A,\n1,q,a,b\n", "line 3: the column C is empty"),
        (HEADER + '0,"q,a,b,c,d,A,\n', "not a CSV file"),
        ("", "empty"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "paper.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        read_questions(path)


def test_the_letters_are_cut_as_the_real_tokenizer_cuts_them() -> None:
    tokenizer = Tokenizer.from_folder(qwen15_folder())
    text = Question("0", "1+1=?", ("1", "2", "3", "4"), "B").text()
    prompt, letters = letter_tokens(tokenizer, text)
    for letter, token in zip(LETTERS, letters, strict=True):
        assert [*prompt, token] == tokenizer.encode(text + letter)
        assert tokenizer.decode([*prompt, token]) == text + letter
    assert len(set(letters)) == 4
