"""The Hugging Face hub, or a mirror of it (environment variable HF_ENDPOINT)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bmqwen.errors import DownloadError, InputError
from bmqwen.hub.catalog import HUGGINGFACE, Model
from bmqwen.hub.source import Release, RemoteFile, UnreachableError, choose
from bmqwen.hub.transfer import Body, describe, download
from bmqwen.util.progress import Progress, Report

_READ_TIMEOUT = 20.0


class HuggingFace:
    """Source of models. A token comes from HF_TOKEN or from the hub's own login.

    Args:
        endpoint: address; None for the client library's own choice.
    """

    title = "Hugging Face"

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = endpoint

    def offers(self, model: Model) -> bool:
        """See Source."""
        return HUGGINGFACE in model.repos

    def find(self, model: Model, patience: float) -> Release:
        """See Source."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import (
            GatedRepoError,
            HFValidationError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        repo = model.repos[HUGGINGFACE]
        where = f"{repo} on {self.title}"
        api = HfApi(endpoint=self._endpoint, library_name="bmqwen")
        try:
            info = api.model_info(repo, revision=model.revision, timeout=patience, files_metadata=True)
        except GatedRepoError as error:
            raise InputError(f"{where} is gated: accept its terms on its page, and set HF_TOKEN") from error
        except RevisionNotFoundError as error:
            raise InputError(f"{where} has no revision {model.revision!r}") from error
        except (RepositoryNotFoundError, HFValidationError) as error:
            raise InputError(f"there is no {where} (a private one needs HF_TOKEN)") from error
        # Older and newer clients raise errors of different families when the network fails.
        except Exception as error:
            raise UnreachableError(f"{self.title} could not be reached ({describe(error)})") from error
        files = [
            RemoteFile(item.rfilename, item.size, item.lfs.sha256 if item.lfs else None, item.blob_id)
            for item in info.siblings or []
            if item.size is not None and "/" not in item.rfilename and "\\" not in item.rfilename
        ]
        if info.sha is None:
            raise DownloadError(f"{self.title} did not say which state of {repo} it has")
        return Release(model, HUGGINGFACE, repo, info.sha, choose(model, files, where))

    def fetch(
        self, release: Release, file: RemoteFile, target: Path, report: Report, progress: Progress
    ) -> None:
        """See Source."""
        from huggingface_hub import constants, get_session, get_token, hf_hub_url

        del progress
        url = hf_hub_url(release.repo, file.name, revision=release.revision, endpoint=self._endpoint)
        # Compressed answers would make positions in the file meaningless.
        headers = {"Accept-Encoding": "identity", "User-Agent": "bmqwen"}
        token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
        if token:
            headers["Authorization"] = f"Bearer {token}"

        @contextmanager
        def open_at(start: int) -> Iterator[Body]:
            extra = {"Range": f"bytes={start}-"} if start else {}
            with get_session().stream(
                "GET", url, headers={**headers, **extra}, timeout=_READ_TIMEOUT, follow_redirects=True
            ) as response:
                response.raise_for_status()
                # Without a size of pieces, so that a cut loses nothing of what has arrived.
                yield Body(start if response.status_code == 206 else 0, response.iter_bytes())

        download(open_at, file, target, report, self.title)
