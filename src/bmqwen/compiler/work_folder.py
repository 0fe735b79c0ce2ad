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
from pathlib import Path
from types import TracebackType

from bmqwen.artifact.steps import StepShape
from bmqwen.compiler.joined_nets import FinishedStage, JoinedNets, link_or_copy
from bmqwen.compiler.profile import read_profile
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.compiler.tpuc import LOG, CompiledNet
from bmqwen.util.paths import cache_folder
from bmqwen.util.storage import file_sha256, path_lock, storage_errors, write_file

NET = "step"
WEIGHTS = "weights.npz"
ADDRESSES = "addresses.json"
STAGE = "stage.json"


class WorkFolder:
    """Files of one compilation, below the cache and locked in a `with` statement.

    `weights.npz` serves all stages; each stage has a folder `TOKENS-HISTORY` with its text and addresses, and when it
    is finished its bmodel and `stage.json`, until it is joined with the stages before it.
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
                if any(stage.identity != self._identity(s) for s, stage in self._joined.stages.items()):
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
        """Whether the weights are there, whole."""
        try:
            with zipfile.ZipFile(self.weights) as file:
                return bool(file.namelist())
        except (OSError, zipfile.BadZipFile):
            return False

    def stage_folder(self, shape: StepShape) -> Path:
        """A stage's own folder."""
        return self.path / f"{shape.tokens}-{shape.history}"

    def finished(self, shape: StepShape) -> FinishedStage | None:
        """What an earlier run left of this net, if it is of this very text and undamaged."""
        if shape in self._joined.stages:
            return self._joined.stages[shape]
        try:
            stated = json.loads((self.stage_folder(shape) / STAGE).read_bytes())
            stage = FinishedStage.from_dict(stated)
            whole = stated["bmodel"] == file_sha256(self.stage_bmodel(shape))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return stage if whole and stage.identity == self._identity(shape) else None

    def stage_bmodel(self, shape: StepShape) -> Path:
        """A stage's bmodel, before it is joined."""
        return self.stage_folder(shape) / f"{NET}.bmodel"

    def begin(self, shape: StepShape) -> Path:
        """Make a stage's folder anew for the compiler and return the path of its text."""
        folder = self.stage_folder(shape)
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

    def finish(self, shape: StepShape, net: CompiledNet, seconds: float) -> FinishedStage:
        """Keep a compiled stage; the compiler's other files go. Raises CompileError for a net without timing."""
        stage = FinishedStage(self._identity(shape), read_profile(net.profile), round(seconds, 1))
        stated = stage.to_dict() | {"bmodel": file_sha256(net.bmodel)}
        self._clear(shape, net.bmodel.name)
        write_file(self.stage_folder(shape) / STAGE, json.dumps(stated, indent=1).encode())
        return stage

    def join(self, toolchain: Toolchain, cancelled: threading.Event | None = None) -> None:
        """Join what is finished, in order, as far as there is no gap. May be called by any thread."""
        with self._joining:
            for shape in list(self._texts)[len(self._joined.stages) :]:
                stage = self.finished(shape)
                if stage is None:
                    break
                self._joined.add(toolchain, shape, stage, self.stage_bmodel(shape), cancelled)
                shutil.rmtree(self.stage_folder(shape), ignore_errors=True)

    def abandon(self, shape: StepShape, *, keep_log: bool) -> None:
        """Remove what an unfinished stage left, all but the compiler's log where it tells why."""
        if keep_log:
            self._clear(shape, LOG)
        else:
            shutil.rmtree(self.stage_folder(shape), ignore_errors=True)

    def remove(self) -> None:
        """Remove everything: the work is done."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _identity(self, shape: StepShape) -> str:
        """Of a net: its text, and where inputs and outputs lie."""
        return hashlib.sha256(repr(self._texts.get(shape)).encode()).hexdigest()

    def _clear(self, shape: StepShape, kept: str) -> None:
        for path in self.stage_folder(shape).glob("*"):
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
