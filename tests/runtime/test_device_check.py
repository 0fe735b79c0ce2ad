"""Why a device cannot be used, on recorded files of a machine."""

from pathlib import Path

import pytest

from bmqwen.chip.system import System
from bmqwen.cli.options import device_ids, part_count
from bmqwen.errors import DeviceError, InputError
from bmqwen.runtime.device_check import check_heaps, closed_device, missing_device, require_memory
from support.bmodel_files import FakeBmodel, FakeNet, published_nets


class Machine(System):
    """Files below a folder; `denied` may not be opened, whoever asks."""

    denied: tuple[str, ...] = ()

    def may_use(self, name: str) -> bool:
        """See System."""
        return name not in self.denied


def machine(root: Path, files: dict[str, str]) -> Machine:
    """A machine with these files."""
    for name, text in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Machine(root)


CARD = {
    "/proc/bmsophon/card0/chipid": "0x1684x",
    "/proc/bmsophon/card0/bmsophon0/dbdf": "0000:01:00.0",
    "/proc/bmsophon/card0/bmsophon0/status": "Active",
    "/proc/bmsophon/card0/bmsophon0/heap": (
        "heap0, size = 0x40000000, start = 0x1\nheap1, size = 0x20000000, start = 0x2"
    ),
    "/dev/bm-sophon0": "",
    "/dev/bmdev-ctl": "",
}


def test_no_driver_no_permission_no_device(tmp_path: Path) -> None:
    empty = machine(tmp_path / "empty", {})
    assert "there is no device 0: 0 found" in str(missing_device(0, 0, empty))
    bus = {"vendor": "0x1f1c", "device": "0x1686"}
    files = {f"/sys/bus/pci/devices/0000:01:00.0/{name}": text for name, text in bus.items()}
    assert "`sudo modprobe bmsophon`" in str(missing_device(0, 0, machine(tmp_path / "bus", files)))
    card = machine(tmp_path / "card", CARD)
    assert "there is no device 3: 1 found: choose with --device" in str(missing_device(3, 1, card))
    assert closed_device(0, card) is None
    card.denied = ("/dev/bm-sophon0",)
    for problem in (missing_device(0, 0, card), closed_device(0, card)):
        assert "no permission to open /dev/bm-sophon0: `sudo chmod a+rw /dev/bm-sophon0`" in str(problem)


def test_dead_chip(tmp_path: Path) -> None:
    card = machine(tmp_path, CARD | {"/proc/bmsophon/card0/bmsophon0/status": "Fault"})
    assert "device 0 does not answer" in str(closed_device(0, card))
    assert "device 0 does not answer" in str(missing_device(0, 0, card))


def test_memory_names_its_holders(tmp_path: Path) -> None:
    card = machine(tmp_path, CARD | {"/proc/77/comm": "python3"})
    (tmp_path / "proc/77/fd").mkdir()
    (tmp_path / "proc/77/fd/5").symlink_to("/dev/bm-sophon0")
    require_memory("a model", 5 << 20, 5 << 20, 0, "device 0", card)
    require_memory("a model", 5 << 20, None, 0, "device 0", card)
    with pytest.raises(
        DeviceError, match=r"a model needs 5 MB .* has only 4 MB free: end .*\(python3 \(process 77\)\)"
    ):
        require_memory("a model", 5 << 20, 4 << 20, 0, "device 0", card)


def test_piece_larger_than_every_heap(tmp_path: Path) -> None:
    card = machine(tmp_path / "card", CARD)
    nets = published_nets()
    small = FakeBmodel(nets).write(tmp_path / "small.bmodel")
    check_heaps(small, 0, card)
    large = FakeBmodel(
        [type(nets[-1])(nets[-1].name, nets[-1].inputs, nets[-1].outputs, weights=("ab" * 32, 3 << 29))]
    ).write(tmp_path / "large.bmodel")
    check_heaps(large, 0, machine(tmp_path / "empty", {}))
    with pytest.raises(
        DeviceError, match=r"needs 1,611 MB .* in one piece.*largest heap \(heap0\) has 1,074 MB"
    ):
        check_heaps(large, 0, card)


def test_an_old_runtime_takes_the_stages_memory_more_than_once(tmp_path: Path) -> None:
    """The card has 1,536 MiB."""
    path = FakeBmodel([FakeNet("step", [], [], io_bytes=300 << 20, stages=6)]).write(tmp_path / "m.bmodel")
    library = "/opt/sophon/libsophon-current/lib/libbmrt.so.1.0"
    built = "libbmrt_version:1.0.0, branch:b,commit:c ,compiled on {}-10:00:00."
    check_heaps(path, 0, machine(tmp_path / "new", CARD | {library: built.format("20250624")}))
    with pytest.raises(DeviceError, match=r"needs 1,887 MB of device memory, but device 0 has only 1,611 MB"):
        check_heaps(path, 0, machine(tmp_path / "old", CARD | {library: built.format("20240701")}))


def test_values_of_the_option() -> None:
    assert device_ids("0") == [0]
    assert device_ids(" 2, 0") == [2, 0]
    for text in ("", "x", "-1", "0,", "1.5", "٣", "99999999999"):
        with pytest.raises(InputError, match="is not a list of chips"):
            device_ids(text)
    with pytest.raises(InputError, match="names a chip twice"):
        device_ids("1,1")
    assert (part_count("auto"), part_count("12")) == (None, 12)
    for text in ("", "0", "-1", "two", "99999999999"):
        with pytest.raises(InputError, match="is not a number of chips"):
            part_count(text)
