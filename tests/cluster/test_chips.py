"""Which chip of a node a replica gets."""

from pathlib import Path

import pytest

from bmqwen.cluster.chips import ClaimedChip
from bmqwen.errors import DeviceError
from support.recorded import recorded


def test_each_replica_gets_a_chip_of_its_own(tmp_path: Path) -> None:
    node = recorded("sc7", tmp_path)
    claimed = [ClaimedChip(node) for _ in range(4)]
    assert [each.index for each in claimed] == [0, 1, 2, 3]
    with pytest.raises(DeviceError, match="all 4 chips of this node are taken by other replicas"):
        ClaimedChip(node)
    claimed[2].release()
    assert ClaimedChip(node).index == 2


def test_a_chip_that_does_not_work_is_left_out(tmp_path: Path) -> None:
    node = recorded("sc7_dead_chip", tmp_path)
    claimed = [ClaimedChip(node) for _ in range(3)]
    with pytest.raises(DeviceError, match="all 3 chips"):
        ClaimedChip(node)
    assert len({each.index for each in claimed}) == 3


def test_a_node_without_chips(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="this node has no working chip, but Ray was told that it has"):
        ClaimedChip(recorded("bare", tmp_path))
