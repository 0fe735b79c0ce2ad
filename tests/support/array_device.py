"""A device on arrays for `StepRuntime`: nets whose results tell which rows of the cache each token saw.

A row of the cache holds its token's bits and position. A result is how many rows its token saw, the sum of
bits * (position + 1) over them, and the sum of bits * (position + 1)^2 modulo MODULUS, for float32 has 24 bits.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bmqwen.artifact.bundle import EMBEDDING_FILE, Bundle, FileEntry
from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.model.config import ModelConfig
from bmqwen.quant.precision import Precision
from bmqwen.runtime.bmodel.backend import Memory, Network, Port, Stage
from support.bmodel_files import FakeBmodel, FakeNet

MODULUS = 1_000_003
F16, I32, F32 = np.dtype(np.float16), np.dtype(np.int32), np.dtype(np.float32)


class ArrayMemory:
    """A `Memory`: a part of an array of bytes."""

    def __init__(self, whole: NDArray[np.uint8], start: int, size: int) -> None:
        self.whole, self.start, self.size = whole, start, size

    def view(self, offset: int, size: int) -> "ArrayMemory":
        return ArrayMemory(self.whole, self.start + offset, size)

    def write(self, array: NDArray[Any], offset: int = 0) -> None:
        data = np.ascontiguousarray(array).view(np.uint8).ravel()
        place = self.start + offset
        assert place + data.size <= self.whole.size
        self.whole[place : place + data.size] = data

    def read(self, array: NDArray[Any], offset: int = 0) -> None:
        array[...] = self.values(array.dtype, array.shape, offset)

    def values(self, dtype: Any, shape: Sequence[int], offset: int = 0) -> NDArray[Any]:
        """What it holds; not a copy."""
        size, place = int(np.prod(shape)) * np.dtype(dtype).itemsize, self.start + offset
        found: NDArray[Any] = self.whole[place : place + size].view(dtype).reshape(shape)
        return found


class ArrayInputs:
    """An `Inputs` in the ports' own memory."""

    copies = writes = nbytes = 0

    def __init__(self, ports: Sequence[Port]) -> None:
        self.memory: dict[str, Memory] = {port.name: port.memory for port in ports}
        kinds = {port.name: np.dtype(np.uint16) if port.dtype == F16 else port.dtype for port in ports}
        self.arrays = {port.name: np.zeros(port.shape, kinds[port.name]) for port in ports}

    def write(self) -> None:
        for name, array in self.arrays.items():
            self.memory[name].write(array)


class ArrayLaunch:
    """A `Launch`."""

    copies = copied_bytes = 0

    def __init__(self, device: "ArrayDevice", stage: Stage, outputs: Sequence[Memory]) -> None:
        self._device, self._stage = device, stage
        self._outputs = {port.name: memory for port, memory in zip(stage.outputs, outputs, strict=True)}

    def start(self, offset: int = 0) -> None:
        self._device.fault("launch")
        stage, given = self._stage, {port.name: port for port in self._stage.inputs}

        def value(name: str) -> NDArray[Any]:
            port = given[name]
            kind = np.uint16 if port.dtype == F16 else port.dtype
            return cast(ArrayMemory, port.memory).values(kind, port.shape)

        positions, mask = value("position_ids")[0], value("attention_mask")[0, 0]
        history = {part: value(f"history_{part}.0")[0, :, 0] for part in "kv"}
        moving = len(mask) != len(positions)
        for part in "kv":
            if moving:
                new = history[part][positions]
            else:
                new = np.zeros((len(positions), history[part].shape[1]), np.uint16)
                new[:, 0], new[:, 1] = value("input_states")[0, :, 0], positions
            own, place = stage.output(f"{part}_cache.0").memory, self._outputs[f"{part}_cache.0"]
            own.write(new)
            self._device.fault("copy")
            place.write(new, offset)
            if part == "k" and not moving:
                seen = np.concatenate([history[part][: mask.shape[1] - len(positions)], new]).astype(np.int64)
                opened = mask[value("last_row")] == 0
                weighted = seen[:, 0] * (seen[:, 1] + 1)
                logits = np.zeros(stage.output("logits").shape, np.float32)
                logits[:, 0] = opened.sum(axis=1)
                logits[:, 1] = opened @ weighted
                logits[:, 2] = opened @ (weighted * (seen[:, 1] + 1)) % MODULUS
                self._outputs["logits"].write(logits)


