"""Qwen chat models on SOPHON BM1684X: from the checkpoint to an answer."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Engine", "load"]

if TYPE_CHECKING:
    from bmqwen.engine import Engine, load


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that `import bmqwen.errors` stays free of the engine's imports.
    if name in __all__:
        from bmqwen import engine

        return getattr(engine, name)
    raise AttributeError(f"module 'bmqwen' has no attribute {name!r}")
