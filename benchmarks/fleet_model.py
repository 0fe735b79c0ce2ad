"""How many boxes serve how many users: a fleet simulated, with the router that `bmqwen cluster` has.

`python benchmarks/fleet_model.py --boxes 10 --users 300`, or `--first-token 2` for the most users whose 95th percentile
of the first token stays below 2 seconds. The figures of a box are arguments, as `bmqwen estimate --json` or
`bmqwen bench --json` gives them; the defaults are those of one BM1684X with Qwen2.5 1.5B in INT4.
"""

import argparse
import heapq
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from random import Random
from statistics import fmean
from typing import Literal

from bmqwen.cluster.choice import Candidate, Speed, ranked

Policy = Literal["prefix", "least", "random"]
# Boxes that are compared for one request: those that know its beginning, and the least loaded of so many others.
MOST_COMPARED = 16
NEWEST = 0.3


@dataclass(frozen=True, slots=True)
class Box:
    """One engine.

    Attributes:
        read_rate: tokens of a prompt that it reads in a second.
        write_rates: tokens a second of all answers together, by how many there are; the last one goes for more.
        sequences: answers at once.
        conversations: that it keeps K/V of.
        sharing: part of its time that reading takes while answers are written.
    """

    read_rate: float = 1100.0
    write_rates: tuple[float, ...] = (60.0, 100.0, 135.0, 165.0, 190.0, 210.0, 228.0, 245.0)
    sequences: int = 8
    conversations: int = 64
    sharing: float = 0.5

    def write_rate(self, answers: int) -> float:
        """Return the tokens a second of each of so many answers."""
        return self.write_rates[min(answers, len(self.write_rates)) - 1] / answers


@dataclass(frozen=True, slots=True)
class Users:
    """What people do: each asks, reads, thinks, and asks again.

    Attributes:
        think_s: mean seconds between an answer's end and the next question, exponential.
        turns: mean questions of a conversation, geometric.
        question, answer: median tokens, log-normal; `spread` is its sigma.
        instructions: tokens before the first question, the same for all.
        context: most tokens of a prompt: a longer conversation begins again.
    """

    think_s: float = 30.0
    turns: float = 4.0
    question: float = 60.0
    answer: float = 200.0
    spread: float = 0.8
    instructions: int = 30
    context: int = 4096


@dataclass(slots=True)
class Request:
    """A question on its way."""

    user: int
    conversation: int
    prompt: int
    answer: int
    asked: float
    later: bool = False
    cached: int = 0
    to_read: float = 0.0
    to_write: float = 0.0
    first: float = math.nan


