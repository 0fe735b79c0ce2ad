"""Which replica a request goes to."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast the replicas of a model are.

    Attributes:
        sequences: requests that one answers at once.
        read_rate: tokens that it reads in a second.
        answer_s: seconds that an answer takes, others beside it.
    """

    sequences: int = 1
    read_rate: float = 200.0
    answer_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica, as a request finds it.

    Attributes:
        load: requests that it has, running and waiting.
        known: beginnings of prompts that it has read, whosever they are.
        cached: tokens of the prompt that it has read before.
    """

    load: float
    known: int = 0
    cached: int = 0


def seconds_before(candidate: Candidate, prompt: int, speed: Speed) -> float:
    """Return the seconds until a replica has read a prompt of so many tokens, and is about to answer it.

    A request waits until as many others have been answered as are too many to be answered at once.
    """
    waiting = max(0.0, candidate.load - speed.sequences + 1)
    wait = waiting * speed.answer_s / speed.sequences
    return wait + max(1, prompt - candidate.cached) / speed.read_rate


def ranked(candidates: Sequence[Candidate], prompt: int, speed: Speed) -> list[int]:
    """Return the candidates' places, the best one first.

    By the time to the first token; of those that are alike, by the fewest requests, then the fewest conversations.
    """

    def cost(place: int) -> tuple[float, float, int]:
        candidate = candidates[place]
        return seconds_before(candidate, prompt, speed), candidate.load, candidate.known

    return sorted(range(len(candidates)), key=cost)
