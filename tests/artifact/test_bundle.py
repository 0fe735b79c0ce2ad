"""Bundles: written whole or not at all, and nothing damaged is loaded."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bmqwen.artifact.bundle import MANIFEST, Bundle, read_bundle, write_manifest
from bmqwen.errors import BmqwenError, BundleError, InputError
from bmqwen.util.storage import new_folder, path_lock
from support.checkpoints import tiny_config


@pytest.fixture(name="folder")
def folder_fixture(tmp_path: Path) -> Path:
    with new_folder(tmp_path / "bundle") as part:
        (part / "model.onnx").write_bytes(b"graph")
        (part / "tokenizer.json").write_bytes(b"{}")
        write_manifest(
            Bundle(part, "onnx", "tiny", tiny_config(), {"weights": "f32"}, source="key", made_by="test")
        )
    return tmp_path / "bundle"


def test_what_was_written_is_read(folder: Path) -> None:
    bundle = read_bundle(folder)
    assert bundle.config == tiny_config()
    assert set(bundle.files) == {"model.onnx", "tokenizer.json"}
    assert bundle.total_bytes == 7
    bundle.verify_files()


def test_a_file_that_was_changed_is_noticed(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"GRAPH")
    with pytest.raises(BundleError, match=r"model\.onnx was changed"):
        read_bundle(folder)


def test_a_file_that_was_cut_is_noticed(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"gra")
    with pytest.raises(BundleError, match="has 3 bytes, but the manifest says 5"):
        read_bundle(folder)


def test_a_missing_file_is_noticed(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"lacks its file model\.onnx"):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 99, "format 99"),
        ("kind", "gguf", "unknown kind"),
        ("files", {"../x": {"bytes": 0, "sha256": ""}}, "outside"),
    ],
)
def test_a_foreign_manifest_is_refused(folder: Path, key: str, value: object, message: str) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest[key] = value
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=message):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("part", "key", "value"), [("config", "rope_theta", 2e6), ("details", "half", "bf16")]
)
def test_a_constant_that_was_edited_by_hand_is_noticed(
    folder: Path, part: str, key: str, value: object
) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest[part][key] = value
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"bmqwen\.json was changed after the bundle was made"):
        read_bundle(folder)


def test_a_manifest_of_before_its_own_hash_is_read(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["sha256"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert read_bundle(folder).config == tiny_config()


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_to_the_manifest_is_an_error_in_words(folder: Path, data: st.DataObject) -> None:
    original = (folder / MANIFEST).read_bytes()
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    (folder / MANIFEST).write_bytes(damaged)
    try:
        read_bundle(folder)
    except BmqwenError:
        pass
    finally:
        (folder / MANIFEST).write_bytes(original)


def test_an_interrupted_folder_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with new_folder(tmp_path / "new") as part:
            (part / "half").write_bytes(b"x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="exists already"), new_folder(tmp_path / "mine"):
        pass


def test_replacing_keeps_the_old_folder_until_the_new_one_is_complete(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").write_text("old")
    with pytest.raises(ValueError, match="cut"), new_folder(tmp_path / "b", replace=True):
        raise ValueError("cut")
    assert (tmp_path / "b" / "old").read_text() == "old"
    with new_folder(tmp_path / "b", replace=True) as part:
        (part / "new").write_text("new")
    assert [p.name for p in tmp_path.rglob("*")] == ["b", "new"]


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    for name in (
        ".b.0123abcd.part",
        ".b.89abcdef.old",
        ".bb.0123abcd.part",
        ".b.mine.part",
        ".b.deadbeef.part",
    ):
        (tmp_path / name / "inner").mkdir(parents=True)
    with path_lock(tmp_path / ".b.deadbeef.part"), new_folder(tmp_path / "b") as part:
        # A second process beside this one leaves its folder alone.
        with new_folder(tmp_path / "b", replace=True) as other:
            (other / "other").write_text("")
        assert part.is_dir()
        assert (tmp_path / "b" / "other").exists()
        (tmp_path / "b").rename(tmp_path / "c")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".b.deadbeef.part", ".b.mine.part", ".bb.0123abcd.part", "b", "c"]


def test_what_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="exists already"),
        new_folder(tmp_path / "b"),
        new_folder(tmp_path / "b") as other,
    ):
        (other / "mine").write_text("mine")
    assert [p.name for p in tmp_path.rglob("*")] == ["b", "mine"]
