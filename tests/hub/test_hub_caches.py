"""The hubs' own caches: shared with their libraries both ways, listed, and removed from."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download, snapshot_download
from modelscope_hub import HubApi

from bmqwen.errors import DownloadError, InputError, StorageError
from bmqwen.hub.cache import Cache
from bmqwen.hub.catalog import HUGGINGFACE, MODELSCOPE, Model, find
from bmqwen.hub.hub import Hub
from bmqwen.hub.huggingface import HuggingFace
from bmqwen.hub.source import Release, Source
from support.local_hub import FILES, REPO, WANTED, WEIGHTS, hub_of
from support.pull_observer import left_in
from support.pull_server import COMMIT, HubServer

NOBODY = 65534


def test_what_huggingface_hub_has_cached_is_used_without_a_request(server: HubServer, tmp_path: Path) -> None:
    there = snapshot_download(REPO, cache_dir=tmp_path / "hf", endpoint=server.endpoint, max_workers=1)
    asked = server.asked
    assert hub_of(server, tmp_path).pull(REPO) == Path(there)
    assert hub_of(server, tmp_path).pull(f"{REPO}@{COMMIT}") == Path(there)
    assert server.asked == asked
    # What one of the two programs begins the other finishes.
    (Path(there) / "model.safetensors").resolve().unlink()
    (Path(there) / "model.safetensors").unlink()
    assert hub_of(server, tmp_path).pull(REPO, source=HUGGINGFACE) == Path(there)
    assert [name for name, _ in server.log].count("config.json") == 1


def test_what_we_have_cached_is_used_by_huggingface_hub(server: HubServer, tmp_path: Path) -> None:
    path = hub_of(server, tmp_path).pull(REPO, source=HUGGINGFACE)
    kept = tmp_path / "hf"
    assert snapshot_download(REPO, cache_dir=kept, local_files_only=True) == str(path)
    file = hf_hub_download(REPO, "model.safetensors", cache_dir=kept, local_files_only=True)
    assert file == str(path / "model.safetensors")


@pytest.mark.parametrize(
    "layout",
    [f"models/{REPO.replace('/', '--')}/snapshots/master", f"models/{REPO}", f"hub/models/{REPO}"],
)
def test_what_modelscope_has_cached_is_used_without_a_request(
    server: HubServer, tmp_path: Path, layout: str
) -> None:
    there = tmp_path / "ms" / layout
    there.mkdir(parents=True)
    for name in WANTED:
        (there / name).write_bytes(FILES[name])
    hub = hub_of(server, tmp_path)
    assert hub.pull(REPO) == there
    assert [(model.name, model.path) for model in hub.models()] == [(REPO, there)]
    assert server.asked == 0
    assert hub.remove(REPO) == sum(len(FILES[name]) for name in WANTED)
    assert hub.models() == []
    assert left_in(tmp_path) == []


def test_modelscopes_own_package_finds_what_we_have_cached(server: HubServer, tmp_path: Path) -> None:
    path = hub_of(server, tmp_path).pull(REPO, source=MODELSCOPE)
    api, server.status = HubApi(endpoint=server.endpoint), 500
    kept = api.download_repo(REPO, "model", cache_dir=tmp_path / "ms", local_files_only=True)
    assert kept == path


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model-00002-of-00002.safetensors"])
def test_half_a_model_in_a_hubs_cache_is_completed(tmp_path: Path, missing: str) -> None:
    files = {
        "config.json": b"{ }",
        "tokenizer.json": b"{}",
        "model-00001-of-00002.safetensors": b"one",
        "model-00002-of-00002.safetensors": b"two",
    }
    with HubServer(REPO, files) as server:
        snapshot_download(
            REPO, cache_dir=tmp_path / "hf", endpoint=server.endpoint, ignore_patterns=[missing]
        )
        server.log.clear()
        hub = hub_of(server, tmp_path)
        assert hub.find(find(REPO)) is None
        path = hub.pull(REPO, source=HUGGINGFACE)
        assert {item.name for item in path.iterdir()} == set(files)
        assert [name for name, _ in server.log] == [missing]


def test_a_model_of_an_earlier_version_is_found_in_our_cache(server: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "own" / "me--tiny"
    folder.mkdir(parents=True)
    for name in WANTED:
        (folder / name).write_bytes(FILES[name])
    (folder / ".bmqwen.json").write_text("{}")
    hub = hub_of(server, tmp_path)
    assert hub.pull(REPO) == folder
    assert server.asked == 0
    (folder / "tokenizer.json").unlink()
    assert [model.complete for model in hub.models()] == [False]
    assert hub.find(find(REPO)) is None
    assert hub.remove("me--tiny") > len(WEIGHTS)
    (tmp_path / "own/.partial/me--tiny/huggingface-main").mkdir(parents=True)
    (tmp_path / "own/.partial/me--tiny/huggingface-main/model.safetensors.part").write_bytes(b"half")
    assert [(model.name, model.complete) for model in hub.models()] == [("me--tiny", False)]
    assert hub.remove("me--tiny") == 4
    assert left_in(tmp_path) == []


def test_files_that_another_revision_has_are_not_downloaded_again(tmp_path: Path) -> None:
    with HubServer(REPO, FILES) as server:
        hub = hub_of(server, tmp_path)
        first = hub.pull(REPO, source=HUGGINGFACE)
        server.files["tokenizer.json"], server.commit = b"{ }", "f" * 40
        second = hub.pull(f"{REPO}@v2", source=HUGGINGFACE)
        assert first != second
        assert (second / "tokenizer.json").read_bytes() == b"{ }"
        assert len(server.starts("model.safetensors")) == 1
        assert hub.remove(REPO) < 1000
        assert (second / "model.safetensors").read_bytes() == WEIGHTS


def test_a_repository_that_changes_meanwhile(server: HubServer, tmp_path: Path) -> None:
    class Moving(HuggingFace):
        def find(self, model: Model, patience: float) -> Release:
            release = super().find(model, patience)
            server.commit = "f" * 40
            return release

    places: dict[str, Source] = {HUGGINGFACE: Moving(server.endpoint, tmp_path / "hf")}
    hub = Hub(Cache(tmp_path), sources=places, offline=False)
    with pytest.raises(DownloadError, match="me/tiny changed on Hugging Face meanwhile"):
        hub.pull(REPO)
    assert (hub.pull(REPO) / "model.safetensors").read_bytes() == WEIGHTS
    assert len(server.starts("model.safetensors")) == 1


def test_too_little_space_is_noticed_before_the_download(server: HubServer, tmp_path: Path) -> None:
    server.claimed["model.safetensors"] = (10**16, b"")
    with pytest.raises(StorageError, match=r"me--tiny needs 10,000,000\.0 GB in .*HF_HUB_CACHE") as caught:
        hub_of(server, tmp_path).pull(REPO)
    assert str(tmp_path) in str(caught.value)
    assert server.log == []


def test_a_cache_that_cannot_be_written_is_named(server: HubServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot write .*file/cache"):
        hub_of(server, tmp_path / "file" / "cache").pull(REPO)
    places: dict[str, Source] = {HUGGINGFACE: HuggingFace(server.endpoint, tmp_path / "file")}
    with pytest.raises(StorageError, match=r"cannot write .*/file: Not a directory"):
        Hub(Cache(tmp_path), sources=places, offline=False).pull(REPO)


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """Nothing is read-only for root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    yield
    os.seteuid(user)


