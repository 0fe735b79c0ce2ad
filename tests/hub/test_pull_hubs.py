"""Downloads from hubs: real clients against a local server."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bmqwen.errors import DownloadError, InputError
from bmqwen.hub.cache import Cache
from bmqwen.hub.catalog import HUGGINGFACE, MODELSCOPE, Model, find
from bmqwen.hub.hub import Hub
from bmqwen.hub.huggingface import HuggingFace
from bmqwen.hub.modelscope import ModelScope
from bmqwen.hub.source import Release, RemoteFile, Source
from bmqwen.util.paths import model_name
from bmqwen.util.progress import Progress, Report
from support.checkpoints import tiny_config
from support.local_hub import FILES, REPO, WANTED, WEIGHTS, hub_of, part_of, sources
from support.pull_observer import Notes, left_in
from support.pull_server import HubServer


class Mute(Source):
    """A source behind a firewall: it never answers."""

    name, title = "mute", "the mute hub"

    def __init__(self) -> None:
        self.asked = 0

    def offers(self, model: Model) -> bool:
        return bool(model.repos)

    def find(self, model: Model, patience: float) -> Release:
        del model, patience
        self.asked += 1
        while True:
            time.sleep(3600)

    def fetch(
        self, release: Release, file: RemoteFile, target: Path, report: Report, progress: Progress
    ) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("source", [HUGGINGFACE, MODELSCOPE])
def test_only_wanted_files_arrive_and_a_second_pull_needs_no_network(
    server: HubServer, tmp_path: Path, source: str
) -> None:
    hub, notes = hub_of(server, tmp_path), Notes()
    path = hub.pull(REPO, source=source, progress=notes)
    assert {item.name for item in path.iterdir() if not item.name.startswith(".")} == WANTED
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    size = sum(len(FILES[name]) for name in WANTED)
    assert notes.starts[-1][1] == notes.done[-1] == size
    (model,) = hub.models()
    assert (model.name, model.path, model.complete) == (REPO, path, True)
    assert model.size == size
    asked = server.asked
    assert hub.pull(REPO) == path
    assert hub_of(server, tmp_path, offline=True).resolve(REPO) == path
    assert server.asked == asked
    assert model_name(path) == "tiny"


@pytest.mark.parametrize("source", [HUGGINGFACE, MODELSCOPE])
def test_a_cut_connection_is_resumed_where_it_broke(server: HubServer, tmp_path: Path, source: str) -> None:
    server.cut_after = [200_000, 150_000]
    path = hub_of(server, tmp_path).pull(REPO, source=source)
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    first, second, third = server.starts("model.safetensors")
    assert (first, second, third) == (0, 200_000, 350_000)


def test_a_server_without_ranges_is_read_from_the_start(server: HubServer, tmp_path: Path) -> None:
    server.cut_after, server.ranges = [200_000], False
    path = hub_of(server, tmp_path).pull(REPO, source=HUGGINGFACE)
    assert (path / "model.safetensors").read_bytes() == WEIGHTS


def test_a_part_of_an_earlier_run_is_used_and_replaced_if_it_is_wrong(
    server: HubServer, tmp_path: Path
) -> None:
    hub = hub_of(server, tmp_path)
    part_of(tmp_path).write_bytes(WEIGHTS[:1000])
    assert [(model.name, model.complete) for model in hub.models()] == [(REPO, False)]
    path = hub.pull(REPO, source=HUGGINGFACE)
    assert server.starts("model.safetensors") == [1000]
    assert hub.remove(REPO) >= len(WEIGHTS)
    assert left_in(tmp_path) == ["hf/CACHEDIR.TAG"]
    part_of(tmp_path).write_bytes(b"x" * 1000)
    assert hub.pull(REPO, source=HUGGINGFACE) == path
    assert server.starts("model.safetensors") == [1000, 1000, 0]
    assert (path / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("source", [HUGGINGFACE, MODELSCOPE])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_wrong_hash_is_an_error_and_the_file_is_gone(
    server: HubServer, tmp_path: Path, name: str, source: str
) -> None:
    server.claimed[name] = (len(FILES[name]), bytes(len(FILES[name])))
    with pytest.raises(DownloadError, match=rf"{name}.*checksum"):
        hub_of(server, tmp_path).pull(REPO, source=source)
    assert not [left for left in left_in(tmp_path) if name in left or "incomplete" in left]
    assert hub_of(server, tmp_path).models() == []


def test_a_file_longer_or_shorter_than_stated_is_an_error(server: HubServer, tmp_path: Path) -> None:
    server.claimed["tokenizer.json"] = (1, b"{")
    with pytest.raises(DownloadError, match=r"tokenizer.json .* size"):
        hub_of(server, tmp_path).pull(REPO, source=HUGGINGFACE)
    assert hub_of(server, tmp_path).models() == []


def test_a_repository_with_pickled_weights_only_is_refused(tmp_path: Path) -> None:
    with HubServer(REPO, {"config.json": b"{}", "pytorch_model.bin": b"x"}) as server:
        with pytest.raises(InputError, match="only pickled weights"):
            hub_of(server, tmp_path).pull(REPO)
        assert server.log == []


def test_an_adapter_is_refused_before_its_download(tmp_path: Path) -> None:
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"}
    with HubServer(REPO, files) as server:
        with pytest.raises(InputError, match=r"is an adapter \(LoRA\) of a model, not a model: download it"):
            hub_of(server, tmp_path).pull(REPO)
        assert server.log == []


@pytest.mark.parametrize("source", [HUGGINGFACE, MODELSCOPE])
def test_how_an_embedding_model_pools_arrives_too(source: str, tmp_path: Path) -> None:
    pooling = b'{"pooling_mode_mean_tokens": true}'
    with HubServer(REPO, FILES | {"1_Pooling/config.json": pooling, "2_Other/config.json": b"{}"}) as server:
        folder = hub_of(server, tmp_path).pull(REPO, source=source)
        assert (folder / "1_Pooling" / "config.json").read_bytes() == pooling
        assert not (folder / "2_Other").exists()
        asked = server.asked
        assert hub_of(server, tmp_path).pull(REPO, source=source) == folder
        assert server.asked == asked


def test_all_parts_of_a_gguf_model_are_one_model(tmp_path: Path) -> None:
    parts = {f"a-q8_0-0000{n}-of-00002.gguf": b"part%d" % n for n in (1, 2)}
    with HubServer(REPO, {"a-q4_k_m.gguf": b"four", **parts}) as server:
        hub = hub_of(server, tmp_path)
        hub.pull(f"{REPO}:q4_k_m")
        path = hub.pull(f"{REPO}:q8_0")
        assert [path.name, *sorted(p.name for p in path.parent.glob("a-q8*"))] == [min(parts), *parts]
        assert {(model.name, model.size) for model in hub.models()} == {
            (f"{REPO}:q4_k_m", 4),
            (f"{REPO}:q8_0", 10),
        }
        path.with_name(max(parts)).unlink()  # without one of them the model is not there
        assert {model.name for model in hub.models()} == {f"{REPO}:q4_k_m"}
        hub.pull(f"{REPO}:q8_0")
        assert hub.remove(f"{REPO}:q8_0") == 10
        assert [p.name for p in path.parent.glob("*.gguf")] == ["a-q4_k_m.gguf"]
    lacking = {"a-00001-of-00002.gguf": b"x"}
    with HubServer(REPO, lacking) as server, pytest.raises(InputError, match=r"lacks a-00002-of-00002\.gguf"):
        hub_of(server, tmp_path / "other").pull(REPO)


def test_a_gguf_file_is_chosen_by_its_variant(tmp_path: Path) -> None:
    files = {
        "a-q4_k_m.gguf": b"four",
        "a-q8_0.gguf": b"eight",
        "a-UD-q8_0_XL.gguf": b"x",
        "mmproj-q8_0.gguf": b"y",
    }
    with HubServer(REPO, files) as server:
        hub = hub_of(server, tmp_path)
        with pytest.raises(InputError, match=r"has a-UD-q8_0_XL\.gguf, a-q4_k_m\.gguf, a-q8_0\.gguf: name"):
            hub.pull(REPO)
        path = hub.pull(f"{REPO}:Q8_0")
        assert (path.name, path.read_bytes()) == ("a-q8_0.gguf", b"eight")
        other = hub.pull(f"{REPO}:q4_k_m")
        assert {model.name for model in hub.models()} == {f"{REPO}:q4_k_m", f"{REPO}:q8_0"}
        assert hub.remove(f"{REPO}:q8_0") == 5
        assert not path.exists()
        assert other.read_bytes() == b"four"
        assert hub.remove(REPO) == 4
        assert hub.models() == []


@pytest.mark.parametrize("digest", ["", "../../../outside"])
def test_a_state_that_is_no_hash_is_refused(server: HubServer, tmp_path: Path, digest: str) -> None:
    server.commit = digest
    with pytest.raises(DownloadError, match="does not say which state"):
        hub_of(server, tmp_path).pull(REPO, source=HUGGINGFACE)
    assert left_in(tmp_path) == []


def test_a_configuration_is_read_without_the_rest(server: HubServer, tmp_path: Path) -> None:
    hub = hub_of(server, tmp_path)
    assert hub.config(find(REPO)) == tiny_config()
    assert [name for name, _ in server.log] == ["config.json"]
    with pytest.raises(InputError, match=r"there is no me/other on Hugging Face"):
        hub.config(find("me/other"))
    assert left_in(tmp_path) == []


def test_a_revision_is_asked_for(server: HubServer, tmp_path: Path) -> None:
    hub_of(server, tmp_path).pull(f"{REPO}@v2", source=HUGGINGFACE)
    assert server.revisions == ["v2"]


def test_a_model_that_no_hub_has_is_the_users_mistake(server: HubServer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no me/other on Hugging Face.*ModelScope"):
        hub_of(server, tmp_path).pull("me/other")
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("source", [HUGGINGFACE, MODELSCOPE])
def test_a_hub_that_refuses_says_what_can_be_done(tmp_path: Path, source: str) -> None:
    with HubServer(REPO, FILES) as server:
        pass  # its port is closed now
    with pytest.raises(DownloadError, match=r"could not be reached \(Connection refused\).*local folder"):
        hub_of(server, tmp_path).pull(REPO, source=source)
    assert left_in(tmp_path) == []


def test_a_mute_hub_is_left_for_the_next_one(server: HubServer, tmp_path: Path) -> None:
    mute, notes = Mute(), Notes()
    places = {"mute": mute, **sources(server, tmp_path)}
    path = Hub(Cache(tmp_path), sources=places, offline=False, patience=3.0).pull(REPO, progress=notes)
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    assert mute.asked == 1
    assert notes.notes == ["the mute hub is slow to answer"]


def test_a_mute_hub_alone_is_given_up(tmp_path: Path) -> None:
    hub = Hub(Cache(tmp_path), sources={"mute": Mute()}, offline=False, patience=0.1, limit=0.2)
    with pytest.raises(DownloadError, match=r"the mute hub did not answer: check the network"):
        hub.pull(REPO)


def test_a_hub_that_stops_half_way_is_left_for_the_next_one(tmp_path: Path) -> None:
    with HubServer(REPO, FILES) as good, HubServer(REPO, FILES) as bad:
        bad.files["model.safetensors"] = bytes(len(WEIGHTS))
        bad.claimed["model.safetensors"] = (len(WEIGHTS), WEIGHTS)
        places: dict[str, Source] = {
            HUGGINGFACE: HuggingFace(bad.endpoint, tmp_path / "hf"),
            MODELSCOPE: ModelScope(good.endpoint, tmp_path / "ms"),
        }
        path = Hub(Cache(tmp_path), sources=places, offline=False).pull(REPO)
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    assert {item.name for item in path.iterdir() if not item.name.startswith(".")} == WANTED


def test_offline_never_asks(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BMQWEN_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
        with pytest.raises(DownloadError, match="offline mode is on"):
            Hub(Cache(tmp_path), sources=sources(server, tmp_path)).pull(REPO)
        monkeypatch.delenv(name)
    assert server.asked == 0
    assert Hub(Cache(tmp_path), sources=sources(server, tmp_path)).pull(REPO).is_dir()


def test_paths_are_returned_and_missing_ones_refused(server: HubServer, tmp_path: Path) -> None:
    hub = hub_of(server, tmp_path / "cache")
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    assert hub.resolve(str(model)) == model
    assert hub.resolve(str(tmp_path)) == tmp_path
    for missing in ("./nothing", str(tmp_path / "none"), "some/where/model.gguf", "~/no-such-folder-here"):
        with pytest.raises(InputError, match="no file or folder"):
            hub.resolve(missing)
    with pytest.raises(InputError):
        hub.resolve("x" * 100_000)


def test_an_unknown_source_is_refused(server: HubServer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown source 'ftp': choose one of auto, huggingface"):
        hub_of(server, tmp_path).pull(REPO, source="ftp")


PULL = """
import sys
from pathlib import Path
from bmqwen.hub.cache import Cache
from bmqwen.hub.hub import Hub
from bmqwen.util.progress import Silent
from bmqwen.errors import BmqwenError

