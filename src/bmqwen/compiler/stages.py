"""Which step nets a context length gets: few enough to compile, enough that every prompt is fed cheaply."""

from bmqwen.artifact.steps import StepShape
from bmqwen.errors import InputError
from bmqwen.model.config import ModelConfig

# Lengths of steps, and the histories that each has a net of its own for, besides the context's. 0 begins a
# conversation. Decoding is worth the most of them: its cost is all reading, a history of 384 in place of 512 saves 3 %
# of it. A long step's cost grows with what it looks at, a short one's hardly.
SHORT_STEP = (0, 512, 2048, 8192)
HISTORIES: dict[int, tuple[int, ...]] = {
    512: (0, 512, 1024, 2048, 4096, 8192, 16384),
    128: SHORT_STEP,
    64: SHORT_STEP,
    32: SHORT_STEP,
    8: SHORT_STEP[1:],
    1: (128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 16384),
}
SHORTEST = 32
MULTIPLE = 8


def step_shapes(context: int) -> tuple[StepShape, ...]:
    """The nets for a K/V cache of `context` rows, the longest steps first: what those need on the chip is the most.

    A net of C tokens writes C rows at its position, so position + C <= context.
    """
    shapes = [
        StepShape(tokens, history)
        for tokens in HISTORIES
        if tokens <= context
        for history in _histories(tokens, context)
    ]
    return tuple(sorted(shapes, reverse=True))


def check_context(config: ModelConfig, context: int) -> None:
    """Raise InputError unless nets can be made for a context of that many tokens."""
    longest = config.max_position_embeddings
    if not SHORTEST <= context <= longest or context % MULTIPLE:
        raise InputError(
            f"--seq-len {context} cannot be compiled: choose a multiple of {MULTIPLE} "
            f"from {SHORTEST} to {longest // MULTIPLE * MULTIPLE} for this model"
        )


def _histories(tokens: int, context: int) -> list[int]:
    """Lengths of history that a net of so many tokens is made for, up to `context`."""
    # One hardly shorter than the whole is not worth its compilation.
    below = [history for history in HISTORIES[tokens] if 4 * history <= 3 * context]
    # As long as the context, a step has its place at the beginning only.
    return below if tokens == context and 0 in below else [*below, context]
