"""The checkpoint of a bundle in parts is found by what its manifest states, and by nothing less."""

from pathlib import Path

import pytest

from bmqwen.artifact.bundle import Bundle
from bmqwen.compiler.plan import make_plan
from bmqwen.errors import InputError
from bmqwen.evaluation.bundle_source import source_of
from bmqwen.quant.precision import Precision
from bmqwen.weights.checkpoint import open_checkpoint
from support.checkpoints import tiny_config, write_checkpoint

INT4 = Precision("int4", 32, "int4")
DETAILS = {"context": 64, "half": "f16", "sequences": 3, "drafts": True}


@pytest.mark.parametrize(
    ("parts", "found"), [([{}, {}], True), ([], False), ([{}], False)], ids=["stated", "missing", "one"]
)
def test_parts_are_those_of_the_manifest(parts: list[dict[str, int]], found: bool, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config("qwen2.5"), seed=3)
    with open_checkpoint(folder) as checkpoint:
        key = make_plan(checkpoint, INT4, 64, "f16", sequences=3, parts=2).key
        config = checkpoint.config
    details = DETAILS | {"checkpoint": str(folder)} | ({"parts": parts} if parts else {})
    bundle = Bundle(tmp_path, "bmodel", "tiny", config, INT4.to_dict(), details, key)
    if found:
        with source_of(bundle) as checkpoint:
            assert checkpoint.path == folder
    else:
        with pytest.raises(InputError, match="was not made from"):
            source_of(bundle, folder)
