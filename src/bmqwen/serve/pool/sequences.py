"""How many requests an engine answers at once."""

from bmqwen.artifact.bundle import Bundle
from bmqwen.compiler.schedule import available_memory
from bmqwen.errors import InputError
from bmqwen.runtime.kv_memory import sequence_bytes
from bmqwen.util.text import counted, size_text

# Rows that a processor computes in one step almost as fast as more, each.
DEFAULT_SEQUENCES = 8


def sequences_of(bundle: Bundle, wanted: int | None, context: int | None, engines: int) -> int:
    """Return how many requests an engine answers at once, where its bundle leaves that open.

    Raises InputError for more than there is memory for, or than a bundle for a chip has nets for.
    """
    if bundle.kind != "onnx":
        own = bundle.details.get("sequences", 1)
        if wanted is not None and wanted > own:
            raise InputError(
                f"{bundle.place} was compiled for {counted(own, 'conversation')} at once, not for {wanted}: "
                f"compile the model with --sequences {wanted}, or leave --sequences out"
            )
        return 1
    each = sequence_bytes(bundle.config, context or bundle.config.max_position_embeddings)
    free = max(0, available_memory() // engines - bundle.total_bytes)
    if wanted is not None and wanted > max(1, free // each):
        raise InputError(
            f"{counted(wanted, 'sequence')} can take {size_text(wanted * each)} of memory for K/V, but "
            f"only {size_text(free)} are free: choose fewer --sequences or a shorter --context"
        )
    return wanted or min(DEFAULT_SEQUENCES, max(1, free // 2 // each))
