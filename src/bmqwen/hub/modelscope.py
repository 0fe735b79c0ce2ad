"""The ModelScope hub, through the package modelscope-hub, and the cache of that package."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bmqwen.errors import InputError, MissingDependencyError
from bmqwen.hub.cache import Store
from bmqwen.hub.catalog import MODELSCOPE, Model, models_in
from bmqwen.hub.source import Release, RemoteFile, Source, UnreachableError, choose, is_looked_at
from bmqwen.hub.transfer import WebFile, describe, download
from bmqwen.util.installation import install_command
from bmqwen.util.progress import Progress, Report

_DEFAULT_REVISION = "master"
_OLD = ("models", "hub/models")


class ModelScope(Source):
    """Source of models. A token comes from MODELSCOPE_API_TOKEN or from the hub's own login.

    Args:
        endpoint: address; None for the client library's own choice (MODELSCOPE_ENDPOINT).
        folder: the package's cache; None for the user's (MODELSCOPE_CACHE).
    """

    name, title, mirror = MODELSCOPE, "ModelScope", "MODELSCOPE_ENDPOINT"

    def __init__(self, endpoint: str | None = None, folder: Path | None = None) -> None:
        self._endpoint = endpoint
        self.store = ModelScopeCache(folder)

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
        api = self._api()
        import requests
        from modelscope_hub import NotExistError, get_default_config

        repo, revision = model.repos[MODELSCOPE], model.revision or _DEFAULT_REVISION
        where = f"{repo} on {self.title}"
        try:
            # A question without the client's own retries, which are slow to notice that there is no network.
            requests.head(self._endpoint or get_default_config().endpoint, timeout=patience)
            entries = api.list_repo_files(repo, "model", revision=revision, recursive=True)
        except NotExistError as error:
            raise InputError(f"there is no {where} with the revision {revision!r}") from error
        # The client's own errors, those of requests and plain OSErrors.
        except Exception as error:
            raise UnreachableError(f"{self.title} could not be reached ({describe(error)})") from error
        files = [
            RemoteFile(entry.path, entry.size, entry.sha256 or None)
            for entry in entries
            if not entry.is_dir and is_looked_at(entry.path)
        ]
        return Release(model, repo, revision, choose(model, files, where))

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
    """The cache that programs with ModelScope's packages share. The ending of unfinished files is the packages' own."""

    variable = "MODELSCOPE_CACHE"

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder or Path(os.environ.get(self.variable) or "~/.cache/modelscope"))

    def place(self, model: Model, revision: str) -> Path:
        repo = model.repos.get(MODELSCOPE, "").replace("/", "--")
        return self.folder / "models" / repo / "snapshots" / (revision or model.revision or _DEFAULT_REVISION)

    def places(self, model: Model) -> list[Path]:
        """Return the folders where a model may lie: where the packages' older versions put it, too."""
        if model.revision or MODELSCOPE not in model.repos:
            return super().places(model)
        old = model.repos[MODELSCOPE].replace(".", "___")
        return [*super().places(model), *(self.folder / above / old for above in _OLD)]

    def scan(self) -> Iterator[tuple[Path, list[Model]]]:
        for folder in sorted(self.folder.glob("models/*--*/snapshots/*")):
            revision = folder.name if folder.name != _DEFAULT_REVISION else None
            yield folder, list(models_in(folder.parents[1].name.replace("--", "/", 1), revision, folder))
        for above in _OLD:
            for folder in sorted(self.folder.glob(f"{above}/*/*")):
                if "--" not in folder.parent.name:
                    repo = f"{folder.parent.name}/{folder.name}".replace("___", ".")
                    yield folder, list(models_in(repo, None, folder))
