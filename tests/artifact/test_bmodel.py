"""The memory of intermediate results: libbmrt takes what the first stage states, and the others must need no more."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from bmqwen.artifact.bmodel import check_intermediates, read_description, reserve_intermediates
from bmqwen.errors import BundleError
from support.bmodel_files import FakeBmodel, FakeNet, published_nets


@pytest.mark.parametrize("needs", [(3000, 1000, 2000), (1000, 1000), (1000,), ()])
def test_a_first_stage_that_asks_for_enough(needs: Sequence[int], tmp_path: Path) -> None:
    nets = [FakeNet("step", [], [], neuron_bytes=needs), *published_nets()]
    check_intermediates(FakeBmodel(nets).write(tmp_path / "step.bmodel"))


def test_one_that_asks_for_less_is_refused_until_it_reserves(tmp_path: Path) -> None:
    nets = [FakeNet("other", [], []), FakeNet("step", [], [], neuron_bytes=(2000, 1000, 2008))]
    path = FakeBmodel(nets).write(tmp_path / "step.bmodel")
    with pytest.raises(BundleError, match="compile the model again with `bmqwen compile`"):
        check_intermediates(path)
    reserve_intermediates(path)
    check_intermediates(path)
    found = [stage.neuron_bytes for stage in read_description(path).nets["step"].stages]
    assert found == [2008, 1000, 2008]


def test_damage_is_a_sentence(tmp_path: Path) -> None:
    path = FakeBmodel([FakeNet("step", [], [])]).write(tmp_path / "step.bmodel")
    content = bytearray(path.read_bytes())
    content[64:68] = b"\xff" * 4
    path.write_bytes(content)
    with pytest.raises(BundleError, match="is damaged"):
        check_intermediates(path)
