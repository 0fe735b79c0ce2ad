"""The folder of a compilation under way: what is finished stays for the next run."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bmqwen.artifact.bmodel import reserve_intermediates
from bmqwen.artifact.steps import StepShape
from bmqwen.compiler.timing import Profile, read_profile
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.compiler.tpuc import LOG, CompiledNet, combine
from bmqwen.util.paths import cache_folder
from bmqwen.util.storage import file_sha256, path_lock, storage_errors, write_file

NET = "step"
BMODEL = f"{NET}.bmodel"
WEIGHTS = "weights.npz"
ADDRESSES = "addresses.json"
STAGE = "stage.json"
STATE = "joined.json"


@dataclass(frozen=True, slots=True)
class FinishedNet:
    """A compiled net: hashes of all that it was made from, its timing on the chip, seconds that it took to compile."""

    identity: str
    profile: Profile
    seconds: float

    @classmethod
    def from_dict(cls, stated: Mapping[str, Any]) -> "FinishedNet":
        """Read it from what `asdict` made. Raises KeyError, TypeError or ValueError."""
        return cls(str(stated["identity"]), Profile.from_dict(stated["profile"]), float(stated["seconds"]))


@contextlib.contextmanager
def open_work_folder(
    key: str, texts: Mapping[StepShape, tuple[str, str]], note: Callable[[str], None]
) -> Iterator["WorkFolder"]:
    """Lock the work folder that is called `key`, by everything that decides its content, for the time of the body."""
    path = cache_folder("compile") / key
    with path_lock(path, lambda: note("another process compiles the same model: waiting for it")):
        with storage_errors(path):
            path.mkdir(exist_ok=True)
            end_orphans(path)
            work = WorkFolder(path, texts)
        yield work


class WorkFolder:
    """Files of one compilation, below the cache. The caller holds its lock.

    `weights.npz` serves all nets; each net has a folder `TOKENS-HISTORY`, of several results `TOKENS-HISTORY-RESULTS`,
    with its text and addresses, and when it is finished its bmodel and `stage.json`, until it is joined with the nets
    before it. What is joined is one bmodel, whose name holds the number of its nets; `joined.json` is the truth: a run
    killed at any point leaves either the old pair or the new one.

    Attributes:
        weights: the file of the shared weights.
    """

    def __init__(self, path: Path, texts: Mapping[StepShape, tuple[str, str]]) -> None:
        """Find what an earlier run left; damaged, incomplete or of other nets, it counts for nothing.

        `texts`: Top-MLIR and addresses of all nets, in their order in the bmodel.
        """
        self.path = path
        self.weights = path / WEIGHTS
        self._texts = texts
        self._joining = threading.Lock()
        self._joined: dict[StepShape, FinishedNet] = {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            stated = json.loads((path / STATE).read_bytes())
            nets = {StepShape.from_dict(s): FinishedNet.from_dict(s) for s in stated["stages"]}
            same = all(done.identity == self._identity(shape) for shape, done in nets.items())
            if same and file_sha256(self._joined_file(len(nets))) == stated["bmodel"]:
                self._joined = nets
        for file in path.glob("joined-*.bmodel"):
            if not self._joined or file != self.bmodel:
                file.unlink()

    @property
    def bmodel(self) -> Path:
        """All nets in one, when all are joined."""
        return self._joined_file(len(self._joined))

    def net_folder(self, shape: StepShape) -> Path:
        """Return a net's own folder."""
        results = f"-{shape.rows}" if shape.rows > 1 else ""
        return self.path / f"{shape.tokens}-{shape.history}{results}"

    def finished(self, shape: StepShape) -> FinishedNet | None:
        """Return what an earlier run left of this net, if it is of this very text and undamaged."""
        if shape in self._joined:
            return self._joined[shape]
        folder = self.net_folder(shape)
        try:
            stated = json.loads((folder / STAGE).read_bytes())
            done = FinishedNet.from_dict(stated)
            whole = stated["bmodel"] == file_sha256(folder / BMODEL)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return done if whole and done.identity == self._identity(shape) else None

    def begin(self, shape: StepShape) -> Path:
        """Make an empty folder for the compiler of a net and return the path of its text."""
        return begin_net(self.net_folder(shape), *self._texts[shape], self.weights)

    def finish(self, shape: StepShape, net: CompiledNet, seconds: float) -> FinishedNet:
        """Keep a compiled net; the compiler's other files go. Raises CompileError for a net without timing."""
        done = FinishedNet(self._identity(shape), read_profile(net.profile), round(seconds, 1))
        stated = asdict(done) | {"bmodel": file_sha256(net.bmodel)}
        self._clear(shape, net.bmodel.name)
        write_file(self.net_folder(shape) / STAGE, json.dumps(stated, indent=1).encode())
        return done

    def join(self, toolchain: Toolchain, cancelled: threading.Event | None = None) -> None:
        """Join what is finished, in order, as far as there is no gap. May be called by any thread.

        Raises CompileError, StorageError.
        """
        with self._joining:
            for shape in list(self._texts)[len(self._joined) :]:
                done = self.finished(shape)
                if done is None:
                    break
                own, old, new = (
                    self.net_folder(shape) / BMODEL,
                    self.bmodel,
                    self._joined_file(len(self._joined) + 1),
                )
                if self._joined:
                    combine(toolchain, [old, own], new, cancelled=cancelled)
                    reserve_intermediates(new)
                else:
                    link_or_copy(own, new)
                joined = self._joined | {shape: done}
                rows = [asdict(s) | asdict(net) for s, net in joined.items()]
                content = {"bmodel": file_sha256(new), "stages": rows}
                write_file(self.path / STATE, json.dumps(content, indent=1).encode())
                self._joined = joined
                with contextlib.suppress(OSError):
                    old.unlink()
                shutil.rmtree(own.parent, ignore_errors=True)

    def abandon(self, shape: StepShape, *, keep_log: bool) -> None:
        """Remove what an unfinished net left, all but the compiler's log where it tells why."""
        if keep_log:
            self._clear(shape, LOG)
        else:
            shutil.rmtree(self.net_folder(shape), ignore_errors=True)

    def remove(self) -> None:
        """Remove everything: the work is done."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _joined_file(self, count: int) -> Path:
        return self.path / f"joined-{count}.bmodel"

    def _identity(self, shape: StepShape) -> str:
        """Of a net: its text, and where inputs and outputs lie."""
        return hashlib.sha256(repr(self._texts.get(shape)).encode()).hexdigest()

    def _clear(self, shape: StepShape, kept: str) -> None:
        for path in self.net_folder(shape).glob("*"):
            if path.name != kept:
                with contextlib.suppress(OSError):
                    path.unlink()


def begin_net(folder: Path, text: str, addresses: str, weights: Path) -> Path:
    """Make an empty folder for the compiler of one net and return the path of its text. Raises StorageError."""
    mlir = folder / f"{NET}.mlir"
    with storage_errors(folder):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        mlir.write_text(text)
        (folder / ADDRESSES).write_text(addresses)
        link_or_copy(weights, folder / WEIGHTS)
    return mlir


def end_orphans(folder: Path) -> None:
    """Kill compilers that work in `folder`: their bmqwen was killed before them. The caller holds the lock.

    They are known by the variable that names their folder; a user's shell may stand in it as well.
    """
    mark = f"PPL_WORK_PATH={folder}/".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(variable.startswith(mark) for variable in (entry / "environ").read_bytes().split(b"\0")):
                os.kill(int(entry.name), signal.SIGKILL)


def link_or_copy(source: Path, target: Path) -> None:
    """Have a file's content under a second name, without a second copy where the disk can. Raises StorageError."""
    with storage_errors(target):
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:  # another disk, or a file system without hard links
            shutil.copyfile(source, target)
