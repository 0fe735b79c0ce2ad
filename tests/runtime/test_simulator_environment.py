"""What the simulator's process gets: memory, and threads that sleep, wherever a C compiler is there."""

import ctypes
from pathlib import Path

import pytest

from bmqwen.runtime.bmrt.simulator_environment import simulator_environment

MEMORY = {"CMODEL_GLOBAL_MEM_SIZE": "0x40000000"}


def made() -> str:
    """The library that a process would load first."""
    return simulator_environment(1 << 30)["LD_PRELOAD"]


@pytest.fixture(autouse=True)
def nothing_preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever runs the tests."""
    monkeypatch.delenv("LD_PRELOAD", raising=False)


def test_the_library_is_compiled_once_and_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    library = made()
    assert hasattr(ctypes.CDLL(library), "pthread_mutex_lock")
    assert [path.name for path in Path(library).parent.iterdir()] == [Path(library).name]
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("LD_PRELOAD", "/other.so")
    assert made() == f"{library} /other.so"


@pytest.mark.parametrize("compiler", ["", "#!/bin/sh\nexit 1\n"])
def test_a_machine_that_cannot_compile_simulates_without(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if compiler:
        (tmp_path / "cc").write_text(compiler)
        (tmp_path / "cc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert simulator_environment(1 << 30) == MEMORY
    assert not list(tmp_path.glob("bmqwen-cache/toolchain/*"))


def test_a_cache_that_cannot_be_written_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BMQWEN_CACHE", str(tmp_path / "file"))
    assert simulator_environment(1 << 30) == MEMORY


@pytest.mark.parametrize("name", ["my cache", "my:cache"])
def test_a_path_that_ld_so_would_split_is_not_given_to_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BMQWEN_CACHE", str(tmp_path / name))
    assert simulator_environment(1 << 30) == MEMORY


def test_each_kind_of_machine_has_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    library = made()
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.99"))
    assert made() != library
