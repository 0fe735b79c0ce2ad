"""The Hugging Face hub, or a mirror of it (environment variable HF_ENDPOINT), and the cache of its library."""

import re
from collections.abc import Iterator
from pathlib import Path

from bmqwen.errors import DownloadError, InputError
from bmqwen.hub.cache import CachedModel, Store, complete_model
from bmqwen.hub.catalog import HUGGINGFACE, Model, models_in
from bmqwen.hub.source import Release, RemoteFile, UnreachableError, choose
from bmqwen.hub.transfer import WebFile, describe, download
from bmqwen.util.disk import remove_empty_folders
from bmqwen.util.progress import Progress, Report
from bmqwen.util.storage import storage_errors

_OURS = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64})\.incomplete")


class HuggingFace:
    """Source of models. A token comes from HF_TOKEN or from the hub's own login.

    Args:
        endpoint: address; None for the client library's own choice.
        folder: the library's cache; None for the user's (HF_HUB_CACHE, HF_HOME).
    """

    title = "Hugging Face"

    def __init__(self, endpoint: str | None = None, folder: Path | None = None) -> None:
        self._endpoint = endpoint
        self.store = HuggingFaceCache(endpoint, folder)

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
        """See Source. The library would throw away what an interrupted download has got, so we transfer it."""
        from huggingface_hub import constants, get_session, get_token, hf_hub_url

        del progress
        url = hf_hub_url(release.repo, file.name, revision=release.revision, endpoint=self._endpoint)
        token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        download(WebFile(url, headers, get_session()), file, target, report, self.title)


class HuggingFaceCache(Store):
    """The cache that all programs with Hugging Face's library share. Arguments: see HuggingFace."""

    variable = "HF_HUB_CACHE"

    def __init__(self, endpoint: str | None = None, folder: Path | None = None) -> None:
        from huggingface_hub import constants

        self._endpoint = endpoint
        self.folder = Path(folder or constants.HF_HUB_CACHE).expanduser().absolute()

    def find(self, model: Model) -> CachedModel | None:
        """Return a model whose files are all there."""
        repo = model.repos.get(HUGGINGFACE)
        return self._at(model, self._storage(repo), model.revision or "main") if repo else None

    def models(self) -> list[CachedModel]:
        """Return all models that bmqwen may run, unfinished ones included."""
        return [m for storage in sorted(self.folder.glob("models--*--*")) for m in self._models(storage)]

    def _models(self, storage: Path) -> Iterator[CachedModel]:
        repo, complete = storage.name.removeprefix("models--").replace("--", "/", 1), False
        for ref in sorted(path for path in (storage / "refs").rglob("*") if path.is_file()):
            name = ref.relative_to(storage / "refs").as_posix()
            for model in models_in(repo, None if name == "main" else name, _snapshot(storage, name)):
                if found := self._at(model, storage, name):
                    complete = True
                    yield found
        if (parts := _parts(storage)) and not complete:
            yield CachedModel(repo, storage, sum(part.stat().st_size for part in parts))

    def remove(self, model: CachedModel) -> int:
        """Delete a model; files that another revision shares stay, and other GGUF files of the repository."""
        from huggingface_hub import scan_cache_dir

        snapshot = model.path.parent if model.path.is_file() else model.path
        storage = snapshot.parents[1] if model.complete else snapshot
        with storage_errors(self.folder):
            freed = sum(part.stat().st_size for part in _parts(storage))
            for part in _parts(storage):
                part.unlink()
            if model.path.is_file() and len(list(snapshot.glob("*.gguf"))) > 1:
                model.path.resolve().unlink()
                model.path.unlink()
                return freed + model.size
            snapshots = [snapshot] if model.complete else list((storage / "snapshots").glob("*"))
            strategy = scan_cache_dir(self.folder).delete_revisions(*(path.name for path in snapshots))
            strategy.execute()
            remove_empty_folders(storage)
        return freed + strategy.expected_freed_size

    def place(self, release: Release) -> Path:
        """Return the folder of a state of a repository, which gets links to the files."""
        return self._storage(release.repo) / "snapshots" / release.revision

    def part(self, release: Release, file: RemoteFile) -> Path:
        """Return where a file grows: beside where the library looks for it, under its hash."""
        content = file.sha256 or file.git_sha1 or file.name
        return self._storage(release.repo) / "blobs" / f"{content}{self.ending}"

    def add(self, release: Release, file: RemoteFile) -> None:
        """Take in a file; the library finds the content under its hash and downloads nothing."""
        from huggingface_hub import hf_hub_download

        part = self.part(release, file)
        with storage_errors(self.folder):
            part.replace(part.with_suffix(""))
            try:
                hf_hub_download(
                    release.repo,
                    file.name,
                    revision=release.model.revision,
                    cache_dir=self.folder,
                    endpoint=self._endpoint,
                    library_name="bmqwen",
                )
            except Exception as error:  # the library's, those of httpx2, and the disk's
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise DownloadError(f"{file.name} from Hugging Face broke off ({describe(error)})") from error

    def _storage(self, repo: str) -> Path:
        return self.folder / f"models--{repo.replace('/', '--')}"

    def _at(self, model: Model, storage: Path, revision: str) -> CachedModel | None:
        snapshot = _snapshot(storage, revision)
        found = complete_model(model, snapshot)
        return found and CachedModel(model.title, *found, HUGGINGFACE, snapshot.name, complete=True)


def _snapshot(storage: Path, revision: str) -> Path:
    """Return the folder of a branch, tag or commit, which may be absent."""
    ref = storage / "refs" / revision
    return storage / "snapshots" / (ref.read_text().strip() if ref.is_file() else revision.replace("/", "-"))


def _parts(storage: Path) -> list[Path]:
    """Return what interrupted downloads of ours left; the library's own have longer names."""
    return [path for path in storage.glob("blobs/*.incomplete") if _OURS.fullmatch(path.name)]
