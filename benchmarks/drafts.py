"""What drafts gain on real answers: measured on the CPU, predicted for a chip from the same answers.

    python benchmarks/drafts.py --times '1.8B=1:19.4,8:21.0,16:22.1' --markdown table.md --json results.json

Each task is answered without drafts and with them, in turn, greedily and from an empty cache. How many tokens a chip
would take in a step follows from the answer alone, by going through it with the times of that chip's steps, as
`bmqwen estimate` predicts them.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bmqwen.cli.terminal import STDERR, use_utf8
from bmqwen.engine import Engine, load
from bmqwen.errors import InputError
from bmqwen.generate.draft_model import DraftModel, check_pair
from bmqwen.generate.drafts import Drafts, Guesser
from bmqwen.generate.params import Completion, SamplingParams
from bmqwen.generate.session import Session
from bmqwen.generate.template import Message
from bmqwen.runtime.base import Runtime, RuntimeSequence
from machine import Machine
from report import Report, run_benchmark

TEXTS = Path(__file__).with_name("texts")
# Tokens that a model is asked about at once.
SCORED = 64


@dataclass(frozen=True, slots=True)
class Task:
    """A conversation: what the user says, turn by turn. Only the last answer is looked at."""

    name: str
    turns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer, without drafts and with them.

    Attributes:
        tokens: of the answer.
        same: whether both answers are the same tokens.
        seconds, drafted_seconds: of decoding, processor time of all threads.
        drafted, accepted: tokens that were checked, and the right ones, on the CPU.
        agreed: how many of the answer's tokens the draft model finds the likeliest after those before; None: without.
        predicted: tokens a second, by the name of the times of steps, without drafts and with them.
    """

    task: str
    tokens: int
    same: bool
    seconds: float
    drafted_seconds: float
    drafted: int
    accepted: int
    agreed: int | None
    predicted: dict[str, tuple[float, float]]

    @property
    def speedup(self) -> float:
        """Measured on the CPU."""
        return self.seconds / self.drafted_seconds


def tasks() -> list[Task]:
    """The tasks, on the texts of this folder."""
    code, english = ((TEXTS / f"{name}.txt").read_text(encoding="utf-8") for name in ("code", "english"))
    order = (
        "Order 4471 of 3 May 2026: Maria Keller, Hauptstrasse 5, Bern, ordered two lamps at 49.90 each and a desk at "
        "310.00; paid by card, to be delivered on 9 May."
    )
    block = f"```python\n{code}```"
    return [
        Task(
            "code edit: rename a class",
            (f"Rename the class ExpiringCache to TimedCache and give me the whole file back.\n\n{block}",),
        ),
        Task(
            "code edit: docstrings",
            (f"Add a docstring to every method and give me the whole file back.\n\n{block}",),
        ),
        Task(
            "JSON extraction",
            (
                (
                    "Extract this as JSON with the fields order, date, name, street, city, items (each with name, "
                    f"count and price), payment and delivery:\n\n{order}"
                ),
            ),
        ),
        Task("summary", (f"Summarise this text in five sentences:\n\n{english}",)),
        Task("translation of comments", (f"Translate the docstrings of this file into Chinese:\n\n{block}",)),
        Task("chat, English", ("Why is the sky blue, and why are sunsets red?",)),
        Task("chat, Chinese", ("请介绍一下杭州的历史和主要景点。",)),
        Task(
            "second turn",
            (
                "Write a bubble sort in Python.",
                "Now let it sort in descending order, and show the whole code.",
            ),
        ),
    ]


@dataclass(frozen=True, slots=True)
class StepTimes:
    """What a machine takes, in ms: steps by their rows, and a token of the draft model; None: no model drafts."""

    rows: Mapping[int, float]
    draft: float | None = None

    def replay(
        self, prompt: Sequence[int], answer: Sequence[int], model: Guesser | None
    ) -> tuple[float, float]:
        """Return the tokens a second of an answer, without drafts and with them."""
        counted = CountedModel(model, self.draft / self.rows[1]) if model and self.draft else None
        costs = {rows: ms / self.rows[1] for rows, ms in self.rows.items()}
        drafts = Drafts(prompt, lambda: costs, model=lambda: counted)
        place, spent = 0, 0.0
        while place < len(answer):
            draft = drafts.propose(len(answer) - place - 1)
            # The token after those that are right is the model's own.
            right = next((i for i, token in enumerate(draft) if token != answer[place + i]), len(draft))
            spent += next(ms for rows, ms in self.rows.items() if rows > len(draft))
            drafts.accept(answer[place : place + right + 1])
            place += right + 1
        spent += counted.tokens * (self.draft or 0.0) if counted else 0.0
        return 1000 / self.rows[1], 1000 * len(answer) / spent


@dataclass
class CountedModel:
    """A draft model with another machine's cost, which counts its tokens."""

    model: Guesser
    cost: float
    tokens: int = 0

    def guess(self, tokens: Sequence[int], count: int) -> list[int]:
        """Return what the model guesses."""
        found = self.model.guess(tokens, count)
        self.tokens += len(found)
        return found


