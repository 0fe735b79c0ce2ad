"""Which chip of a node a replica gets."""

from pathlib import Path

import pytest

from bmqwen.cluster.chips import ClaimedChips
from bmqwen.errors import DeviceError
from support.recorded import recorded


def test_each_replica_gets_a_chip_of_its_own(tmp_path: Path) -> None:
    node = recorded("sc7", tmp_path)
    claimed = [ClaimedChips(system=node) for _ in range(4)]
    assert [each.indices for each in claimed] == [(0,), (1,), (2,), (3,)]
    with pytest.raises(DeviceError, match="all 4 chips of this node are taken by other replicas"):
        ClaimedChips(system=node)
    claimed[2].release()
    assert ClaimedChips(system=node).indices == (2,)


def test_a_model_in_parts_gets_several(tmp_path: Path) -> None:
    """Or none: those that it could have had are free for others."""
    node = recorded("sc7", tmp_path)
    first = ClaimedChips(3, node)
    assert first.indices == (0, 1, 2)
    with pytest.raises(
        DeviceError, match=r"all but 1 of the 4 chips of this node are taken .* this one needs 2: "
    ):
        ClaimedChips(2, node)
    assert ClaimedChips(1, node).indices == (3,)
    first.release()
    assert ClaimedChips(2, node).indices == (0, 1)


def test_a_chip_that_does_not_work_is_left_out(tmp_path: Path) -> None:
    node = recorded("sc7_dead_chip", tmp_path)
    claimed = [ClaimedChips(system=node) for _ in range(3)]
    with pytest.raises(DeviceError, match="all 3 chips"):
        ClaimedChips(system=node)
    assert len({each.indices for each in claimed}) == 3


def test_a_node_without_chips(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="this node has no working chip, but Ray was told that it has"):
        ClaimedChips(system=recorded("bare", tmp_path))
