"""Ctrl-C while the model is busy: the first one stops it, the second one leaves, whatever the engine does."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from bmqwen.cli.terminal import restore_terminal

# For a main thread that is in a call of a library when Ctrl-C is pressed twice. A launch takes less, if it ends.
LAST_SECONDS = 10.0
_FAREWELL = "\nbmqwen: interrupted; the engine did not answer\n"


class Insisted(KeyboardInterrupt):
    """Ctrl-C was pressed again before the first one took effect."""


@contextmanager
def stopped_by_ctrl_c() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a flag, so that nothing is torn in the middle; the second raises Insisted."""
    pressed = 0

    def press(_number: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        pressed += 1
        if pressed > 1:
            raise Insisted

    def is_pressed() -> bool:
        return pressed > 0

    if not _is_heard():
        yield is_pressed
        return
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, press)
    try:
        with left_by_ctrl_c():
            yield is_pressed
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def left_by_ctrl_c() -> Iterator[None]:
    """Leave the program when Ctrl-C was pressed twice and the body does not end within LAST_SECONDS.

    Python's own handlers wait for the main thread, and that one for a library: on a chip that hangs, for ever.
    """
    if not _is_heard():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    over = threading.Event()
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_leave, args=(ours, over), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        over.set()
        theirs.close()


def _leave(presses: socket.socket, over: threading.Event) -> None:
    count = 0
    with presses:
        while count < 2:
            numbers = presses.recv(64)
            if not numbers:
                return
            count += numbers.count(signal.SIGINT)
    if not over.wait(LAST_SECONDS):
        restore_terminal()
        os.write(2, _FAREWELL.encode())
        os._exit(128 + signal.SIGINT)


def _is_heard() -> bool:
    """A background job ignores Ctrl-C, and only the main thread may say otherwise."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return not ignored and threading.current_thread() is threading.main_thread()
