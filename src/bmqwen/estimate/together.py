"""Several conversations side by side, followed through the nets that the runtime would choose."""

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from bmqwen.artifact.row_pool import Part, Placement, RowPool
from bmqwen.artifact.steps import StepNets
from bmqwen.chip.spec import ChipSpec, Host, spec_of
from bmqwen.estimate.cost import READ_OPS, Chips, Cost, Pipeline
from bmqwen.estimate.forecast import PROMPT_MS, PROMPT_TOKEN_MS, STEP_MS, TOKEN_MS, Question


@dataclass(frozen=True, slots=True)
class Together:
    """What equal conversations cost that begin and end together.

    Attributes:
        clients: how many there are.
        tokens_per_s: of all of them, after their first tokens.
        step_s: seconds in which each gets a token, on average.
        first_token_s: of a prompt that comes when the others are half-way, at any moment of a step of theirs: half of
            the time until one ends to wait for on average, and the step that reads it.
        copied_bytes_per_step: K/V rows that the chip copies to their place, which the compiler's timing does not show.
        groups: whose steps are under way at once, in different parts of the model.
    """

    clients: int
    tokens_per_s: float
    step_s: float
    first_token_s: float
    copied_bytes_per_step: float
    groups: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return asdict(self)


def simulate_together(nets: StepNets, chips: Chips, host: Host, question: Question, clients: int) -> Together:
    """Follow a question and its answer in `clients` conversations, with the runtime's own choice of nets and groups.

    Raises as `simulate`; the question has no history.
    """
    chip, pool = spec_of(nets.chip, "the bundle"), RowPool(nets)
    for client in range(clients):
        list(_launches(pool, [(client, question.prompt_tokens)]))
    steps, pipeline = question.answer_in(nets.context) - 1, Pipeline(len(chips.parts))
    # Tokens that each has, steps under way (when they are through, and whose they are), and the time.
    done, under_way, now = [0] * clients, deque[tuple[float, list[int]]](), 0.0
    answers, groups = Cost(chip=chip), 1
    while min(done) < steps:
        groups = pool.groups(clients, len(chips.parts))
        size = -(-clients // groups)
        while len(under_way) < groups:
            busy = {client for _, those in under_way for client in those}
            ready = [client for client in range(clients) if client not in busy and done[client] < steps]
            if not ready:
                break
            end = now
            for placement, tokens in _launches(pool, [(client, 1) for client in ready[:size]]):
                chips.count(answers, placement, tokens, pool.size)
                end = pipeline.launch(now, chips.times_ms(placement, tokens, pool.size, host, chip))
            under_way.append((end + READ_OPS * host.op_ms, ready[:size]))
        end, those = under_way.popleft()
        now = max(now, end) + (STEP_MS + len(those) * TOKEN_MS) * host.python_factor
        for client in those:
            done[client] += 1
    step_s = now / 1e3 / steps
    return Together(
        clients,
        clients / step_s,
        step_s,
        _first_token(nets, chips, host, question, clients),
        answers.copied_bytes / steps,
        groups,
    )


def _first_token(nets: StepNets, chips: Chips, host: Host, question: Question, clients: int) -> float:
    """Seconds until a prompt's first token while all other clients are in the middle of their answers."""
    chip, pool = spec_of(nets.chip, "the bundle"), RowPool(nets)
    others, step_ms = range(clients - 1), 0.0
    for client in others:
        list(_launches(pool, [(client, question.prompt_tokens)]))
    groups = pool.groups(clients - 1, len(chips.parts))
    size = -(-(clients - 1) // groups)
    for _ in range(question.answer_in(nets.context) // 2):
        for first in range(0, clients - 1, size):
            step_ms = _step_ms(
                pool, chips, host, chip, [(client, 1) for client in others[first : first + size]]
            )
    prompt = question.prompt_tokens
    apart = pool.reads_apart(clients - 1, prompt, size)
    beside = [] if apart else [(client, 1) for client in others[:size]]
    read_ms = _step_ms(pool, chips, host, chip, [*beside, (clients - 1, prompt)])
    python_ms = PROMPT_MS + prompt * PROMPT_TOKEN_MS - STEP_MS - TOKEN_MS
    # Of several groups in the parts of the model a step ends more often.
    return (step_ms / groups / 2 + read_ms + python_ms * host.python_factor) / 1e3


def _step_ms(pool: RowPool, chips: Chips, host: Host, chip: ChipSpec, feeds: list[tuple[int, int]]) -> float:
    """Return the time of a step: its launches, one result read for all together, and Python for each sequence."""
    pipeline, end = Pipeline(len(chips.parts)), 0.0
    for placement, tokens in _launches(pool, feeds):
        end = pipeline.launch(0.0, chips.times_ms(placement, tokens, pool.size, host, chip))
    return end + READ_OPS * host.op_ms + (STEP_MS + len(feeds) * TOKEN_MS) * host.python_factor


def _launches(pool: RowPool, feeds: list[tuple[int, int]]) -> Iterator[tuple[Placement, int]]:
    """Yield the launches of a step of so many tokens for each sequence, in which the cache fills, and their tokens."""
    parts = [Part(i, sequence, 0, count, 1) for i, (sequence, count) in enumerate(feeds)]
    for group, _ in pool.launches(parts):
        for placement, taken in pool.place(group):
            pool.append(placement.row, [(part.sequence, part.tokens) for part in taken])
            yield placement, sum(part.tokens for part in taken)
