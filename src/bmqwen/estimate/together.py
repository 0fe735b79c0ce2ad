"""Several conversations side by side, followed through the nets that the runtime would choose."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bmqwen.artifact.row_pool import Part, Placement, RowPool
from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.chip.spec import Host, spec_of
from bmqwen.compiler.timing import Profile
from bmqwen.estimate.forecast import (
    PROMPT_MS,
    PROMPT_TOKEN_MS,
    READ_OPS,
    STEP_MS,
    TOKEN_MS,
    Cost,
    Question,
    count_launch,
)


@dataclass(frozen=True, slots=True)
class Together:
    """What equal conversations cost that begin and end together.

    Attributes:
        clients: how many there are.
        tokens_per_s: of all of them, after their first tokens.
        step_s: seconds of a step that gives each a token, on average.
        first_token_s: of a prompt that comes when the others are half-way, at any moment of a step of theirs: half of
            one to wait for on average, and the step that reads it.
        copied_bytes_per_step: K/V rows that the chip copies to their place, which the compiler's timing does not show.
    """

    clients: int
    tokens_per_s: float
    step_s: float
    first_token_s: float
    copied_bytes_per_step: float

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return asdict(self)


def simulate_together(
    nets: StepNets,
    profiles: Mapping[StepShape, Profile],
    host: Host,
    question: Question,
    row_bytes: int,
    clients: int,
    parts: int = 1,
) -> Together:
    """Follow a question and its answer in `clients` conversations, with the runtime's own choice of nets.

    Arguments are those of `simulate`; the question has no history.
    """
    steps = question.answer_in(nets.context) - 1
    pool = RowPool(nets)
    for client in range(clients):
        list(_launches(pool, [(client, question.prompt_tokens)]))
    answers = Cost(chip=spec_of(nets.chip, "the bundle"))
    for _ in range(steps):
        _spend(answers, pool, profiles, [(client, 1) for client in range(clients)], row_bytes, parts)
    step_s = answers.seconds(host) / steps
    return Together(
        clients,
        clients / step_s,
        step_s,
        _first_token(nets, profiles, host, question, row_bytes, clients, parts),
        answers.copied_bytes / steps,
    )


def _first_token(
    nets: StepNets,
    profiles: Mapping[StepShape, Profile],
    host: Host,
    question: Question,
    row_bytes: int,
    clients: int,
    parts: int,
) -> float:
    """Seconds until a prompt's first token while all other clients are in the middle of their answers."""
    chip, pool, others = spec_of(nets.chip, "the bundle"), RowPool(nets), range(clients - 1)
    for client in others:
        list(_launches(pool, [(client, question.prompt_tokens)]))
    for _ in range(question.answer_in(nets.context) // 2):
        under_way = Cost(chip=chip)
        _spend(under_way, pool, profiles, [(client, 1) for client in others], row_bytes, parts)
    first = Cost(chip=chip)
    prompt = question.prompt_tokens
    apart = pool.reads_apart(clients - 1, prompt, len(others))
    beside = [] if apart else [(client, 1) for client in others]
    _spend(first, pool, profiles, [*beside, (clients - 1, prompt)], row_bytes, parts)
    first.python_ms += PROMPT_MS + prompt * PROMPT_TOKEN_MS - STEP_MS - TOKEN_MS
    return under_way.seconds(host) / 2 + first.seconds(host)


def _spend(
    spent: Cost,
    pool: RowPool,
    profiles: Mapping[StepShape, Profile],
    feeds: list[tuple[int, int]],
    row_bytes: int,
    parts: int,
) -> None:
    """Count a step: launches, copies, one result read for all together, and Python for each sequence."""
    for placement in _launches(pool, feeds):
        count_launch(spent, profiles[placement.shape], placement, pool.size, row_bytes, parts)
    spent.host_ops += READ_OPS
    spent.python_ms += STEP_MS + len(feeds) * TOKEN_MS


def _launches(pool: RowPool, feeds: list[tuple[int, int]]) -> Iterator[Placement]:
    """Yield the launches of a step of so many tokens for each sequence, in which the cache fills."""
    parts = [Part(i, sequence, 0, count, 1) for i, (sequence, count) in enumerate(feeds)]
    for group, _ in pool.launches(parts):
        for placement, taken in pool.place(group):
            pool.append(placement.row, [(part.sequence, part.tokens) for part in taken])
            yield placement
