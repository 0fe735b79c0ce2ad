"""Which step nets a context length gets: few enough to compile, enough that every prompt is fed cheaply."""

from bmqwen.checkpoint.config import ModelConfig
from bmqwen.errors import InputError
from bmqwen.steps import StepShape

LENGTHS = (512, 128, 32, 8, 1)
# Shortest history with a net of its own, and how much longer the next one is. Decoding is worth more buckets:
# its cost is all reading, a history of 128 in place of 512 saves 4 to 10 % of it.
DECODE_BUCKETS = (128, 2)
PREFILL_BUCKETS = (512, 4)
SHORTEST = 32
MULTIPLE = 8


def step_shapes(context: int) -> tuple[StepShape, ...]:
    """The nets for a K/V cache of `context` rows, the largest first: its K/V memory holds every other's.

    A net of C tokens writes C rows at its position, so position + C <= context.
    """
    shapes = [
        StepShape(tokens, history)
        for tokens in LENGTHS
        for history in _histories(tokens, context)
        if tokens <= history
    ]
    return tuple(sorted(shapes, key=lambda s: (s.history, s.tokens), reverse=True))


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
    bucket, factor = DECODE_BUCKETS if tokens == 1 else PREFILL_BUCKETS
    histories = []
    # One hardly shorter than the whole is not worth its compilation.
    while 2 * bucket <= context:
        histories.append(bucket)
        bucket *= factor
    return [*histories, context]
