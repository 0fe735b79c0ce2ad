"""What a `PartChain` says of launches that failed in one part while others went on; without devices."""

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, cast

import numpy as np
import pytest

from bmqwen.artifact.steps import StepNets, StepShape, step_shapes
from bmqwen.errors import DeviceError
from bmqwen.runtime.bmodel.part_chain import Fetched, PartChain, PartNets
from bmqwen.runtime.bmodel.step_stages import Results
from support.checkpoints import tiny_config

NETS = StepNets(32, dict.fromkeys(step_shapes(32), 1_000_000))
CONFIG = tiny_config(layers=1)


class TwoLaunches:
    """A `PartNets` whose first launch may fail."""

    chip, library, device = "BM1684X", "none", "device 0"

    def __init__(self, *, fails: bool) -> None:
        self._fails = fails

    def run(self, shape: StepShape, row: int, states: Any, segments: object) -> Any:
        del shape, row, segments
        if self._fails:
            self._fails = False
            raise DeviceError("the first launch failed")
        return states

    def finish(self, *launch: Any) -> Fetched:
        self.run(*launch)
        return Fetched([7], {})

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def chain(request: pytest.FixtureRequest) -> Iterator[PartChain]:
    """Of two parts; which of them fails is the parameter."""
    parts = [cast(PartNets, TwoLaunches(fails=number == request.param)) for number in range(2)]
    chain = PartChain(parts, NETS, [CONFIG.part(range(1))] * 2)
    yield chain
    chain.close()


def launch(chain: PartChain) -> Results:
    return chain.launch(StepShape(1, 32), 0, np.zeros((1, 64), np.uint16), [])


@pytest.mark.parametrize("chain", [0, 1], indirect=True)
def test_results_behind_a_launch_that_failed_are_not_read(chain: PartChain) -> None:
    """Nobody asks for those of the first: it is a piece of a prompt that goes on."""
    launch(chain)
    last = launch(chain)
    for _ in range(2):
        with pytest.raises(DeviceError, match="the first launch failed"):
            last.token_ids(0, 1)
    with pytest.raises(DeviceError, match="the first launch failed"):
        launch(chain)


@pytest.mark.parametrize("chain", [2], indirect=True)
def test_ctrl_c_while_a_launch_is_waited_for_leaves_its_failure_to_be_noticed(chain: PartChain) -> None:
    class Interrupted(Future[Fetched]):
        waits = 0

        def result(self, timeout: float | None = None) -> Fetched:
            self.waits += 1
            if self.waits == 1:
                raise KeyboardInterrupt
            return super().result(timeout)

    failing = Interrupted()
    failing.set_exception(DeviceError("it failed later"))
    chain._under_way.append(failing)
    with pytest.raises(KeyboardInterrupt):
        chain._settle()
    with pytest.raises(DeviceError, match="it failed later"):
        chain._settle()
