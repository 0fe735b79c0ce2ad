"""Compiled toy models for tests on the simulator, each made once."""

from collections.abc import Callable

import pytest

from bmqwen.compiler.toolchain import Toolchain, open_toolchain
from bmqwen.quant.precision import Format
from checkpoints import Kind
from compiled_models import CompiledModel, compile_toy


@pytest.fixture(scope="session")
def simulator() -> Toolchain:
    """The real compiler and simulator."""
    return open_toolchain()


@pytest.fixture(scope="session")
def compiled(
    simulator: Toolchain, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Kind, Format, int], CompiledModel]:
    """Compiles a toy model of a kind, a format and a seed; later calls get the same one."""
    made: dict[tuple[str, str, int], CompiledModel] = {}

    def get(kind: Kind, form: Format, seed: int) -> CompiledModel:
        key = (kind, form, seed)
        if key not in made:
            made[key] = compile_toy(simulator, tmp_path_factory.mktemp(f"{kind}-{form}"), kind, form, seed)
        return made[key]

    return get
