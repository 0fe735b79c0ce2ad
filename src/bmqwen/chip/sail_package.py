"""SAIL as a Python package: its version, and the Pythons that its module was built for."""

from dataclasses import dataclass

from bmqwen.chip.system import System

# What its wheels are called: on a SoC, on an ARM host, on an x86 host.
NAMES = ("sophon-arm", "sophon-arm-pcie", "sophon", "sophon-soc")


@dataclass(frozen=True, slots=True)
class SailPackage:
    """What is installed.

    Attributes:
        version: "3.10.2".
        built_for: the Pythons of its modules, "cpython-38"; none where they do not tell.
    """

    version: str
    built_for: tuple[str, ...] = ()

    def fits(self, python: tuple[int, ...]) -> bool:
        """Whether a Python of that version can load it. Its wheels say that any can."""
        return not self.built_for or f"cpython-{python[0]}{python[1]}" in self.built_for


def find_sail(system: System) -> SailPackage | None:
    """The package; None where it is not installed."""
    version = system.package_version(*NAMES)
    if version is None:
        return None
    parts = [name.split(".") for name in system.module_names("sophon")]
    tags = [tag for module, tag, *_ in (part for part in parts if len(part) > 2) if module == "sail"]
    return SailPackage(version, tuple("-".join(tag.split("-")[:2]) for tag in tags))
