"""The program with SAIL installed and no chip: it finds the simulator, and its output is what scripts read."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bmqwen.artifact.bundle import Bundle
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.engine import load
from bmqwen.generate.params import SamplingParams
from bmqwen.quant.precision import Format
from bmqwen.runtime.bmrt.device import DEFAULT_SIMULATOR_MEMORY
from bmqwen.runtime.bmrt.simulator_environment import simulator_environment
from bmqwen.runtime.sail.module import sail_installed
from support.checkpoints import Kind
from support.compiled_models import CompiledModel
from support.published_bmodel import Variant
from support.sail_stand_in import write_package

pytestmark = pytest.mark.simulator
Compile = Callable[[Kind, Format, int], CompiledModel]
Publish = Callable[[Variant], tuple[Bundle, Path]]
LENGTH = 4
GREEDY = ("--temperature", "0")
PROGRAM = ("-m", "bmqwen")
# What is simulated is taken for a chip: everything in one process, as with a driver.
AS_A_CHIP = """
import bmqwen.runtime.tpu
from bmqwen.cli.app import main
bmqwen.runtime.tpu.has_hardware = lambda: True
main()
"""
ON_A_CHIP = ("-c", AS_A_CHIP)


@pytest.fixture
def environment(simulator: Toolchain, tmp_path: Path) -> dict[str, str]:
    """Of a machine with SAIL on the simulator: the installed one, or its stand-in as a package."""
    folder, found = simulator.simulator_folder, os.environ | simulator_environment(DEFAULT_SIMULATOR_MEMORY)
    if sail_installed():
        found["LD_LIBRARY_PATH"] = os.pathsep.join([str(folder), found.get("LD_LIBRARY_PATH", "")])
    else:
        write_package(tmp_path / "packages", folder, "3.10.7")
        found["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "packages"), found.get("PYTHONPATH", "")])
    return found


def run(
    program: tuple[str, ...], environment: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """An answer of a few tokens, as JSON."""
    return subprocess.run(
        [
            sys.executable,
            *program,
            "chat",
            *arguments,
            "-p",
            "hi",
            *GREEDY,
            "--max-tokens",
            str(LENGTH),
            "--json",
        ],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )


def on_cpu(folder: Path) -> str:
    """What the CPU answers."""
    with load(folder, engine="cpu") as cpu:
        chat = cpu.chat(params=SamplingParams(max_tokens=LENGTH))
        return "".join(chat.stream("hi"))


def second() -> str:
    """The second of two devices; the real module has only one simulated one."""
    return "0" if sail_installed() else "1"


def answer_of(ran: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Nothing but the answer on standard output."""
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def test_step_nets_on_what_answers_as_a_chip(compiled: Compile, environment: dict[str, str]) -> None:
    model = compiled("qwen1.5", "int4", 8)
    ran = run(PROGRAM, environment, str(model.bundle.folder), "--engine", "tpu", "--device", second())
    answer = answer_of(ran)
    assert ran.stderr == ""
    assert answer["engine"].startswith("simulator of a BM1684X, SAIL")
    assert answer["text"] == on_cpu(model.cpu.folder)


@pytest.mark.parametrize(
    ("variant", "engine"),
    [
        (Variant(), "auto"),
        pytest.param(
            Variant("BF16", "basic", mask_input=False, fused_token=True, greedy_head=False),
            "tpu:sail",
            marks=pytest.mark.thorough,
        ),
    ],
    ids=["io_alone, F16", "basic, BF16"],
)
def test_published_layout(
    published: Publish, environment: dict[str, str], variant: Variant, engine: str
) -> None:
    bundle, cpu = published(variant)
    ran = run(PROGRAM, environment, str(bundle.folder), "--engine", engine)
    answer = answer_of(ran)
    assert ran.stderr == ""
    assert answer["engine"].startswith("simulator of a BM1684X, SAIL")
    assert answer["text"] == on_cpu(cpu)


def test_in_one_process_as_with_a_driver(compiled: Compile, environment: dict[str, str]) -> None:
    model = compiled("qwen1.5", "int4", 8)
    ran = run(ON_A_CHIP, environment, str(model.bundle.folder), "--engine", "auto", "--device", second())
    # A simulator in the program's own process also prints there, as no chip does.
    ran.stdout = ran.stdout[ran.stdout.index("{") : ran.stdout.rindex("}") + 1]
    answer = answer_of(ran)
    assert answer["engine"].startswith(f"BM1684X, device {second()}, SAIL")
    assert answer["text"] == on_cpu(model.cpu.folder)


def test_a_device_that_there_is_not(compiled: Compile, environment: dict[str, str]) -> None:
    model = compiled("qwen1.5", "int4", 8)
    for program in (PROGRAM, ON_A_CHIP):
        ran = run(program, environment, str(model.bundle.folder), "--engine", "tpu", "--device", "2")
        assert (ran.returncode, ran.stdout) == (1, "")
        assert ran.stderr.startswith("bmqwen: there is no device 2")


@pytest.mark.parametrize("engine", ["tpu:sail", pytest.param("tpu:bmrt", marks=pytest.mark.thorough)])
def test_libraries_as_the_compiler_has_them(
    compiled: Compile, simulator: Toolchain, environment: dict[str, str], engine: str
) -> None:
    # There the simulator has another name than the one that libbmlib looks for.
    folder = simulator.root / "lib"
    assert not (folder / "libcmodel.so").exists()
    environment["LD_LIBRARY_PATH"] = str(folder)
    model = compiled("qwen1.5", "int4", 8)
    ran = run(PROGRAM, environment, str(model.bundle.folder), "--engine", engine)
    assert answer_of(ran)["text"] == on_cpu(model.cpu.folder)
