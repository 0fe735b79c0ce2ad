"""Several recipes for one model, evaluated in one run and put side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

from bmqwen.errors import InputError
from bmqwen.hub.catalog import DEMO, existing_path
from bmqwen.quant import Format
from bmqwen.quant.precision import Precision, PrecisionOptions


@dataclass(frozen=True, slots=True)
class Recipe:
    """A model at a precision, and the float model that it is compared with; None: the model itself."""

    model: str | None
    precision: PrecisionOptions
    against: str | None


def recipes_of(
    model: str | None, precision: PrecisionOptions, against: str | None, more: Sequence[str]
) -> Iterator[Recipe]:
    """Yield MODEL at its precision, then each `--recipe`. Raises InputError for one that cannot be read."""
    found = [Recipe(model, precision, against)]
    for text in more:
        parsed = _parse(text, precision.group_size)
        if parsed is not None:
            found.append(Recipe(model, parsed, against))
        elif existing_path(text):
            found.append(Recipe(text, PrecisionOptions(), against or model or DEMO.name))
        else:
            raise InputError(
                f"--recipe {text[:80]} is neither FORMAT[:GROUP_SIZE[:LM_HEAD]], as in int4:128:int8, nor a checkpoint "
                "or bundle on this machine"
            )
    yield from found


def comparison_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table: for each result of the command, mean KL with its interval and agreement, by text."""
    names = [text["file"] for text in results[0]["texts"]]
    if several := "together" in results[0]:
        names.append("all texts")
    lines = ["| KL to the float model (95 %); same top token | " + " | ".join(names) + " |"]
    lines.append("|" + "---|" * (len(names) + 1))
    for result in results:
        cells = []
        for text in [*result["texts"], *([result["together"]] if several else [])]:
            low, high = text["mean_kl_interval"]
            cells.append(f"{text['mean_kl']:.4f} ({low:.4f} to {high:.4f}); {text['top1_agreement']:.1%}")
        lines.append(f"| {result['model']}, {Precision(**result['precision'])} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _parse(text: str, group_size: int | None) -> PrecisionOptions | None:
    """A precision in its short form; None where it is none."""
    parts = text.split(":")
    known = get_args(Format)
    if parts[0] not in known or len(parts) > 3:
        return None
    if len(parts) > 1 and not parts[1].isdigit():
        raise InputError(f"--recipe {text[:80]}: {parts[1][:20]!r} is no group size")
    head = parts[2] if len(parts) > 2 else parts[0]
    if head not in known:
        raise InputError(
            f"--recipe {text[:80]}: {head[:20]!r} is no format, choose one of {', '.join(known)}"
        )
    return PrecisionOptions(
        cast(Format, parts[0]), int(parts[1]) if len(parts) > 1 else group_size, cast(Format, head)
    )