@dataclass(slots=True)
class BoxState:
    """A box at a moment.

    Attributes:
        waiting: requests without a place.
        reading: those whose prompts are read, one after the other.
        writing: those whose answers are written.
        known: tokens of the conversations that it has, the oldest first.
        version: changes when what it does changes; events of an earlier one are void.
    """

    box: Box
    waiting: list[Request] = field(default_factory=list)
    reading: list[Request] = field(default_factory=list)
    writing: list[Request] = field(default_factory=list)
    known: OrderedDict[int, int] = field(default_factory=OrderedDict)
    at: float = 0.0
    busy_s: float = 0.0
    version: int = 0

    @property
    def load(self) -> int:
        return len(self.waiting) + len(self.reading) + len(self.writing)

    def advance(self, now: float) -> list[Request]:
        """Do what is done until `now`; returns the requests that are answered."""
        passed, self.at = now - self.at, now
        if not (self.reading or self.writing):
            return []
        self.busy_s += passed
        read, write = self._rates()
        if self.reading:
            self.reading[0].to_read -= passed * read
        for request in self.writing:
            request.to_write -= passed * write
        # A billionth of a token is none.
        ended = [request for request in self.writing if request.to_write < 1e-6]
        self.writing = [request for request in self.writing if request.to_write >= 1e-6]
        if self.reading and self.reading[0].to_read < 1e-6:
            request = self.reading.pop(0)
            request.first = now
            self.writing.append(request)
        for request in ended:
            self.known[request.conversation] = request.prompt + request.answer
            self.known.move_to_end(request.conversation)
            while len(self.known) > self.box.conversations:
                self.known.popitem(last=False)
        self._begin()
        self.version += 1
        return ended

    def add(self, request: Request) -> None:
        """Take a request."""
        self.waiting.append(request)
        self._begin()
        self.version += 1

    def next_change(self) -> float:
        """Return when the next prompt is read or answer written; infinity where nothing is done."""
        read, write = self._rates()
        times = [request.to_write / write for request in self.writing]
        if self.reading:
            times.append(self.reading[0].to_read / read)
        return self.at + max(0.0, min(times, default=math.inf))

    def _begin(self) -> None:
        while self.waiting and len(self.reading) + len(self.writing) < self.box.sequences:
            request = self.waiting.pop(0)
            request.cached = min(self.known.get(request.conversation, 0), request.prompt - 1)
            request.to_read = float(request.prompt - request.cached)
            request.to_write = float(request.answer)
            self.reading.append(request)

    def _rates(self) -> tuple[float, float]:
        """Tokens a second: of the prompt that is read, and of each answer."""
        share = 0.0 if not self.reading else self.box.sharing if self.writing else 1.0
        write = self.box.write_rate(len(self.writing)) * (1 - share) if self.writing else 0.0
        return self.box.read_rate * share, write


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a simulation; seconds are of the first token, from the question on.

    Attributes:
        hit_rate: of later questions, those whose box had the conversation.
        busy: part of the time that boxes computed.
    """

    boxes: int
    users: int
    policy: str
    requests: int
    p50_s: float
    p95_s: float
    p99_s: float
    hit_rate: float
    busy: float
    tokens_per_s: float


class Fleet:
    """Boxes, users and a router."""

    def __init__(
        self,
        boxes: int,
        users: int,
        *,
        box: Box | None = None,
        people: Users | None = None,
        policy: Policy = "prefix",
        front_s: float = 0.01,
        seed: int = 0,
    ) -> None:
        """`front_s` is what passes between a user and a box, there and back."""
        self._box, self._people, self._policy, self._front = box or Box(), people or Users(), policy, front_s
        self._random = Random(seed)
        self._boxes = [BoxState(self._box) for _ in range(boxes)]
        self._users = users
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._conversations = 0
        self._homes: dict[int, int] = {}
        self._answer_s = 5.0
        self._now = 0.0
        self._done: list[Request] = []

    def run(self, seconds: float, warm_up: float | None = None) -> Outcome:
        """Simulate; what was asked in the first `warm_up` seconds (a third) is not counted."""
        begin = seconds / 3 if warm_up is None else warm_up
        for user in range(self._users):
            self._at(self._random.uniform(0, self._people.think_s), self._beginner(user))
        while self._events and self._events[0][0] <= seconds:
            self._now, _, event = heapq.heappop(self._events)
            event()
        counted = [request for request in self._done if request.asked >= begin]
        times = sorted(request.first - request.asked + self._front for request in counted)
        later = [request for request in counted if request.later]
        return Outcome(
            len(self._boxes),
            self._users,
            self._policy,
            len(counted),
            percentile(times, 0.5),
            percentile(times, 0.95),
            percentile(times, 0.99),
            fmean(request.cached > 0 for request in later) if later else math.nan,
            fmean(box.busy_s for box in self._boxes) / seconds,
            sum(request.answer for request in counted) / (seconds - begin),
        )

    def _at(self, time: float, event: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (time, self._number, event))

    def _beginner(self, user: int) -> Callable[[], None]:
        return lambda: self._ask(user, self._new_conversation(), 0)

    def _new_conversation(self) -> int:
        self._conversations += 1
        return self._conversations

    def _ask(self, user: int, conversation: int, before: int) -> None:
        people = self._people
        new = self._length(people.question) + (0 if before else people.instructions)
        answer = self._length(people.answer)
        if before + new + answer > people.context:
            conversation, before = self._new_conversation(), 0
            new, answer = (
                min(new + people.instructions, people.context // 2),
                min(answer, people.context // 2),
            )
        request = Request(user, conversation, before + new, answer, self._now, later=before > 0)
        place = self._choose(request)
        self._homes[conversation] = place
        box = self._boxes[place]
        self._finish(box.advance(self._now))
        box.add(request)
        self._watch(box)

    def _choose(self, request: Request) -> int:
        boxes = self._boxes
        if self._policy == "random":
            return self._random.randrange(len(boxes))
        # All boxes are looked at by the real router; a sample is as good and takes no time.
        places = self._random.sample(range(len(boxes)), min(MOST_COMPARED, len(boxes)))
        home = self._homes.get(request.conversation)
        if home is not None and home not in places:
            places.append(home)
        if self._policy == "least":
            return min(places, key=lambda place: boxes[place].load)
        candidates = [
            Candidate(
                boxes[place].load,
                len(boxes[place].known),
                boxes[place].known.get(request.conversation, 0) if place == home else 0,
            )
            for place in places
        ]
        speed = Speed(self._box.sequences, self._box.read_rate, self._answer_s)
        return places[ranked(candidates, request.prompt, speed)[0]]

    def _watch(self, box: BoxState) -> None:
        version, time = box.version, box.next_change()
        if time < math.inf:
            self._at(time, lambda: self._change(box, version))

    def _change(self, box: BoxState, version: int) -> None:
        if box.version == version:
            self._finish(box.advance(self._now))
            self._watch(box)

    def _finish(self, ended: Sequence[Request]) -> None:
        for request in ended:
            self._done.append(request)
            self._answer_s += NEWEST * (self._now - request.asked - self._answer_s)
            thinks = self._now + self._random.expovariate(1 / self._people.think_s)
            if self._random.random() < 1 / self._people.turns:
                self._at(thinks, self._beginner(request.user))
            else:
                self._at(thinks, self._next(request))

    def _next(self, request: Request) -> Callable[[], None]:
        before = request.prompt + request.answer
        return lambda: self._ask(request.user, request.conversation, before)

    def _length(self, median: float) -> int:
        return max(1, round(self._random.lognormvariate(math.log(median), self._people.spread)))


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which a share of ordered values is; NaN for none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.nan


def most_users(boxes: int, first_token_s: float, seconds: float, **options: object) -> Outcome:
    """Return the outcome with the most users whose 95th percentile stays below `first_token_s`, to 2 %."""

    def tried(users: int) -> Outcome:
        return Fleet(boxes, users, **options).run(seconds)  # type: ignore[arg-type]

    low, high = boxes, boxes * 2
    best = tried(low)
    while (outcome := tried(high)).p95_s <= first_token_s:
        low, high, best = high, high * 2, outcome
    while high - low > max(1, low // 50):
        middle = (low + high) // 2
        outcome = tried(middle)
        if outcome.p95_s <= first_token_s:
            low, best = middle, outcome
        else:
            high = middle
    return best


def main() -> None:
    """Simulate what the command line says, and print a row for each fleet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--boxes", type=int, nargs="+", default=[10])
    parser.add_argument("--users", type=int, help="people; default: as many as --first-token allows")
    parser.add_argument("--first-token", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--policy", choices=("prefix", "least", "random"), nargs="+", default=["prefix"])
    parser.add_argument("--seconds", type=float, default=900.0, help="of the fleet's time")
    parser.add_argument("--read-rate", type=float, default=Box().read_rate, help="prompt tokens a second")
    parser.add_argument("--write-rates", type=float, nargs="+", default=list(Box().write_rates))
    parser.add_argument("--sequences", type=int, default=Box().sequences)
    parser.add_argument("--conversations", type=int, default=Box().conversations)
    parser.add_argument("--think", type=float, default=Users().think_s, help="seconds between questions")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    box = Box(given.read_rate, tuple(given.write_rates), given.sequences, given.conversations)
    people = replace(Users(), think_s=given.think)
    outcomes = []
    for boxes in given.boxes:
        for policy in given.policy:
            options = {"box": box, "people": people, "policy": policy}
            outcomes.append(
                Fleet(boxes, given.users, **options).run(given.seconds)
                if given.users
                else most_users(boxes, given.first_token, given.seconds, **options)
            )
    if given.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes]))
        return
    print("| boxes | users | router | first token p50 | p95 | p99 | hits | busy | tokens/s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for each in outcomes:
        print(
            f"| {each.boxes} | {each.users} | {each.policy} | {each.p50_s:.2f} s | {each.p95_s:.2f} s | "
            f"{each.p99_s:.2f} s | {each.hit_rate:.0%} | {each.busy:.0%} | {each.tokens_per_s:,.0f} |"
        )


if __name__ == "__main__":
    main()
