"""What a compiled model takes of a chip's memory, by arithmetic: from the configuration alone, without compiling."""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bmqwen.artifact.addresses import AddressMap
from bmqwen.artifact.bmodel import BmodelDescription, StageDescription
from bmqwen.artifact.steps import MOST_SHARED, step_shapes
from bmqwen.chip.memory import Heap, place
from bmqwen.model.config import ModelConfig
from bmqwen.quant.precision import Precision
from bmqwen.util.text import size_text

# The compiler starts every tensor at a multiple of this.
ALIGNMENT = 4096
# Commands of one stage, of each layer in it, and of each value of a layer's and of the head's weights: the mean of all
# lengths (measured at 1.8B and small sizes). The compiler's own figure counts the longest stage's for every stage.
STAGE_COMMANDS, LAYER_COMMANDS, VALUE_COMMANDS, HEAD_COMMANDS = 12_000, 16_000, 0.0007, 0.000_36
# Contexts are tried in steps of this.
CONTEXT_STEP = 128
_TABLES = ("model.embed_tokens.weight", "lm_head.weight")
# A net's inputs and outputs are one allocation, whose size the vendor's runtime holds in 32 bits.
LARGEST_IO = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of device memory.

    Attributes:
        weights: of all nets, once.
        instructions: the chip's commands, of all stages.
        cache: K/V rows.
        state: what recurrent layers remember.
        activations: the nets' other inputs and outputs, and intermediate results.
        pieces: those of the sizes above that are one allocation each, in the order in which they are made.
        stages: bytes of inputs and outputs of each net's stages after the first: a runtime that keeps them apart
            allocates them, too.
        copies: what such a runtime takes besides.
    """

    weights: int
    instructions: int
    cache: int
    activations: int
    pieces: tuple[int, ...]
    stages: tuple[int, ...] = ()
    copies: int = 0
    state: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.instructions + self.cache + self.state + self.activations + self.copies

    def apart(self) -> "Footprint":
        """Return what it is with a runtime that gives each stage inputs, outputs and K/V rows of its own."""
        return replace(self, pieces=(*self.pieces, *self.stages), stages=(), copies=sum(self.stages))

    def text(self) -> str:
        """Return "needs 1,238 MB on the chip: weights 1,006 MB, K/V cache 201 MB" and so on."""
        parts = {
            "weights": self.weights,
            "K/V cache": self.cache,
            **({"state": self.state} if self.state else {}),
            "activations": self.activations,
            "instructions": self.instructions,
        }
        if self.copies:
            # An old runtime's, which doctor warns of.
            parts["K/V memory and inputs of the other lengths of net"] = self.copies
        listed = ", ".join(f"{name} {size_text(size, 'MB')}" for name, size in parts.items())
        return f"needs {size_text(self.total, 'MB')} on the chip: {listed}"

    def to_dict(self) -> dict[str, int]:
        """Return it for scripts."""
        names = ("total", "weights", "instructions", "copies", "cache", "state", "activations")
        return {name: getattr(self, name) for name in names} | {"largest_piece": max(self.pieces)}


def footprint(
    config: ModelConfig, precision: Precision, context: int, sequences: int = 1, *, drafts: bool = True
) -> Footprint:
    """Return what the step nets of a model take, with a K/V cache for `sequences` of `context` tokens each."""
    shapes = step_shapes(context, sequences, drafts=drafts, states=bool(config.state_layers))
    weights = sum(weight_bytes(config, precision).values())
    # Cosines and sines of every position.
    weights += 2 * aligned(2 * context * config.rotary_dim)
    most = max(shape.tokens for shape in shapes)
    io = AddressMap(config, shapes)
    # At its widest three tensors of the MLP's width live at once, beside what is added later.
    wide = 2 * most * (3 * config.intermediate_size + config.hidden_size + 2 * config.head_dim)
    instructions = len(shapes) * _stage_commands(config)
    return Footprint(
        weights=weights,
        instructions=instructions,
        cache=io.cache,
        state=io.state,
        activations=io.size - io.cache - io.state + wide,
        pieces=(weights, instructions, wide, io.size),
        stages=(io.size,) * (len(shapes) - 1),
    )


def bmodel_footprint(bmodel: BmodelDescription) -> Footprint:
    """Return what a bmodel's nets take, by its own description."""
    stages = [stage for net in bmodel.nets.values() for stage in net.stages]
    weights = sum({key: size for stage in stages for key, size in stage.weights.items()}.values())
    instructions = sum(stage.instruction_bytes for stage in stages)
    cache, state = (
        sum(max(map(size, net.stages), default=0) for net in bmodel.nets.values())
        for size in (_cache_bytes, _state_bytes)
    )
    rest = max(0, bmodel.device_bytes - weights - instructions - cache - state)
    pieces, further = tuple(bmodel.pieces), tuple(bmodel.further_stages)
    return Footprint(weights, instructions, cache, rest, pieces=pieces, stages=further, state=state)


