"""An engine's process that fails when a test says so: it stands in for `bmqwen.serve.pool.engine_process`.

The file that the variable ENGINE_FAULT names says when and how, as in "feed DeviceError"; the first engine that comes
upon it takes it away, unless the line ends with "always". When: "load", "feed", "close". How: the name of an exception,
"exit" (the process ends), or "hang".
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

from bmqwen.errors import DeviceError
from bmqwen.runtime import registry
from bmqwen.serve.pool import engine_process

FAULTS: dict[str, BaseException] = {
    "DeviceError": DeviceError("the chip does not answer"),
    "MemoryError": MemoryError(),
    "RuntimeError": RuntimeError("of no kind that anybody expects"),
    "ValueError": ValueError("nor this one"),
    "RecursionError": RecursionError(),
    "SystemExit": SystemExit(3),
}


def fail_if_told(place: str) -> None:
    """Fail here if the file says so."""
    file = Path(os.environ["ENGINE_FAULT"])
    when, how, *always = file.read_text().split() if file.exists() else ("", "")
    if when != place:
        return
    if not always:
        file.unlink()
    if how == "exit":
        os._exit(7)
    if how == "hang":
        time.sleep(600)
    raise FAULTS[how]


class Failing:
    """A runtime that fails."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def step(self, feeds: Any) -> Any:
        fail_if_told("feed")
        return self._runtime.step(feeds)

    def close(self) -> None:
        fail_if_told("close")
        self._runtime.close()


def main() -> None:
    open_runtime = registry.open_runtime

    def open_failing(*arguments: Any) -> Any:
        fail_if_told("load")
        return Failing(open_runtime(*arguments))

    registry.open_runtime = open_failing  # type: ignore[assignment]
    engine_process.main(int(sys.argv[1]), int(sys.argv[2]))


if __name__ == "__main__":
    main()
