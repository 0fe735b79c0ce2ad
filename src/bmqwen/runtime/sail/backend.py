"""A device and a bmodel opened by SAIL."""

import resource
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast
from weakref import WeakSet

from bmqwen.artifact.bmodel import IO_ALONE, check_bmodel, read_description
from bmqwen.chip.spec import DEFAULT_CHIP, SAIL_NAMES
from bmqwen.runtime.bmodel.backend import Memory, Network, Port, Stage
from bmqwen.runtime.c_output import c_output_on_stderr
from bmqwen.runtime.device_check import opening_device, require_device, require_memory
from bmqwen.runtime.sail.launch import SailInputs, SailLaunch
from bmqwen.runtime.sail.memory import SailMemory, TensorMaker
from bmqwen.runtime.sail.module import load_sail, sail_errors, sail_version

MEBI = 1 << 20
# SAIL opens the device again for every input and output of every net. Files of one opening: the device, and on a SoC
# its video scaler, memory and cipher (libsophon, bm_create_ctx); and what else this process may open.
OPEN_FILES, SPARE_FILES = 4, 256


class SailBackend:
    """A `DeviceBackend` on `sophon.sail.EngineLLM`."""

    def __init__(self, bmodel: Path, needed: int = 0, *, index: int = 0) -> None:
        """Open the device of a number and load a bmodel that takes `needed` bytes (0: as many as the file has).

        Raises MissingDependencyError without a SAIL that is new enough; else as a `BackendOpener`.
        """
        check_bmodel(bmodel)
        self._sail = sail = load_sail()
        self.path, self._index, self.library = bmodel, index, f"SAIL {sail_version(sail)}".strip()
        require_device(index, available_devices(sail))
        with opening_device(index):
            self._maker = TensorMaker(sail, index, str(self))
        self._launches: WeakSet[SailLaunch] = WeakSet()
        self._engine: Any = None
        try:
            with sail_errors("Handle.get_target", str(self)):
                target = str(self._maker.handle.get_target())
            # The simulator does not tell, and what it says of its memory is what happened to be there.
            self.chip = target if target in SAIL_NAMES else DEFAULT_CHIP.name
            self._tells = target != "Error"
            stat = self._stat()
            free = None if stat is None else (stat[0] - stat[1]) * MEBI
            require_memory(bmodel.name, needed or bmodel.stat().st_size, free, index, str(self))
            _make_room(bmodel)
            with sail_errors(f"loading {bmodel.name}", str(self)):
                self._engine = sail.EngineLLM(str(bmodel), [index])
                names = list(self._engine.get_graph_names())
                self.networks: Mapping[str, Network] = {name: self._network(name) for name in names}
        except BaseException:
            self.close()
            raise

    def __str__(self) -> str:
        return f"device {self._index}"

    def allocate(self, port: Port) -> SailMemory:
        return self._maker.like(port)

    def inputs(self, ports: Sequence[Port], avoid: Sequence[Port] | None) -> SailInputs:
        del avoid  # this is always memory of our own
        return SailInputs(self._maker, ports)

    def prepare(
        self,
        stage: Stage,
        inputs: Sequence[Memory],
        outputs: Sequence[Memory],
        moving: Sequence[int] = (),
    ) -> SailLaunch:
        given, taken = cast(Sequence[SailMemory], inputs), cast(Sequence[SailMemory], outputs)
        launch = SailLaunch(self._engine, self._maker, stage, given, taken, moving)
        self._launches.add(launch)
        return launch

    def synchronize(self) -> None:
        """`process` has waited already."""

    def memory_used(self) -> int | None:
        stat = self._stat()
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

    def _network(self, name: str) -> Network:
        engine = self._engine
        mode = int(engine.get_addr_mode(name))
        # Only inputs in mode io_alone are kept in the net's own memory.
        alone = mode == IO_ALONE
        stages = tuple(
            Stage(name, i, self._ports(name, i, "input", alone), self._ports(name, i, "output", False))
            for i in range(int(engine.get_stage_num(name)))
        )
        return Network(name, bool(engine.get_is_dynamic(name)), mode, stages)

    def _ports(self, net: str, stage: int, side: str, internal: bool) -> tuple[Port, ...]:
        """Inputs or outputs of a stage."""
        engine, maker = self._engine, self._maker
        shape_of, kind_of = getattr(engine, f"get_{side}_shape"), getattr(engine, f"get_{side}_dtype")
        bfloat16 = getattr(self._sail.Dtype, "BM_BFLOAT16", None)
        ports = []
        for index, name in enumerate(getattr(engine, f"get_{side}_names")(net)):
            shape, kind = shape_of(net, index, stage), kind_of(net, index)
            own = partial(self._internal, net, stage, index) if internal else None
            memory = maker.source(shape, kind, own)
            ports.append(Port(name, tuple(shape), maker.numpy_type(kind), kind == bfloat16, memory))
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


def _make_room(bmodel: Path) -> None:
    """Let this process open as many files as loading a bmodel takes, as far as the system allows.

    A published bmodel of 24 layers opens its device 340 times, where 1,024 files are what a shell usually allows.

    Raises BundleError for a file that is no bmodel.
    """
    stages = [net.stages[0] for net in read_description(bmodel).nets.values() if net.stages]
    needed = OPEN_FILES * sum(len(stage.inputs) + len(stage.outputs) for stage in stages) + SPARE_FILES
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY:
        needed = min(needed, most)
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))
