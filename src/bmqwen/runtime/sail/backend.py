"""A device and a bmodel opened by SAIL."""

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast
from weakref import WeakSet

from bmqwen.artifact.bmodel import IO_ALONE, check_bmodel
from bmqwen.chip.spec import DEFAULT_CHIP, SAIL_NAMES
from bmqwen.errors import DeviceError
from bmqwen.runtime.bmodel.memory import Memory
from bmqwen.runtime.bmodel.nets import Network, Port, Stage
from bmqwen.runtime.c_output import c_output_on_stderr
from bmqwen.runtime.device_check import closed_device, missing_device, require_memory
from bmqwen.runtime.sail.launch import SailInputs, SailLaunch
from bmqwen.runtime.sail.memory import SailMemory, TensorMaker
from bmqwen.runtime.sail.module import load_sail, sail_errors, sail_version
from bmqwen.runtime.sail.open_files import make_room

MEBI = 1 << 20


class SailBackend:
    """A `DeviceBackend` on `sophon.sail.EngineLLM`.

    Attributes:
        chip: the chip's name.
        library: "SAIL" and its version.
        path: the bmodel's file.
        networks: its nets by name.
    """

    def __init__(self, bmodel: Path, needed: int = 0, *, index: int = 0) -> None:
        """Open a device and load a bmodel.

        Args:
            bmodel: the file.
            needed: bytes of device memory that it takes (0: as many as the file has).
            index: which device.

        Raises:
            MissingDependencyError: no SAIL, or one without EngineLLM.
            BundleError: no bmodel, or a truncated one.
            DeviceError: no such device, not enough memory, or a refused bmodel.
        """
        check_bmodel(bmodel)
        self._sail = sail = load_sail()
        self.path, self._index, self.library = bmodel, index, f"SAIL {sail_version(sail)}".strip()
        count = available_devices(sail)
        if not 0 <= index < count:
            raise DeviceError(str(missing_device(index, count)))
        try:
            self._maker = TensorMaker(sail, index, str(self))
        except DeviceError as error:
            if problem := closed_device(index):
                raise DeviceError(str(problem)) from error
            raise
        self._launches: WeakSet[SailLaunch] = WeakSet()
        self._engine: Any = None
        try:
            with sail_errors("Handle.get_target", str(self)):
                target = str(self._maker.handle.get_target())
            # The simulator does not tell, and what it says of its memory is what happened to be there.
            self.chip = target if target in SAIL_NAMES else DEFAULT_CHIP.name
            self._tells = target != "Error"
            self._require(needed or bmodel.stat().st_size)
            make_room(bmodel)
            with sail_errors(f"loading {bmodel.name}", str(self)):
                self._engine = sail.EngineLLM(str(bmodel), [index])
                names = list(self._engine.get_graph_names())
                self._named = not names or _is_named(self._engine, names[0])
                self.networks: Mapping[str, Network] = {name: self._network(name) for name in names}
        except BaseException:
            self.close()
            raise

    def __str__(self) -> str:
        return f"device {self._index}"

    def allocate(self, port: Port) -> SailMemory:
        """As `DeviceBackend.allocate`."""
        return self._maker.like(port)

    def inputs(self, ports: Sequence[Port], avoid: Sequence[Port] | None) -> SailInputs:
        """As `DeviceBackend.inputs`: always memory of our own, so nothing is to be avoided."""
        del avoid
        return SailInputs(self._maker, ports)

    def prepare(
        self,
        stage: Stage,
        inputs: Sequence[Memory],
        outputs: Sequence[Memory],
        moving: Sequence[int] = (),
    ) -> SailLaunch:
        """As `DeviceBackend.prepare`."""
        memory = cast(Sequence[SailMemory], inputs), cast(Sequence[SailMemory], outputs)
        keys = self._keys(stage.inputs), self._keys(stage.outputs)
        launch = SailLaunch(self._engine, self._maker, stage, memory, keys, moving)
        self._launches.add(launch)
        return launch

    def synchronize(self) -> None:
        """`process` has waited already."""

    def memory_used(self) -> int | None:
        """As `DeviceBackend.memory_used`."""
        # SAIL 3.9.0, the one without views, never closes the device that it opens to find out.
        stat = self._stat() if self._maker.has_views else None
        return None if stat is None else stat[1] * MEBI

    def close(self) -> None:
        """Free everything: views, then tensors, then the engine. May be called twice."""
        with c_output_on_stderr():
            for launch in list(self._launches):
                launch.release()
            self._maker.close()
            self._engine = None

    def _stat(self) -> tuple[int, int] | None:
        """MiB of device memory in all and in use; None when the device does not tell, as the simulator."""
        if not self._tells:
            return None
        try:
            total, used, *_ = self._sail.get_dev_stat(self._index)
        except Exception:  # what it raises differs between versions
            return None
        return (int(total), int(used)) if total else None

    def _require(self, needed: int) -> None:
        stat = self._stat()
        free = None if stat is None else (stat[0] - stat[1]) * MEBI
        require_memory(self.path.name, needed, free, self._index, str(self))

    def _keys(self, ports: Sequence[Port]) -> list[Hashable]:
        """What `process` calls inputs or outputs: their numbers, before June 2024 their names with the device."""
        if self._named:
            return [(port.name, self._index) for port in ports]
        return list(range(len(ports)))

    def _network(self, name: str) -> Network:
        engine, named = self._engine, self._named
        mode = 0 if named and not hasattr(engine, "get_addr_mode") else int(engine.get_addr_mode(name))
        stages = 1 if named else int(engine.get_stage_num(name))
        made = tuple(
            Stage(
                name,
                stage,
                self._ports(name, stage, "input", internal=mode == IO_ALONE and not named),
                self._ports(name, stage, "output", internal=False),
            )
            for stage in range(stages)
        )
        return Network(name, bool(engine.get_is_dynamic(name)), mode, made)

    def _ports(self, net: str, stage: int, side: str, *, internal: bool) -> tuple[Port, ...]:
        """Inputs or outputs of a stage. Only inputs in mode io_alone are kept in the net's own memory."""
        engine, maker = self._engine, self._maker
        shape_of, kind_of = getattr(engine, f"get_{side}_shape"), getattr(engine, f"get_{side}_dtype")
        ports = []
        for index, name in enumerate(getattr(engine, f"get_{side}_names")(net)):
            shape = shape_of(net, name) if self._named else shape_of(net, index, stage)
            kind = kind_of(net, name if self._named else index)
            own = partial(self._internal, net, stage, index) if internal else None
            memory = maker.source(shape, kind, own)
            ports.append(Port(name, tuple(shape), maker.numpy_type(kind), maker.is_bfloat16(kind), memory))
        return tuple(ports)

    def _internal(self, net: str, stage: int, index: int) -> Any:
        with sail_errors("get_input_tensors", str(self)):
            return self._engine.get_input_tensors(net, stage)[index]


def available_devices(sail: Any) -> int:
    """Devices that the driver knows; 0 without a driver."""
    try:
        return int(sail.get_available_tpu_num())
    except Exception:  # what it raises differs between versions
        return 0


def _is_named(engine: Any, net: str) -> bool:
    """Whether this is a SAIL from before June 2024, which knows tensors by name, not by number."""
    try:
        engine.get_input_shape(net, 0)
    except TypeError:
        return True
    return False
