"""The folder of a compilation under way: what is finished stays for the next run."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import threading
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from bmqwen.artifact.steps import StepShape
from bmqwen.compiler.timing import Profile, read_profile
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.compiler.tpuc import LOG, CompiledNet, combine
from bmqwen.util.paths import cache_folder
from bmqwen.util.storage import file_sha256, path_lock, storage_errors, write_file

NET = "step"
WEIGHTS = "weights.npz"
ADDRESSES = "addresses.json"
STAGE = "stage.json"
STATE = "joined.json"


@dataclass(frozen=True, slots=True)
class FinishedNet:
    """A compiled net.

    Attributes:
        identity: hashes of everything that it was made from.
        profile: its timing on the chip.
        seconds: how long it took to compile.
    """

    identity: str
    profile: Profile
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return it for a file."""
        return {"identity": self.identity, "profile": asdict(self.profile), "seconds": self.seconds}

    @classmethod
    def from_dict(cls, stated: Mapping[str, Any]) -> "FinishedNet":
        """Read it from a file. Raises KeyError, TypeError or ValueError."""
        return cls(str(stated["identity"]), Profile.from_dict(stated["profile"]), float(stated["seconds"]))


class JoinedNets:
    """A bmodel that grows by one net at a time.

    `joined.json` is the truth: it names the bmodel, whose name holds the number of its nets, so that a run killed at
    any point leaves either the old pair or the new one.
    """

    def __init__(self, folder: Path) -> None:
        """Find what an earlier run joined in `folder`; damaged or incomplete, it counts for nothing."""
        self._folder = folder
        self.nets: dict[StepShape, FinishedNet] = {}
        try:
            stated = json.loads((folder / STATE).read_bytes())
            nets = {StepShape(s["tokens"], s["history"]): FinishedNet.from_dict(s) for s in stated["stages"]}
            if file_sha256(self._named(len(nets))) == stated["bmodel"]:
                self.nets = nets
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self._drop_others()

    @property
    def bmodel(self) -> Path:
        """The file; there is none before the first net."""
        return self._named(len(self.nets))

    def add(
        self,
        toolchain: Toolchain,
        shape: StepShape,
        done: FinishedNet,
        bmodel: Path,
        cancelled: threading.Event | None = None,
    ) -> None:
        """Join one more net; its own file is no longer needed then. Raises CompileError, StorageError."""
        old, new = self.bmodel, self._named(len(self.nets) + 1)
        if self.nets:
            combine(toolchain, [old, bmodel], new, cancelled=cancelled)
        else:
            link_or_copy(bmodel, new)
        nets = self.nets | {shape: done}
        rows = [{"tokens": s.tokens, "history": s.history, **f.to_dict()} for s, f in nets.items()]
        content = {"bmodel": file_sha256(new), "stages": rows}
        write_file(self._folder / STATE, json.dumps(content, indent=1).encode())
        self.nets = nets
        with contextlib.suppress(OSError):
            old.unlink()

    def clear(self) -> None:
        """Forget all nets."""
        self.nets = {}
        self._drop_others()

    def _drop_others(self) -> None:
        for path in self._folder.glob("joined-*.bmodel"):
            if not self.nets or path != self.bmodel:
                path.unlink()

    def _named(self, count: int) -> Path:
        return self._folder / f"joined-{count}.bmodel"


