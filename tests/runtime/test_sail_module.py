"""SAIL found, checked and refused in words, without a device: a module made of a few lines takes its place."""

import ctypes
import enum
import importlib.machinery
import resource
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bmqwen.artifact.bundle import Bundle
from bmqwen.artifact.published import open_published
from bmqwen.chip.libraries import find_sail
from bmqwen.errors import DeviceError, MissingDependencyError
from bmqwen.runtime import tpu
from bmqwen.runtime.bmodel.step_runtime import open_bmodel
from bmqwen.runtime.registry import Options
from bmqwen.runtime.sail import backend, module
from bmqwen.runtime.sail.backend import SailBackend
from bmqwen.runtime.sail.module import load_sail, sail_installed, sail_version
from support.bmodel_files import FakeBmodel, published_nets
from support.checkpoints import tiny_config, write_checkpoint

# Where the real module is installed, it stays out of these tests.
pytestmark = pytest.mark.usefixtures("no_sail")


class Dtype(enum.Enum):
    """Enough of it."""

    BM_FLOAT32 = 0


class Handle:
    """A device that opens."""

    target = "BM1684X"

    def __init__(self, index: int) -> None:
        self.index = index

    def get_target(self) -> str:
        """The chip."""
        return self.target


class Tensor:
    """Memory that is not used."""

    def __init__(self, *_: object) -> None:
        return None


class Viewless(Tensor):
    """As in SAIL 3.9.0, which cannot make a tensor of a part of another one."""

    def __init__(self, *arguments: object) -> None:
        if isinstance(arguments[0], Tensor):
            raise TypeError("incompatible constructor arguments")


class Empty:
    """An engine of a bmodel without nets."""

    def __init__(self, *_: object) -> None:
        return None

    def get_graph_names(self) -> list[str]:
        """None."""
        return []


class Refusing:
    """An engine that takes no bmodel."""

    def __init__(self, *_: object) -> None:
        raise RuntimeError("Engine related error!")


class Unnamed(Handle):
    """A device of the simulator."""

    target = "Error"


