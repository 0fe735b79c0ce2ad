"""The module `sophon.sail`: found, checked, and its errors in words."""

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from bmqwen.chip import problems
from bmqwen.chip.libraries import find_sail, number
from bmqwen.chip.system import System
from bmqwen.errors import BmqwenError, DeviceError, MissingDependencyError

NAME = "sophon.sail"


def sail_installed() -> bool:
    """Whether the module is there; decided without importing it."""
    # Not even the package `sophon`, one that cannot be imported, or something else of that name.
    with suppress(ImportError, ValueError):
        return importlib.util.find_spec(NAME) is not None
    return False


def load_sail() -> Any:
    """The module. Raises MissingDependencyError if it is absent, too old, cannot be loaded, or has no EngineLLM."""
    if not sail_installed():
        package, python = find_sail(System()), sys.version_info[:2]
        absent = problems.NO_SAIL
        if package is not None and not package.fits(python):
            absent = problems.sail_of_other_python(package.version, python)
        raise MissingDependencyError(str(absent))
    try:
        sail = importlib.import_module(NAME)
    except Exception as error:  # compiled code may raise anything
        raise MissingDependencyError(
            f"sophon.sail cannot be loaded ({error}): install the libsophon that fits it, or use libbmrt "
            "alone with --engine tpu:bmrt"
        ) from error
    version = sail_version(sail)
    if version and number(version) < number(problems.SAIL_NEEDED):
        raise MissingDependencyError(str(problems.old_sail(version)))
    if not hasattr(sail, "EngineLLM"):
        problem = problems.sail_without_engine(version) if version else problems.old_sail("")
        raise MissingDependencyError(str(problem))
    return sail


def sail_version(sail: Any) -> str:
    """Its version, where it tells: the module itself knows only the day on which it was built."""
    if re.match(r"\d+\.\d", said := str(getattr(sail, "__version__", ""))):
        return said
    package = find_sail(System())
    return "" if package is None else package.version


@contextmanager
def sail_errors(call: str, device: str) -> Iterator[None]:
    """Turn an exception of the module into a DeviceError that names the call and the device."""
    try:
        yield
    except BmqwenError:
        raise
    except Exception as error:  # its exceptions have no base of their own
        raise DeviceError(f"{call} of SAIL failed on {device}: {error}") from error
