"""What drafts gain on real answers: measured on the CPU, predicted for a chip from the same answers.

    python benchmarks/drafts.py --markdown table.md --json results.json

Each task is answered without drafts and with them, in turn, greedily and from an empty cache. How many tokens a chip
would take in a step follows from the answer alone, by going through it with the costs of that chip's steps.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bmqwen.cli.terminal import STDERR, use_utf8
from bmqwen.engine import Engine, load
from bmqwen.errors import BmqwenError, InputError
from bmqwen.generate.drafts import Drafts
from bmqwen.generate.params import Completion, SamplingParams
from bmqwen.generate.session import Session
from bmqwen.generate.template import Message
from bmqwen.util.storage import write_file
from machine import Machine

TEXTS = Path(__file__).with_name("texts")


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
        gains: by name of the costs, tokens a step's time gives, predicted.
    """

    task: str
    tokens: int
    same: bool
    seconds: float
    drafted_seconds: float
    drafted: int
    accepted: int
    gains: dict[str, float]

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


def replay(prompt: Sequence[int], answer: Sequence[int], costs: Mapping[int, float]) -> float:
    """Return how many tokens of an answer the time of a step of one token gives, with drafts at these costs."""
    drafts = Drafts(prompt, lambda: costs)
    place, spent = 0, 0.0
    while place < len(answer):
        draft = drafts.propose(len(answer) - place - 1)
        right = next(
            (i for i, token in enumerate(draft) if token != answer[place + i]), len(draft)
        )  # the token after them is the model's own
        spent += next(cost for rows, cost in costs.items() if rows > len(draft))
        drafts.accept(answer[place : place + right + 1])
        place += right + 1
    return len(answer) / spent


def run(
    engine: Engine, new_tokens: int, rounds: int, costs: Mapping[str, Mapping[int, float]]
) -> list[Outcome]:
    """Answer all tasks. Raises BmqwenError."""
    plain = Session(engine.runtime, engine.tokenizer, drafts=False)
    drafted = Session(engine.runtime, engine.tokenizer)
    outcomes = []
    for task in tasks():
        prompt: list[int] = []
        messages: list[Message] = []
        for turn in task.turns:
            messages.append(Message("user", turn))
            prompt = engine.template.encode(messages, engine.tokenizer)
            if turn != task.turns[-1]:
                before = _answer(plain, prompt, new_tokens)[0]
                messages.append(Message("assistant", before.text, before.token_ids))
        times: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(rounds):
            expected, seconds = _answer(plain, prompt, new_tokens)
            found, less = _answer(drafted, prompt, new_tokens)
            times[False].append(seconds)
            times[True].append(less)
        outcome = Outcome(
            task.name,
            len(expected.token_ids),
            found.token_ids == expected.token_ids,
            min(times[False]),
            min(times[True]),
            found.usage.drafted_tokens,
            found.usage.accepted_tokens,
            {name: replay(prompt, expected.token_ids, table) for name, table in costs.items()},
        )
        STDERR.print(f"{task.name}: {outcome}", markup=False, soft_wrap=True)
        outcomes.append(outcome)
    return outcomes


def markdown(outcomes: Sequence[Outcome], names: Sequence[str]) -> str:
    """One row a task."""
    head = ["task", "tokens", "drafted", "right", "CPU, times as fast", "same tokens"]
    head += [f"{name}, times as fast" for name in names]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for one in outcomes:
        cells = [one.task, one.tokens, one.drafted, one.accepted, f"{one.speedup:.2f}"]
        cells += ["yes" if one.same else "no", *(f"{one.gains[name]:.2f}" for name in names)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def parsed_costs(text: str) -> tuple[str, dict[int, float]]:
    """A name and costs, from `NAME=1:1.0,8:1.05`. Raises InputError."""
    name, _, table = text.partition("=")
    try:
        costs = {int(rows): float(cost) for rows, cost in (part.split(":") for part in table.split(","))}
    except ValueError:
        raise InputError(f"--costs {text} is not of the form NAME=1:1.0,8:1.05") from None
    return name, costs


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
    try:
        costs = dict(map(parsed_costs, options.costs))
        with load(options.model, "cpu", threads=options.threads) as engine:
            outcomes = run(engine, options.new_tokens, options.rounds, costs)
        table = markdown(outcomes, list(costs))
        report: dict[str, Any] = {
            "machine": Machine.here().to_dict(),
            "costs": costs,
            "tasks": [asdict(one) | {"speedup": one.speedup} for one in outcomes],
        }
        print(table)
        if options.markdown:
            write_file(options.markdown, (table + "\n").encode())
        if options.json:
            write_file(options.json, json.dumps(report, ensure_ascii=False, indent=1).encode())
    except BmqwenError as error:
        print(f"drafts: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("drafts: interrupted", file=sys.stderr)
        return 130
    return 0


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
        "--costs",
        action="append",
        default=[],
        metavar="NAME=1:1.0,8:1.05",
        help="what steps of so many rows take on another machine, in steps of one row; may be repeated",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the table, which is printed as well"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