def run(
    engine: Engine, new_tokens: int, rounds: int, times: Mapping[str, StepTimes], smaller: Engine | None
) -> list[Outcome]:
    """Answer all tasks, with the drafts of a smaller model where there is one. Raises BmqwenError."""
    plain = Session(engine.runtime, engine.tokenizer, drafts=False)
    outcomes = []
    for task in tasks():
        # A new one for each task: `agreement` feeds the runtime besides.
        model = None if smaller is None else _draft_model(smaller, engine)
        drafted = Session(engine.runtime, engine.tokenizer, guesser=model)
        prompt: list[int] = []
        messages: list[Message] = []
        for turn in task.turns:
            messages.append(Message("user", turn))
            prompt = engine.template.encode(messages, engine.tokenizer)
            if turn != task.turns[-1]:
                before = _answer(plain, prompt, new_tokens)[0]
                messages.append(Message("assistant", before.text, before.token_ids))
        spent: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(rounds):
            expected, seconds = _answer(plain, prompt, new_tokens)
            found, less = _answer(drafted, prompt, new_tokens)
            spent[False].append(seconds)
            spent[True].append(less)
        predicted = {name: of.replay(prompt, expected.token_ids, model) for name, of in times.items()}
        outcome = Outcome(
            task.name,
            len(expected.token_ids),
            found.token_ids == expected.token_ids,
            min(spent[False]),
            min(spent[True]),
            found.usage.drafted_tokens,
            found.usage.accepted_tokens,
            None if smaller is None else agreement(smaller.runtime, prompt, expected.token_ids),
            predicted,
        )
        STDERR.print(f"{task.name}: {outcome}", markup=False, soft_wrap=True)
        outcomes.append(outcome)
    return outcomes


def agreement(runtime: Runtime, prompt: Sequence[int], answer: Sequence[int]) -> int:
    """Return how many tokens of an answer a model finds the likeliest, each after those before it."""
    sequence = RuntimeSequence(runtime)
    sequence.truncate(0)
    found = [*sequence.read(prompt)][-1].greedy()
    for start in range(0, len(answer) - 1, SCORED):
        found += sequence.feed(answer[start : start + SCORED], every_row=True).greedy()
    return sum(ours == theirs for ours, theirs in zip(found, answer, strict=False))


def markdown(outcomes: Sequence[Outcome], names: Sequence[str]) -> str:
    """One row a task."""
    head = ["task", "tokens", "drafted", "right", "CPU, times as fast", "same tokens"]
    modelled = any(one.agreed is not None for one in outcomes)
    head += ["the draft model agrees"] * modelled + [f"{name}, tokens/s" for name in names]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for one in outcomes:
        cells = [one.task, one.tokens, one.drafted, one.accepted, f"{one.speedup:.2f}"]
        cells += [
            "yes" if one.same else "no",
            *([f"{(one.agreed or 0) / one.tokens:.0%}"] * modelled),
            *("{:.1f} to {:.1f}".format(*one.predicted[name]) for name in names),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def parsed_times(text: str) -> tuple[str, StepTimes]:
    """A name and times, from `NAME=1:19.4,8:21.0,draft:7.4`. Raises InputError."""
    name, _, table = text.partition("=")
    try:
        parts = dict(part.split(":") for part in table.split(","))
        draft = float(parts.pop("draft")) if "draft" in parts else None
        times = StepTimes({int(rows): float(ms) for rows, ms in parts.items()}, draft)
        usable = 1 in times.rows
    except ValueError:
        usable = False
    if not usable:
        raise InputError(f"--times {text} is not of the form NAME=1:19.4,8:21.0,draft:7.4")
    return name, times


def _draft_model(smaller: Engine, larger: Engine) -> DraftModel:
    cost = smaller.bundle.total_bytes / larger.bundle.total_bytes
    return DraftModel(smaller.runtime, cost, larger.runtime.vocab_size)


def _answer(session: Session, prompt: list[int], new_tokens: int) -> tuple[Completion, float]:
    """A greedy answer from an empty cache, and the processor time of its decoding."""
    session.reset()
    start: float | None = None
    pieces = session.generate(prompt, SamplingParams(max_tokens=new_tokens))
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            completion: Completion = end.value
            return completion, time.process_time() - (start or 0.0)
        start = start or time.process_time()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, or the exit code of an error."""
    use_utf8()
    options = _parser().parse_args(arguments)

    def measure() -> Report:
        times = dict(map(parsed_times, options.times))
        with ExitStack() as opened:
            engine = opened.enter_context(load(options.model, "cpu", threads=options.threads))
            smaller = None
            if options.draft:
                smaller = opened.enter_context(load(options.draft, "cpu", threads=options.threads))
                check_pair(smaller.tokenizer, smaller.model, engine.tokenizer, engine.model)
            outcomes = run(engine, options.new_tokens, options.rounds, times, smaller)
        report: dict[str, Any] = {
            "machine": Machine.here().to_dict(),
            "times": {name: asdict(of) for name, of in times.items()},
            "tasks": [asdict(one) | {"speedup": one.speedup} for one in outcomes],
        }
        return Report(markdown(outcomes, list(times)), report)

    return run_benchmark("drafts", measure, markdown=options.markdown, document=options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/drafts.py", description="What drafts gain on real answers."
    )
    parser.add_argument("--model", help="as `bmqwen chat` takes it (default: the demo model)")
    parser.add_argument(
        "--threads", type=int, default=1, help="1 counts no time in which a thread waits for another"
    )
    parser.add_argument("--new-tokens", type=int, default=220, help="most tokens of an answer (default: 220)")
    parser.add_argument(
        "--rounds", type=int, default=1, help="of which the shortest times count (default: 1)"
    )
    parser.add_argument(
        "--times",
        action="append",
        default=[],
        metavar="NAME=1:19.4,8:21.0,draft:7.4",
        help="what steps of so many rows take on another machine, and a token of the draft model, in ms; repeatable",
    )
    parser.add_argument("--draft", metavar="MODEL", help="a smaller model that drafts, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the table, which is printed as well"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
