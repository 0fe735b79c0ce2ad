"""Multiple choice in C-Eval's layout: which letter a model finds the most likely answer."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from bmqwen.errors import InputError
from bmqwen.evaluation.divergence import log_softmax
from bmqwen.evaluation.duration import guessed_tokens
from bmqwen.evaluation.model_pair import ModelPair
from bmqwen.evaluation.text_score import read_text
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.runtime.base import Runtime, RuntimeSequence
from bmqwen.util.text import counted

LETTERS = "ABCD"
COLUMNS = ("question", *LETTERS, "answer")
# The words of C-Eval's own evaluation (answer only).
_HEAD = "以下是中国关于{subject}考试的单项选择题，请选出其中的正确答案。\n\n"
_ANSWER = "答案："

Step = Callable[[int, int, int], None]  # questions answered, questions in all, right ones


@dataclass(frozen=True, slots=True)
class Question:
    """One row of a file. `choices` belong to LETTERS; `answer` is one of them."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer: str

    def text(self, answer: str = "") -> str:
        """Return it as the models read it, up to the answer's letter or with it."""
        choices = (f"{letter}. {choice}" for letter, choice in zip(LETTERS, self.choices, strict=True))
        return "\n".join((self.question, *choices, f"{_ANSWER}{answer}"))


@dataclass(frozen=True, slots=True)
class Answered:
    """A question's id, the right letter, the model's, and the float model's where there is one."""

    id: str
    right: str
    model: str
    reference: str | None


@dataclass(frozen=True, slots=True)
class ChoiceScore:
    """A model on a file of questions about a subject, with so many examples before each; answers in its order."""

    subject: str
    examples: int
    answers: tuple[Answered, ...]

    @property
    def accuracy(self) -> float:
        """Share of right letters."""
        return float(np.mean([answer.model == answer.right for answer in self.answers]))

    @property
    def float_accuracy(self) -> float | None:
        """That of the float model, where there was one."""
        if self.answers[0].reference is None:
            return None
        return float(np.mean([answer.reference == answer.right for answer in self.answers]))

    @property
    def same_answer(self) -> float:
        """Share of the questions that both models give the same letter."""
        return float(np.mean([answer.reference == answer.model for answer in self.answers]))

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints; what concerns the float model is missing where there was none."""
        values: dict[str, Any] = {
            "subject": self.subject,
            "questions": len(self.answers),
            "examples": self.examples,
            "accuracy": self.accuracy,
        }
        if self.float_accuracy is not None:
            values |= {"float_accuracy": self.float_accuracy, "same_answer": self.same_answer}
        values["answers"] = [
            {"id": a.id, "right": a.right, "model": a.model}
            | ({} if a.reference is None else {"float_model": a.reference})
            for a in self.answers
        ]
        return values

    def __str__(self) -> str:
        before = f"{counted(len(self.answers), 'question')}, {counted(self.examples, 'example')} before each"
        line = f"{before}: {self.accuracy:.1%} right"
        if self.float_accuracy is None:
            return line
        return f"{line} (float model {self.float_accuracy:.1%}), the same answer to {self.same_answer:.1%}"


def read_questions(path: Path) -> tuple[Question, ...]:
    """Read a CSV file with the columns id, question, A, B, C, D and answer; others are passed over.

    Raises InputError: no such file, no CSV, a column or an answer is missing, or there is no question in it.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True, skipinitialspace=True)
    questions: list[Question] = []
    try:
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise InputError(
                f"{path} lacks the column {missing[0]}: its first line must name id,question,A,B,C,D,answer "
                "(C-Eval's test files have no answers; use the val ones)"
            )
        for row in reader:
            values = {name: (row[name] or "").strip() for name in COLUMNS}
            if empty := [name for name in COLUMNS if not values[name]]:
                raise InputError(f"{path}, line {reader.line_num}: the column {empty[0]} is empty")
            answer, number = values["answer"], row.get("id") or str(len(questions))
            if answer not in LETTERS or len(answer) != 1:
                wrong = f"the answer is {answer[:20]!r}, not A, B, C or D"
                raise InputError(f"{path}, line {reader.line_num}: {wrong}")
            choices = tuple(values[letter] for letter in LETTERS)
            questions.append(Question(number, values["question"], choices, answer))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not a CSV file: {error}") from None
    if not questions:
        raise InputError(f"{path} holds no questions")
    return tuple(questions)


