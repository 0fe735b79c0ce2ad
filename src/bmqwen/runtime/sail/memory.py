"""Device memory as SAIL has it: tensors, and views of them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bmqwen.chip import problems
from bmqwen.errors import DeviceError, MissingDependencyError
from bmqwen.runtime.bmodel.backend import NUMPY_TYPES, Port, check_range
from bmqwen.runtime.sail.module import sail_errors, sail_version


class Source:
    """A tensor that views are made of, not made before it is needed.

    Attributes:
        maker: of the device that it is on.
        shape: its elements along each axis.
        kind: its member of `Dtype`.
        dtype: numpy's type of what travels: uint16 for halves.
        own: it has memory of its own, not a net's.
    """

    def __init__(
        self, maker: "TensorMaker", shape: Sequence[int], kind: Any, internal: Callable[[], Any] | None
    ) -> None:
        """A tensor of our own of a shape and a member of `Dtype`, or the one that `internal` returns."""
        self.maker, self.shape, self.kind, self.own = maker, tuple(shape), kind, internal is None
        self._make = internal or partial(maker.make, self.shape, kind)
        dtype = maker.numpy_type(kind)
        self.dtype = np.dtype(np.uint16) if dtype == np.float16 else dtype
        self._tensor: Any = None

    @property
    def tensor(self) -> Any:
        """It. Raises DeviceError when there is not enough memory, or after close."""
        self.maker.check_open()
        if self._tensor is None:
            self._tensor = self._make()
        return self._tensor

    def release(self) -> None:
        """Let go of the tensor."""
        self._tensor = None


class TensorMaker:
    """Makes tensors on one device while it is open."""

    def __init__(self, sail: Any, index: int, device: str) -> None:
        """Open the device. Raises DeviceError, or MissingDependencyError for a SAIL without views of tensors."""
        self.sail, self.device = sail, device
        members = {name: getattr(sail.Dtype, f"BM_{name.upper()}", None) for name in NUMPY_TYPES}
        self._types = {member: NUMPY_TYPES[name] for name, member in members.items() if member is not None}
        self._sources: list[Source] = []
        with sail_errors("Handle", device):
            self._handle: Any = sail.Handle(index)
        pair = self.make((2,), sail.Dtype.BM_FLOAT32)
        try:
            sail.Tensor(pair, [1], 1)
        except TypeError as error:
            raise MissingDependencyError(str(problems.old_sail(sail_version(sail)))) from error

    @property
    def handle(self) -> Any:
        """The device's. Raises DeviceError after close."""
        self.check_open()
        return self._handle

    def check_open(self) -> None:
        """Raise DeviceError after close."""
        if self._handle is None:
            raise DeviceError(f"{self.device} was used after it was closed")

    def numpy_type(self, kind: Any) -> np.dtype[Any]:
        """The numpy type of a member of `Dtype`. Raises DeviceError for one that is not used by language models."""
        if kind not in self._types:
            raise DeviceError(f"the bmodel has a tensor of the unsupported type {kind}")
        return self._types[kind]

    def source(
        self, shape: Sequence[int], kind: Any, internal: Callable[[], Any] | None = None
    ) -> "SailMemory":
        """Memory for a shape and a member of `Dtype`: of its own, or the tensor that `internal` returns."""
        source = Source(self, shape, kind, internal)
        self._sources.append(source)
        return SailMemory(source, 0, int(np.prod(source.shape)) * source.dtype.itemsize)

    def like(self, port: Port) -> "SailMemory":
        """Memory of its own for an input or output of a net."""
        return self.source(port.shape, cast(SailMemory, port.memory).source.kind)

    def make(self, shape: Sequence[int], kind: Any) -> Any:
        """A tensor with device memory only. Raises DeviceError when there is not enough."""
        with sail_errors("Tensor", self.device):
            return self.sail.Tensor(self.handle, [int(n) for n in shape], kind, False, True)

    def close(self) -> None:
        """Let go of all tensors. May be called twice."""
        for source in self._sources:
            source.release()
        self._sources.clear()
        self._handle = None


class SailMemory:
    """A `Memory`: bytes of a source. They go to the host and back through tensors of our own.

    A net's own tensor is only ever a place of a launch or of a copy on the device: on a SoC it is mapped into the
    host's memory as well, where reading and writing would need care with caches.
    """

    def __init__(self, source: Source, offset: int, size: int) -> None:
        self.source, self.size = source, size
        self._offset, self._maker = offset, source.maker

    def view(self, offset: int, size: int) -> "SailMemory":
        check_range(offset, size, self.size)
        return SailMemory(self.source, self._offset + offset, size)

    def tensor(self, shape: Sequence[int], offset: int = 0) -> Any:
        """A SAIL tensor of a shape, from a byte on; it must not outlive the source."""
        start = self._start(offset)
        if start == 0 and tuple(shape) == self.source.shape:
            return self.source.tensor
        with sail_errors("Tensor", self._maker.device):
            return self._maker.sail.Tensor(self.source.tensor, [int(n) for n in shape], start)

    def write(self, array: NDArray[Any], offset: int = 0) -> None:
        check_range(offset, array.nbytes, self.size)
        bits = np.ascontiguousarray(array).reshape(-1).view(self.source.dtype)
        if bits.size:
            staged = self._maker.make(bits.shape, self.source.kind)
            with sail_errors("writing device memory", self._maker.device):
                staged.update_data(bits)
                self.source.tensor.sync_d2d(staged, 0, self._start(offset), bits.size)

    def read(self, array: NDArray[Any], offset: int = 0) -> None:
        check_range(offset, array.nbytes, self.size)
        source, start = self.source, self._start(offset)
        count = array.nbytes // source.dtype.itemsize
        if not count:
            return
        with sail_errors("reading device memory", self._maker.device):
            if source.own and start == 0 and count == int(np.prod(source.shape)):
                bits = source.tensor.asnumpy()
            else:
                staged = self._maker.make((count,), source.kind)
                staged.sync_d2d(source.tensor, start, 0, count)
                bits = staged.asnumpy()
        array.reshape(-1)[:] = np.ascontiguousarray(bits).reshape(-1).view(array.dtype)

    def _start(self, offset: int) -> int:
        """The element of the source at a byte."""
        return (self._offset + offset) // self.source.dtype.itemsize
