"""A Python module in a process of its own, joined to this one by a socket; it ends with this one."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from bmqwen.errors import DeviceError

# For a process to end by itself, then for one to vanish that was killed: a driver may hold it.
STOP_SECONDS = 5.0
KILL_SECONDS = 2.0
PARENT_POLL_SECONDS = 1.0
# Of what the process printed, this much of the end is looked at for a cause.
LOG_TAIL = 1 << 16
# Lines that libbmlib and the simulator print in passing and that are no cause of anything.
CHATTER = ("begin to cmodel init", "mult engine c_model init", "BMLIB Send Quit", "cmodel_deinit", "[0] ")


class ChildProcess:
    """Runs `python -m MODULE FD PARENT`: FD is the other end of `socket`, PARENT this process's id.

    The child calls `watch_parent(PARENT)` first, and ends when its socket is closed.
    """

    def __init__(self, module: str, *, what: str, environment: Mapping[str, str] | None = None) -> None:
        """Start it.

        Args:
            module: its name.
            what: names it in messages: "the simulator".
            environment: more variables for it.
        """
        self._what = what
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed by close)
        self.socket, theirs = socket.socketpair()
        with theirs:
            self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                # Ctrl-C is for this process, which then decides what becomes of the child.
                start_new_session=True,
                env={
                    **os.environ,
                    **(environment or {}),
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                },
            )
        self.pid = self._process.pid

    @property
    def open(self) -> bool:
        """Whether `close` was not called yet."""
        return self._process is not None

    def ended(self) -> DeviceError:
        """Wait for the process, which is ending, and say why; closes."""
        status = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = self._process.wait(STOP_SECONDS)
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - LOG_TAIL))
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines()]
        lines = [line for line in lines if line and not line.startswith(CHATTER)]
        causes = [
            line for line in lines if "ASSERT" in line or "rror" in line or "FATAL" in line or "alloc" in line
        ]
        cause = (causes or lines or ["it printed nothing"])[0][:300]
        self.close()
        return DeviceError(f"{self._what} ended unexpectedly (exit status {status}): {cause}")

    def kill(self) -> None:
        """End the process at once, and those that it started: it may hang and hear nothing. Closes nothing."""
        if self._process is not None:
            _kill(self._process)

    def close(self, patience: float = STOP_SECONDS) -> None:
        """Close the socket, by which the process ends, and wait for that; after `patience` seconds it is killed.

        May be called twice.
        """
        process, self._process = self._process, None
        with contextlib.suppress(OSError):
            self.socket.close()
        if process is None:
            return
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
        finally:
            # Also when Ctrl-C ends the wait.
            if process.poll() is None:
                _kill(process)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(KILL_SECONDS)
            self._log.close()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    # Looked for first: without their parent they are nobody's. A stopped one would not notice that it is gone.
    started = descendants(process.pid)
    process.kill()
    for pid in started:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Ids of all processes that a process started, and that those did."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # Behind the name, which may have blanks and brackets, stand state and parent.
            parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found = list(children.get(pid, ()))
    for each in found:
        found += children.get(each, ())
    return found


def watch_parent(parent: int) -> None:
    """In the child: end with the program that started it, even during a long call."""
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_SECONDS)
    os._exit(1)
