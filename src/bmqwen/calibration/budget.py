"""Which formats are worth most within a budget of bytes or of time, by what each does to the model's predictions."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from bmqwen.calibration.chip_time import part_times, timed_context
from bmqwen.calibration.sensitivity import (
    FORMATS,
    Losses,
    Sensitivity,
    formats_of_parts,
    mean,
    measure,
    shapes_of,
    standard_error,
)
from bmqwen.compiler.toolchain import has_toolchain
from bmqwen.errors import CompileError, InputError, MissingDependencyError
from bmqwen.model.config import ModelConfig
from bmqwen.quant.formats import make_format
from bmqwen.quant.precision import Precision
from bmqwen.util.progress import Progress
from bmqwen.util.text import size_text, speed_text
from bmqwen.weights.checkpoint import Checkpoint

_TEXT = re.compile(r"(\d+(?:\.\d+)?|\.\d+) ?(MB|GB|ms)?", re.IGNORECASE)
_BYTES = {"mb": 1e6, "gb": 1e9}


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that a token may cost: bytes of weights that the chip reads, or predicted nanoseconds."""

    most: float
    unit: Literal["bytes", "ns"]

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read "300MB", "1.2 GB", "8.5ms"; a number alone is in MB. Raises InputError."""
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise InputError(
                f"--budget {text[:40]!r} is neither a size nor a time: write 300MB, 1.2GB or 8.5ms"
            )
        unit = (found[2] or "MB").lower()
        if unit == "ms":
            return cls(float(found[1]) * 1e6, "ns")
        return cls(float(found[1]) * _BYTES[unit], "bytes")

    def text(self, cost: float) -> str:
        """Return a cost as text."""
        return size_text(cost) if self.unit == "bytes" else f"{cost / 1e6:.2f} ms"

    def __str__(self) -> str:
        return self.text(self.most)


@dataclass(frozen=True, slots=True)
class Costs:
    """What a token costs, in bytes or in nanoseconds.

    Attributes:
        parts: by part and format.
        rest: of everything else.
    """

    parts: Mapping[str, Mapping[str, float]]
    rest: float = 0.0

    def of(self, formats: Mapping[str, str]) -> float:
        """Return the cost of a token with a format for each part."""
        return self.rest + sum(self.parts[part][name] for part, name in formats.items())


@dataclass(frozen=True, slots=True)
class Mixture:
    """A format for each part.

    Attributes:
        formats: by part.
        cost: of a token.
        divergence: the sum of what each part alone costs in KL, nats a token, before calibration, which lowers it.
    """

    formats: Mapping[str, str]
    cost: float
    divergence: float

    @property
    def precision(self) -> Precision:
        """The same as a precision."""
        projections = {part: FORMATS[name] for part, name in self.formats.items() if part != "lm_head"}
        return Precision.mixed(projections, FORMATS[self.formats["lm_head"]])


def byte_costs(config: ModelConfig, possible: Mapping[str, Sequence[str]]) -> Costs:
    """Return the bytes of weights on the chip that a token reads, for the formats possible of each part."""

    def size(part: str, name: str) -> int:
        form = make_format(*FORMATS[name])
        return sum(sum(form.chip_bytes(*shape)) for shape in shapes_of(part, config))

    return Costs({part: {name: size(part, name) for name in names} for part, names in possible.items()})


def choose(divergences: Mapping[str, Mapping[str, float]], costs: Costs, budget: Budget) -> Mixture:
    """Return the mixture of least divergence, by part and format, within a budget. Raises InputError: there is none."""
    every = [
        Mixture(formats, costs.of(formats), sum(divergences[part][name] for part, name in formats.items()))
        for names in product(*divergences.values())
        for formats in [dict(zip(divergences, names, strict=True))]
    ]
    within = [mixture for mixture in every if mixture.cost <= budget.most]
    if not within:
        least = min(every, key=lambda mixture: mixture.cost)
        raise InputError(
            f"--budget {budget} cannot be met: {least.precision} takes {budget.text(least.cost)} a token, "
            "and nothing takes less"
        )
    return min(within, key=lambda mixture: (mixture.divergence, mixture.cost))


@dataclass(frozen=True, slots=True)
class Choice:
    """What was measured for a budget, and what it buys.

    Attributes:
        sensitivity: of the parts.
        bytes: what each reads for a token.
        times: the predicted nanoseconds that each takes; None: there is no compiler to tell, or it failed.
        mixture: the one chosen.
        context: tokens cached before the one that is timed.
    """

    sensitivity: Sensitivity
    bytes: Costs
    times: Costs | None
    mixture: Mixture
    context: int

    @property
    def precision(self) -> Precision:
        """The one chosen."""
        return self.mixture.precision

    def lines(self) -> Iterator[str]:
        """Yield what people are told of it."""
        for part, formats in self.sensitivity.parts.items():
            cells = []
            for name, losses in formats.items():
                size = size_text(self.bytes.parts[part][name])
                time = "" if self.times is None else f", {self.times.parts[part][name] / 1e6:.2f} ms"
                mark = " <- chosen" if self.mixture.formats[part] == name else ""
                cells.append(f"{name} {size}{time}, {_kl(losses)}{mark}")
            yield f"{part}: {'; '.join(cells)}"
        layers = [mean(losses) for losses in self.sensitivity.layers]
        worst = max(layers)
        yield (
            f"one layer alone: KL {min(layers):.4f} to {worst:.4f}, the most in layer {layers.index(worst)}; one net "
            "holds all layers, so that a kind of projection has one format"
        )
        together = self.sensitivity.sum(self.mixture.formats)
        yield f"chosen: {self.precision}, {self._cost()}, {_kl(together)} before calibration"

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "token_bytes": self.bytes.of(self.mixture.formats),
            "token_ms": None if self.times is None else self.times.of(self.mixture.formats) / 1e6,
            "divergence": self.mixture.divergence,
            "divergence_error": standard_error(self.sensitivity.sum(self.mixture.formats)),
            "parts": {
                part: {
                    name: {
                        "divergence": mean(losses),
                        "divergence_error": standard_error(losses),
                        "bytes": self.bytes.parts[part][name],
                        "ms": None if self.times is None else self.times.parts[part][name] / 1e6,
                    }
                    for name, losses in formats.items()
                }
                for part, formats in self.sensitivity.parts.items()
            },
            "layer_divergences": [mean(losses) for losses in self.sensitivity.layers],
        }

    def _cost(self) -> str:
        size = size_text(self.bytes.of(self.mixture.formats))
        if self.times is None:
            return f"{size} a token (`bmqwen estimate` predicts its speed)"
        ns = self.times.of(self.mixture.formats)
        return f"{size} and {ns / 1e6:.2f} ms a token ({speed_text(1e9 / ns)} after {self.context} cached tokens)"


def spend(
    budget: Budget, checkpoint: Checkpoint, sequences: Sequence[Sequence[int]], progress: Progress
) -> Choice:
    """Measure a model and choose its formats. Raises InputError for a budget that cannot be met.

    A budget of time needs the compiler and raises what `part_times` raises; for one of bytes it is asked if it is
    there already, and its failure is only told.
    """
    name, config = checkpoint.name, checkpoint.config
    possible = formats_of_parts(checkpoint)
    times, costs = None, (sizes := byte_costs(config, possible))
    if budget.unit == "ns":
        times = costs = Costs(*part_times(name, config, possible, progress))
    elif has_toolchain():
        try:
            times = Costs(*part_times(name, config, possible, progress))
        except (InputError, CompileError, MissingDependencyError) as error:
            progress.note(f"times on the chip are left out, which a budget of bytes does not need: {error}")
    # A budget that nothing meets is refused before the long work.
    choose({part: dict.fromkeys(names, 0.0) for part, names in possible.items()}, costs, budget)
    sensitivity = measure(checkpoint, sequences, possible, progress)
    mixture = choose(sensitivity.means(), costs, budget)
    return Choice(sensitivity, sizes, times, mixture, timed_context(config))


def _kl(losses: Losses) -> str:
    """A divergence with its standard error."""
    return f"KL {mean(losses):.4f} ± {standard_error(losses):.4f}"
