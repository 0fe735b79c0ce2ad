"""Tensors of the stand-in, and views of them."""

import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.errors import DeviceError
from bmqwen.runtime.bmodel.backend import Port
from bmqwen.runtime.bmrt.device import DeviceMemory
from bmqwen.runtime.bmrt.launch import own_memory
from support.sail_stand_in.handle import Handle
from support.sail_stand_in.state import STATE, WIRE, Dtype, SailTensorError, dimensions, plain, say


class Tensor:
    """Device memory with a shape and a type; maybe host memory as well."""

    def __init__(self, *args: Any) -> None:
        self._sys: NDArray[Any] | None = None
        self._dev: DeviceMemory | None = None
        self._source: weakref.ref[Any] | None = None
        if args and isinstance(args[0], Handle):
            self._create(*args)
        elif args and isinstance(args[0], Tensor):
            self._look(*args)
        else:
            raise TypeError("incompatible constructor arguments")

    def _create(
        self, handle: Handle, shape: Any, dtype: Any, own_sys_data: Any = False, own_dev_data: Any = False
    ) -> None:
        if not isinstance(dtype, Dtype) or type(own_sys_data) is not bool or type(own_dev_data) is not bool:
            raise TypeError("incompatible constructor arguments")
        self._opening, self._shape, self._dtype = handle.opening, dimensions(shape), dtype
        # A wrong shape is no error yet: the tensor has no memory then.
        if not self._shape or min(self._shape) <= 0:
            return
        if own_dev_data:
            self._allocate()
        if own_sys_data:
            self._sys = np.zeros(self._shape, WIRE[dtype])

    def _allocate(self) -> None:
        try:
            memory = STATE.device().allocate(self._bytes())
        except DeviceError:
            say("[error] bm_malloc_device_byte() err=5")
            raise RuntimeError("no enough device memory") from None
        # The real module zeroes it. libbmrt does not: what both share must not rely on it. As halves and floats these
        # are no numbers.
        memory.write(np.full(self._bytes(), 0xFF, np.uint8))
        self._dev = memory
        weakref.finalize(self, memory.close)

    def _look(self, src: "Tensor", shape: Any, offset: Any, no_copy: Any = True) -> None:
        if no_copy is not True:
            raise SailTensorError("not supported")
        self._opening, self._shape, self._dtype = src._opening, dimensions(shape), src._dtype
        if not self._shape or min(self._shape) <= 0:
            raise SailTensorError("invalid shape")
        size = WIRE[self._dtype].itemsize
        if plain(offset) < 0:
            raise TypeError("incompatible constructor arguments")
        memory = src.memory()
        if offset * size + self._bytes() > src._bytes():
            raise SailTensorError("size out of range")
        self._source = weakref.ref(src)
        self._dev = memory.view(offset * size, self._bytes())
        if src._sys is not None:
            self._sys = src._sys.reshape(-1)[offset : offset + self.size()].reshape(self._shape)

    @classmethod
    def of_net(cls, engine: Any, port: Port, dtype: Dtype) -> "Tensor":
        """A net's own."""
        tensor = cls.__new__(cls)
        tensor._shape, tensor._dtype, tensor._dev = port.shape, dtype, own_memory(port)
        tensor._opening = engine.openings[0]
        tensor._source = weakref.ref(engine)
        tensor._sys = np.full(port.shape, 77, WIRE[dtype]) if STATE.mapped else None
        return tensor

    def _bytes(self) -> int:
        return int(np.prod(self._shape)) * WIRE[self._dtype].itemsize

    def memory(self) -> DeviceMemory:
        """Its device memory, while that is there."""
        if self._source is not None and self._source() is None:
            raise AssertionError("the source of this view is gone: on a chip this would be another's memory")
        if self._dev is None:
            STATE.fail(SailTensorError("invalid Tensor"))
        return self._dev

    def shape(self) -> list[int]:
        """Elements along each axis."""
        return list(self._shape)

    def dtype(self) -> Dtype:
        """Its type."""
        return self._dtype

    def size(self) -> int:
        """Elements."""
        return int(np.prod(self._shape))

    def device_id(self) -> int:
        """The device's number."""
        return self._opening.tpu_id

    def is_dev_data_valid(self) -> bool:
        """Whether it has device memory."""
        return self._dev is not None

    def update_data(self, data: Any) -> None:
        """Fill the host memory; without one, the device's."""
        STATE.count("update_data")
        data = np.asarray(data)
        # What no function is for, such as a list, is made a float array first.
        taken = [np.float32, np.int8, np.uint8, np.int32, np.uint16]
        taken += [np.uint32, np.int16] if STATE.version >= (3, 10, 7) else []
        if data.dtype not in taken:
            data = data.astype(np.float32)
        if data.shape != self._shape:
            STATE.fail(SailTensorError("invalid argument"))
        wanted = WIRE[self._dtype]
        if data.dtype != wanted:
            if STATE.version >= (3, 10):
                raise SailTensorError("Wrong dtype of input array!")
            if data.itemsize > wanted.itemsize:
                STATE.fail(SailTensorError("size out of range"))
            raise AssertionError(f"the bits of {data.dtype} would be taken for {self._dtype}")
        if self._sys is not None:
            self._sys[...] = data
        else:
            self.memory().write(data)

    def asnumpy(self) -> NDArray[Any]:
        """A copy of the host memory; without one, of the device's."""
        STATE.count("asnumpy")
        if self._sys is not None:
            return self._sys.copy()
        array = np.empty(self._shape, WIRE[self._dtype])
        self.memory().read(array)
        return array

    def sync_s2d(self) -> None:
        """Host to device."""
        if self._sys is not None:
            self.memory().write(self._sys)

    def sync_d2s(self) -> None:
        """Device to host."""
        if self._sys is not None:
            self.memory().read(self._sys)

    def sync_d2d(self, src: Any, offset_src: Any, offset_dst: Any, length: Any) -> None:
        """Copy elements on the device."""
        STATE.count("sync_d2d")
        if not isinstance(src, Tensor):
            raise TypeError("incompatible function arguments")
        if src._dtype != self._dtype:
            STATE.fail(SailTensorError("mismatch Tensor"))
        mine, theirs = self.memory(), src.memory()
        if plain(offset_src) + plain(length) > src.size() or plain(offset_dst) + length > self.size():
            STATE.fail(SailTensorError("size out of range"))
        if self.device_id() != src.device_id():
            raise AssertionError("a copy from one device to another, by addresses of either")
        size = WIRE[self._dtype].itemsize
        STATE.device().call(
            "bm_memcpy_d2d_byte", mine.mem, offset_dst * size, theirs.mem, offset_src * size, length * size
        )
