"""Qwen chat models on SOPHON chips: from the checkpoint to an answer."""

from bmqwen.version import __version__

# Not of `typing`, whose import takes a moment in which Ctrl-C would end in a traceback.
TYPE_CHECKING = False

__all__ = ["Engine", "__version__", "load"]

if TYPE_CHECKING:
    from bmqwen.engine import Engine, load


def __getattr__(name: str) -> object:
    # Loaded on first use, so that `import bmqwen.errors` stays free of the engine's imports.
    if name in ("Engine", "load"):
        from bmqwen import engine

        return getattr(engine, name)
    raise AttributeError(f"module 'bmqwen' has no attribute {name!r}")
