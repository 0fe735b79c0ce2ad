"""The publisher's server of bmodels: over HTTP where it speaks that, with resume, else through `dfss`."""

import base64
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from concurrent import futures
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bmqwen.artifact.bmodel import check_bmodel
from bmqwen.errors import BundleError, DownloadError, InputError, MissingDependencyError, StorageError
from bmqwen.hub.catalog import SOPHGO, Model
from bmqwen.hub.source import Release, RemoteFile, Source, UnreachableError, on_thread
from bmqwen.hub.transfer import READ_SECONDS, WebFile, download
from bmqwen.util.installation import install_command
from bmqwen.util.json_file import read_json_object
from bmqwen.util.progress import Progress, Report
from bmqwen.util.storage import file_sha256, size_below, storage_errors, write_file
from bmqwen.util.text import counted

_PACKAGE = "dfss"
# The servers answer immediately or, behind a firewall, never.
_CONNECT_SECONDS = 5.0
_POLL_SECONDS = 0.1
ACCOUNT = "open@sophgo.com"
TOKENIZER = "sophon-demo/Qwen1_5/token_config.zip"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_LARGEST_MEMBER = 64 << 20
_STALL_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Server:
    """One of the publisher's servers, as dfss knows it."""

    host: str
    port: int
    user: str
    password: str

    def file(self, path: str, seconds: float = READ_SECONDS) -> WebFile:
        """A file of it, over HTTP, which not every server speaks."""
        login = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        url = f"http://{self.host}:{self.port}/{path}"
        return WebFile(url, {"Authorization": f"Basic {login}"}, seconds=seconds)

    def size(self, path: str, seconds: float) -> int | None:
        """Return a file's bytes; 0 where it does not say them over HTTP, None where nobody answers."""
        import httpx2

        try:
            with self.file(path, seconds).ask("HEAD") as answer:
                return int(answer.headers.get("Content-Length", 0))
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            return None
        # An SSH server answers with what is no HTTP, and a gateway that stands between with errors of its own.
        except (OSError, httpx2.HTTPError, ValueError):
            return 0


