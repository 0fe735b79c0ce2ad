"""`bmqwen` with an engine that hangs when it is to read: `python hanging_chat.py HOW FILE ARGUMENTS`.

HOW says where: "worker", in the simulator's process; "stopped", likewise, and that process is stopped; "library", in a
call of a C library in the program itself. The id of the process that hangs is written to FILE.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from bmqwen.artifact.bundle import Bundle
from bmqwen.cli import interrupts
from bmqwen.cli.app import run
from bmqwen.runtime import registry
from bmqwen.runtime.bmodel.step_runtime import StepRuntime
from bmqwen.runtime.bmrt.simulated import SimulatedRuntime, Target

VOCABULARY, CONTEXT = 300, 512


class Hanging:
    """A Runtime, here or in the simulator's process, as far as a first question needs one."""

    chip, library = "hanging chip", "libbmrt"
    name, vocab_size, context_length, sequences = "hanging", VOCABULARY, CONTEXT, 1
    rounds_by_rows = False

    def __init__(self) -> None:
        self._how, self._told = os.environ["HANG_HOW"], Path(os.environ["HANG_TOLD"])

    def position(self, sequence: int) -> int:
        return 0 * sequence

    def steps_at_once(self, answers: int, *, reading: bool = False) -> int:
        del answers, reading
        return 1

    def reads_apart(self, sequence: int, count: int, beside: int) -> bool:
        del sequence, count, beside
        return False

    def piece(self, sequence: int, count: int, beside: int = 0, waiting: int = 1) -> int:
        del sequence, beside, waiting
        return count

    def row_costs(self, sequence: int, beside: int = 0) -> dict[int, float]:
        return {1 + 0 * sequence * beside: 1.0}

    def step(self, feeds: Sequence[Any]) -> None:
        del feeds
        self._told.write_text(str(os.getpid()))
        if self._how == "library":
            # A mutex that is locked twice is waited for whatever signals come.
            mutex = ctypes.create_string_buffer(64)
            for _attempt in range(2):
                ctypes.CDLL(None).pthread_mutex_lock(mutex)
        if self._how == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(600)

    def truncate(self, sequence: int, position: int) -> None:
        del sequence, position

    def close(self) -> None:
        pass


def open_hanging(bundle: Bundle, folder: Path | None, context_length: int | None, device: int) -> Target:
    """In the simulator's process."""
    del bundle, folder, context_length, device
    return Target(cast(StepRuntime, Hanging()))


def _open_runtime(bundle: Bundle, *_: object) -> Any:
    if os.environ["HANG_HOW"] == "library":
        return Hanging()
    # Any file will do for the nets.
    bundle = replace(bundle, details={"device_bytes": 1, "bmodel": "model.onnx"})
    return SimulatedRuntime(bundle, None, opener="support.hanging_chat:open_hanging")


def main(how: str, told: str, arguments: Sequence[str]) -> int:
    """Run the program; its exit code."""
    os.environ |= {"HANG_HOW": how, "HANG_TOLD": told}
    registry.open_runtime = _open_runtime  # type: ignore[assignment]
    interrupts.LAST_SECONDS = 1.0
    with interrupts.heeding_signals():
        return run(list(arguments))


if __name__ == "__main__":
    # Its own children look for it in the package.
    sys.path[0] = str(Path(__file__).parents[1])
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
