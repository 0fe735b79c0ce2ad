"""What can be wrong with a chip, and how to fix it: said alike by the runtimes and by `bmqwen doctor`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from bmqwen.util.text import size_text

# Where the vendor's packages put the runtime libraries, on PCIe hosts and on SoCs.
LIBRARY_FOLDER = "/opt/sophon/libsophon-current/lib"
# EngineLLM with views of tensors exists from this SAIL on, and works with this libsophon (sophon-sail, docs/source_en).
SAIL_NEEDED, LIBSOPHON_NEEDED = "3.9.1", "0.5.0"
# sophon-tools, source/pdfss_cpp: the one package that dfss installs by name.
INSTALL_SAIL = "pip3 install dfss && python3 -m dfss --install sail"
INSTALL_DRIVER = (
    "sudo apt install dkms libncurses5 && sudo dpkg -i sophon-driver_*.deb sophon-libsophon_*.deb"
)
# Of that project just the folder that has libbmrt and libbmlib, renewed in June 2025.
NEWER_RUNTIME = (
    "git clone --depth 1 --filter=blob:none --sparse https://github.com/sophgo/LLM-TPU && "
    "git -C LLM-TPU sparse-checkout set support"
)

Level = Literal["ok", "warning", "error"]
LEVELS: tuple[Level, ...] = get_args(Level)


@dataclass(frozen=True, slots=True)
class Problem:
    """A cause in a phrase, and its fix: what to do, or the command that does it in backticks."""

    cause: str
    fix: str

    def __str__(self) -> str:
        return f"{self.cause}: {self.fix}"


@dataclass(frozen=True, slots=True)
class Finding:
    """A fact that was found on a machine, and what to do about it; commands in backticks.

    Attributes:
        area: "software", "chip" or "model".
        level: error where something does not work that this machine should be able to do.
    """

    area: str
    level: Level
    text: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.text}: {self.fix}" if self.fix else self.text

    @classmethod
    def of(cls, area: str, problem: Problem, level: Level = "error") -> "Finding":
        """Return the finding of a problem that the runtimes would report as well."""
        return cls(area, level, problem.cause, problem.fix)


NO_LIBRARIES = Problem(
    f"no libbmrt.so in {LIBRARY_FOLDER} or LD_LIBRARY_PATH",
    "install the sophon-libsophon package of the vendor's SDK (on a SoC it is part of the system image), "
    "put its lib folder into LD_LIBRARY_PATH, or choose another engine",
)
# There is a card or libsophon, but no device file of the driver.
NO_DRIVER = Problem(
    "the driver bmsophon is not loaded, no device file /dev/bm-sophon0 is there",
    f"`sudo modprobe bmsophon`; where that finds no module install the vendor's driver: `{INSTALL_DRIVER}`",
)
NO_SAIL = Problem("the Python package sophon.sail is not installed", f"`{INSTALL_SAIL}`")


def no_permission(files: Sequence[str]) -> Problem:
    """Say that this user may not open device files."""
    names = " ".join(files)
    return Problem(
        f"no permission to open {' and '.join(files)}",
        f'`sudo chmod a+rw {names}`, or for good `echo \'KERNEL=="bm-sophon*|bmdev-ctl|bm-tpu*|ion", '
        'MODE="0666"\' | sudo tee /etc/udev/rules.d/99-sophon.rules && sudo udevadm control --reload && '
        "sudo udevadm trigger`; in a container pass the files with --device",
    )


def no_device(index: int, count: int) -> Problem:
    """Say that there is no device of that id among the `count` that the driver knows."""
    if not count:
        return Problem(
            f"there is no device {index}: 0 found",
            "see with `lsmod | grep bmsophon` that the driver is loaded; `bmqwen doctor` looks for the cause",
        )
    known = "only device 0" if count == 1 else f"devices 0 to {count - 1}"
    return Problem(f"there is no device {index}: {count} found", f"choose with --device, here {known}")


def dead_chip(index: int) -> Problem:
    """Say that the driver marks a chip as faulty, or that it does not answer."""
    return Problem(
        f"device {index} does not answer (the driver says Fault)",
        f"end what uses it, then `sudo bm-smi --dev={index:#x} --opmode=recovery`; if that does not help switch the "
        "machine off and on again (a reboot does not cut a card's power)",
    )


def too_little_memory(
    purpose: str, needed: int, device: str, free: int, holders: Sequence[str] = ()
) -> Problem:
    """Say that free device memory does not suffice for the bytes `needed`, and which programs hold some there."""
    end = f"end other programs that use it{f' ({named})' if (named := ', '.join(holders)) else ''}"
    return Problem(
        f"{purpose} needs {size_text(needed, 'MB')} of device memory, but {device} has only "
        f"{size_text(free, 'MB')} free",
        f"{end} (`bm-smi` lists them), choose a shorter context or a smaller precision, or on a SoC give the NPU a "
        "larger share of the memory (`bmqwen doctor BUNDLE` prints the command)",
    )


def larger_than_heap(purpose: str, needed: int, heap: str, size: int) -> Problem:
    """Say that an allocation of `needed` bytes is larger than the largest heap, however much is free in all."""
    return Problem(
        f"{purpose} needs {size_text(needed, 'MB')} of device memory in one piece, but the largest heap ({heap}) has "
        f"{size_text(size, 'MB')}",
        "choose a smaller precision or model, or on a SoC give the NPU a larger share of the memory "
        "(`bmqwen doctor BUNDLE` prints the command)",
    )


def old_sail(version: str) -> Problem:
    """Say that SAIL is too old to have EngineLLM or views of tensors; the version may be unknown, ""."""
    return Problem(
        f"sophon.sail{version and f' {version}'} is too old, language models need {SAIL_NEEDED} or newer",
        f"`{INSTALL_SAIL}`, or use libbmrt alone with `--engine tpu:bmrt`",
    )


def sail_without_engine(version: str) -> Problem:
    """Say that SAIL was compiled without EngineLLM, as its build does where libsophon's headers are old."""
    return Problem(
        f"sophon.sail {version} was built with a libsophon older than {LIBSOPHON_NEEDED} and lacks what "
        "language models need",
        f"`{INSTALL_SAIL}`, or build it with a newer libsophon",
    )


def sail_of_other_python(version: str, python: tuple[int, ...]) -> Problem:
    """Say that SAIL's module is for another Python than this one: its wheels say that they fit any."""
    running = ".".join(map(str, python[:2]))
    return Problem(
        f"sophon.sail {version} is installed, but not for Python {running}",
        f"build it from the vendor's source with Python {running}",
    )


def old_libsophon(version: str) -> Problem:
    """Say that libsophon is older than SAIL's EngineLLM."""
    return Problem(
        f"libsophon {version} is too old, language models need {LIBSOPHON_NEEDED} or newer",
        "on a PCIe host install the packages of SDK V23.10.01 or newer with `sudo dpkg -i sophon-*.deb`; on a SoC "
        "bring the system up to date with the vendor's image (SD card or ota_update)",
    )


def separate_memory(version: str, kind: str) -> Problem:
    """Say that a runtime gives each length of net inputs, outputs and K/V rows of its own (`kind`: soc or pcie)."""
    folder = "lib_soc" if kind == "soc" else "lib_pcie"
    return Problem(
        f"the runtime of libsophon {version} gives each length of net K/V memory of its own and copies it at every "
        "launch: models run, but slower than predicted and with more memory",
        f"a newer one is in the vendor's LLM-TPU: `{NEWER_RUNTIME}`, and in each shell that runs bmqwen "
        f"`export LD_LIBRARY_PATH=$PWD/LLM-TPU/support/{folder}`",
    )
