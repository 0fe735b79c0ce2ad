"""Finding, fetching and unpacking the compiler, with a small stand-in for its wheel."""

import hashlib
import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bmqwen.compiler.toolchain import (
    NEEDED,
    WHEEL_BYTES,
    PinnedWheel,
    check_host,
    is_wanted,
    open_toolchain,
    steps,
)
from bmqwen.errors import DownloadError, InputError, MissingDependencyError, StorageError
from bmqwen.hub.package_index import unpack
from support.index_server import IndexServer, use_only

STARTS = "#!/bin/sh\necho version\n"
FOREIGN = "tpu_mlir/lib/third_party/libc.so.6"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no SDK named, and a folder of wheels as the only place to look."""
    monkeypatch.setenv("BMQWEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BMQWEN_TOOLCHAIN", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / "cache"


def make_wheel(folder: Path, *, compiler: str = STARTS, without: str = "") -> PinnedWheel:
    """A wheel of the compiler's shape; returns its pin."""
    folder.mkdir(exist_ok=True)
    path = folder / "tpu_mlir-1.30.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in NEEDED:
            if name == without:
                continue
            info = zipfile.ZipInfo(f"tpu_mlir/{name}")
            info.external_attr = (0o755 if "bin/" in name else 0o644) << 16
            archive.writestr(info, compiler if name.endswith("tpuc-opt") else "x")
        archive.writestr(FOREIGN, "a C library for another system")
        archive.writestr("tpu_mlir/python/tool.py", "raise SystemExit('imported')")
        metadata = "Metadata-Version: 2.1\nName: tpu_mlir\nVersion: 1.30.2\nRequires-Python: ==3.10.*\n"
        archive.writestr("tpu_mlir-1.30.2.dist-info/METADATA", metadata)
        archive.writestr(
            "tpu_mlir-1.30.2.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("tpu_mlir-1.30.2.dist-info/RECORD", "")
    return PinnedWheel("tpu_mlir==1.30.2", hashlib.sha256(path.read_bytes()).hexdigest())


def test_fetches_once_and_leaves_the_foreign_c_library_out(tmp_path: Path, cache: Path) -> None:
    wheel = make_wheel(tmp_path / "wheels")
    said: list[str] = []
    found = open_toolchain(wheel=wheel, report=said.append)
    assert found.root == cache / "toolchain/1.30.2/tpu_mlir"
    assert found.version == "1.30.2"
    assert os.access(found.tpuc_opt, os.X_OK)
    assert not (found.root.parent / FOREIGN).exists()
    assert not (found.root / "python").exists()
    assert len(said) == 2
    assert not list((cache / "toolchain").glob("*.whl"))
    # The second time nothing is looked for: the folder of wheels may be gone.
    again = open_toolchain(wheel=wheel, report=said.append)
    assert again == found
    assert len(said) == 2


def test_an_interrupted_download_goes_on_inside_of_the_wheel(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = make_wheel(tmp_path / "wheels")
    (path,) = (tmp_path / "wheels").iterdir()
    content = path.read_bytes()
    kept = cache / "toolchain/1.30.2.partial"
    kept.mkdir(parents=True)
    (kept / f"{path.name}.part").write_bytes(content[:1000])
    with IndexServer({path.name: content}) as index:
        use_only(index.url, monkeypatch)

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("bmqwen.compiler.toolchain.unpack", interrupt)
            with pytest.raises(KeyboardInterrupt):
                open_toolchain(wheel=wheel)
        assert [left.name for left in kept.iterdir()] == [path.name]
        # Nothing has to be fetched again for unpacking it.
        assert open_toolchain(wheel=wheel).version == "1.30.2"
        assert index.starts(path.name) == [1000]
    assert not kept.exists()


def test_a_wheel_with_another_hash_is_not_kept(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(tmp_path / "wheels")
    (path,) = (tmp_path / "wheels").iterdir()
    with IndexServer({path.name: path.read_bytes()}) as index:
        use_only(index.url, monkeypatch)
        with pytest.raises(
            DownloadError, match=r"tpu_mlir-1\.30\.2-py3-none-any\.whl from the package index .*checksum"
        ):
            open_toolchain(wheel=PinnedWheel("tpu_mlir==1.30.2", "0" * 64))
    assert [p.name for p in (cache / "toolchain").iterdir() if not p.name.endswith(".lock")] == []


@pytest.mark.parametrize("name", ["BMQWEN_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    wheel = make_wheel(tmp_path / "wheels")
    monkeypatch.setenv(name, "1")
    with pytest.raises(DownloadError, match=r"compiler is not in the cache .*offline mode is on"):
        open_toolchain(wheel=wheel)
    monkeypatch.delenv(name)
    open_toolchain(wheel=wheel)
    monkeypatch.setenv(name, "1")
    open_toolchain(wheel=wheel)


def test_environment_has_what_the_kernel_compiler_reads(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "wheels")
    found = open_toolchain(wheel=wheel)
    variables = found.environment(tmp_path / "net")
    for name in ("TPUC_ROOT", "PPL_PROJECT_ROOT", "PPL_RUNTIME_PATH", "PPL_CACHE_PATH", "PPL_BUILD_PATH"):
        assert Path(variables[name]).is_absolute()
    assert variables["PWD"] == variables["PPL_WORK_PATH"] == str(tmp_path / "net")
    assert Path(variables["PPL_CACHE_PATH"]).is_dir()
    # A kernel cache inside of the compiler's own folder would be lost with it.
    assert found.root not in Path(variables["PPL_CACHE_PATH"]).parents


def test_simulator_folder_links_the_names_that_are_looked_up(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "wheels")
    folder = open_toolchain(wheel=wheel).simulator_folder
    assert sorted(p.name for p in folder.iterdir()) == ["libbmlib.so.0", "libbmrt.so.1.0", "libcmodel.so"]
    assert (folder / "libcmodel.so").resolve().name == "libcmodel_bm1684x.so"


def test_wrong_hash_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    make_wheel(tmp_path / "wheels")
    other = PinnedWheel("tpu_mlir==1.30.2", "0" * 64)
    with pytest.raises(
        DownloadError, match=r"tpu_mlir-1\.30\.2-py3-none-any\.whl from the package index .*checksum"
    ):
        open_toolchain(wheel=other)
    assert [p.name for p in (cache / "toolchain").iterdir() if not p.name.endswith(".lock")] == []


def test_missing_wheel_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DownloadError, match=r"the package index has no wheel of tpu_mlir==1\.30\.2"
    ) as caught:
        open_toolchain()
    assert "\n" not in str(caught.value)


def test_download_is_told_in_a_few_lines() -> None:
    said: list[str] = []
    advance = steps(said.append)
    for done in range(0, WHEEL_BYTES + 1, 1 << 20):
        advance(done)
    assert len(said) == 4
    assert said[0] == "fetching the BM1684X compiler: 66 MB of 327 MB"


def test_wheel_without_a_needed_file_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    wheel = make_wheel(tmp_path / "wheels", without="lib/libppl_host.so")
    with pytest.raises(MissingDependencyError, match=r"lacks lib/libppl_host\.so"):
        open_toolchain(wheel=wheel)
    assert [p.name for p in (cache / "toolchain").iterdir() if not p.name.endswith(".lock")] == []


def test_damaged_archive(tmp_path: Path) -> None:
    make_wheel(tmp_path)
    path = tmp_path / "tpu_mlir-1.30.2-py3-none-any.whl"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"a C library", b"a D library", 1))
    with pytest.raises(DownloadError, match="damaged"):
        unpack(path, tmp_path / "out", lambda _: True)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DownloadError, match="damaged"):
        unpack(path, tmp_path / "out", lambda _: True)


def test_member_that_leads_out_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../outside", "x")
    with pytest.raises(DownloadError, match="outside of its folder"):
        unpack(path, tmp_path / "out", lambda _: True)
    assert not (tmp_path / "outside").exists()


def test_read_only_cache_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("BMQWEN_CACHE", str(blocker))
    with pytest.raises(StorageError, match=r"file/toolchain"):
        open_toolchain()


def test_named_sdk_is_used_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(tmp_path / "wheels")
    unpack(next((tmp_path / "wheels").glob("*.whl")), tmp_path / "sdk", lambda _: True)
    monkeypatch.setenv("BMQWEN_TOOLCHAIN", str(tmp_path / "sdk"))
    assert open_toolchain().root == tmp_path / "sdk/tpu_mlir"
    monkeypatch.setenv("BMQWEN_TOOLCHAIN", str(tmp_path / "sdk/tpu_mlir"))
    assert open_toolchain().version == "external"
    (tmp_path / "sdk/tpu_mlir/lib/libppl_host.so").unlink()
    with pytest.raises(MissingDependencyError, match=r"lacks lib/libppl_host\.so"):
        open_toolchain()
    monkeypatch.setenv("BMQWEN_TOOLCHAIN", str(tmp_path))
    with pytest.raises(InputError, match="has no BM1684X compiler"):
        open_toolchain()


def test_compiler_that_does_not_start_names_the_library(tmp_path: Path) -> None:
    failing = '#!/bin/sh\necho "$0: error while loading shared libraries: libtinfo.so.6: no such file" >&2\nexit 127\n'
    wheel = make_wheel(tmp_path / "wheels", compiler=failing)
    with pytest.raises(MissingDependencyError, match=r"does not start: .*libtinfo\.so\.6"):
        open_toolchain(wheel=wheel)


def test_missing_programs_are_named_before_work_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        MissingDependencyError, match=r"needs cmake, make, gcc, g\+\+ .*apt install cmake make gcc g\+\+"
    ):
        check_host()
    for name in ("cmake", "make", "cc"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(MissingDependencyError, match=r"needs g\+\+ on this machine"):
        check_host()


@pytest.mark.parametrize(
    ("system", "machine"), [("Linux", "aarch64"), ("Darwin", "x86_64"), ("Windows", "AMD64")]
)
def test_other_machines_are_refused(system: str, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(MissingDependencyError, match=f"x86-64 Linux only, this is {system} on {machine}"):
        check_host()


def test_only_one_of_two_processes_fetches(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "wheels")
    program = (
        "import sys\n"
        "from bmqwen.compiler.toolchain import PinnedWheel, open_toolchain\n"
        f"open_toolchain(wheel=PinnedWheel('tpu_mlir==1.30.2', '{wheel.sha256}'), report=print)\n"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert "".join(said).count("fetching") == 1


@pytest.mark.parametrize(
    ("member", "wanted"),
    [
        ("tpu_mlir/bin/tpuc-opt", True),
        ("tpu_mlir/cross_toolchains/ppl_compile/inc/ppl.h", True),
        ("tpu_mlir/lib/libbackend_bm1690.so", False),
        ("tpu_mlir/lib/third_party/libstdc++.so.6", False),
        ("tpu_mlir/python/llm/LlmConverter.py", False),
        ("tpu_mlir-1.30.2.dist-info/licenses/LICENSE", True),
    ],
)
def test_what_is_unpacked(member: str, wanted: bool) -> None:
    assert is_wanted(member) is wanted
