"""The vendor's libraries on this machine: their version, when the runtime was built, and what follows from that."""

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


@dataclass(frozen=True, slots=True)
class Libsophon:
    """What is installed.

    Attributes:
        version: as its folder says, "0.5.1".
        built: day on which its runtime was compiled, "20240701"; "" where it does not tell.
    """

    version: str
    built: str = ""

    @property
    def shares_memory(self) -> bool:
        """Whether all lengths of a net have the same inputs, outputs and K/V cache, as far as it is known."""
        if self.built:
            return self.built >= SHARES_SINCE
        return not 0 < number(self.version) <= number(LAST_APART)


def find_libsophon(system: System) -> Libsophon | None:
    """The one that a model would run with on a chip (libsophon, CMakeLists.txt: a folder by its version)."""
    current = LIBRARY_FOLDER.removesuffix("/lib")
    link = system.link(current)
    folder = current if link is None else posixpath.join(posixpath.dirname(current), link)
    for place in system.in_order(f"{folder}/lib"):
        names = [name for name in system.names(place) if name.startswith("libbmrt.so")]
        if names and not system.simulates(place):
            found = re.search(r"libsophon-(\d[\w.]*)", place)
            return Libsophon(
                found[1] if found else "of unknown version", _day(system.data(f"{place}/{names[-1]}"))
            )
    return None


def number(version: str) -> int:
    """For comparisons: 0.5.1-LTS -> 5001; 0 for none."""
    parts = [int(n) for n in re.findall(r"\d+", version.partition("-")[0])[:3]]
    return sum(part * 1000 ** (2 - i) for i, part in enumerate(parts))


def _day(library: bytes | None) -> str:
    """When libbmrt was compiled, by its own text (tpu-runtime/src/bmruntime.cpp, version_string)."""
    found = re.search(rb"libbmrt_version:[^\0]{,200}compiled on (\d{8})", library or b"")
    return found[1].decode() if found else ""
