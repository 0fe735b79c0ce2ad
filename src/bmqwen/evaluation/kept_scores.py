"""Scores of an evaluation, kept in the cache block by block: an interrupted one goes on where it was."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bmqwen.errors import CheckpointError
from bmqwen.evaluation.divergence import Scores
from bmqwen.util.kept_work import work_folder
from bmqwen.weights.gptq_writer import write_safetensors
from bmqwen.weights.safetensors import SafetensorsWeights


class KeptScores:
    """The scores of one model at one precision beside one float model."""

    def __init__(self, model: str, identity: object) -> None:
        """Take the float model's name, and anything JSON can hold that changes with what the two models compute."""
        self._folder = work_folder("scores", model, _hash(identity))

    def read(self, name: object) -> Scores | None:
        """Return what was kept for a block, named by its tokens; None: nothing, or a damaged file."""
        path = self._path(name)
        if not path.is_file():
            return None
        try:
            file = SafetensorsWeights(path)
        except CheckpointError:
            return None
        try:
            return Scores(*(file.read(part).astype(np.float64) for part in Scores.__dataclass_fields__))
        except CheckpointError:
            return None
        finally:
            file.close()

    def write(self, name: object, scores: Scores) -> None:
        """Keep the scores of a block, in single precision. Raises StorageError."""
        values: dict[str, Any] = asdict(scores)
        write_safetensors(
            self._path(name), {part: array.astype(np.float32) for part, array in values.items()}
        )

    def _path(self, name: object) -> Path:
        return self._folder / f"{_hash(name)}.safetensors"


def _hash(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:24]
