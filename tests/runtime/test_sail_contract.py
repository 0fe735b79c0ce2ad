"""The stand-in for SAIL takes and refuses what the real module does: one table for both."""

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from bmqwen.compiler.toolchain import Toolchain
from bmqwen.quant.precision import Format
from bmqwen.runtime.bmrt.device import DEFAULT_SIMULATOR_MEMORY
from bmqwen.runtime.bmrt.simulator_environment import simulator_environment
from bmqwen.runtime.bmrt.worker import Worker
from bmqwen.runtime.sail.module import sail_installed
from support.checkpoints import Kind
from support.compiled_models import CompiledModel

pytestmark = pytest.mark.simulator
ENGINES = {
    "a device by text": "TypeError",
    "the number of devices": "1",
    "no devices": "TypeError",
    "a device that is no list": "TypeError",
    "an empty list of devices": "SailEngineError",
    "a file that there is not": "SailEngineError",
    "a flag": "EngineLLM",
}
TENSORS = {
    "floats": "None",
    "floats back": "float32 [4] [0.0, 1.0, 2.0, 3.0]",
    "every second of more floats": "None",
    "those back": "float32 [4] [0.0, 2.0, 4.0, 6.0]",
    "a list": "None",
    "the list back": "float32 [4] [1.0, 2.0, 3.0, 5.0]",
    "ints for floats": "SailTensorError",
    "too few": "SailTensorError",
    "another number of axes": "SailTensorError",
    "halves": "None",
    "halves back": "uint16 [2, 2] [0, 1, 2, 3]",
    "numpy's halves": "SailTensorError",
    "the other halves": "None",
    "the other halves back": "uint16 [2, 2] [0, 1, 2, 3]",
    "unsigned": "None",
    "unsigned back": "uint32 [2] [1, 2]",
    "no elements": "False",
    "no elements filled": "SailTensorError",
    "no elements read": "SailTensorError",
    "a shape that is a tuple": "[2, 3]",
    "a shape that is text": "TypeError",
    "a type that is a number": "TypeError",
    "own memory that is text": "TypeError",
}
VIEWS = {
    "a part": "float32 [1, 3] [4.0, 5.0, 6.0]",
    "a part of a part": "float32 [2] [5.0, 6.0]",
    "a part written": "None",
    "what it is a part of": "float32 [2, 4] [0.0, 1.0, 2.0, 3.0, 9.0, 9.0, 9.0, 7.0]",
    "a part beyond the end": "SailTensorError",
    "a part before the start": "TypeError",
    "a part without elements": "SailTensorError",
    "a part of another memory": "SailTensorError",
    "a copy": "None",
    "the copy": "float32 [2] [3.0, 9.0]",
    "a copy beyond the source": "SailTensorError",
    "a copy beyond the target": "SailTensorError",
    "a copy of another type": "SailTensorError",
    "a copy of an array": "TypeError",
}
NETS = {
    "its mode": "1",
    "whether it is dynamic": "False",
    "another net": "IndexError",
    "an input by its name": "TypeError",
    "an input that there is not": "IndexError",
    "a stage that there is not": "IndexError",
    "its own inputs": "True",
    "a launch": "None",
    "a launch in another order": "None",
    "a launch by names": "TypeError",
    "a launch of another net": "IndexError",
    "a launch in a shape of no stage": "SailEngineError",
}
# What the real module of before 3.10.7 does instead: it has no flags before 3.9.4, does not look at types before 3.10,
# and takes unsigned numbers for floats.
OLDER = {
    "a flag": ["AttributeError"],
    "ints for floats": ["None"],
    "unsigned": ["SailTensorError"],
    "unsigned back": ["uint32 [2] [0, 0]", "uint32 [2] [1065353216, 1073741824]"],
}


@pytest.fixture(scope="module")
def module(compiled: Callable[[Kind, Format, int], CompiledModel], simulator: Toolchain) -> Iterator[Worker]:
    """It, in a process of the simulator."""
    bmodel = compiled("qwen1.5", "int4", 8).bundle.bmodel
    arguments = {"bmodel": bmodel, "folder": simulator.simulator_folder}
    environment = simulator_environment(DEFAULT_SIMULATOR_MEMORY)
    with closing(
        Worker("support.sail_contract:conduct", arguments, what="the simulator", environment=environment)
    ) as worker:
        yield worker


@pytest.mark.parametrize(
    ("group", "expected"), [("engines", ENGINES), ("tensors", TENSORS), ("views", VIEWS), ("nets", NETS)]
)
def test_what_is_taken_and_what_is_refused(module: Worker, group: str, expected: dict[str, str]) -> None:
    found = module.call(group)
    for name, instead in OLDER.items() if sail_installed() else ():
        if found.get(name) in instead:
            found[name] = expected[name]
    assert found == expected