class Sophgo(Source):
    """Source of the published bmodels and their tokenizer.

    Args:
        servers: where to ask; None for those that dfss knows.
        program: command that runs dfss; None for the installed one.
        stall: seconds without a byte after which dfss is killed.
    """

    name, title = SOPHGO, "SOPHGO's server"

    def __init__(
        self,
        servers: Sequence[Server] | None = None,
        program: Sequence[str] | None = None,
        stall: float = _STALL_SECONDS,
    ) -> None:
        self._servers, self._program, self._stall = servers, program, stall
        self._web: Server | None = None

    def find(self, model: Model, patience: float) -> Release:
        """See Source. The size is known only where the server speaks HTTP."""
        servers = known_servers() if self._servers is None else self._servers
        repo, seconds = model.repos[SOPHGO], min(patience, _CONNECT_SECONDS)
        path = f"{repo}/{model.file}"
        asked = {on_thread(partial(server.size, path, seconds)): server for server in servers}
        sizes: list[int] = []
        with suppress(futures.TimeoutError):
            for future in futures.as_completed(asked, 2 * seconds):
                if (size := future.result()) is not None:
                    sizes.append(size)
                if size:  # others may be behind a firewall that swallows everything
                    self._web = asked[future]
                    break
        if not sizes:
            raise UnreachableError(
                f"{self.title} could not be reached (none of its {len(servers)} addresses answers)"
            )
        files = (RemoteFile(str(model.file), sizes[-1]), *(RemoteFile(name, 0) for name in _TOKENIZER_FILES))
        return Release(model, repo, "published", files, scratch=_LARGEST_MEMBER)

    def fetch(
        self, release: Release, file: RemoteFile, target: Path, report: Report, progress: Progress
    ) -> None:
        """See Source. The hash of a bmodel, which the server does not state, is written beside it."""
        if file.name in _TOKENIZER_FILES:
            progress.start(f"Downloading the tokenizer of {release.model.title}", None)
            self._tokenizer(file.name, target, report)
            return
        self._get(f"{release.repo}/{file.name}", file.size, target, report)
        try:
            check_bmodel(target)
        except BundleError as error:
            target.unlink()
            raise DownloadError(
                f"{file.name} from {self.title} arrived damaged and was deleted: {error}"
            ) from error
        with storage_errors(target):
            digest = file_sha256(target)
            target.with_name(f"{file.name}.sha256").write_text(f"{digest}  {file.name}\n", encoding="utf-8")

    def _tokenizer(self, wanted: str, target: Path, report: Report) -> None:
        """One file of the archive that they come in, and the others where they belong."""
        archive = target.parent / f"{Path(TOKENIZER).name}.part"
        self._get(TOKENIZER, 0, archive, report)
        try:
            with zipfile.ZipFile(archive) as content, storage_errors(target):
                for name in _TOKENIZER_FILES:
                    member = next(i for i in content.infolist() if Path(i.filename).name == name)
                    if member.file_size > _LARGEST_MEMBER:
                        raise zipfile.BadZipFile("too large")
                    place = target if name == wanted else target.with_name(name)
                    write_file(place, content.read(member))
        except (zipfile.BadZipFile, StopIteration, NotImplementedError, RuntimeError, EOFError) as error:
            raise DownloadError(
                f"{Path(TOKENIZER).name} from {self.title} holds no {wanted}: put the tokenizer files of the model "
                "beside the bmodel yourself"
            ) from error
        finally:
            archive.unlink()

    def _get(self, path: str, size: int, target: Path, report: Report) -> None:
        if self._web is None:
            self._by_dfss(path, target, report)
        else:
            remote = RemoteFile(target.name.removesuffix(".part"), size)
            download(self._web.file(path), remote, target, report, self.title)

    def _by_dfss(self, path: str, target: Path, report: Report) -> None:
        """Through the publisher's program, which begins every file from the start."""
        folder = target.parent / "incoming"
        command = [
            *(self._program or (sys.executable, "-m", _PACKAGE)),
            f"--url={ACCOUNT}:{path}",
            f"--connect_timeout={_CONNECT_SECONDS:.0f}",
        ]
        shutil.rmtree(folder, ignore_errors=True)
        try:
            with storage_errors(target):
                folder.mkdir()
            code, log = _run(command, folder, report, self._stall)
            if code or not (folder / Path(path).name).is_file():
                raise self._failure(path, log)
            with storage_errors(target):
                (folder / Path(path).name).replace(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _failure(self, path: str, log: str) -> DownloadError | InputError | StorageError:
        """Why dfss ended without the file."""
        if "No space left on device" in log:
            return StorageError(f"no space left while writing {path}: free some disk space and try again")
        if "Unable to open file with SFTP" in log:
            return InputError(f"{self.title} has no {path}")
        if "No available server found" in log:
            return UnreachableError(f"{self.title} could not be reached (dfss found none of its addresses)")
        *_, cause = ["it does not say why", *re.findall("ERROR(.*)", log)]
        cause = cause.strip(" :")[:200]
        return DownloadError(f"dfss could not fetch {path} ({cause}): run the command again")


def known_servers() -> list[Server]:
    """Return the public servers in dfss's own list. Raises MissingDependencyError without dfss."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            f"the published bmodels are fetched with the package dfss: {install_command('sophgo')}"
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    content: Any = read_json_object(folder / "output" / "dfss-config.json", InputError)
    with suppress(KeyError, TypeError, ValueError):
        return [Server(e["host"], int(e["port"]), e["user"], e["pass"]) for e in content["sdk"]]
    return []


def _run(command: Sequence[str], folder: Path, report: Report, stall: float) -> tuple[int, str]:
    """Run dfss, which reports nothing itself and may hang, in `folder`; return its exit code and what it printed.

    Raises DownloadError: it was killed after `stall` seconds without a byte or a word.
    """
    log = folder / "dfss.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
        )
    seen, since = -1, time.monotonic()
    try:
        while process.poll() is None:
            if (size := size_below(folder)) != seen:
                seen, since = size, time.monotonic()
                report(size)
            elif time.monotonic() - since > stall:
                raise DownloadError(
                    f"{_PACKAGE} got nothing for {counted(round(stall), 'second')}: check the network and try again"
                )
            time.sleep(_POLL_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, log.read_text("utf-8", "replace")
