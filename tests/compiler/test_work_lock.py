"""One process at a time, and no lock left behind."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bmqwen.errors import StorageError
from bmqwen.util.work_lock import DOOR, work_lock

# Without the lock, two of them would read the same number.
COUNT = """
import sys, time
from pathlib import Path
from bmqwen.compiler import work_lock

work_lock.POLL_SECONDS = 0.001
folder, count = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(20):
    with work_lock.work_lock(folder, lambda: None):
        number = int(count.read_text())
        time.sleep(0.002)
        count.write_text(str(number + 1))
"""


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_processes_take_turns_and_leave_no_lock(tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    command = [sys.executable, "-c", COUNT, str(tmp_path / "cache" / "key"), str(count)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert count.read_text() == "60"
    assert left(tmp_path / "cache") == [DOOR]


def test_who_waits_is_told_once(tmp_path: Path) -> None:
    folder, waits = tmp_path / "key", threading.Semaphore(0)
    order: list[str] = []

    def second() -> None:
        with work_lock(folder, waits.release):
            order.append("second")

    thread = threading.Thread(target=second)
    with work_lock(folder, lambda: pytest.fail("nobody has it")):
        thread.start()
        assert waits.acquire(timeout=30)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]
    assert not waits.acquire(blocking=False)


def test_locks_that_earlier_programs_left_are_removed(tmp_path: Path) -> None:
    (tmp_path / "gone.lock").touch()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished.lock").touch()
    with work_lock(tmp_path / "other", lambda: None), work_lock(tmp_path / "key", lambda: None):
        pass
    assert left(tmp_path) == [DOOR, "unfinished", "unfinished.lock"]


def test_a_cache_that_is_deleted_meanwhile_is_no_error(tmp_path: Path) -> None:
    with work_lock(tmp_path / "cache" / "key", lambda: None):
        shutil.rmtree(tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/key"), work_lock(tmp_path / "file" / "key", lambda: None):
        pass
