"""Asks one chip through libbmlib, in a process of its own: a dead one may hang a program or end it."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

# A chip answers within milliseconds; the vendor's libraries take a second to load on a SoC.
PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a chip answered: total and free bytes of each heap, in the driver's order, or why it did not."""

    heaps: tuple[tuple[int, int], ...] = ()
    failure: str = ""


Probe = Callable[[int], Answer]


def ask(index: int, folder: Path | None = None) -> Answer:
    """Open a device and ask for its heaps, with the libraries in a folder (None: a chip's).

    Never raises for what the device does.
    """
    command = [sys.executable, "-m", __name__, str(index), *([str(folder)] if folder else [])]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return Answer(failure=f"no answer within {PATIENCE:.0f} seconds")
    for line in done.stdout.splitlines():
        if line.startswith("ANSWER "):
            stated = json.loads(line.removeprefix("ANSWER "))
            return Answer(tuple((total, free) for total, free in stated["heaps"]), stated["failure"])
    printed = (done.stderr or done.stdout).strip().splitlines()
    return Answer(failure=printed[-1][:300] if printed else f"exit status {done.returncode}")


def main(arguments: list[str]) -> None:
    """Print one line, in the process of its own."""
    from bmqwen.errors import BmqwenError
    from bmqwen.runtime.bmrt.device import Device
    from bmqwen.runtime.bmrt.libraries import load_libraries

    heaps, failure = [], ""
    try:
        folder = Path(arguments[1]) if len(arguments) > 1 else None
        with closing(Device(load_libraries(folder), int(arguments[0]))) as device:
            heaps = [(int(heap.total), int(heap.available)) for heap in device.heaps()]
    except BmqwenError as error:
        failure = str(error)
    # What libraries print at C level shares this stream: a line of ours begins with a newline.
    print("\nANSWER " + json.dumps({"heaps": heaps, "failure": failure}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
