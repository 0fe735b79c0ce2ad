"""One process at a time, and no lock left behind."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bmqwen.errors import StorageError
from bmqwen.util.storage import path_lock, sweep

# Without the lock, two of them would read the same number.
COUNT = """
import sys, time
from pathlib import Path
from bmqwen.util import storage

storage.POLL_SECONDS = 0.001
folder, count = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(20):
    with storage.path_lock(folder):
        number = int(count.read_text())
        time.sleep(0.002)
        count.write_text(str(number + 1))
"""


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_place_where_no_file_can_be_made_is_an_error() -> None:
    with pytest.raises(StorageError, match="cannot write /proc"), path_lock(Path("/proc/bmqwen")):
        pass


def test_processes_take_turns_and_leave_no_lock(tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    command = [sys.executable, "-c", COUNT, str(tmp_path / "cache" / "key"), str(count)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert count.read_text() == "60"
    assert left(tmp_path / "cache") == []


def test_who_waits_is_told_once(tmp_path: Path) -> None:
    folder, waits = tmp_path / "key", threading.Semaphore(0)
    order: list[str] = []

    def second() -> None:
        with path_lock(folder, waits.release):
            order.append("second")

    thread = threading.Thread(target=second)
    with path_lock(folder, lambda: pytest.fail("nobody has it")):
        thread.start()
        assert waits.acquire(timeout=30)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]
    assert not waits.acquire(blocking=False)


def test_who_does_not_wait_is_told_whether_it_is_free(tmp_path: Path) -> None:
    with path_lock(tmp_path / "key", wait=False) as mine, path_lock(tmp_path / "key", wait=False) as other:
        assert (mine, other) == (True, False)
        assert left(tmp_path) == ["key.lock"]
    assert left(tmp_path) == []


def test_a_lock_that_a_killed_process_left_is_free(tmp_path: Path) -> None:
    (tmp_path / "key.lock").touch()
    with path_lock(tmp_path / "key", lambda: pytest.fail("nobody has it")):
        pass
    assert left(tmp_path) == []


def test_a_cache_that_is_deleted_meanwhile_is_no_error(tmp_path: Path) -> None:
    with path_lock(tmp_path / "cache" / "key"):
        shutil.rmtree(tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*/file: "), path_lock(tmp_path / "file" / "key"):
        pass


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("work-left", "work-held", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "work-file").touch()
    with path_lock(tmp_path / "work-held"):
        sweep(tmp_path, "work-*")
        assert left(tmp_path) == ["other", "work-file", "work-held", "work-held.lock"]
