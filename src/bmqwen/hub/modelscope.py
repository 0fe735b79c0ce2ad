"""The ModelScope hub, through the package modelscope-hub."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bmqwen.errors import InputError, MissingDependencyError
from bmqwen.hub.catalog import MODELSCOPE, Model
from bmqwen.hub.source import Release, RemoteFile, UnreachableError, choose
from bmqwen.hub.transfer import Body, describe, download
from bmqwen.util.installation import install_command
from bmqwen.util.progress import Progress, Report

_DEFAULT_REVISION = "master"
_PIECE = 1 << 14  # bytes that a cut can cost


class ModelScope:
    """Source of models. A token comes from MODELSCOPE_API_TOKEN or from the hub's own login.

    Args:
        endpoint: address; None for the client library's own choice (MODELSCOPE_ENDPOINT).
    """

    title = "ModelScope"

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = endpoint

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
        """See Source."""
        del progress
        api = self._api()

        @contextmanager
        def open_at(start: int) -> Iterator[Body]:
            headers = {"Accept-Encoding": "identity"}
            if start:
                headers["Range"] = f"bytes={start}-"
            response = api.legacy.download_stream(
                release.repo, "model", file.name, revision=release.revision, headers=headers
            )
            with response:
                begin = start if response.status_code == 206 else 0
                yield Body(begin, response.iter_content(_PIECE))

        download(open_at, file, target, report, self.title)
