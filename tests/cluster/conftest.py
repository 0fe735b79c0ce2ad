"""A fleet, and the same model behind the embedded server: with --cluster only."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.checkpoints import tiny_config, write_checkpoint
from support.live_server import LiveServer, live_server
from support.ray_fleet import RayFleet, models_of


@pytest.fixture(scope="session")
def fleet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fleet")


@pytest.fixture(scope="session")
def rambler(fleet_folder: Path) -> Path:
    """Random weights: every answer depends on all that was said."""
    return write_checkpoint(fleet_folder / "rambler", tiny_config(max_position_embeddings=4096))


@pytest.fixture(scope="session")
def ray_fleet(fleet_folder: Path, rambler: Path, talker: Path) -> Iterator[RayFleet]:
    """Three replicas of one model and one of another, on two nodes."""
    fleet = RayFleet(fleet_folder)
    try:
        fleet.serve(*models_of(rambler, talker))
        fleet.wait_for(4, 60)
        yield fleet
    finally:
        fleet.close()


@pytest.fixture(scope="session")
def embedded(rambler: Path, fleet_folder: Path) -> Iterator[LiveServer]:
    """The same model behind the embedded server."""
    options = ("--quant", "f32", "--reproducible", "--name", "rambler")
    with live_server(rambler, *options, cache=fleet_folder / "cache") as server:
        yield server