def read_examples(dev: Path, questions: Path) -> tuple[Question, ...]:
    """Read solved questions for a file of questions: from a file, or a folder's SUBJECT_dev.csv; raises InputError."""
    if not dev.is_dir():
        return read_questions(dev)
    return read_questions(dev / (questions.stem.removesuffix("_val").removesuffix("_test") + "_dev.csv"))


def subject_of(path: Path) -> str:
    """Return the subject in a file's name: "computer network" of computer_network_val.csv."""
    name = path.stem
    for ending in ("_val", "_dev", "_test"):
        name = name.removesuffix(ending)
    return name.replace("_", " ")


def evaluate_choices(
    pair: ModelPair,
    questions: Sequence[Question],
    *,
    subject: str,
    examples: Sequence[Question] = (),
    step: Step = lambda _done, _total, _right: None,
) -> ChoiceScore:
    """Ask every question (at least one) and take the letter with the highest logit after "答案：".

    No sampling, no chat template. `subject` is named in the first line of the prompt; `examples` are solved questions
    to show before each (C-Eval's dev files have five).

    Raises ContextLengthError, InputError (a tokenizer that has no token for a letter), DeviceError (logits that are not
    finite).
    """
    head = _HEAD.format(subject=subject) + "".join(shown.text(shown.answer) + "\n\n" for shown in examples)
    model = _Reader(pair.model)
    reference = None if pair.reference is None else _Reader(pair.reference)
    answers: list[Answered] = []
    right = 0
    for question in questions:
        prompt, letters = letter_tokens(pair.tokenizer, head + question.text())
        picked = model.pick(prompt, letters)
        beside = None if reference is None else reference.pick(prompt, letters)
        answers.append(Answered(question.id, question.answer, picked, beside))
        right += picked == question.answer
        step(len(answers), len(questions), right)
    return ChoiceScore(subject, len(examples), tuple(answers))


def guessed_questions(questions: Sequence[Question], examples: Sequence[Question] = ()) -> int:
    """Return about how many tokens a model reads for `evaluate_choices`, which reads the examples once."""
    return sum(guessed_tokens(question.text()) for question in (*questions, *examples))


class _Reader:
    """Feeds a runtime only what differs from the prompt before: the examples are read once."""

    def __init__(self, runtime: Runtime) -> None:
        self._sequence = RuntimeSequence(runtime)
        self._tokens: list[int] = []
        self._sequence.truncate(0)

    def pick(self, prompt: Sequence[int], letters: Sequence[int]) -> str:
        """The letter whose token is the most likely one after the prompt."""
        pairs = zip(self._tokens, prompt[:-1], strict=False)
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        self._sequence.truncate(shared)
        *_, output = self._sequence.read(prompt[shared:])
        self._tokens = list(prompt)
        row = output.logits()[-1:]
        return LETTERS[int(log_softmax(row)[0, list(letters)].argmax())]


def letter_tokens(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """Return the prompt's tokens and the four that go on with a letter, as the tokenizer cuts the text with the letter.

    The colon may stand in one token with the letter, so the cut is made in the ids and not in the text.
    """
    ids = [tokenizer.encode(text + letter) for letter in LETTERS]
    prompt = ids[0][:-1]
    letters = [found[-1] for found in ids]
    if any(found[:-1] != prompt for found in ids):
        prompt = tokenizer.encode(text)
        letters = [tokenizer.encode(letter)[0] for letter in LETTERS]
    if len(set(letters)) != len(LETTERS):
        raise InputError("this model's tokenizer has no token of its own for each of the letters A to D")
    return prompt, letters
