"""The two vendor libraries: found by folder, loaded on demand, with the structures and prototypes of what is called."""

import ctypes as c
from dataclasses import dataclass
from pathlib import Path

from bmqwen.chip.problems import LIBRARY_FOLDER, NO_LIBRARIES
from bmqwen.chip.spec import SPECS
from bmqwen.chip.system import System
from bmqwen.errors import MissingDependencyError

MAX_DIMS = 8


class DeviceMem(c.Structure):
    """bm_device_mem_t: a piece of device memory. 24 bytes, passed by value."""

    _fields_ = (
        ("address", c.c_ulong),
        ("reserved", c.c_uint),
        ("dmabuf_fd", c.c_int),
        ("flags", c.c_uint),
        ("size", c.c_uint),
    )


class Shape(c.Structure):
    """bm_shape_t."""

    _fields_ = (("num_dims", c.c_int), ("dims", c.c_int * MAX_DIMS))

    def to_tuple(self) -> tuple[int, ...]:
        return tuple(self.dims[: self.num_dims])


class Tensor(c.Structure):
    """bm_tensor_t."""

    _fields_ = (("dtype", c.c_int), ("shape", Shape), ("device_mem", DeviceMem), ("st_mode", c.c_int))


class StageInfo(c.Structure):
    """bm_stage_info_t: shapes and the net's own memory, one entry an input or output."""

    _fields_ = (
        ("input_shapes", c.POINTER(Shape)),
        ("output_shapes", c.POINTER(Shape)),
        ("input_mems", c.POINTER(DeviceMem)),
        ("output_mems", c.POINTER(DeviceMem)),
    )


class NetInfo(c.Structure):
    """bm_net_info_t."""

    _fields_ = (
        ("name", c.c_char_p),
        ("is_dynamic", c.c_bool),
        ("input_num", c.c_int),
        ("input_names", c.POINTER(c.c_char_p)),
        ("input_dtypes", c.POINTER(c.c_int)),
        ("input_scales", c.POINTER(c.c_float)),
        ("output_num", c.c_int),
        ("output_names", c.POINTER(c.c_char_p)),
        ("output_dtypes", c.POINTER(c.c_int)),
        ("output_scales", c.POINTER(c.c_float)),
        ("stage_num", c.c_int),
        ("stages", c.POINTER(StageInfo)),
        # Of inputs and of outputs: most bytes, zero points, devices.
        ("pointers", c.c_void_p * 6),
        ("core_num", c.c_int),
        ("addr_mode", c.c_int32),
    )


class HeapStat(c.Structure):
    """bm_heap_stat_byte_t: one heap of device memory, in bytes."""

    _fields_ = (
        ("heap_id", c.c_uint),
        ("total", c.c_ulonglong),
        ("available", c.c_ulonglong),
        ("used", c.c_ulonglong),
        ("start", c.c_ulonglong),
    )


BMLIB, BMRT = "libbmlib.so.0", "libbmrt.so.1.0"
BMLIB_NAMES = (BMLIB, "libbmlib.so")
BMRT_NAMES = (BMRT, "libbmrt.so")
# The name that libbmlib looks for, and the one that the compiler's package has.
SIMULATOR_NAMES = ("libcmodel.so", *(spec.simulator for spec in SPECS.values()))