class ArrayDevice:
    """A `DeviceBackend` of the nets; `fault` is told of every "launch", "copy", "wait" and may raise."""

    chip, library, path = "BM1684X", "arrays", Path("model.bmodel")

    def __init__(self, nets: StepNets, config: ModelConfig) -> None:
        self.fault: Callable[[str], None] = lambda _: None
        row = 2 * config.kv_size
        cache = {part: self._memory((nets.rows + max(s.tokens for s in nets.cycles)) * row) for part in "kv"}
        self.networks: Mapping[str, Network] = {
            "step": Network(
                "step",
                dynamic=False,
                address_mode=1,
                stages=tuple(
                    self._stage(i, shape, nets, config, cache) for i, shape in enumerate(nets.cycles)
                ),
            )
        }

    def __str__(self) -> str:
        return "device 0"

    @staticmethod
    def _memory(size: int) -> ArrayMemory:
        return ArrayMemory(np.full(size, 0x7B, np.uint8), 0, size)

    def _stage(
        self,
        index: int,
        shape: StepShape,
        nets: StepNets,
        config: ModelConfig,
        cache: Mapping[str, ArrayMemory],
    ) -> Stage:
        row, one = 2 * config.kv_size, (1, config.head_dim)

        def port(name: str, dims: tuple[int, ...], dtype: np.dtype[Any], at: int | None = None) -> Port:
            size = int(np.prod(dims)) * dtype.itemsize
            memory = self._memory(size) if at is None else cache[name[0]].view(at * row, size)
            return Port(name, dims, dtype, False, memory)

        inputs = [port("input_states", (1, shape.tokens, config.hidden_size), F16)]
        inputs += [port(name, dims, F16 if "mask" in name else I32) for name, dims in shape.inputs.items()]
        rows = shape.history or 1
        outputs = [port("token_id", (shape.rows or 1, 1), I32)]
        outputs.append(port("logits", (shape.rows or 1, config.vocab_size), F32))
        for part in "kv":
            size = rows * row
            inputs.append(Port(f"history_{part}.0", (1, rows, *one), F16, False, cache[part].view(0, size)))
            landing = cache[part].view(shape.landing(nets.rows) * row, shape.tokens * row)
            outputs.append(Port(f"{part}_cache.0", (1, shape.tokens, *one), F16, False, landing))
        return Stage("step", index, tuple(inputs), tuple(outputs))

    def allocate(self, port: Port) -> ArrayMemory:
        return self._memory(port.nbytes)

    def inputs(self, ports: Sequence[Port], avoid: Sequence[Port] | None) -> ArrayInputs:
        del avoid
        return ArrayInputs(ports)

    def prepare(
        self, stage: Stage, inputs: Sequence[Memory], outputs: Sequence[Memory], moving: Sequence[int] = ()
    ) -> ArrayLaunch:
        del inputs, moving
        return ArrayLaunch(self, stage, outputs)

    def synchronize(self) -> None:
        self.fault("wait")

    def memory_used(self) -> int | None:
        return None

    def close(self) -> None:
        pass


def write_bundle(folder: Path, nets: StepNets, config: ModelConfig) -> Bundle:
    """A bundle of nets that are not there; a token's embedding is its number and one, as bits."""
    FakeBmodel([FakeNet("step", [], [])]).write(folder / "model.bmodel")
    table = np.repeat(np.arange(1, config.vocab_size + 1, dtype=np.uint16), config.hidden_size)
    (folder / EMBEDDING_FILE).write_bytes(table.tobytes())
    precision = Precision("f16", 32, "f16").to_dict()
    details = nets.to_dict() | {"bmodel": "model.bmodel", "device_bytes": 1}
    files = {path.name: FileEntry(path.stat().st_size, "") for path in folder.iterdir()}
    return Bundle(folder, "bmodel", "toy", config, precision, details, files=files)
