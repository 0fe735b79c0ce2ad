"""Timings of nets in the cache: a net is compiled once, whatever asks for it."""

import gzip
import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path

from bmqwen.compiler.timing import Command, Profile, Timeline, read_profile, read_timeline
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.compiler.tpuc import LOG, Recipe, compile_net
from bmqwen.compiler.work_folder import ADDRESSES, WEIGHTS, begin_net, end_orphans
from bmqwen.errors import CompileError
from bmqwen.util.paths import cache_folder
from bmqwen.util.storage import path_lock, storage_errors, sweep, write_file

# Raised when what is read from a compilation changes, so that older timings are not used.
READER = 1


@dataclass(frozen=True, slots=True)
class Net:
    """A net to be timed: Top-MLIR, how it is lowered, and where its inputs and outputs lie (empty: anywhere)."""

    text: str
    recipe: Recipe
    addresses: str = ""


@dataclass(frozen=True, slots=True)
class NetTiming:
    """The timing of a compiled net: sums, and every command."""

    profile: Profile
    timeline: Timeline


class NetStore:
    """Compiles nets for their timing alone; what is finished is never compiled again.

    A timing, kept in `folder`, is known by the net and the compiler. Weights are in one file for all nets.
    """

    def __init__(self, toolchain: Toolchain, key: str, note: Callable[[str], None]) -> None:
        """`key` names the folder for work under way: one process at a time works there. `note` is told of a wait."""
        self._toolchain, self._note = toolchain, note
        self.folder = cache_folder("estimate")
        self._work = self.folder / f"work-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        self._weights = self._work / WEIGHTS

    def find(self, net: Net) -> NetTiming | None:
        """Return the timing of a net, or None if it was never compiled."""
        try:
            stated = json.loads(gzip.decompress(self._path(net).read_bytes()))
            commands = tuple(Command(*row) for row in stated["commands"])
            timeline = Timeline(int(stated["profile"]["cycles"]), commands, dict(stated["names"]))
            return NetTiming(Profile.from_dict(stated["profile"]), timeline)
        except (OSError, EOFError, ValueError, KeyError, TypeError):
            return None

    @contextmanager
    def working(self, write_weights: Callable[[Path], None]) -> Iterator[None]:
        """Make the folder for compilations, with the weights that `write_weights` puts there; remove it afterwards."""
        sweep(self.folder, "work-*")
        waits = "another process compiles the same nets: waiting for it"
        with path_lock(self._work, lambda: self._note(waits)):
            try:
                end_orphans(self._work)
                shutil.rmtree(self._work, ignore_errors=True)
                with storage_errors(self._work):
                    self._work.mkdir()
                write_weights(self._weights)
                yield
            except KeyboardInterrupt:
                self._note(
                    f"the nets timed so far are kept in {self.folder}: the same command goes on from there"
                )
                raise
            finally:
                shutil.rmtree(self._work, ignore_errors=True)

    def compile(self, name: str, net: Net, cancelled: threading.Event) -> NetTiming:
        """Compile a net in a folder called `name`, unless it is known. Only while `working`.

        Raises CompileError (the compiler failed, whose log is kept, or was cancelled) and StorageError.
        """
        if (known := self.find(net)) is not None:
            return known
        folder = self._work / name
        mlir = begin_net(folder, net.text, net.addresses, self._weights)
        recipe = replace(net.recipe, addresses=folder / ADDRESSES) if net.addresses else net.recipe
        try:
            made = compile_net(self._toolchain, mlir, recipe, cancelled=cancelled)
            timing = NetTiming(read_profile(made.profile), read_timeline(made.profile))
        except CompileError as error:
            log, kept = folder / LOG, self.folder / f"{name}.log"
            if cancelled.is_set() or not log.is_file():
                raise
            with storage_errors(kept):
                shutil.move(log, kept)
            raise CompileError(str(error).replace(str(log), str(kept))) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        stated = {
            "profile": asdict(timing.profile),
            "names": dict(timing.timeline.names),
            "commands": [astuple(command) for command in timing.timeline.commands],
        }
        write_file(self._path(net), gzip.compress(json.dumps(stated).encode(), 6))
        return timing

    def _path(self, net: Net) -> Path:
        recipe = net.recipe
        parts = [net.text, repr(recipe), net.addresses, *self._toolchain.identity, *recipe.chip.key, READER]
        return self.folder / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]}.json.gz"
