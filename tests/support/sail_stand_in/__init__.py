"""A stand-in for the module `sophon.sail`: as strict as the real one, and computing with libbmrt on the simulator.

Written from the behaviour of the public sources of SAIL 3.9.1, 3.9.4, 3.10.2 and 3.10.7. What it adds are
checks: a view that outlives its source, a number of another type, a tensor of another device, a stale copy on the host
is an error here, where the real module goes wrong silently or crashes.
"""

import importlib.machinery
import sys
import types
from pathlib import Path
from typing import Any

from support.sail_stand_in.engine import EngineLLM
from support.sail_stand_in.handle import Handle, get_available_tpu_num, get_dev_stat
from support.sail_stand_in.state import (
    STATE,
    BmrtFlag,
    Dtype,
    SailDeviceError,
    SailEngineError,
    SailTensorError,
)
from support.sail_stand_in.tensor import Tensor

__all__ = [
    "BmrtFlag",
    "Dtype",
    "EngineLLM",
    "Handle",
    "SailDeviceError",
    "SailEngineError",
    "SailTensorError",
    "Tensor",
    "get_available_tpu_num",
    "get_dev_stat",
]
# As the real one is built: the day, not a version.
BUILT = "master(20250427_120000)"


def write_package(place: Path, folder: Path, version: str, devices: int = 2) -> None:
    """Make it a package `sophon` that a program finds with `place` in its PYTHONPATH, as an installed one.

    Args:
        place: a folder.
        folder: the simulator's libraries.
        version: what the module says of itself.
        devices: how many there are.
    """
    (place / "sophon").mkdir(parents=True)
    (place / "sophon" / "__init__.py").touch()
    (place / "sophon" / "sail.py").write_text(
        "import sys; from pathlib import Path\n"
        f"sys.path.append({str(Path(__file__).parents[2])!r})\n"
        "from support.sail_stand_in import *; from support.sail_stand_in.state import STATE\n"
        f"STATE.set(Path({str(folder)!r}), devices={devices})\n"
        f"__version__ = {version!r}\n"
    )


def install(folder: Path, **settings: Any) -> types.ModuleType:
    """Make it the module `sophon.sail` of this process.

    Args:
        folder: the simulator's libraries.
        settings: attributes of `State`.
    """
    STATE.set(folder, **settings)
    package, module = types.ModuleType("sophon"), types.ModuleType("sophon.sail")
    package.__path__ = []
    for made in (package, module):
        made.__spec__ = importlib.machinery.ModuleSpec(made.__name__, None)
        sys.modules[made.__name__] = made
    for name in __all__:
        setattr(module, name, globals()[name])
    module.__dict__["__version__"] = BUILT
    package.__dict__["sail"] = module
    return module
