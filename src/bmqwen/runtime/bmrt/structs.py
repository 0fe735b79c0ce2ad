"""The C structures of libbmlib and libbmrt that cross the border (bmlib_runtime.h, bmdef.h)."""

import ctypes as c

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
        """The dimensions."""
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
        ("max_input_bytes", c.POINTER(c.c_size_t)),
        ("max_output_bytes", c.POINTER(c.c_size_t)),
        ("input_zero_point", c.POINTER(c.c_int)),
        ("output_zero_point", c.POINTER(c.c_int)),
        ("input_loc_devices", c.POINTER(c.c_int)),
        ("output_loc_devices", c.POINTER(c.c_int)),
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
