"""Which checkpoint a bundle was made from."""

from collections.abc import Iterator
from pathlib import Path

from bmqwen.artifact.bundle import Bundle
from bmqwen.compiler.plan import make_plan
from bmqwen.emit.export import source_key
from bmqwen.errors import BmqwenError, InputError
from bmqwen.hub.hub import Hub
from bmqwen.quant.precision import Precision
from bmqwen.weights.checkpoint import Checkpoint, open_checkpoint


def source_of(bundle: Bundle, named: Path | None = None) -> Checkpoint:
    """Open the checkpoint that a bundle was made from: the one named, the one it records, or a downloaded one.

    Raises InputError (the one named is another, or none is found), CheckpointError, ConfigError (it cannot be opened).
    """
    merged = bundle.details.get("adapter")
    adapter = Path(merged) if isinstance(merged, str) else None
    for path in _candidates(bundle) if named is None else (named,):
        try:
            checkpoint = open_checkpoint(path, adapter)
        except BmqwenError:
            if named is None:
                continue
            raise
        if _is_source(bundle, checkpoint):
            return checkpoint
        checkpoint.close()
    if named is not None:
        raise InputError(
            f"{bundle.folder} was not made from {named}, or by another version of bmqwen: name its checkpoint, "
            "or make the bundle again"
        )
    raise InputError(
        f"the checkpoint that {bundle.folder} was made from ({bundle.model}) is not among the downloaded models: "
        "name it with --against"
    )


def _is_source(bundle: Bundle, checkpoint: Checkpoint) -> bool:
    """Return whether making the bundle again from this checkpoint would give the same content."""
    precision = Precision(**bundle.precision)
    if bundle.kind == "onnx":
        plain = bundle.details.get("dialect") == "plain"
        return bundle.source == source_key(
            checkpoint.path, precision, plain=plain, adapter=checkpoint.adapter
        )
    details, layers = bundle.details, bundle.config.num_hidden_layers
    try:
        plan = make_plan(
            checkpoint,
            precision,
            details["context"],
            details["half"],
            layers,
            sequences=details["sequences"],
            drafts=details["drafts"],
            parts=len(details.get("parts", ())) or 1,
        )
        return bundle.source == plan.key
    except (InputError, KeyError, TypeError):
        return False


def _candidates(bundle: Bundle) -> Iterator[Path]:
    recorded = bundle.details.get("checkpoint")
    if isinstance(recorded, str):
        yield Path(recorded)
    yield from (model.path for model in Hub().models() if model.complete)
