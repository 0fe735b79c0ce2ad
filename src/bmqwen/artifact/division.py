"""How a model is divided into parts, each for a chip of its own: which layers each of them has."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise

from bmqwen.artifact.footprint import Footprint, footprint, weight_bytes
from bmqwen.errors import InputError
from bmqwen.model.config import ModelConfig
from bmqwen.quant.precision import Precision
from bmqwen.util.text import counted


def divide(config: ModelConfig, precision: Precision, parts: int) -> tuple[ModelConfig, ...]:
    """Return a model's layers in so many parts of which the largest is as small as can be; the last has the head.

    Bytes of weights measure both: a token takes as long as they take to be read, and the K/V cache goes with them.
    Raises InputError for more parts than layers.
    """
    layers = config.num_hidden_layers
    if not 1 <= parts <= layers:
        raise InputError(
            f"--parts {parts} cannot be made: the model has {counted(layers, 'layer')}, and each part needs one or more"
        )
    if parts == 1:
        return (config,)
    sizes = {
        layer: sum(weight_bytes(config.part(range(layer, layer + 1)), precision).values())
        for layer in range(layers)
    }

    @cache
    def cut(stop: int, count: int) -> tuple[int, tuple[int, ...]]:
        """The largest part of the first `stop` layers in `count` parts, and where the parts end."""
        if count == 1:
            return sum(sizes[layer] for layer in range(stop)), (stop,)
        found = []
        for start in range(count - 1, stop):
            most, ends = cut(start, count - 1)
            found.append((max(most, sum(sizes[layer] for layer in range(start, stop))), (*ends, stop)))
        return min(found)

    ends = (0, *cut(layers, parts)[1])
    return tuple(config.part(range(start, stop)) for start, stop in pairwise(ends))


def fewest_parts(
    config: ModelConfig,
    precision: Precision,
    context: int,
    fits: Callable[[Footprint], bool],
    sequences: int = 1,
) -> int:
    """Return the least number of parts that each fit, for `sequences` of `context` tokens; all layers: none does."""
    for parts in range(1, config.num_hidden_layers):
        if all(
            fits(footprint(part, precision, context, sequences)) for part in divide(config, precision, parts)
        ):
            return parts
    return config.num_hidden_layers


def part_text(config: ModelConfig) -> str:
    """Return "layers 1 to 14" for a part, and "" for a whole model."""
    if config.is_last and not config.layers_before:
        return ""
    if config.num_hidden_layers == 1:
        return f"layer {config.layers.stop}"
    return f"layers {config.layers_before + 1} to {config.layers.stop}"
