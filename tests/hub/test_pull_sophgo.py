"""Published bmodels: from a server that speaks HTTP, through a program that stands for dfss, and from none."""

import hashlib
import io
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from bmqwen.errors import BmqwenError, DownloadError, InputError
from bmqwen.hub.cache import Cache
from bmqwen.hub.catalog import PUBLISHED, SOPHGO, find
from bmqwen.hub.hub import Hub
from bmqwen.hub.sophgo import Server, Sophgo, known_servers
from support.bmodel_files import FakeBmodel, published_nets
from support.pull_observer import Notes, left_in
from support.pull_server import HubServer

NAME = "qwen1.5-1.8b_int4_1dev"
FILE = f"{NAME}.bmodel"
FOLDER = "sophon-demo/Qwen1_5"
LOGIN = "Basic b3BlbjpvcGVu"  # open:open


def bmodel(folder: Path) -> bytes:
    """A file of half a MB in the published layout."""
    return FakeBmodel(published_nets(), data=500_000).write(folder / "whole.bmodel").read_bytes()


def archive(**extra: bytes) -> bytes:
    """The publisher's tokenizer."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as content:
        for name, data in {"tokenizer.json": b"{}", "tokenizer_config.json": b"{}", **extra}.items():
            content.writestr(f"token_config/{name}", data)
    return out.getvalue()


class Publisher(HubServer):
    """Serves files by their paths, to those who know the password."""

    def head(self, request: BaseHTTPRequestHandler) -> None:
        data = self._data(request)
        request.send_response(404 if data is None else 200)
        request.send_header("Content-Length", str(len(data or b"")))
        request.end_headers()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        if self._data(request) is None:
            self._json(request, {}, 404)
        else:
            self._file(request, request.path.rsplit("/", 1)[1])

    def _data(self, request: BaseHTTPRequestHandler) -> bytes | None:
        if request.headers.get("Authorization") != LOGIN or not request.path.startswith(f"/{FOLDER}/"):
            return None
        return self.files.get(request.path.rsplit("/", 1)[1])


@pytest.fixture(name="publisher")
def publisher_fixture(tmp_path: Path) -> Iterator[Publisher]:
    server = Publisher("", {FILE: bmodel(tmp_path), "token_config.zip": archive()})
    with server:
        yield server


def port(server: HubServer) -> int:
    """The one it listens on."""
    return int(server.endpoint.rsplit(":", 1)[1])


def by_http(server: HubServer) -> Sophgo:
    """The source, with nothing but that server."""
    nobody = [sys.executable, "-c", "raise SystemExit('dfss was not to be run')"]
    return Sophgo([Server("127.0.0.1", port(server), "open", "open")], nobody)


def hub(cache: Path, source: Sophgo) -> Hub:
    """A hub with that source alone."""
    return Hub(Cache(cache), sources={SOPHGO: source})


def test_bmodel_and_tokenizer_with_the_hash_beside(publisher: Publisher, tmp_path: Path) -> None:
    notes, cache = Notes(), tmp_path / "cache"
    path = hub(cache, by_http(publisher)).pull(FILE, source="sophgo", progress=notes)
    assert path == cache / NAME / FILE
    assert path.read_bytes() == publisher.files[FILE]
    digest = hashlib.sha256(publisher.files[FILE]).hexdigest()
    assert (cache / NAME / f"{FILE}.sha256").read_text() == f"{digest}  {FILE}\n"
    assert left_in(cache) == [
        f"{NAME}/{name}" for name in (FILE, f"{FILE}.sha256", "tokenizer.json", "tokenizer_config.json")
    ]
    assert notes.starts[1] == (f"Downloading {NAME} from SOPHGO's server", len(publisher.files[FILE]))
    (found,) = Cache(cache).models()
    assert (found.name, found.path, found.complete) == (NAME, path, True)
    publisher.files.clear()
    assert hub(cache, by_http(publisher)).pull(NAME) == path
    assert Cache(cache).remove(found) > 500_000


def test_a_cut_download_goes_on(publisher: Publisher, tmp_path: Path) -> None:
    publisher.cut_after = [200_000, 100_000]
    path = hub(tmp_path / "cache", by_http(publisher)).pull(NAME)
    assert path.read_bytes() == publisher.files[FILE]
    starts = publisher.starts(FILE)
    assert len(starts) == 3
    assert starts[0] == 0 < starts[1] < starts[2]


def test_what_an_interrupted_run_left_is_continued(publisher: Publisher, tmp_path: Path) -> None:
    publisher.pause = 0.05
    program = (
        "import sys; from pathlib import Path; sys.path[:0] = sys.argv[3:]\n"
        "from bmqwen.hub.hub import Hub; from bmqwen.hub.cache import Cache\n"
        "from bmqwen.hub.sophgo import Server, Sophgo\n"
        "source = Sophgo([Server('127.0.0.1', int(sys.argv[1]), 'open', 'open')], ['false'])\n"
        f"Hub(Cache(Path(sys.argv[2])), sources={{'sophgo': source}}).pull('{NAME}')\n"
    )
    cache = tmp_path / "cache"
    process = subprocess.Popen([sys.executable, "-c", program, str(port(publisher)), str(cache)])
    part = cache / NAME / f"{FILE}.part"
    while not (part.exists() and part.stat().st_size > 100_000):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    publisher.pause = 0.0
    assert hub(cache, by_http(publisher)).pull(NAME).read_bytes() == publisher.files[FILE]
    assert publisher.starts(FILE)[-1] > 0


def dfss(folder: Path, text: str) -> list[str]:
    """A program in place of dfss, which gets `path` and `name` of what is asked for."""
    script = folder / "dfss.py"
    script.write_text(
        "import pathlib, sys, shutil, time\n"
        "url = next(a for a in sys.argv if a.startswith('--url=open@sophgo.com:'))\n"
        "path = url.partition(':')[2]; name = path.rsplit('/')[-1]\n" + text
    )
    return [sys.executable, str(script)]


class Secure(socketserver.BaseRequestHandler):
    """Greets as SFTP servers do, which is no HTTP."""

    def handle(self) -> None:
        self.request.sendall(b"SSH-2.0-server\r\n")


@pytest.fixture(name="secure")
def secure_fixture() -> Iterator[Server]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Secure) as listening:
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        yield Server("127.0.0.1", listening.server_address[1], "open", "open")
        listening.shutdown()


def test_dfss_fetches_where_there_is_no_http(secure: Server, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / FILE).write_bytes(bmodel(tmp_path))
    (store / "token_config.zip").write_bytes(archive())
    program = dfss(tmp_path, f"shutil.copy(pathlib.Path({str(store)!r}) / name, name)\n")
    notes = Notes()
    path = hub(tmp_path / "cache", Sophgo([secure], program)).pull(NAME, progress=notes)
    assert path.read_bytes() == (store / FILE).read_bytes()
    assert (path.parent / "tokenizer.json").read_bytes() == b"{}"
    assert notes.starts[1] == (f"Downloading {NAME} from SOPHGO's server", None)
    assert left_in(tmp_path / "cache" / NAME)[:2] == [FILE, f"{FILE}.sha256"]


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        (
            "print('18:25:38 ERROR main.cpp:1040: No available server found'); sys.exit(1)",
            DownloadError,
            r"could not be reached .*dfss --url=open@sophgo\.com:sophon-demo/Qwen1_5/",
        ),
        (
            "print('ERROR main.cpp:560: Unable to open file with SFTP'); sys.exit(1)",
            InputError,
            f"SOPHGO's server has no {FOLDER}/{FILE}",
        ),
        (
            "print('ERROR main.cpp:520: Authentication failed'); sys.exit(1)",
            DownloadError,
            "Authentication failed",
        ),
        (
            "pathlib.Path(name).write_bytes(b'<html>'); sys.exit(0)",
            DownloadError,
            "arrived damaged and was deleted",
        ),
        ("time.sleep(60)", DownloadError, "dfss got nothing for 1 second"),
    ],
    ids=["no server", "no such file", "refused", "not a bmodel", "silence"],
)
def test_failures_are_sentences_and_leave_nothing(
    secure: Server, tmp_path: Path, text: str, kind: type[BmqwenError], words: str
) -> None:
    # Only silence is waited for; on a busy machine the rest may take seconds to begin.
    source = Sophgo([secure], dfss(tmp_path, text), stall=1.0 if "sleep" in text else 60.0)
    with pytest.raises(kind, match=words):
        hub(tmp_path / "cache", source).pull(NAME)
    assert left_in(tmp_path / "cache") == []


def test_nobody_answers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        closed = Server("127.0.0.1", listening.getsockname()[1], "open", "open")
    with pytest.raises(DownloadError, match=r"none of its 1 addresses answers.*and name the file"):
        hub(tmp_path / "cache", Sophgo([closed], ["false"])).pull(NAME)


def test_archive_without_a_tokenizer(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files["token_config.zip"] = b"no archive"
    with pytest.raises(DownloadError, match=r"holds no tokenizer\.json: put the tokenizer files"):
        hub(tmp_path / "cache", by_http(publisher)).pull(NAME)
    publisher.files["token_config.zip"] = archive()
    # The bmodel was there already.
    hub(tmp_path / "cache", by_http(publisher)).pull(NAME)
    assert len(publisher.starts(FILE)) == 1


def test_names() -> None:
    for name in PUBLISHED:
        for typed in (name, f"{name}.bmodel", name.upper()):
            model = find(typed)
            assert (model.name, model.file, list(model.repos)) == (name, f"{name}.bmodel", [SOPHGO])
    assert find("qwen1.5-0.5b_f16_1dev").repos[SOPHGO] == FOLDER
    assert find("qwen1.5-7b_int4_seq512_1dev").repos[SOPHGO] == "sophon-demo/Qwen/qwen1.5"
    with pytest.raises(InputError, match=r"did you mean qwen1\.5-1\.8b_int4_1dev"):
        find("qwen1.5-1.8b_int4_2dev")


def test_chat_models_are_not_there(publisher: Publisher, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not carry qwen1\.5-1\.8b-chat, only .*1\.8b_int4_1dev"):
        hub(tmp_path / "cache", by_http(publisher)).pull("qwen1.5-1.8b-chat", source="sophgo")


def test_servers_are_those_that_dfss_knows() -> None:
    servers = known_servers()
    assert len(servers) >= 2
    assert all(server.port and server.user for server in servers)
