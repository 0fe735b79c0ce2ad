"""What a device installs is all that a device imports."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from bmqwen.compiler.toolchain import Toolchain
from bmqwen.quant.precision import Format
from support.checkpoints import Kind
from support.compiled_models import CompiledModel

HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "gguf", "safetensors", "modelscope_hub", "xllamacpp")
# Of our own, what makes models; and the client of a hub, which loads much and is for downloads.
MAKERS = ("bmqwen.compiler", "bmqwen.emit", "huggingface_hub")
AS_ON_A_DEVICE = "import platform; platform.machine = lambda: 'aarch64'"


@pytest.mark.parametrize(
    "code",
    [
        "import bmqwen.engine",
        "import bmqwen.cli.app, bmqwen.cli.repl.repl, bmqwen.cli.repl.answer",
        "import bmqwen.generate.conversation, bmqwen.runtime.base, bmqwen.runtime.bmodel.step_runtime",
        "from bmqwen.cli.app import run; run(['chat', '--help'])",
        "from bmqwen.cli.app import run; run(['doctor'])",
        "import bmqwen.serve.http.app, bmqwen.serve.http.server",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    check = f"{code}\nimport sys\nprint('HEAVY', *sorted(set(sys.modules) & set({HEAVY!r})))"
    result = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "HEAVY"


def test_doctor_on_a_device_loads_no_compiler() -> None:
    loaded = modules_after(f"{AS_ON_A_DEVICE}\nfrom bmqwen.cli.app import run; run(['doctor', '--json'])")
    assert "bmqwen.doctor.examination" in loaded
    assert loaded & {*HEAVY, "bmqwen.compiler", "huggingface_hub"} == set()


def test_the_server_loads_nothing_that_makes_models() -> None:
    loaded = modules_after(
        "import bmqwen.serve.http.app, bmqwen.serve.http.server, bmqwen.serve.pool.replica"
    )
    assert loaded & {*HEAVY, *MAKERS} == set()


def test_a_device_without_the_servers_packages_is_told() -> None:
    missing = "import sys; sys.modules |= dict.fromkeys(('starlette', 'fastapi', 'uvicorn'))"
    command = f"{missing}\nfrom bmqwen.cli.app import run\nprint(run(['serve', 'demo']))"
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "1"
    assert done.stderr.startswith("bmqwen: the server needs ")
    assert len(done.stderr.splitlines()) == 1


def test_a_wrong_name_is_refused_before_much_is_imported() -> None:
    for command in (["chat", "./missing", "-p", "a"], ["serve", "./missing"]):
        loaded = modules_after(f"from bmqwen.cli.app import run; run({command!r})")
        assert loaded & {"bmqwen.engine", "bmqwen.generate.session", "fastapi", "uvicorn"} == set()


@pytest.mark.simulator
def test_chat_with_a_bmodel_loads_nothing_that_makes_models(
    simulator: Toolchain, compiled: Callable[[Kind, Format, int], CompiledModel]
) -> None:
    """On libbmrt, as on a chip: the simulator's stands in for a chip's."""
    bundle = compiled("qwen1.5", "int4", 8).bundle.folder
    words = ["chat", str(bundle), "--engine", "tpu", "-p", "a", "--max-tokens", "1", "--system", ""]
    doctor = ["doctor", str(bundle)]
    for arguments in (words, doctor):
        loaded = modules_after(
            f"{AS_ON_A_DEVICE}\nfrom bmqwen.cli.app import run; run({arguments!r})",
            LD_LIBRARY_PATH=str(simulator.simulator_folder) if arguments is words else "",
        )
        wanted = "bmqwen.runtime.bmodel.step_runtime" if arguments is words else "bmqwen.artifact.fit"
        assert wanted in loaded
        unwanted = {*HEAVY, *MAKERS} - ({"bmqwen.emit"} if arguments is doctor else set())
        assert loaded & unwanted == set()


def modules_after(code: str, **variables: str) -> set[str]:
    """Names of all modules that are loaded once the code has run in a fresh Python."""
    check = f"{code}\nimport sys\nprint('\\nMODULES', *sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", check],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | variables,
    )
    lines = [line for line in result.stdout.splitlines() if line.startswith("MODULES ")]
    assert lines, result.stderr
    return set(lines[-1].split())


def test_the_package_itself_is_almost_nothing() -> None:
    check = "import bmqwen, sys; print(len([m for m in sys.modules if m.startswith('bmqwen')]), 'numpy' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.stdout.split() == ["2", "False"]
