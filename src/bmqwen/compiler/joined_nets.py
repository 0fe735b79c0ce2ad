"""The nets compiled so far, joined: weights are on the disk once, however many nets there are."""

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bmqwen.artifact.steps import StepShape
from bmqwen.compiler.profile import Profile
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.compiler.tpuc import combine
from bmqwen.util.storage import file_sha256, storage_errors, write_file

STATE = "joined.json"


@dataclass(frozen=True, slots=True)
class FinishedStage:
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
        """For a file."""
        return {"identity": self.identity, "profile": asdict(self.profile), "seconds": self.seconds}

    @classmethod
    def from_dict(cls, stated: Mapping[str, Any]) -> "FinishedStage":
        """From a file. Raises KeyError, TypeError or ValueError."""
        return cls(str(stated["identity"]), Profile.from_dict(stated["profile"]), float(stated["seconds"]))


class JoinedNets:
    """A bmodel that grows by one net at a time, in the order of its stages.

    `joined.json` is the truth: it names the bmodel, whose name holds the number of its nets, so that a run killed at
    any point leaves either the old pair or the new one.
    """

    def __init__(self, folder: Path) -> None:
        """Find what an earlier run joined in `folder`; damaged or incomplete, it counts for nothing."""
        self._folder = folder
        self.stages: dict[StepShape, FinishedStage] = {}
        try:
            stated = json.loads((folder / STATE).read_bytes())
            stages = {
                StepShape(s["tokens"], s["history"]): FinishedStage.from_dict(s) for s in stated["stages"]
            }
            if file_sha256(self._named(len(stages))) == stated["bmodel"]:
                self.stages = stages
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self._drop_others()

    @property
    def bmodel(self) -> Path:
        """The file; there is none before the first net."""
        return self._named(len(self.stages))

    def add(
        self,
        toolchain: Toolchain,
        shape: StepShape,
        stage: FinishedStage,
        bmodel: Path,
        cancelled: threading.Event | None = None,
    ) -> None:
        """Join one more net; its own file is no longer needed then. Raises CompileError, StorageError."""
        old, new = self.bmodel, self._named(len(self.stages) + 1)
        if self.stages:
            combine(toolchain, [old, bmodel], new, cancelled=cancelled)
        else:
            link_or_copy(bmodel, new)
        stages = self.stages | {shape: stage}
        rows = [{"tokens": s.tokens, "history": s.history, **f.to_dict()} for s, f in stages.items()]
        content = {"bmodel": file_sha256(new), "stages": rows}
        write_file(self._folder / STATE, json.dumps(content, indent=1).encode())
        self.stages = stages
        with contextlib.suppress(OSError):
            old.unlink()

    def clear(self) -> None:
        """Forget all nets."""
        self.stages = {}
        self._drop_others()

    def _drop_others(self) -> None:
        for path in self._folder.glob("joined-*.bmodel"):
            if not self.stages or path != self.bmodel:
                path.unlink()

    def _named(self, count: int) -> Path:
        return self._folder / f"joined-{count}.bmodel"


def link_or_copy(source: Path, target: Path) -> None:
    """Have a file's content under a second name, without a second copy where the disk can. Raises StorageError."""
    with storage_errors(target):
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:  # another disk, or a file system without hard links
            shutil.copyfile(source, target)
