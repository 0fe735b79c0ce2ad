"""The Hugging Face hub, or a mirror of it (environment variable HF_ENDPOINT), and the cache of its library."""

import re
from collections.abc import Iterator
from pathlib import Path

from bmqwen.errors import DownloadError, InputError
from bmqwen.hub.cache import CachedModel, Store
from bmqwen.hub.catalog import HUGGINGFACE, Model, models_in
from bmqwen.hub.source import Release, RemoteFile, Source, UnreachableError, choose, is_looked_at
from bmqwen.hub.transfer import WebFile, describe, download
from bmqwen.util.progress import Progress, Report
from bmqwen.util.storage import remove_empty_folders, storage_errors

_DIGEST = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


class HuggingFace(Source):
    """Source of models. A token comes from HF_TOKEN or from the hub's own login.

    Args:
        endpoint: address; None for the client library's own choice.
        folder: the library's cache; None for the user's (HF_HUB_CACHE, HF_HOME).
    """

    name, title, mirror = HUGGINGFACE, "Hugging Face", "HF_ENDPOINT"

    def __init__(self, endpoint: str | None = None, folder: Path | None = None) -> None:
        self._endpoint = endpoint
        self.store = HuggingFaceCache(endpoint, folder)

    def find(self, model: Model, patience: float) -> Release:
        from huggingface_hub import HfApi, errors

        repo = model.repos[HUGGINGFACE]
        where = f"{repo} on {self.title}"
        api = HfApi(endpoint=self._endpoint, library_name="bmqwen")
        try:
            info = api.model_info(repo, revision=model.revision, timeout=patience, files_metadata=True)
        except errors.GatedRepoError as error:
            raise InputError(f"{where} is gated: accept its terms on its page, and set HF_TOKEN") from error
        except errors.RevisionNotFoundError as error:
            raise InputError(f"{where} has no revision {model.revision!r}") from error
        except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
            raise InputError(f"there is no {where} (a private one needs HF_TOKEN)") from error
        # Older and newer clients raise errors of different families when the network fails.
        except Exception as error:
            raise UnreachableError(f"{self.title} could not be reached ({describe(error)})") from error
        files = [
            RemoteFile(item.rfilename, item.size, item.lfs.sha256 if item.lfs else None, item.blob_id)
            for item in info.siblings or []
            if item.size is not None and is_looked_at(item.rfilename)
        ]
        chosen = choose(model, files, where)
        # They become names of files.
        for digest in (info.sha, *(file.sha256 or file.git_sha1 for file in chosen)):
            if not _DIGEST.fullmatch(digest or ""):
                raise DownloadError(f"{self.title} does not say which state of {repo} it has, or its hashes")
        return Release(model, repo, str(info.sha), chosen)

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

        super().__init__(folder or Path(constants.HF_HUB_CACHE))
        self._endpoint = endpoint

    def place(self, model: Model, revision: str) -> Path:
        """Return the folder of a state of a repository, which gets links to the files."""
        storage = self._storage(model)
        ref = storage / "refs" / (model.revision or "main")
        if not revision:
            revision = ref.read_text().strip() if ref.is_file() else ref.name
        return storage / "snapshots" / revision

    def scan(self) -> Iterator[tuple[Path, list[Model]]]:
        for storage in sorted(self.folder.glob("models--*--*")):
            repo = storage.name.removeprefix("models--").replace("--", "/", 1)
            refs = [path for path in (storage / "refs").rglob("*") if path.is_file()]
            names = {ref.read_text().strip(): ref.relative_to(storage / "refs").as_posix() for ref in refs}
            for snapshot in sorted(storage.glob("snapshots/*")) or [storage / "snapshots" / "main"]:
                name = names.get(snapshot.name, snapshot.name)
                yield snapshot, list(models_in(repo, None if name == "main" else name, snapshot))

    def parts(self, folder: Path) -> list[Path]:
        """Return what interrupted downloads of ours left; the library's own have longer names."""
        blobs = folder.parents[1].glob(f"blobs/*{self.ending}")
        return [path for path in blobs if _DIGEST.fullmatch(path.stem)]

    def remove(self, model: CachedModel) -> int:
        """Delete a model; files that another revision shares stay, and other GGUF files of the repository."""
        from huggingface_hub import scan_cache_dir

        snapshot = model.path.parent if model.path.is_file() else model.path
        with storage_errors(self.folder):
            parts = [] if model.complete else self.parts(snapshot)
            freed = sum(part.stat().st_size for part in parts)
            for part in parts:
                part.unlink()
            if model.path.is_file() and set(snapshot.glob("*.gguf")) - set(model.files):
                for file in model.files:
                    blob = file.resolve()
                    if sum(path.resolve() == blob for path in snapshot.parent.glob("*/*")) == 1:
                        blob.unlink()
                    file.unlink()
                return model.size
            strategy = scan_cache_dir(self.folder).delete_revisions(snapshot.name)
            strategy.execute()
            remove_empty_folders(snapshot.parents[1])
        return freed + strategy.expected_freed_size

    def part(self, release: Release, file: RemoteFile) -> Path:
        """Return where a file grows: beside where the library looks for it, under its hash."""
        blobs = self._storage(release.model) / "blobs"
        return blobs / f"{file.sha256 or file.git_sha1}{self.ending}"

    def add(self, release: Release, file: RemoteFile) -> None:
        """Take in a file; the library finds the content under its hash and downloads nothing."""
        from huggingface_hub import hf_hub_download

        super().add(release, file)
        with storage_errors(self.folder):
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

    def _storage(self, model: Model) -> Path:
        return self.folder / f"models--{model.repos.get(HUGGINGFACE, '').replace('/', '--')}"
