"""A process of its own: how it is ended when it hears nothing."""

import os
import time

import pytest

from bmqwen.runtime.child_process import ChildProcess, descendants
from support.processes import interrupted, runs, state_of, wait_for_end


def start(**environment: str) -> ChildProcess:
    """A child that starts one itself, and stops both, as a chip's driver might."""
    child = ChildProcess("support.stopped_child", what="the engine", environment=environment)
    deadline = time.monotonic() + 30
    while [state_of(pid) for pid in [child.pid, *descendants(child.pid)]] != ["T", "T"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return child


def test_killing_ends_what_a_stopped_process_started() -> None:
    child = start()
    (grandchild,) = descendants(child.pid)
    child.kill()
    assert "was killed (SIGKILL)" in str(child.ended())
    assert not runs(child.pid)
    wait_for_end(grandchild)
    child.kill()


def test_closing_kills_what_does_not_end() -> None:
    child = start()
    (grandchild,) = descendants(child.pid)
    child.close(0.0)
    assert not runs(child.pid)
    wait_for_end(grandchild)
    child.close()


def test_ctrl_c_while_waiting_leaves_no_process() -> None:
    child = start()
    (grandchild,) = descendants(child.pid)
    with pytest.raises(KeyboardInterrupt), interrupted():
        child.close(600.0)
    assert not runs(child.pid)
    wait_for_end(grandchild)


def test_descendants_are_of_all_generations_and_no_others() -> None:
    child = start()
    try:
        assert set(descendants(child.pid)) < set(descendants(os.getpid()))
        assert child.pid in descendants(os.getpid())
        assert os.getpid() not in descendants(os.getpid())
    finally:
        child.close(0.0)
