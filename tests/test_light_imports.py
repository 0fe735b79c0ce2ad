"""What a device installs is all that a device imports."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "gguf", "safetensors", "modelscope_hub", "xllamacpp")


@pytest.mark.parametrize(
    "code",
    [
        "import bmqwen.engine",
        "import bmqwen.cli.app, bmqwen.cli.repl, bmqwen.cli.answer",
        "import bmqwen.generate.conversation, bmqwen.runtime.base, bmqwen.runtime.bmodel.step_runtime",
        "from bmqwen.cli.app import run; run(['chat', '--help'])",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    check = f"{code}\nimport sys\nprint('HEAVY', *sorted(set(sys.modules) & set({HEAVY!r})))"
    result = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "HEAVY"


def test_the_package_itself_is_almost_nothing() -> None:
    check = "import bmqwen, sys; print(len([m for m in sys.modules if m.startswith('bmqwen')]), 'numpy' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.stdout.split() == ["2", "False"]
