"""The publisher's server of bmodels: over HTTP where it speaks that, which goes on after a cut, else through `dfss`."""

import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from bmqwen.artifact.bmodel import check_bmodel
from bmqwen.errors import BundleError, DownloadError, InputError, StorageError
from bmqwen.hub.catalog import SOPHGO, Model
from bmqwen.hub.sophgo_servers import CONNECT_SECONDS, PACKAGE, Server, known_servers, reachable
from bmqwen.hub.source import Release, RemoteFile, UnreachableError
from bmqwen.hub.transfer import download
from bmqwen.hub.watched_program import Program, run_watched
from bmqwen.util.progress import Progress, Report
from bmqwen.util.storage import file_sha256, storage_errors

ACCOUNT = "open@sophgo.com"
TOKENIZER = "sophon-demo/Qwen1_5/token_config.zip"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_LARGEST_MEMBER = 64 << 20
_STALL_SECONDS = 120.0


class Sophgo:
    """Source of the published bmodels and their tokenizer.

    Args:
        servers: where to ask; None for those that dfss knows.
        program: command that runs dfss; None for the installed one.
        stall: seconds without a byte after which a download is given up.
    """

    title = "SOPHGO's server"

    def __init__(
        self,
        servers: Sequence[Server] | None = None,
        program: Sequence[str] | None = None,
        stall: float = _STALL_SECONDS,
    ) -> None:
        self._servers, self._program, self._stall = servers, program, stall
        self._web: Server | None = None

    def offers(self, model: Model) -> bool:
        """See Source."""
        return SOPHGO in model.repos

    def find(self, model: Model, patience: float) -> Release:
        """See Source. The size is known only where the server speaks HTTP."""
        servers = known_servers() if self._servers is None else self._servers
        answering = reachable(servers, min(patience, CONNECT_SECONDS))
        if not answering:
            raise UnreachableError(
                f"{self.title} could not be reached (none of its {len(servers)} addresses answers)"
            )
        repo, size = model.repos[SOPHGO], 0
        for server in answering:
            found = server.file(f"{repo}/{model.file}").size(min(patience, CONNECT_SECONDS))
            if found is not None:
                self._web, size = server, found
                break
        files = (RemoteFile(str(model.file), size), *(RemoteFile(name, 0) for name in _TOKENIZER_FILES))
        return Release(model, SOPHGO, repo, "published", files, scratch=_LARGEST_MEMBER)

    def fetch(
        self, release: Release, file: RemoteFile, target: Path, report: Report, progress: Progress
    ) -> None:
        """See Source. The hash of a bmodel, which the server does not state, is written beside it."""
        if file.name in _TOKENIZER_FILES:
            progress.start(f"Downloading the tokenizer of {release.model.title}", None)
            self._tokenizer_file(file.name, target, report)
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

    def _tokenizer_file(self, name: str, target: Path, report: Report) -> None:
        """One file of the archive that they come in, which is kept until the last one is out."""
        archive = target.parent / Path(TOKENIZER).name
        if not archive.is_file():
            part = archive.with_name(f"{archive.name}.part")
            size = self._web.file(TOKENIZER).size(CONNECT_SECONDS) if self._web else None
            self._get(TOKENIZER, size or 0, part, report)
            part.replace(archive)
        try:
            with zipfile.ZipFile(archive) as content, storage_errors(target):
                member = next(i for i in content.infolist() if Path(i.filename).name == name)
                if member.file_size > _LARGEST_MEMBER:
                    raise zipfile.BadZipFile("too large")
                target.write_bytes(content.read(member))
        except (zipfile.BadZipFile, StopIteration, NotImplementedError, RuntimeError, EOFError) as error:
            archive.unlink()
            raise DownloadError(
                f"{archive.name} from {self.title} holds no {name}: put the tokenizer files of the model beside the "
                "bmodel yourself"
            ) from error
        if name == _TOKENIZER_FILES[-1]:
            archive.unlink()

    def _get(self, path: str, size: int, target: Path, report: Report) -> None:
        if self._web is None or not size:
            self._by_dfss(path, target, report)
            return
        remote = RemoteFile(target.name.removesuffix(".part"), size)
        download(self._web.file(path).open_at, remote, target, report, self.title)

    def _by_dfss(self, path: str, target: Path, report: Report) -> None:
        """Through the publisher's program, which begins every file anew."""
        folder, name = target.parent / "incoming", Path(path).name
        log = target.parent / "dfss.log"
        with storage_errors(target):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        command = [
            *(self._program or _dfss()),
            f"--url={ACCOUNT}:{path}",
            f"--connect_timeout={CONNECT_SECONDS:.0f}",
        ]
        try:
            code = run_watched(Program(PACKAGE, command, folder), folder, log, report, self._stall)
            if code or not (folder / name).is_file():
                raise self._failure(path, log.read_text("utf-8", "replace"))
            with storage_errors(target):
                (folder / name).replace(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            log.unlink(missing_ok=True)

    def _failure(self, path: str, log: str) -> DownloadError | InputError | StorageError:
        """Why dfss ended without the file."""
        if "No space left on device" in log:
            return StorageError(f"no space left while writing {path}: free some disk space and try again")
        if "Unable to open file with SFTP" in log:
            return InputError(f"{self.title} has no {path}")
        if "No available server found" in log:
            return UnreachableError(f"{self.title} could not be reached (dfss found none of its addresses)")
        errors = [line for line in log.splitlines() if "ERROR" in line]
        cause = errors[-1].partition("ERROR")[2].strip(" :")[:200] if errors else "it does not say why"
        return DownloadError(f"dfss could not fetch {path} ({cause}): run the command again")


def _dfss() -> list[str]:
    return [sys.executable, "-m", PACKAGE]
