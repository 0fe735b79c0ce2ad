"""The vendor's libraries in a worker process, on nets compiled here."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from bmqwen.compiler.toolchain import Toolchain, open_toolchain
from bmqwen.compiler.tpuc import Recipe, combine
from bmqwen.errors import BundleError, DeviceError
from bmqwen.runtime.bmrt.simulator_environment import simulator_environment
from bmqwen.runtime.bmrt.worker import Worker
from support.simulator_nets import WIDTH, compile_text, linear_text, square_weight

pytestmark = pytest.mark.simulator


@pytest.fixture(scope="module")
def toolchain() -> Toolchain:
    """The real compiler and simulator."""
    return open_toolchain()


@pytest.fixture(scope="module")
def bmodel(toolchain: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net with two stages, of 8 rows and of 1."""
    folder = tmp_path_factory.mktemp("linear")
    nets = [
        compile_text(toolchain, folder / str(rows), "linear", linear_text("linear", rows), Recipe("F16"))
        for rows in (8, 1)
    ]
    combine(toolchain, [n.bmodel for n in nets], folder / "linear.bmodel")
    return folder / "linear.bmodel"


def start(toolchain: Toolchain, bmodel: Path, memory: int = 1 << 30) -> Worker:
    """A worker with the net."""
    return Worker(
        "support.bmrt_probe:linear",
        {"bmodel": bmodel, "folder": toolchain.simulator_folder},
        what="the simulator",
        environment=simulator_environment(memory),
    )


@pytest.fixture(scope="module")
def worker(toolchain: Toolchain, bmodel: Path) -> Iterator[Worker]:
    """One for all tests that do not break it."""
    with closing(start(toolchain, bmodel)) as started:
        yield started


def test_both_stages_compute(worker: Worker) -> None:
    random = np.random.default_rng(0)
    for rows in (8, 1, 8):
        x = random.standard_normal((1, rows, WIDTH)).astype(np.float16)
        y = worker.call("run", x).astype(np.float32)
        assert np.abs(y - x.astype(np.float32) @ square_weight()).max() < 0.01


def test_output_lands_in_the_row_given_and_nowhere_else(worker: Worker) -> None:
    before = worker.call("facts")["launches"]
    x = np.random.default_rng(1).standard_normal((1, 1, WIDTH)).astype(np.float16)
    rows = worker.call("run_into_row", x, 6, 4)
    assert np.flatnonzero(rows.any(axis=1)).tolist() == [4]
    assert np.abs(rows[4] - x[0, 0].astype(np.float32) @ square_weight()).max() < 0.01
    after = worker.call("facts")
    assert after["launches"] == before + 1
    assert after["allocated"] == 0


def test_what_is_not_in_a_nets_own_memory_goes_through_it(worker: Worker) -> None:
    # So histories are read where the net has them, and rows that lie elsewhere cost a copy of themselves.
    x = np.random.default_rng(2).standard_normal((1, 1, WIDTH)).astype(np.float16)
    found = worker.call("copies", x)
    assert found["input: own read"]
    assert found["output: own written"]


def test_facts(worker: Worker) -> None:
    facts = worker.call("facts")
    assert facts["chip"] == "BM1684X"
    assert facts["nets"] == ["linear"]
    assert facts["stages"] == [[(1, 8, WIDTH)], [(1, 1, WIDTH)]]


def test_too_much_memory_is_a_sentence(worker: Worker) -> None:
    with pytest.raises(
        DeviceError, match=r"needs 2,147 MB of device memory, but simulated device 0 has only"
    ):
        worker.call("allocate", 2 << 30)
    assert worker.call("facts")["allocated"] == 0


def test_bmodel_larger_than_the_device(toolchain: Toolchain, bmodel: Path) -> None:
    with pytest.raises(
        DeviceError, match=r"linear\.bmodel needs \d+ MB of device memory, but .* has only 3 MB"
    ):
        start(toolchain, bmodel, memory=84 << 20)


def test_truncated_bmodel(toolchain: Toolchain, bmodel: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.bmodel"
    path.write_bytes(bmodel.read_bytes()[:-4096])
    with pytest.raises(BundleError, match=r"short\.bmodel is truncated"):
        start(toolchain, path)


def test_damaged_bmodel_does_not_take_the_program_down(
    toolchain: Toolchain, bmodel: Path, tmp_path: Path
) -> None:
    content = bytearray(bmodel.read_bytes())
    content[64:4096] = bytes(4096 - 64)
    path = tmp_path / "damaged.bmodel"
    path.write_bytes(content)
    with pytest.raises(DeviceError):
        start(toolchain, path)
