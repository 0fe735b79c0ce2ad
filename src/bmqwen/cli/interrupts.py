"""Being told to end: Ctrl-C, SIGTERM, and what happens when the engine does not let go."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from bmqwen.cli.terminal import restore_terminal

# For a main thread that is in a call of a library when it is told to end. A launch takes less, if it ends.
LAST_SECONDS = 10.0
_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Insisted(KeyboardInterrupt):
    """Ctrl-C was pressed again before the first one took effect."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came: everything is cleaned up as after Ctrl-C, and the program ends."""


def exit_of(press: BaseException | None) -> tuple[str, int]:
    """Return what to say when `press` ended a command, and the exit code."""
    number = signal.SIGTERM if isinstance(press, Terminated) else signal.SIGINT
    return f"bmqwen: {_WORDS[number]}", 128 + number


@contextmanager
def heeding_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt for Ctrl-C and Terminated for SIGTERM in the body, so that nothing is left behind.

    Afterwards, while Python takes itself down, Ctrl-C and SIGTERM end the program without a traceback.
    """

    def terminate(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, terminate)
    if _hears_ctrl_c():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with left_by_force(presses=0):
            yield
    finally:
        for number in _WORDS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)


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

    if not _hears_ctrl_c():
        yield is_pressed
        return
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, press)
    try:
        with left_by_force():
            yield is_pressed
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def left_by_force(presses: int = 2) -> Iterator[None]:
    """Leave the program when it was told to end and the body does not end within LAST_SECONDS.

    It is told by SIGTERM, or by that many Ctrl-C (0: by none). Python's own handlers wait for the main thread, and that
    one for a library: on a chip that hangs, forever.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    over = threading.Event()
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_leave, args=(ours, over, presses), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        over.set()
        theirs.close()


def _leave(told: socket.socket, over: threading.Event, presses: int) -> None:
    count = 0
    number = signal.SIGINT
    with told:
        while number != signal.SIGTERM and not 0 < presses <= count:
            numbers = told.recv(64)
            if not numbers:
                return
            count += numbers.count(signal.SIGINT)
            number = signal.SIGTERM if signal.SIGTERM in numbers else signal.SIGINT
    if not over.wait(LAST_SECONDS):
        restore_terminal()
        os.write(2, f"\nbmqwen: {_WORDS[number]}; the engine did not answer\n".encode())
        os._exit(128 + number)


def _hears_ctrl_c() -> bool:
    """Return whether Ctrl-C may be handled: a background job ignores it, and only the main thread may say otherwise."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return not ignored and threading.current_thread() is threading.main_thread()
