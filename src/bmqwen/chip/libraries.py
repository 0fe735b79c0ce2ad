"""The vendor's libraries on this machine, libsophon and SAIL: their versions, and what follows from these."""

import posixpath
import re
from dataclasses import dataclass

from bmqwen.chip.problems import LIBRARY_FOLDER
from bmqwen.chip.system import System

# The runtime keeps inputs and outputs of a net's stages in one memory since the end of 2024; the last public source
# that does not is of January 2025 (libsophon, branches main, v23.09-LTS and SGTPUV8: fill of io_mem in
# tpu-runtime/src/bmruntime_bmodel.cpp). Where a library does not tell its day, its version is what is known.
SHARES_SINCE = "20250201"
LAST_APART = "0.5.1"
# What SAIL's wheels are called: on a SoC, on an ARM host, on an x86 host.
SAIL_PACKAGES = ("sophon-arm", "sophon-arm-pcie", "sophon", "sophon-soc")


@dataclass(frozen=True, slots=True)
class Libsophon:
    """The libraries of libsophon.

    `version` is "0.5.1", as its folder says; `built` the day on which its runtime was compiled, "20240701", or "".
    """

    version: str
    built: str = ""

    @property
    def shares_memory(self) -> bool:
        """Whether all lengths of a net have the same inputs, outputs and K/V cache, as far as it is known."""
        if self.built:
            return self.built >= SHARES_SINCE
        return not 0 < number(self.version) <= number(LAST_APART)


@dataclass(frozen=True, slots=True)
class SailPackage:
    """SAIL as a Python package, and the Pythons that its modules are for ("cpython-38"), where they tell."""

    version: str
    built_for: tuple[str, ...] = ()

    def fits(self, python: tuple[int, ...]) -> bool:
        """Tell whether a Python of that version can load it. Its wheels say that any can."""
        return not self.built_for or f"cpython-{python[0]}{python[1]}" in self.built_for


def find_libsophon(system: System) -> Libsophon | None:
    """Find the one that a model would run with on a chip (libsophon, CMakeLists.txt: a folder by its version)."""
    current = LIBRARY_FOLDER.removesuffix("/lib")
    link = system.link(current)
    folder = current if link is None else posixpath.join(posixpath.dirname(current), link)
    for place in system.in_order(f"{folder}/lib"):
        names = [name for name in system.names(place) if name.startswith("libbmrt.so")]
        if names and not system.simulates(place):
            found = re.search(r"libsophon-(\d[\w.]*)", place)
            # When it was compiled, by its own text (tpu-runtime/src/bmruntime.cpp, version_string).
            library = system.data(f"{place}/{names[-1]}") or b""
            day = re.search(rb"libbmrt_version:[^\0]{,200}compiled on (\d{8})", library)
            return Libsophon(found[1] if found else "of unknown version", day[1].decode() if day else "")
    return None


def find_sail(system: System) -> SailPackage | None:
    """Return the package; None where it is not installed."""
    version = system.package_version(*SAIL_PACKAGES)
    if version is None:
        return None
    modules = (re.match(r"sail\.(\w+-?\w*)[^.]*\.", name) for name in system.module_names("sophon"))
    return SailPackage(version, tuple(module[1] for module in modules if module))


def number(version: str) -> int:
    """Return a number for comparisons: 0.5.1-LTS -> 5001; 0 for none."""
    parts = [int(n) for n in re.findall(r"\d+", version.partition("-")[0])[:3]]
    return sum(part * 1000 ** (2 - i) for i, part in enumerate(parts))