def weight_bytes(config: ModelConfig, precision: Precision) -> dict[str, int]:
    """Return the bytes of each weight on the chip, by its name in the checkpoint, without what stays on the host.

    Of keys and values that are one product with the queries, those are counted with these.
    """
    head = f"{config.network.head_weight}.weight"
    found = {}
    for name, shape in config.network.shapes().items():
        if name == "model.embed_tokens.weight" and name != head:
            continue
        if joins_heads(config) and ".self_attn." in name:
            if ".k_proj." in name or ".v_proj." in name:
                found[name] = 0
                continue
            if ".q_proj." in name:
                shape = (shape[0] + 2 * config.kv_size, *shape[1:])
        if len(shape) == 1:
            found[name] = aligned(2 * shape[0])
            continue
        if len(shape) == 3:
            # A convolution's taps.
            found[name] = shape[2] * aligned(2 * shape[0])
            continue
        found[name] = sum(aligned(part) for part in precision.of(name).chip_bytes(shape[0], shape[1]))
    return found


def joins_heads(config: ModelConfig) -> bool:
    """Tell whether nets compute queries, keys and values as one product.

    The chip computes the last rows of a product's weights while it reads nothing. Where keys are as many as queries,
    cutting 512 rows of results apart costs more than that.
    """
    return config.group > 1


def longest_context(
    config: ModelConfig, precision: Precision, fits: Callable[[Footprint], bool], *, sequences: int = 1
) -> int | None:
    """Return the longest context whose nets fit, a multiple of `CONTEXT_STEP`; None: not even the shortest does.

    Where a footprint fits, every smaller one has to.
    """
    most = config.max_position_embeddings
    if sequences > 1:
        most = min(most, MOST_SHARED // sequences)
    contexts = range(CONTEXT_STEP, most + 1, CONTEXT_STEP)
    fitting = bisect_left(
        contexts, True, key=lambda context: not fits(footprint(config, precision, context, sequences))
    )
    return contexts[fitting - 1] if fitting else None


def fits(footprint: Footprint, heaps: Sequence[Heap]) -> bool:
    """Tell whether every allocation finds room in what is free."""
    return footprint.pieces[-1] <= LARGEST_IO and place(footprint.pieces, heaps) is not None


def aligned(size: int) -> int:
    """Return the bytes that a tensor takes."""
    return math.ceil(size / ALIGNMENT) * ALIGNMENT


def _stage_commands(config: ModelConfig) -> int:
    shapes = config.network.shapes()
    head = 0 if config.headless or not config.is_last else config.vocab_size * config.hidden_size
    layers = sum(math.prod(shape) for name, shape in shapes.items() if name not in _TABLES)
    commands = STAGE_COMMANDS + LAYER_COMMANDS * config.num_hidden_layers
    return int(commands + VALUE_COMMANDS * layers + HEAD_COMMANDS * head)


def _state_bytes(stage: StageDescription) -> int:
    """States of recurrent layers, and what a net makes of them; the step's rows behind a convolution's left out."""
    states = [t for t in stage.inputs if t.name.startswith(("conv_state.", "delta_state."))]
    return sum(2 * 2 * math.prod(tensor.shape) for tensor in states)


def _cache_bytes(stage: StageDescription) -> int:
    """K/V of the history that a stage reads, and of the tokens that it adds."""
    inputs = [t for t in stage.inputs if t.name.startswith("history_")]
    outputs = [t for t in stage.outputs if t.name.startswith(("k_cache", "v_cache"))]
    return sum(2 * math.prod(tensor.shape) for tensor in (*inputs, *(outputs if inputs else ())))