@pytest.mark.usefixtures("ordinary_user")
def test_a_read_only_cache_is_named(server: HubServer) -> None:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="Permission denied"):
            hub_of(server, folder / "cache").pull(REPO)
        assert list(folder.iterdir()) == []
    finally:
        folder.rmdir()


@pytest.mark.usefixtures("ordinary_user")
def test_a_hubs_cache_that_may_not_be_read_is_passed_over(server: HubServer) -> None:
    folder = Path(tempfile.mkdtemp())
    (folder / "ms").mkdir(0o000)
    (folder / "hf/models--me--tiny/refs").mkdir(parents=True)
    (folder / "hf/models--me--tiny/refs/main").write_bytes(b"\xff\x00")
    try:
        hub = hub_of(server, folder, offline=True)
        assert hub.models() == []
        with pytest.raises(DownloadError, match="offline mode is on"):
            hub.pull(REPO)
    finally:
        (folder / "ms").chmod(0o700)
        shutil.rmtree(folder)


def test_the_cache_lists_and_removes(server: HubServer, tmp_path: Path) -> None:
    hub = hub_of(server, tmp_path)
    assert hub.models() == []
    with pytest.raises(InputError, match="not in the cache"):
        hub.remove(REPO)
    path = hub.pull(REPO, source=HUGGINGFACE)
    (model,) = hub.models()
    assert (model.name, model.path, model.complete) == (REPO, path, True)
    pinned = hub_of(server, tmp_path / "pinned")
    path = pinned.pull(f"{REPO}@{COMMIT}", source=HUGGINGFACE)
    assert [(kept.name, kept.path) for kept in pinned.models()] == [(f"{REPO}@{COMMIT}", path)]
    assert pinned.remove(f"{REPO}@{COMMIT}") == model.size
    assert pinned.models() == []
    other = hub.pull(f"{REPO}@v2", source=MODELSCOPE)
    assert {model.name for model in hub.models()} == {REPO, f"{REPO}@v2"}
    assert hub.remove(REPO) == model.size
    assert [model.path for model in hub.models()] == [other]
    hub.remove(f"{REPO}@v2")
    assert left_in(tmp_path) == ["hf/CACHEDIR.TAG", "pinned/hf/CACHEDIR.TAG"]


def test_what_bmqwen_cannot_run_is_not_listed_but_removed(tmp_path: Path) -> None:
    with HubServer(REPO, {**FILES, "config.json": b'{"model_type": "bert"}'}) as server:
        hub = hub_of(server, tmp_path)
        hub.pull(REPO)
    assert hub.models() == []
    assert hub.remove(REPO) > len(WEIGHTS)
