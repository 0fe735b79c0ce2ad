"""Handles of device, memory and model, on a stand-in for the vendor's libraries."""

import ctypes
import struct
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from bmqwen.artifact.bmodel import check_bmodel
from bmqwen.errors import BundleError, DeviceError, MissingDependencyError
from bmqwen.runtime.bmodel.backend import Stage
from bmqwen.runtime.bmrt.backend import BmrtBackend
from bmqwen.runtime.bmrt.device import Device
from bmqwen.runtime.bmrt.libraries import (
    BMLIB,
    BMRT,
    DeviceMem,
    Libraries,
    NetInfo,
    StageInfo,
    Tensor,
    load_libraries,
)

MEBI = 1 << 20


class FakeLibrary:
    """Both libraries: one device with one heap. `calls` records what was closed."""

    def __init__(self, *, devices: int = 1, memory: int = 64 * MEBI, loads: bool = True) -> None:
        self.devices, self.memory, self.loads = devices, memory, loads
        self.used: dict[int, int] = {}
        self.calls: list[str] = []
        self.status = 0

    def bm_dev_getcount(self, count: Any) -> int:
        count._obj.value = self.devices
        return 0

    def bm_dev_request(self, handle: Any, _: int) -> int:
        handle._obj.value = 1
        return self.status

    def bm_dev_free(self, _: Any) -> None:
        self.calls.append("device")

    def bm_get_gmem_total_heap_num(self, _: Any, number: Any) -> int:
        number._obj.value = 1
        return 0

    def bm_get_gmem_heap_stat_byte_by_id(self, _: Any, heap: Any, __: int) -> int:
        heap._obj.total = self.memory
        heap._obj.available = self.memory - sum(self.used.values())
        return 0

    def bm_malloc_device_byte(self, _: Any, mem: Any, size: int) -> int:
        mem._obj.address, mem._obj.size = 4096 * (1 + len(self.used)), size
        self.used[mem._obj.address] = size
        return self.status

    def bm_free_device(self, _: Any, mem: DeviceMem) -> None:
        del self.used[mem.address]
        self.calls.append(f"memory {mem.size}")

    def bm_memcpy_s2d_partial_offset(self, *_: Any) -> int:
        return self.status

    def bmrt_create(self, _: Any) -> int:
        return 2

    def bmrt_load_bmodel(self, _: Any, __: bytes) -> bool:
        return self.loads

    def bmrt_destroy(self, _: Any) -> None:
        self.calls.append("model")

    def bmrt_get_network_number(self, _: Any) -> int:
        return 0

    def bmrt_launch_tensor_ex(self, *_: Any) -> bool:
        return self.loads

    def bmrt_get_network_names(self, *_: Any) -> None:
        return None


def libraries(fake: FakeLibrary) -> Libraries:
    """As if loaded."""
    return Libraries(cast(ctypes.CDLL, fake), cast(ctypes.CDLL, fake), simulated=False)


def bmodel(path: Path, data: int = 100) -> Path:
    """A file with a bmodel's header."""
    path.write_bytes(struct.pack("<4I48x", 0xFF55AAEE, 64, 20, data) + bytes(20 + data))
    return path


def test_sizes_of_the_c_structures() -> None:
    # As a C compiler lays them out on 64-bit Linux.
    assert ctypes.sizeof(DeviceMem) == 24
    assert ctypes.sizeof(Tensor) == 4 + 36 + 24 + 8
    assert ctypes.sizeof(StageInfo) == 32
    assert NetInfo.stages.offset == 80
    assert NetInfo.addr_mode.offset == 140


def test_closing_a_device_closes_the_youngest_first_and_once(tmp_path: Path) -> None:
    fake = FakeLibrary()
    device = Device(libraries(fake))
    model = BmrtBackend(device, bmodel(tmp_path / "a.bmodel"))
    first, second = device.allocate(100), device.allocate(200)
    assert device.allocated() == 300
    first.close()
    first.close()
    assert device.allocated() == 200
    device.close()
    device.close()
    model.close()
    second.close()
    assert fake.calls == ["memory 100", "model", "memory 200", "device"]
    assert fake.used == {}


