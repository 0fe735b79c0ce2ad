"""A conversation followed through the nets that the runtime would choose, and what it costs."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bmqwen.artifact.row_pool import Placement
from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.chip.spec import DEFAULT_CHIP, ChipSpec, Host, spec_of
from bmqwen.compiler.timing import Profile
from bmqwen.errors import InputError
from bmqwen.estimate.cost import READ_OPS, Chips, Cost, Pipeline

LONGEST_OP_MS = 1000.0
# This program's own Python in milliseconds: a prompt, each of its tokens, a step, and each token of an answer in it.
# By benchmarks/host_time.py on an EPYC with AVX-512 (November 2026, Python 3.11): 0.51 ms until the first token after a
# prompt of 20 tokens, 7.2 after 4,000, 0.069 for a step of one answer, 0.213 for one of eight. Steps are of a slow
# hour, less what they were seen to take less since. `Host.python_factor` scales it.
PROMPT_MS, PROMPT_TOKEN_MS, STEP_MS, TOKEN_MS = 0.48, 0.0017, 0.048, 0.021
# For people; "device" is the chip where a bundle does not say how its time divides.
PART_LABELS = {
    "weights": "weights of the layers",
    "kv": "attention, K/V cache",
    "lm_head": "lm_head",
    "other": "norms, activations",
    "device": "chip",
    "host": "calls of the host",
    "python": "Python (scaled)",
}
# The published question, and about as much of an answer as it gets.
PROMPT_TOKENS, NEW_TOKENS = 26, 350


def custom_host(host: Host, op_ms: float) -> Host:
    """Return the machine with calls that take so many milliseconds. Raises InputError for a time that no call takes."""
    if not 0 <= op_ms <= LONGEST_OP_MS:
        raise InputError(f"--host-op-ms {op_ms:g} is not a time of a call: choose 0 to {LONGEST_OP_MS:g}")
    return replace(host, name=f"{op_ms:g} ms a call", op_ms=op_ms)


@dataclass(frozen=True, slots=True)
class Question:
    """Lengths of a conversation.

    `new_tokens` of None: NEW_TOKENS, or as many as fit. `history`: tokens that are cached before.
    """

    prompt_tokens: int = PROMPT_TOKENS
    new_tokens: int | None = None
    history: int = 0

    def answer_in(self, context: int) -> int:
        """Return how many tokens the answer has. Raises InputError unless all fits into the context."""
        history, prompt, answer = self.history, self.prompt_tokens, self.new_tokens
        if answer is None:
            answer = max(2, min(NEW_TOKENS, context - history - prompt))
        if history < 0 or prompt < 1 or answer < 2:
            raise InputError(
                "an estimate needs at least 1 token of a prompt, 2 new tokens (--new-tokens) and no negative --history"
            )
        if history + prompt + answer > context:
            before = f"{history:,} cached tokens, " if history else ""
            raise InputError(
                f"{before}{prompt:,} prompt tokens and {answer:,} new ones do not fit into a context of {context:,}: "
                "choose fewer, or a longer --seq-len"
            )
        return answer


@dataclass(frozen=True)
class Forecast:
    """What a question and its answer cost.

    Attributes:
        prompt_launches: the nets that read the prompt, with the tokens that each really takes.
        first: until the first token of the answer is known.
        answer: the tokens after it.
        curve: history from which on a token costs so many seconds, ascending.
    """

    host: Host
    context: int
    history: int
    prompt_tokens: int
    new_tokens: int
    prompt_launches: tuple[tuple[StepShape, int], ...]
    first: Cost
    answer: Cost
    curve: tuple[tuple[int, float], ...]
    nets: tuple[tuple[StepShape, Profile], ...]
    chip: ChipSpec = DEFAULT_CHIP
    parts: int = 1

    @property
    def first_token_s(self) -> float:
        """From the request to the first token, seconds."""
        return self.first.seconds(self.host)

    @property
    def token_s(self) -> float:
        """A token of the answer, on average, seconds."""
        return self.answer.seconds(self.host) / (self.new_tokens - 1)

    @property
    def tokens_per_s(self) -> float:
        """Tokens after the first one over the time that they take."""
        return 1 / self.token_s

    @property
    def time_shares(self) -> dict[str, float]:
        """Of a token's time: the parts of the model and the host. Without timelines the parts are one: device."""
        total = self.answer.seconds(self.host)
        parts = self.answer.part_ns or {"device": self.answer.device_ns}
        shares = {part: count / 1e9 / total for part, count in parts.items()}
        calls = self.answer.calls_ms(self.host)
        python = self.answer.python_ms * self.host.python_factor
        return shares | {"host": calls / 1e3 / total, "python": python / 1e3 / total}

    @property
    def byte_shares(self) -> dict[str, float]:
        """Of what the chip moves over its memory bus; empty without timelines."""
        total = sum(self.answer.part_bytes.values())
        return {part: count / total for part, count in self.answer.part_bytes.items()} if total else {}

    @property
    def bandwidth(self) -> float:
        """Bytes a second over the memory bus while the chip works."""
        return self.answer.bytes_moved / (self.answer.device_ns / 1e9)

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints; what `bench --json` has as well comes first."""
        tokens = self.new_tokens - 1
        idle = self.answer.bus_idle_ns / self.answer.device_ns
        return {
            "first_token_s": self.first_token_s,
            "tokens_per_s": self.tokens_per_s,
            "device_s_per_token": self.answer.device_ns / 1e9 / tokens,
            "host_ops_per_token": self.answer.host_ops / tokens,
            "bytes_per_token": self.answer.bytes_moved / tokens,
            "copied_bytes_per_token": self.answer.copied_bytes / tokens,
            "handed_bytes_per_token": self.answer.handed_bytes / tokens,
            "first_token_device_s": self.first.device_ns / 1e9,
            "first_token_host_ops": self.first.host_ops,
            "host": self.host.name,
            "host_op_s": self.host.op_ms / 1e3,
            "python_s_per_token": self.answer.python_ms * self.host.python_factor / 1e3 / tokens,
            "first_token_python_s": self.first.python_ms * self.host.python_factor / 1e3,
            "python_factor": self.host.python_factor,
            "time_shares": self.time_shares,
            "byte_shares": self.byte_shares,
            "bandwidth_bytes_per_s": self.bandwidth,
            "bus_share": self.bandwidth / self.chip.bus,
            "bus_idle_share": idle if self.answer.part_ns else None,
            "chips": self.parts,
            "context": self.context,
            "history": self.history,
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "prompt_launches": [
                {"tokens": shape.tokens, "history": shape.history, "used": used}
                for shape, used in self.prompt_launches
            ],
            "curve": [{"history": history, "token_s": seconds} for history, seconds in self.curve],
            "nets": [_net(shape, profile) for shape, profile in self.nets],
        }


def _net(shape: StepShape, profile: Profile) -> dict[str, Any]:
    facts = asdict(shape) | asdict(profile)
    facts["bus_idle_cycles"] = facts.pop("bus_idle") if profile.part_cycles else None
    return facts


def simulate(nets: StepNets, chips: Chips, host: Host, question: Question) -> Forecast:
    """Go through a question and its answer as the step runtime does, with its own planner.

    The nets' cycles decide what the planner chooses. While one of several chips reads a piece of the prompt, the one
    before it reads the next.
    Raises InputError for a question that does not fit into the context, or makes no sense.
    """
    history, prompt_tokens = question.history, question.prompt_tokens
    new_tokens = question.answer_in(nets.context)
    start = history + prompt_tokens
    launches = nets.plan(history, prompt_tokens)
    chip = spec_of(nets.chip, "the bundle")
    first, answer = Cost(chip=chip), Cost(chip=chip)
    position, pipeline, whole, through = history, Pipeline(len(chips.parts)), 0.0, 0.0
    for shape, used in launches:
        placement = Placement(shape, position)
        chips.count(first, placement, used, nets.rows)
        times = chips.times_ms(placement, used, nets.rows, host, chip)
        whole, through = whole + sum(times), pipeline.launch(0.0, times)
        position += used
    first.overlap_ms = whole - through
    first.host_ops += READ_OPS
    first.python_ms = PROMPT_MS + question.prompt_tokens * PROMPT_TOKEN_MS
    # Each token is fed to find the next one; the answer's last token is not.
    for position in range(start, start + new_tokens - 1):
        for shape, used in nets.plan(position, 1):
            chips.count(answer, Placement(shape, position), used, nets.rows)
        answer.host_ops += READ_OPS
        answer.python_ms += STEP_MS + TOKEN_MS
    return Forecast(
        host, nets.context, history, prompt_tokens, new_tokens, tuple(launches), first, answer,
        tuple(_curve(nets, chips, host)),
        tuple((shape, chips.profiles[shape]) for shape in sorted(nets.cycles)), chip, len(chips.parts),
    )  # fmt: skip


def cost_at(curve: Sequence[tuple[int, float]], history: int) -> float:
    """Return the seconds of a token after so many cached ones."""
    return [seconds for start, seconds in curve if start <= history][-1]


def _curve(nets: StepNets, chips: Chips, host: Host) -> Iterator[tuple[int, float]]:
    """Where the cost of a token changes as the history grows."""
    last: list[tuple[StepShape, int]] = []
    for position in range(nets.context):
        row = nets.plan(position, 1)
        if row != last:
            spent = Cost(
                host_ops=READ_OPS, python_ms=STEP_MS + TOKEN_MS, chip=spec_of(nets.chip, "the bundle")
            )
            for shape, used in row:
                chips.count(spent, Placement(shape, position), used, nets.rows)
            yield position, spent.seconds(host)
            last = row