_handle, _ptr, _mem = c.c_void_p, c.c_void_p, DeviceMem
# name: (result, arguments). A result of c_int is a bm_status_t.
BMLIB_CALLS: dict[str, tuple[object, tuple[object, ...]]] = {
    "bm_dev_getcount": (c.c_int, (c.POINTER(c.c_int),)),
    "bm_dev_request": (c.c_int, (c.POINTER(_handle), c.c_int)),
    "bm_dev_free": (None, (_handle,)),
    "bm_get_chipid": (c.c_int, (_handle, c.POINTER(c.c_uint))),
    "bm_malloc_device_byte": (c.c_int, (_handle, c.POINTER(_mem), c.c_uint)),
    "bm_free_device": (None, (_handle, _mem)),
    "bm_memcpy_s2d_partial_offset": (c.c_int, (_handle, _mem, _ptr, c.c_uint, c.c_uint)),
    "bm_memcpy_d2s_partial_offset": (c.c_int, (_handle, _ptr, _mem, c.c_uint, c.c_uint)),
    "bm_memcpy_d2d_byte": (c.c_int, (_handle, _mem, c.c_size_t, _mem, c.c_size_t, c.c_size_t)),
    "bm_thread_sync": (c.c_int, (_handle,)),
    "bm_get_gmem_total_heap_num": (c.c_int, (_handle, c.POINTER(c.c_uint))),
    "bm_get_gmem_heap_stat_byte_by_id": (c.c_int, (_handle, c.POINTER(HeapStat), c.c_uint)),
}
BMRT_CALLS: dict[str, tuple[object, tuple[object, ...]]] = {
    "bmrt_create": (_ptr, (_handle,)),
    "bmrt_destroy": (None, (_ptr,)),
    "bmrt_load_bmodel": (c.c_bool, (_ptr, c.c_char_p)),
    "bmrt_get_network_number": (c.c_int, (_ptr,)),
    "bmrt_get_network_names": (None, (_ptr, c.POINTER(c.POINTER(c.c_char_p)))),
    "bmrt_get_network_info": (c.POINTER(NetInfo), (_ptr, c.c_char_p)),
    "bmrt_launch_tensor_ex": (
        c.c_bool,
        (_ptr, c.c_char_p, c.POINTER(Tensor), c.c_int, c.POINTER(Tensor), c.c_int, c.c_bool, c.c_bool),
    ),
}


@dataclass(frozen=True, slots=True)
class Libraries:
    """The loaded libraries: of devices, and of bmodels; maybe a simulator stands behind them."""

    bmlib: c.CDLL
    bmrt: c.CDLL
    simulated: bool


def library_folders() -> list[Path]:
    """Where a chip's libraries may be, those that are to be preferred first."""
    return [Path(folder) for folder in System().in_order(LIBRARY_FOLDER)]


def find_libraries() -> Path | None:
    """The first folder that has both libraries; None where no driver is installed."""
    names = (BMLIB_NAMES, BMRT_NAMES)
    return next((place for place in library_folders() if all(_first(place, each) for each in names)), None)


def load_libraries(folder: Path | None = None) -> Libraries:
    """Load both libraries from one folder; a simulator's if it holds one of `SIMULATOR_NAMES`.

    Raises MissingDependencyError for one that is not there, or does not fit this machine.
    """
    folder = folder or find_libraries()
    if folder is None:
        raise MissingDependencyError(str(NO_LIBRARIES))
    bmlib, bmrt = _first(folder, BMLIB_NAMES), _first(folder, BMRT_NAMES)
    if bmlib is None or bmrt is None:
        raise MissingDependencyError(
            f"{folder} lacks {BMRT if bmlib else BMLIB}: name libsophon's lib folder"
        )
    try:
        simulated = load_simulator(folder)
        return Libraries(load_library(bmlib, BMLIB_CALLS), load_library(bmrt, BMRT_CALLS), simulated)
    except (OSError, AttributeError) as error:
        raise MissingDependencyError(f"the libraries in {folder} cannot be used: {error}") from error


def load_simulator(folder: Path) -> bool:
    """Load what simulates a chip, if the folder has it, and tell that. Raises OSError if it cannot be loaded."""
    simulator = _first(folder, SIMULATOR_NAMES)
    if simulator is not None:
        # libbmlib looks for it when a device is opened; loaded already, it is found under any name.
        load_library(simulator, {})
    return simulator is not None


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)


def load_library(path: Path, calls: dict[str, tuple[object, tuple[object, ...]]]) -> c.CDLL:
    """Load a library and give each function its prototype. AttributeError names one that it lacks."""
    library = c.CDLL(str(path), mode=c.RTLD_GLOBAL)
    for name, (result, arguments) in calls.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