class WorkFolder:
    """Files of one compilation, below the cache and locked in a `with` statement.

    `weights.npz` serves all nets; each net has a folder `TOKENS-HISTORY` with its text and addresses, and when it
    is finished its bmodel and `stage.json`, until it is joined with the nets before it.
    """

    def __init__(
        self,
        key: str,
        texts: Mapping[StepShape, tuple[str, str]],
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Describe it.

        Args:
            key: everything that decides the content, the weights among it, as a name.
            texts: Top-MLIR and addresses of all nets, in their order in the bmodel.
            note: told when the folder has to be waited for.
        """
        self.path = cache_folder("compile") / key
        self._held = contextlib.ExitStack()
        self._texts = dict(texts)
        self._note = note
        self._joining = threading.Lock()

    def __enter__(self) -> "WorkFolder":
        with contextlib.ExitStack() as held:
            waits = "another process compiles the same model: waiting for it"
            held.enter_context(path_lock(self.path, lambda: self._note(waits)))
            with storage_errors(self.path):
                self.path.mkdir(exist_ok=True)
                end_orphans(self.path)
                self._joined = JoinedNets(self.path)
                if any(done.identity != self._identity(s) for s, done in self._joined.nets.items()):
                    self._joined.clear()
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    @property
    def weights(self) -> Path:
        """The shared weights."""
        return self.path / WEIGHTS

    @property
    def bmodel(self) -> Path:
        """All nets in one, when all are joined."""
        return self._joined.bmodel

    def has_weights(self) -> bool:
        """Tell whether the weights are there, whole."""
        try:
            with zipfile.ZipFile(self.weights) as file:
                return bool(file.namelist())
        except (OSError, zipfile.BadZipFile):
            return False

    def net_folder(self, shape: StepShape) -> Path:
        """Return a net's own folder."""
        return self.path / f"{shape.tokens}-{shape.history}"

    def finished(self, shape: StepShape) -> FinishedNet | None:
        """Return what an earlier run left of this net, if it is of this very text and undamaged."""
        if shape in self._joined.nets:
            return self._joined.nets[shape]
        try:
            stated = json.loads((self.net_folder(shape) / STAGE).read_bytes())
            done = FinishedNet.from_dict(stated)
            whole = stated["bmodel"] == file_sha256(self.net_bmodel(shape))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return done if whole and done.identity == self._identity(shape) else None

    def net_bmodel(self, shape: StepShape) -> Path:
        """Return a net's bmodel, before it is joined."""
        return self.net_folder(shape) / f"{NET}.bmodel"

    def begin(self, shape: StepShape) -> Path:
        """Make an empty folder for the compiler of a net and return the path of its text."""
        folder = self.net_folder(shape)
        mlir = folder / f"{NET}.mlir"
        with storage_errors(folder):
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir()
            text, addresses = self._texts[shape]
            mlir.write_text(text)
            (folder / ADDRESSES).write_text(addresses)
            link_or_copy(self.weights, folder / WEIGHTS)
        return mlir

    def finish(self, shape: StepShape, net: CompiledNet, seconds: float) -> FinishedNet:
        """Keep a compiled net; the compiler's other files go. Raises CompileError for a net without timing."""
        done = FinishedNet(self._identity(shape), read_profile(net.profile), round(seconds, 1))
        stated = done.to_dict() | {"bmodel": file_sha256(net.bmodel)}
        self._clear(shape, net.bmodel.name)
        write_file(self.net_folder(shape) / STAGE, json.dumps(stated, indent=1).encode())
        return done

    def join(self, toolchain: Toolchain, cancelled: threading.Event | None = None) -> None:
        """Join what is finished, in order, as far as there is no gap. May be called by any thread."""
        with self._joining:
            for shape in list(self._texts)[len(self._joined.nets) :]:
                done = self.finished(shape)
                if done is None:
                    break
                self._joined.add(toolchain, shape, done, self.net_bmodel(shape), cancelled)
                shutil.rmtree(self.net_folder(shape), ignore_errors=True)

    def abandon(self, shape: StepShape, *, keep_log: bool) -> None:
        """Remove what an unfinished net left, all but the compiler's log where it tells why."""
        if keep_log:
            self._clear(shape, LOG)
        else:
            shutil.rmtree(self.net_folder(shape), ignore_errors=True)

    def remove(self) -> None:
        """Remove everything: the work is done."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _identity(self, shape: StepShape) -> str:
        """Of a net: its text, and where inputs and outputs lie."""
        return hashlib.sha256(repr(self._texts.get(shape)).encode()).hexdigest()

    def _clear(self, shape: StepShape, kept: str) -> None:
        for path in self.net_folder(shape).glob("*"):
            if path.name != kept:
                with contextlib.suppress(OSError):
                    path.unlink()


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
