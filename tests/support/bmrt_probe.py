"""Objects that tests start in a worker process."""

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import ContextLengthError, InputError
from bmqwen.runtime.bmrt.backend import BmrtBackend
from bmqwen.runtime.bmrt.launch import own_memory


class Echo:
    """Answers, fails and dies on request."""

    width = 7

    def double(self, array: NDArray[Any]) -> NDArray[Any]:
        """Twice the array, and noise on standard output from C."""
        ctypes.CDLL(None).puts(b"noise from C")
        return array * 2

    def refuse(self) -> None:
        """An error of ours."""
        raise InputError("no such thing: choose another")

    def refuse_with_numbers(self) -> None:
        """An error whose constructor takes other arguments than its message."""
        raise ContextLengthError(limit=512, got=600)

    def stumble(self) -> None:
        """An error that is none of ours."""
        raise ZeroDivisionError("by zero")

    def die(self) -> None:
        """What the vendor's library does when memory runs out."""
        libc = ctypes.CDLL(None)
        libc.puts(b"[0] chatter")
        libc.puts(b"FATAL: alloc failed")
        libc.abort()

    def stop(self) -> None:
        """Hear nothing any more."""
        os.kill(os.getpid(), signal.SIGSTOP)

    def wait(self, seconds: float) -> int:
        """The process id, later."""
        time.sleep(seconds)
        return os.getpid()


def echo() -> Echo:
    """A factory."""
    return Echo()


def refusing() -> Echo:
    """A factory that fails."""
    raise InputError("no such model")


class Linear:
    """Runs the net `linear` of a bmodel."""

    def __init__(self, bmodel: Path, folder: Path) -> None:
        self._session = BmrtBackend.open(bmodel, folder=folder)

    def run(self, x: NDArray[np.float16]) -> NDArray[np.float16]:
        """y of the stage that has x's rows."""
        model = self._session
        stage = next(s for s in model.networks["linear"].stages if s.input("x").shape == x.shape)
        inlet, outlet = own_memory(stage.input("x")), own_memory(stage.outputs[0])
        inlet.write(x)
        model.prepare(stage, [inlet], [outlet]).start()
        model.synchronize()
        y = np.empty(stage.outputs[0].shape, np.float16)
        outlet.read(y)
        return y

    def run_into_row(self, x: NDArray[np.float16], rows: int, row: int) -> NDArray[np.float16]:
        """Have y [1, 1, width] written to one row of memory of ours; returns all of that memory."""
        device, model = self._session.device, self._session
        stage = next(s for s in model.networks["linear"].stages if s.input("x").shape == x.shape)
        all_rows = np.zeros((rows, x.shape[-1]), np.float16)
        memory = device.allocate(all_rows.nbytes)
        memory.write(all_rows)
        stage.input("x").memory.write(x)
        size = all_rows.nbytes // rows
        model.prepare(stage, [own_memory(stage.input("x"))], [memory.view(row * size, size)]).start()
        model.synchronize()
        memory.read(all_rows)
        memory.close()
        return all_rows

    def copies(self, x: NDArray[np.float16]) -> dict[str, bool]:
        """What the device copies by itself: an input, and an output, in memory of ours and in the net's own."""
        device, model = self._session.device, self._session
        stage = next(s for s in model.networks["linear"].stages if s.input("x").shape == x.shape)
        inlet, outlet = own_memory(stage.input("x")), own_memory(stage.outputs[0])
        ours, empty, marks = device.allocate(x.nbytes), np.zeros_like(x), np.full_like(x, 7)
        found = {}
        for name, given, taken in (("input", ours, outlet), ("output", inlet, ours)):
            for memory in (inlet, outlet, ours):
                memory.write(marks)
            given.write(x)
            model.prepare(stage, [given], [taken]).start()
            model.synchronize()
            for what, memory in (("read", inlet), ("written", outlet)):
                memory.read(empty)
                found[f"{name}: own {what}"] = not np.array_equal(empty, marks)
        ours.close()
        return found

    def facts(self) -> dict[str, Any]:
        """What the device and the bmodel say of themselves."""
        model = self._session
        return {
            "chip": self._session.device.chip,
            "nets": list(model.networks),
            "stages": [[p.shape for p in s.inputs] for s in model.networks["linear"].stages],
            "launches": model.launches,
            "allocated": self._session.device.allocated(),
        }

    def allocate(self, size: int) -> None:
        """Ask for more device memory."""
        self._session.device.allocate(size)

    def close(self) -> None:
        """Free everything."""
        self._session.close()


def linear(bmodel: Path, folder: Path) -> Linear:
    """A factory."""
    return Linear(bmodel, folder)