class Dead(Handle):
    """A device that does not open."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        raise RuntimeError("init device failure")


@pytest.fixture
def no_sail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a chip, without SAIL and libbmrt: neither the module nor its package's metadata."""
    for name in ("sophon", "sophon.sail"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(module, "find_sail", lambda _: None)
    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    monkeypatch.setattr(tpu, "has_hardware", lambda: True)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a module `sophon.sail` of what is given."""

    def make(**members: Any) -> None:
        package, sail = types.ModuleType("sophon"), types.ModuleType("sophon.sail")
        for made in (package, sail):
            made.__spec__ = importlib.machinery.ModuleSpec(made.__name__, None)
            monkeypatch.setitem(sys.modules, made.__name__, made)
        standard = {
            "Dtype": Dtype,
            "Handle": Handle,
            "Tensor": Tensor,
            "EngineLLM": Refusing,
            "get_available_tpu_num": lambda: 2,
            "get_dev_stat": lambda _: [8000, 7900, 0],
        }
        for name, value in {**standard, **members}.items():
            if value is not None:
                setattr(sail, name, value)

    return make


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A published bmodel that needs 1 MiB."""
    write_checkpoint(tmp_path / "model", tiny_config(), seed=1)
    path = FakeBmodel(published_nets()).write(tmp_path / "model" / "qwen1.5-0.5b_int4_1dev.bmodel")
    return open_published(path)


def test_sail_that_is_not_there_too_old_or_broken(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not sail_installed()
    with pytest.raises(MissingDependencyError, match=r"not installed: `pip3 install dfss.*--install sail`"):
        load_sail()
    install(EngineLLM=None, __version__="3.7.0")
    with pytest.raises(
        MissingDependencyError, match=r"sophon\.sail 3\.7\.0 is too old.*need 3\.9\.1 or newer"
    ):
        load_sail()
    install(__version__="3.9.0")
    with pytest.raises(
        MissingDependencyError, match=r"3\.9\.0 is too old.*libbmrt alone with `--engine tpu:bmrt`"
    ):
        load_sail()
    for name in ("sophon", "sophon.sail"):
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "sophon").mkdir()
    (tmp_path / "sophon" / "__init__.py").touch()
    (tmp_path / "sophon" / "sail.py").write_text("raise ImportError('libbmlib.so.0: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependencyError, match=r"cannot be loaded \(libbmlib.*--engine tpu:bmrt"):
        load_sail()
    monkeypatch.delitem(sys.modules, "sophon")
    (tmp_path / "sophon" / "sail.py").write_text("raise RuntimeError('numpy is too new')")
    with pytest.raises(MissingDependencyError, match=r"cannot be loaded \(numpy is too new\)"):
        load_sail()
    monkeypatch.delitem(sys.modules, "sophon")
    (tmp_path / "sophon" / "__init__.py").write_text("raise ImportError('no numpy')")
    assert not sail_installed()


def test_sail_that_was_built_without_its_engine(install: Callable[..., None]) -> None:
    install(EngineLLM=None, __version__="3.10.2")
    with pytest.raises(
        MissingDependencyError, match=r"sophon\.sail 3\.10\.2 was built with a libsophon older than"
    ):
        load_sail()


def test_sail_of_another_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sophon", "sophon.sail"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(module, "find_sail", find_sail)
    place = tmp_path / "sophon_arm-3.10.2.dist-info"
    place.mkdir()
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: sophon-arm\nVersion: 3.10.2\n")
    (tmp_path / "sophon").mkdir()
    (tmp_path / "sophon" / "__init__.py").touch()
    (tmp_path / "sophon" / "sail.cpython-38-aarch64-linux-gnu.so").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert not sail_installed()
    with pytest.raises(
        MissingDependencyError, match=r"3\.10\.2 is installed, but not for Python 3\.1\d: build"
    ):
        load_sail()
    monkeypatch.delitem(sys.modules, "sophon")


def test_version_is_shown_only_where_it_is_one(install: Callable[..., None]) -> None:
    install(__version__="master(20250427_120000)")
    assert sail_version(load_sail()) == ""
    install(__version__="3.10.2")
    assert sail_version(load_sail()) == "3.10.2"


def test_device_that_does_not_exist(
    install: Callable[..., None], bundle: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    install()
    with pytest.raises(DeviceError, match=r"there is no device 2: 2 found: .*devices 0 to 1"):
        tpu.open_on_chip(bundle, Options(Path, devices=(2,)))

    def fail() -> int:
        ctypes.CDLL(None).puts(b"[error] bm_dev_getcount failed")
        raise RuntimeError("bm_dev_getcount failed")

    install(get_available_tpu_num=fail)
    capfd.readouterr()
    with pytest.raises(DeviceError, match="there is no device 0: 0 found"):
        tpu.open_on_chip(bundle, Options(Path))
    assert not tpu.chip_answers()
    assert capfd.readouterr() == ("", "[error] bm_dev_getcount failed\n" * 2)


def test_memory_that_others_hold(install: Callable[..., None], bundle: Bundle) -> None:
    install(get_dev_stat=lambda _: [8000, 8000, 0])
    with pytest.raises(
        DeviceError, match=r"qwen1\.5-0\.5b_int4_1dev\.bmodel needs .* but device 0 has only 0 MB free: end"
    ):
        tpu.open_on_chip(bundle, Options(Path))


def test_memory_that_is_not_told_or_not_there(install: Callable[..., None], bundle: Bundle) -> None:
    asked = []

    def stat(device: int) -> list[int]:
        asked.append(device)
        return [8000, 100, 0]

    install(EngineLLM=Empty, get_dev_stat=stat)
    session = SailBackend(bundle.bmodel, index=1)
    assert (session.memory_used(), session.memory_used(), asked) == (100 << 20, 100 << 20, [1, 1, 1])
    session.close()

    def fail(_: int) -> list[int]:
        raise RuntimeError("bm_get_stat failed")

    install(EngineLLM=Empty, get_dev_stat=fail)
    assert SailBackend(bundle.bmodel).memory_used() is None


def test_a_sail_that_hides_its_age_is_refused_for_what_it_cannot(
    install: Callable[..., None], bundle: Bundle
) -> None:
    install(EngineLLM=Empty, Tensor=Viewless, __version__="master(20240712_120000)")
    with pytest.raises(MissingDependencyError, match=r"sophon\.sail is too old.*--engine tpu:bmrt"):
        SailBackend(bundle.bmodel)


def test_room_for_the_files_that_sail_keeps_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bmodel = FakeBmodel(published_nets(24)).write(tmp_path / "model.bmodel")
    limits, made = [1024, 1 << 20], []
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: made.append(both))
    backend._make_room(bmodel)
    # Six tensors a block, eight a cached one, two each of both embeddings and the head.
    assert made == [(4 * (24 * 14 + 6) + 256, 1 << 20)]
    limits[:] = [256, 1024]
    backend._make_room(bmodel)
    assert made[1:] == [(1024, 1024)]
    for enough in ([4096, 4096], [resource.RLIM_INFINITY] * 2):
        limits[:] = enough
        backend._make_room(bmodel)
    assert len(made) == 2


def test_dead_device_and_refused_bmodel(install: Callable[..., None], bundle: Bundle) -> None:
    install(Handle=Dead)
    with pytest.raises(DeviceError, match="Handle of SAIL failed on device 0: init device failure"):
        tpu.open_on_chip(bundle, Options(Path))
    # The simulator does not tell a chip's name, and of memory what happened to be there.
    install(Handle=Unnamed, get_dev_stat=lambda _: [9, 9, 0])
    with pytest.raises(DeviceError, match=r"loading qwen.* of SAIL failed on device 0: Engine related error"):
        open_bmodel(bundle, SailBackend)
    assert tpu.chip_answers()


def test_old_sail_gives_way_to_libbmrt(
    install: Callable[..., None], bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(EngineLLM=None)
    with pytest.raises(MissingDependencyError, match="is too old"):
        tpu.open_on_chip(bundle, Options(Path))
    notes: list[str] = []
    monkeypatch.setattr(tpu, "find_libraries", lambda: Path("lib"))
    with pytest.raises(MissingDependencyError, match="no libbmrt"):
        tpu.open_on_chip(bundle, Options(Path, notes.append))
    assert len(notes) == 1
    assert notes[0].endswith("; libbmrt is used instead")
    with pytest.raises(MissingDependencyError, match="is too old"):
        tpu.open_on_chip(bundle, Options(Path), "sail")


def test_what_c_code_prints_stays_out_of_the_output() -> None:
    program = (
        "import ctypes; from bmqwen.runtime.c_output import c_output_on_stderr\n"
        "libc = ctypes.CDLL(None); print('before')\n"
        "with c_output_on_stderr(): libc.puts(b'chatter')\n"
        "print('after')"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("before\nafter\n", "chatter\n")
