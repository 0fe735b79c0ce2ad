"""Devices, opened as often as the real module opens them."""

import os
import weakref

from support.sail_stand_in.state import STATE, SailDeviceError, plain, say


class Opening:
    """A device opened once: so many files stay open as long as this object lives."""

    def __init__(self, tpu_id: int) -> None:
        self.tpu_id = tpu_id
        if not 0 <= tpu_id < STATE.devices:
            STATE.fail(SailDeviceError("init device failure"))
        files: list[int] = []
        STATE.openings += 1
        weakref.finalize(self, _close, files)
        try:
            # On a SoC the device, its video scaler, memory and cipher.
            files.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(4 if STATE.mapped else 1))
        except OSError:
            say("[error] bm_dev_query failed. Maybe the limit for open files (ulimit) has been reached")
            STATE.fail(SailDeviceError("init device failure"))


class Handle:
    """A device."""

    def __init__(self, tpu_id: int) -> None:
        self.opening = Opening(plain(tpu_id))

    def get_device_id(self) -> int:
        """Its number."""
        return self.opening.tpu_id

    def get_target(self) -> str:
        """The chip's name, which the simulator does not know."""
        return "Error"


def get_available_tpu_num() -> int:
    """Devices."""
    return STATE.devices


def get_dev_stat(tpu_id: int) -> list[int]:
    """MiB in all, MiB in use, percent of time."""
    STATE.count("get_dev_stat")
    Opening(plain(tpu_id))
    return list(STATE.stat)


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)
    STATE.openings -= 1
    if not STATE.openings:
        STATE.close()
