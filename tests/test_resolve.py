"""What is refused before a model is converted."""

import errno
import json
import shutil
from pathlib import Path

import pytest

from bmqwen import resolve
from bmqwen.errors import ConfigError, InputError, StorageError
from bmqwen.quant.precision import Precision
from bmqwen.resolve import cached_bundles, export_model, remove_model, resolve_bundle
from bmqwen.util.kept_work import kept_work, work_folder
from bmqwen.util.progress import Silent
from bmqwen.util.storage import path_lock
from support.checkpoints import tiny_config, write_checkpoint, write_gguf

SMALL = Precision("int4", 32, "int4")


def test_a_model_without_a_chat_template_is_refused_before_its_conversion(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "base-model", tiny_config())
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    template = config.pop("chat_template")
    path.write_text(json.dumps(config))
    with pytest.raises(
        ConfigError, match=r"base-model/tokenizer_config\.json has no chat_template.* beside it"
    ):
        resolve_bundle(str(folder), SMALL, progress=Silent(), chats=True)
    (folder / "chat_template.jinja").write_text("{% for message in messages %}")
    with pytest.raises(
        ConfigError, match=r"chat template in .*base-model/chat_template\.jinja cannot be used"
    ):
        resolve_bundle(str(folder), SMALL, progress=Silent(), chats=True)
    assert cached_bundles() == []
    (folder / "chat_template.jinja").write_text(template)
    assert resolve_bundle(str(folder), SMALL, progress=Silent(), chats=True).model == "base-model"
    (folder / "chat_template.jinja").unlink()
    # What only computes needs none.
    assert resolve_bundle(str(folder), SMALL, progress=Silent()).model == "base-model"


def test_so_is_a_gguf_file(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", tiny_config(), values={"tokenizer.chat_template": ""})
    with pytest.raises(ConfigError, match=r"m\.gguf has no chat_template.*version of the model$"):
        resolve_bundle(str(path), SMALL, progress=Silent(), chats=True)
    assert cached_bundles() == []


def test_a_conversion_is_found_again_without_opening_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "m.gguf", tiny_config())
    made = resolve_bundle(str(path), SMALL, progress=Silent())
    monkeypatch.setattr(resolve, "open_checkpoint", None)
    assert resolve_bundle(str(path), SMALL, progress=Silent()) == made
    # A folder of nothing else means the file.
    assert resolve_bundle(str(tmp_path), SMALL, progress=Silent()) == made


def test_a_disk_that_fills_while_a_conversion_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(write_checkpoint(tmp_path / "model", tiny_config()))
    precision = Precision.choose("int8")
    resolve_bundle(model, precision, offline=True, progress=Silent())

    def full(_source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StorageError, match=r"no space left while writing \S+/copy: free some disk space"):
        export_model(model, tmp_path / "copy", precision, offline=True, progress=Silent())
    assert list(tmp_path.glob("*copy*")) + list(tmp_path.glob(".*")) == []


def test_kept_work_goes_with_its_model_or_alone() -> None:
    first, second, other = (
        work_folder("quantize", "m.gguf", "a" * 64),
        work_folder("scores", "m.gguf", "b" * 64),
        work_folder("scores", "m.gguf-2", "c" * 64),
    )
    for folder in (first, second, other):
        folder.mkdir(parents=True)
        (folder / "data").write_bytes(b"12345")
    assert {(work.folder, work.model, work.bytes) for work in kept_work()} == {
        (first, "m.gguf", 5),
        (second, "m.gguf", 5),
        (other, "m.gguf-2", 5),
    }
    with path_lock(first), pytest.raises(InputError, match="in use: stop the `bmqwen quantize`"):
        remove_model("m.gguf")
    assert first.is_dir()
    assert remove_model("m.gguf") == 10
    assert [work.folder for work in kept_work()] == [other]
    assert remove_model(other.name) == 5
    with pytest.raises(InputError, match="not in the cache"):
        remove_model("m.gguf-2")
