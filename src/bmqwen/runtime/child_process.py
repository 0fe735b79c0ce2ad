"""A Python module in a process of its own, joined to this one by a socket; it ends with this one."""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from bmqwen.errors import DeviceError

LOG = logging.getLogger("bmqwen.process")
# For a process to end by itself, then for one to vanish that was killed: a driver may hold it.
STOP_SECONDS = 5.0
KILL_SECONDS = 2.0
PARENT_POLL_SECONDS = 1.0
# Of what the process printed, this much of the end is looked at for a cause.
TAIL_BYTES = 1 << 16
TAIL_LINES = 40
MOST_CAUSE = 120
# Lines that libbmlib and the simulator print in passing and that are no cause of anything.
CHATTER = ("begin to cmodel init", "mult engine c_model init", "BMLIB Send Quit", "cmodel_deinit", "[0] ")


class ChildProcess:
    """Runs `python -m MODULE FD PARENT`: FD is the other end of `socket`, PARENT this process's id.

    The child calls `watch_parent(PARENT)` first, and ends when its socket is closed.
    """

    def __init__(self, module: str, *, what: str, environment: Mapping[str, str] | None = None) -> None:
        """Start it, with `environment` besides this process's; messages name it `what`: "the simulator"."""
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
        return self._process is not None

    def ended(self) -> DeviceError:
        """Wait for the process, which is ending, and return why it did; closes.

        What it printed goes to the log; of that the error has at most one short line.
        """
        status = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = self._process.wait(STOP_SECONDS)
        lines = self.log_output()
        self.close()
        if status == -signal.SIGKILL:
            return DeviceError(f"{self._what} was killed (SIGKILL), as the system does when memory runs out")
        causes = [
            line for line in lines if any(word in line for word in ("ASSERT", "rror", "FATAL", "alloc"))
        ]
        cause = f": {textwrap.shorten(causes[0], MOST_CAUSE)}" if causes else ""
        how = "its connection was lost" if status is None else f"exit status {status}"
        if status is not None and -status in set(signal.Signals):
            how = signal.Signals(-status).name
        return DeviceError(f"{self._what} ended unexpectedly ({how}{cause})")

    def log_output(self) -> list[str]:
        """Write the last lines that the process printed to the log, and return them.

        They are without what the vendor's libraries print in passing.
        """
        descriptor = self._log.fileno()
        size = os.fstat(descriptor).st_size
        # The process writes where this file's position is: it must not move.
        text = os.pread(descriptor, TAIL_BYTES, max(0, size - TAIL_BYTES)).decode(errors="replace")
        lines = [line.rstrip() for line in text.splitlines()]
        lines = [line for line in lines if line and not line.lstrip().startswith(CHATTER)]
        if lines:
            LOG.info("%s printed:\n  %s", self._what, "\n  ".join(lines[-TAIL_LINES:]))
        return [line.strip() for line in lines]

    def kill(self) -> None:
        """End the process immediately, and those that it started: it may hang and hear nothing. Closes nothing."""
        if self._process is not None:
            _kill(self._process)

    def close(self, patience: float = STOP_SECONDS) -> bool:
        """Close the socket, by which the process ends, and wait for that; after `patience` seconds it is killed.

        May be called twice. Returns whether it had to be killed.
        """
        process, self._process = self._process, None
        with contextlib.suppress(OSError):
            self.socket.close()
        if process is None:
            return False
        killed = False
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
        finally:
            # Also when Ctrl-C ends the wait.
            if process.poll() is None:
                killed = True
                _kill(process)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(KILL_SECONDS)
            self._log.close()
        return killed


def _kill(process: "subprocess.Popen[bytes]") -> None:
    # Looked for first: without their parent they are nobody's. A stopped one would not notice that it is gone.
    started = descendants(process.pid)
    process.kill()
    for pid in started:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Return the ids of all processes that a process started, and that those did."""
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
    """Have this process, a child, end with the program that started it, even during a long call."""
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_SECONDS)
    os._exit(1)
