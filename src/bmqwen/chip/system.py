"""The one place that looks at this machine: files below a root, which tests replace by a recorded one."""

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path


class System:
    """Files, programs and Python packages of a machine. Paths are absolute, as on the machine itself.

    `root` is what "/" is. The folders to search are by default those of PATH, of this Python, and of LD_LIBRARY_PATH.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        programs: Sequence[str] | None = None,
        packages: Sequence[str] | None = None,
        library_path: Sequence[str] | None = None,
    ) -> None:
        self._root = root
        given = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
        self.library_path = [entry for entry in (given if library_path is None else library_path) if entry]
        self._programs = None if programs is None else os.pathsep.join(str(self.path(p)) for p in programs)
        self._packages = sys.path if packages is None else [str(self.path(p)) for p in packages]

    def path(self, name: str) -> Path:
        """Return where a path of the machine really is."""
        return self._root / name.lstrip("/")

    def data(self, name: str) -> bytes | None:
        """Return a file's content; None where it is not there or may not be read."""
        try:
            return self.path(name).read_bytes()
        except OSError:
            return None

    def text(self, name: str) -> str | None:
        """Return a file's text without the white space and zeros around it; None where it cannot be read."""
        content = self.data(name)
        return None if content is None else content.decode(errors="replace").strip("\0 \n\t\r")

    def exists(self, name: str) -> bool:
        """Tell whether something is there, and this user may know."""
        try:
            return self.path(name).exists()
        except OSError:
            return False

    def may_use(self, name: str) -> bool:
        """Tell whether this user may open a device file for reading and writing."""
        return os.access(self.path(name), os.R_OK | os.W_OK)

    def names(self, folder: str) -> list[str]:
        """Return the sorted names in a folder; none where it cannot be read."""
        try:
            return sorted(entry.name for entry in self.path(folder).iterdir())
        except OSError:
            return []

    def link(self, name: str) -> str | None:
        """Return what a symbolic link says; None for anything else."""
        try:
            return os.readlink(self.path(name))  # noqa: PTH115  (absolute targets are the machine's, not ours)
        except OSError:
            return None

    def in_order(self, installed: str) -> list[str]:
        """Return library folders in order of search: LD_LIBRARY_PATH, what is installed, but a simulator's last."""
        simulators = [folder for folder in self.library_path if self.simulates(folder)]
        return [*(f for f in self.library_path if f not in simulators), installed, *simulators]

    def simulates(self, folder: str) -> bool:
        """Tell whether the libraries in a folder are the simulator's."""
        return any(name.startswith("libcmodel") for name in self.names(folder))

    def has_program(self, name: str) -> bool:
        """Tell whether a program can be started by its name."""
        return shutil.which(name, path=self._programs) is not None

    def package_version(self, *names: str) -> str | None:
        """Return the version of an installed Python package that goes by one of several names; None: not installed."""
        wanted = {name.replace("_", "-").lower() for name in names}
        for found in distributions(path=self._packages):
            if str(found.metadata["Name"]).replace("_", "-").lower() in wanted:
                return str(found.version)
        return None

    def module_names(self, package: str) -> list[str]:
        """Return the sorted names of the files of an installed Python package; none where it is not installed."""
        for folder in self._packages:
            with suppress(OSError):
                return sorted(entry.name for entry in (Path(folder) / package).iterdir())
        return []
