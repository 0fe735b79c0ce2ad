"""The worker process: answers, errors, ends, and interrupted calls."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from bmqwen.errors import ContextLengthError, DeviceError, InputError
from bmqwen.runtime.bmrt.worker import Worker
from support.processes import interrupted, runs, wait_for_end


@pytest.fixture
def worker() -> Iterator[Worker]:
    """A worker with an Echo."""
    with closing(Worker("support.bmrt_probe:echo", {}, what="the simulator")) as started:
        yield started


def test_results_and_attributes_cross_and_noise_does_not(
    worker: Worker, capfd: pytest.CaptureFixture[str]
) -> None:
    assert worker.call("double", np.arange(3)).tolist() == [0, 2, 4]
    assert worker.call("width") == 7
    assert capfd.readouterr().out == ""


def test_errors_cross(worker: Worker) -> None:
    with pytest.raises(InputError, match="no such thing: choose another"):
        worker.call("refuse")
    with pytest.raises(DeviceError, match="the simulator failed: ZeroDivisionError: by zero"):
        worker.call("stumble")
    with pytest.raises((ContextLengthError, DeviceError), match="600 tokens, but only 512"):
        worker.call("refuse_with_numbers")
    assert worker.call("width") == 7


def test_death_is_a_sentence_with_its_cause(worker: Worker) -> None:
    with pytest.raises(
        DeviceError, match=r"^the simulator ended unexpectedly \(SIGABRT: FATAL: alloc failed\)$"
    ):
        worker.call("die")
    with pytest.raises(DeviceError, match="after it was closed or had failed"):
        worker.call("width")
    worker.close()


def test_closing_twice_ends_the_process(worker: Worker) -> None:
    pid = worker.call("wait", 0)
    worker.close()
    worker.close()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(DeviceError, match="after it was closed"):
        worker.call("width")


def test_factory_that_fails_leaves_no_process() -> None:
    with pytest.raises(InputError, match="no such model"):
        Worker("support.bmrt_probe:refusing", {}, what="the simulator")


def test_interrupted_call_does_not_answer_the_next_one(worker: Worker) -> None:
    pid = worker.call("wait", 0)
    with pytest.raises(KeyboardInterrupt), interrupted():
        worker.call("wait", 1)
    assert worker.call("width") == 7
    assert worker.call("wait", 0) == pid


def test_a_worker_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bmqwen.runtime.bmrt.worker.STOP_SECONDS", 100_000.0)
    with closing(Worker("support.bmrt_probe:echo", {}, what="the simulator")) as worker:
        pid = worker.call("wait", 0)
        with pytest.raises(KeyboardInterrupt), interrupted():
            worker.call("stop")
    assert not runs(pid)


def test_worker_ends_with_a_killed_program() -> None:
    program = (
        "import sys, time\n"
        "from bmqwen.runtime.bmrt.worker import Worker\n"
        "if __name__ == '__main__':\n"
        "    worker = Worker('support.bmrt_probe:echo', {}, what='x')\n"
        "    print(worker.call('wait', 0), flush=True)\n"
        "    worker.call('wait', 600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.kill()
    process.communicate()
    wait_for_end(pid)