class Notes(Silent):
    def note(self, text):
        print(text, flush=True)

try:
    print(Hub(Cache(Path(sys.argv[1]))).pull(sys.argv[2], source="huggingface", progress=Notes()))
except BmqwenError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.fixture
def start(server: HubServer) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    running: list[subprocess.Popen[str]] = []

    def run(folder: Path, prelude: str = "") -> "subprocess.Popen[str]":
        environment = {
            **os.environ,
            "HF_ENDPOINT": server.endpoint,
            "HF_HUB_CACHE": str(folder / "hf"),
            "MODELSCOPE_CACHE": str(folder / "ms"),
        }
        command = [sys.executable, "-c", prelude + PULL, str(folder / "own"), REPO]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


def test_two_processes_download_once(
    server: HubServer, tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    server.pause = 0.02
    both = [start(tmp_path), start(tmp_path)]
    outputs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert server.starts("model.safetensors") == [0]
    assert sum("another process downloads me/tiny" in out for out, _ in outputs) == 1


def test_an_interrupted_download_shows_nothing_finished_and_goes_on(
    server: HubServer, tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    server.pause = 0.05
    process = start(tmp_path)
    deadline = time.monotonic() + 60
    part = part_of(tmp_path)
    while not (part.exists() and part.stat().st_size > 50_000):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    with pytest.raises(InputError, match="downloaded by another process"):
        hub_of(server, tmp_path).remove(REPO)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors
    hub = hub_of(server, tmp_path)
    assert hub.find(find(REPO)) is None
    assert [(model.name, model.complete) for model in hub.models()] == [(REPO, False)]
    size = part.stat().st_size
    server.pause = 0.0
    path = hub.pull(REPO, source=HUGGINGFACE)
    assert server.starts("model.safetensors") == [0, size]
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    assert not part.exists()


def test_a_disk_that_fills_up_is_a_storage_error(
    server: HubServer, tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    process = start(tmp_path, limit)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith("StorageError: ")
    assert "no space left while writing" in errors
    assert str(tmp_path / "hf") in errors
    assert "Traceback" not in errors
    assert hub_of(server, tmp_path).find(find(REPO)) is None