def test_use_after_close_is_refused(tmp_path: Path) -> None:
    device = Device(libraries(FakeLibrary()))
    memory = device.allocate(64)
    view = memory.view(8, 8)
    memory.close()
    with pytest.raises(DeviceError, match="used after it was closed"):
        memory.write(np.zeros(4, np.float32))
    model = BmrtBackend(device, bmodel(tmp_path / "a.bmodel"))
    launch = model.prepare(Stage("net", 0, (), ()), [], [])
    model.close()
    with pytest.raises(DeviceError, match="device 0 was used after it was closed"):
        launch.start()
    with pytest.raises(DeviceError, match="device 0 was used after it was closed"):
        model.synchronize()
    with pytest.raises(DeviceError, match="used after it was closed"):
        view.write(np.zeros(2, np.float32))


def test_status_becomes_an_error_that_names_call_and_device() -> None:
    fake = FakeLibrary()
    device = Device(libraries(fake))
    memory = device.allocate(64)
    fake.status = 3
    with pytest.raises(
        DeviceError, match=r"bm_memcpy_s2d_partial_offset failed on device 0: timeout \(status 3\)"
    ):
        memory.write(np.zeros(4, np.float32))


def test_refused_launch_names_net_and_stage(tmp_path: Path) -> None:
    fake = FakeLibrary()
    model = BmrtBackend(Device(libraries(fake)), bmodel(tmp_path / "a.bmodel"))
    model.prepare(Stage("step", 2, (), ()), [], []).start()
    fake.loads = False
    with pytest.raises(DeviceError, match="bmrt_launch_tensor_ex failed on device 0 for net step, stage 2"):
        model.prepare(Stage("step", 2, (), ()), [], []).start()
    assert model.launches == 1


def test_device_that_is_not_there_is_refused_before_the_library_is_asked() -> None:
    with pytest.raises(DeviceError, match="there is no device 3: 1 found"):
        Device(libraries(FakeLibrary()), 3)
    with pytest.raises(DeviceError, match="there is no device 0: 0 found"):
        Device(libraries(FakeLibrary(devices=0)))


def test_device_that_does_not_open_is_not_freed() -> None:
    fake = FakeLibrary()
    fake.status = 1
    with pytest.raises(DeviceError, match="bm_dev_request failed on device 0: the device is not ready"):
        Device(libraries(fake))
    assert fake.calls == []


def test_memory_is_checked_before_it_is_asked_for(tmp_path: Path) -> None:
    fake = FakeLibrary(memory=MEBI)
    device = Device(libraries(fake))
    with pytest.raises(DeviceError, match="needs 2 MB of device memory, but device 0 has only 1 MB free"):
        device.allocate(2 * MEBI)
    with pytest.raises(DeviceError, match=r"a\.bmodel needs 3 MB"):
        BmrtBackend(device, bmodel(tmp_path / "a.bmodel"), 3 * MEBI)
    assert fake.used == {}
    with pytest.raises(DeviceError, match="in one piece"):
        device.allocate(1 << 33)


def test_ranges_outside_of_memory_are_refused() -> None:
    memory = Device(libraries(FakeLibrary())).allocate(64)
    with pytest.raises(DeviceError, match="bytes 56 to 72 lie outside"):
        memory.view(56, 16)
    with pytest.raises(DeviceError, match="bytes 4 to 68 lie outside"):
        memory.write(np.zeros(16, np.float32), offset=4)


def test_refused_bmodel_leaves_nothing_open(tmp_path: Path) -> None:
    fake = FakeLibrary(loads=False)
    with (
        closing(Device(libraries(fake))) as device,
        pytest.raises(DeviceError, match="it was made for another chip or runtime"),
    ):
        BmrtBackend(device, bmodel(tmp_path / "a.bmodel"))
    assert fake.calls == ["model", "device"]


def test_files_that_are_no_bmodel(tmp_path: Path) -> None:
    path = bmodel(tmp_path / "a.bmodel", data=5000)
    check_bmodel(path)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(BundleError, match="is truncated or damaged: 5,083 bytes instead of 5,084"):
        check_bmodel(path)
    path.write_bytes(content[:10])
    with pytest.raises(BundleError, match="it has only 10 bytes"):
        check_bmodel(path)
    path.write_bytes(b"GGUF" + content)
    with pytest.raises(BundleError, match="it starts with 47475546"):
        check_bmodel(path)
    with pytest.raises(BundleError, match=r"cannot read .*: No such file"):
        check_bmodel(tmp_path / "none.bmodel")


def test_missing_and_foreign_libraries(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"lacks libbmlib\.so\.0"):
        load_libraries(tmp_path)
    for name in (BMLIB, BMRT):
        (tmp_path / name).write_bytes(b"no library")
    with pytest.raises(
        MissingDependencyError, match=r"cannot be used: .*(invalid ELF header|file too short)"
    ):
        load_libraries(tmp_path)
