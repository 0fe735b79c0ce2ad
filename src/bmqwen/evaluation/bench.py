"""First-token latency and tokens/s of a loaded model, measured the way the published tables do."""

import resource
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bmqwen.engine import Engine
from bmqwen.errors import ContextLengthError, InputError
from bmqwen.generate.params import SamplingParams, Usage
from bmqwen.runtime.base import DeviceRuntime
from bmqwen.util.text import size_text
from bmqwen.version import __version__

# The prompt of the tables that the publisher of the chip's demos prints.
PUBLISHED_PROMPT = "请使用python写一段冒泡排序算法。"


@dataclass(frozen=True, slots=True)
class BenchResult:
    """Several runs of one prompt, each from an empty cache.

    Attributes:
        device_bytes: device memory in use while the model was loaded; None without a device, or one that does not tell.
        host_bytes: largest memory of this process so far.
    """

    model: str
    precision: str
    engine: str
    runs: tuple[Usage, ...]
    device_bytes: int | None
    host_bytes: int

    @property
    def first_token_s(self) -> float:
        """Median first-token latency, seconds."""
        return statistics.median(u.first_token_s for u in self.runs)

    @property
    def tokens_per_s(self) -> float:
        """Median decoding speed."""
        return statistics.median(u.tokens_per_s for u in self.runs)

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints: medians first, then minimum and maximum, then every run."""
        first = [u.first_token_s for u in self.runs]
        speed = [u.tokens_per_s for u in self.runs]
        runs = zip(first, speed, self.runs, strict=True)
        return {
            "first_token_s": self.first_token_s,
            "tokens_per_s": self.tokens_per_s,
            "first_token_s_range": [min(first), max(first)],
            "first_token_s_spread": _spread(first),
            "tokens_per_s_range": [min(speed), max(speed)],
            "tokens_per_s_spread": _spread(speed),
            "prompt_tokens": self.runs[0].prompt_tokens,
            "new_tokens": self.runs[0].completion_tokens,
            "model": self.model,
            "precision": self.precision,
            "engine": self.engine,
            "device_bytes": self.device_bytes,
            "host_bytes": self.host_bytes,
            "runs": [
                {"first_token_s": s, "tokens_per_s": per_s, "new_tokens": run.completion_tokens}
                for s, per_s, run in runs
            ],
        }

    def markdown(self) -> str:
        """Return a table of one row: the columns of the published ones, then what these leave open."""
        used, memory = "device", self.device_bytes
        if memory is None:
            used, memory = "host", self.host_bytes
        cells = {
            "platform": self.engine,
            "program": f"bmqwen {__version__}",
            "model": f"{self.model}, {self.precision}",
            "first token latency(s)": _median([u.first_token_s for u in self.runs], "{:.3f}".format),
            "token per second(tokens/s)": _median([u.tokens_per_s for u in self.runs], _speed),
            "tokens in": str(self.runs[0].prompt_tokens),
            "tokens out": str(self.runs[0].completion_tokens),
            f"{used} memory": size_text(memory, "MB"),
        }
        rows = [list(cells), ["---"] * len(cells), list(cells.values())]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _spread(values: Sequence[float]) -> float:
    """Standard deviation; 0 for one value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _median(values: Sequence[float], show: Callable[[float], str]) -> str:
    """With the range, where there are several."""
    middle = show(statistics.median(values))
    return f"{middle} ({show(min(values))} to {show(max(values))})" if len(values) > 1 else middle


def _speed(value: float) -> str:
    """Tokens/s; more digits where it is slow, as on the simulator."""
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def bench(
    engine: Engine,
    *,
    prompt: str = PUBLISHED_PROMPT,
    new_tokens: int = 128,
    repeats: int = 5,
    warmup: int = 1,
    step: Callable[[int, int], None] = lambda _done, _total: None,
) -> BenchResult:
    """Ask the same question several times, greedily, each time with an empty cache.

    Args:
        prompt: the user's message; the model's chat template is put around it.
        new_tokens: most tokens of an answer; it may stop earlier by itself.
        repeats, warmup: runs that count, and runs before them that do not.
        step: called with runs done and runs in all.

    Raises InputError (a number that makes no sense), ContextLengthError (the prompt does not fit).
    """
    if repeats < 1 or warmup < 0 or new_tokens < 2:
        raise InputError("bench needs at least 1 repeat, no negative warm-up, and at least 2 new tokens")
    params = SamplingParams(temperature=0.0, max_tokens=new_tokens)
    usages = []
    for run in range(warmup + repeats):
        step(run, warmup + repeats)
        engine.session.reset()
        conversation = engine.chat(params=params)
        try:
            for _ in conversation.stream(prompt):
                pass
        except ContextLengthError as error:
            hint = "choose a shorter -p, or a longer --context or a bundle of a longer --seq-len"
            raise ContextLengthError(error.limit, error.got, hint) from error
        assert conversation.last is not None
        usages.append(conversation.last.usage)
    runtime = engine.runtime
    return BenchResult(
        model=engine.model,
        precision=engine.precision,
        engine=runtime.name,
        runs=tuple(usages[warmup:]),
        device_bytes=runtime.memory_used if isinstance(runtime, DeviceRuntime) else None,
        # Kilobytes on Linux.
        host_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
    )
