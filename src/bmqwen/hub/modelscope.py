"""The ModelScope hub, through the package modelscope-hub, and the cache of that package."""

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bmqwen.errors import InputError, MissingDependencyError
from bmqwen.hub.cache import CachedModel, Store, complete_model
from bmqwen.hub.catalog import MODELSCOPE, Model, models_in
from bmqwen.hub.source import Release, RemoteFile, UnreachableError, choose
from bmqwen.hub.transfer import WebFile, describe, download
from bmqwen.util.disk import remove_empty_folders, size_below
from bmqwen.util.installation import install_command
from bmqwen.util.progress import Progress, Report
from bmqwen.util.storage import storage_errors

_DEFAULT_REVISION = "master"


class ModelScope:
    """Source of models. A token comes from MODELSCOPE_API_TOKEN or from the hub's own login.

    Args:
        endpoint: address; None for the client library's own choice (MODELSCOPE_ENDPOINT).
        folder: the package's cache; None for the user's (MODELSCOPE_CACHE).
    """

    title = "ModelScope"

    def __init__(self, endpoint: str | None = None, folder: Path | None = None) -> None:
        self._endpoint = endpoint
        self.store = ModelScopeCache(folder)

    def offers(self, model: Model) -> bool:
        """See Source."""
        return MODELSCOPE in model.repos

    def _api(self) -> Any:
        try:
            from modelscope_hub import HubApi, get_default_config
        except ImportError as error:
            raise MissingDependencyError(
                f"{self.title} needs the package modelscope-hub: {install_command('modelscope')}"
            ) from error
        # It announces every retry on stderr, in the middle of a progress bar.
        logging.getLogger("modelscope_hub").setLevel(logging.ERROR)
        return HubApi(endpoint=self._endpoint or get_default_config().endpoint)

    def find(self, model: Model, patience: float) -> Release:
        """See Source."""
        api = self._api()
        import requests
        from modelscope_hub import NotExistError, get_default_config

        repo, revision = model.repos[MODELSCOPE], model.revision or _DEFAULT_REVISION
        where = f"{repo} on {self.title}"
        try:
            # A question without the client's own retries, which are slow to notice that there is no network.
            requests.head(self._endpoint or get_default_config().endpoint, timeout=patience)
            entries = api.list_repo_files(repo, "model", revision=revision, recursive=False)
        except NotExistError as error:
            raise InputError(f"there is no {where} with the revision {revision!r}") from error
        # The client's own errors, those of requests and plain OSErrors.
        except Exception as error:
            raise UnreachableError(f"{self.title} could not be reached ({describe(error)})") from error
        files = [
            RemoteFile(entry.path, entry.size, entry.sha256 or None)
            for entry in entries
            if not entry.is_dir and "/" not in entry.path and "\\" not in entry.path
        ]
        return Release(model, MODELSCOPE, repo, revision, choose(model, files, where))

    def fetch(
        self, release: Release, file: RemoteFile, target: Path, report: Report, progress: Progress
    ) -> None:
        """See Source. The package's own transfer has bars and time limits that only the environment changes."""
        del progress
        hub = self._api().legacy
        url = hub.get_download_url(release.repo, "model", file.name, release.revision)
        headers = {"Cookie": f"m_session_id={hub.token}"} if hub.token else {}
        download(WebFile(url, headers), file, target, report, self.title)


class ModelScopeCache(Store):
    """The cache that programs with ModelScope's packages share. The ending of unfinished files is the packages' own.

    Args:
        folder: see ModelScope.
    """

    variable = "MODELSCOPE_CACHE"

    def __init__(self, folder: Path | None = None) -> None:
        named = folder or os.environ.get("MODELSCOPE_CACHE") or Path("~/.cache/modelscope")
        self.folder = Path(named).expanduser().absolute()

    def find(self, model: Model) -> CachedModel | None:
        """Return a model whose files are all there; caches of the packages' older versions are known too."""
        repo = model.repos.get(MODELSCOPE)
        if repo is None:
            return None
        revision = model.revision or _DEFAULT_REVISION
        owner, name = repo.split("/")
        old = Path("models", owner, name.replace(".", "___"))
        places = [self._snapshot(repo, revision)]
        places += [] if model.revision else [self.folder / old, self.folder / "hub" / old]
        for place in places:
            if found := complete_model(model, place):
                return CachedModel(model.title, *found, MODELSCOPE, revision, complete=True)
        return None

    def models(self) -> list[CachedModel]:
        """Return all models that bmqwen may run, unfinished ones included."""
        return [model for folder, repo in self._repos() for model in self._models(folder, repo)]

    def _repos(self) -> Iterator[tuple[Path, str]]:
        for folder in sorted(self.folder.glob("models/*--*")):
            yield folder, folder.name.replace("--", "/", 1)
        for folder in sorted([*self.folder.glob("models/*/*"), *self.folder.glob("hub/models/*/*")]):
            if "--" not in folder.parent.name:
                yield folder, f"{folder.parent.name}/{folder.name.replace('___', '.')}"

    def _models(self, folder: Path, repo: str) -> Iterator[CachedModel]:
        complete, snapshots = False, sorted(folder.glob("snapshots/*"))
        for place in snapshots or [folder]:
            revision = place.name if snapshots and place.name != _DEFAULT_REVISION else None
            for model in models_in(repo, revision, place):
                if found := complete_model(model, place):
                    complete = True
                    yield CachedModel(model.title, *found, MODELSCOPE, revision or "", complete=True)
        if not complete and any(folder.rglob(f"*{self.ending}")):
            yield CachedModel(repo, folder, size_below(folder))

    def remove(self, model: CachedModel) -> int:
        """Delete a model; other GGUF files of the repository stay."""
        path = model.path
        if path.is_file() and len(list(path.parent.glob("*.gguf"))) == 1:
            path = path.parent
        with storage_errors(self.folder):
            freed = size_below(path) if path.is_dir() else path.stat().st_size
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            if path.parent.name == "snapshots":
                remove_empty_folders(path.parent.parent)
        return freed

    def place(self, release: Release) -> Path:
        """Return the folder of a state of a repository."""
        return self._snapshot(release.repo, release.revision)

    def _snapshot(self, repo: str, revision: str) -> Path:
        return self.folder / "models" / repo.replace("/", "--") / "snapshots" / revision
