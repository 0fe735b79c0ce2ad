"""`bmqwen export`, `info`, `list` and `remove`: what they make, and what they say when they cannot."""

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bmqwen.artifact.bundle import read_bundle
from support.checkpoints import random_weights, tiny_config, write_checkpoint
from support.program import Run, assert_refused, document, heed_ctrl_c


@pytest.fixture(name="checkpoint")
def checkpoint_fixture(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "model", tiny_config(), seed=1)
    return tmp_path / "model"


def test_export_info_and_doing_it_again(bmqwen: Run, checkpoint: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    made = bmqwen("export", checkpoint, "-o", bundle, "--quant", "int8", "--json")
    assert made.returncode == 0, made.stderr
    assert document(made)["precision"] == {"weights": "int8", "group_size": 64, "lm_head": "int8"}
    before = (bundle / "model.onnx").stat().st_mtime_ns
    again = bmqwen("export", checkpoint, "-o", bundle, "--quant", "int8")
    assert again.returncode == 0
    assert "converting" not in again.stderr
    assert (bundle / "model.onnx").stat().st_mtime_ns == before
    facts = document(bmqwen("info", bundle, "--check", "--json"))
    assert facts["files_checked"] is True
    assert_refused(bmqwen("info", checkpoint, "--check"), "not a bundle")
    assert facts["kind"] == "onnx"
    assert facts["layers"] == 2
    assert_refused(bmqwen("export", checkpoint, "-o", bundle, "--quant", "int4"), "--force")
    assert bmqwen("export", checkpoint, "-o", bundle, "--quant", "int4", "--force").returncode == 0


def test_a_conversion_of_chat_is_copied(bmqwen: Run, checkpoint: Path, tmp_path: Path) -> None:
    assert bmqwen("chat", checkpoint, "-p", "hi", "--max-tokens", "1").returncode == 0
    made = bmqwen("export", checkpoint, "-o", tmp_path / "bundle")
    assert made.returncode == 0
    assert "copying the conversion that is in the cache" in made.stderr
    assert "converting" not in made.stderr
    assert document(bmqwen("info", tmp_path / "bundle", "--check", "--json"))["files_checked"] is True
    assert bmqwen("remove", "model").returncode == 0


def test_the_list_is_a_table(bmqwen: Run) -> None:
    listed = bmqwen("list").stdout.splitlines()
    assert listed[0].split() == ["MODEL", "SIZE", "STATE"]
    demo = next(line for line in listed if line.startswith("qwen2.5-coder-0.5b-instruct-q4_k_m "))
    assert demo.split()[1:] == ["491", "MB", "not", "here"]


def test_what_a_checkpoint_would_take_on_the_chip(bmqwen: Run, checkpoint: Path) -> None:
    asked = ("--quant", "int8", "--seq-len", "128")
    said = bmqwen("info", checkpoint, *asked).stdout
    assert "model, int8, lm_head int8, 128 tokens: needs " in said.partition("memory on the chip\n")[2]
    memory = document(bmqwen("info", checkpoint, *asked, "--json"))["chip_memory"]
    assert memory["context"] == 128
    # K and V of two layers, half precision; a step's rows may lie behind the last.
    rows = 2 * 2 * 2 * 32
    assert 128 * rows <= memory["cache"] < 256 * rows
    longer = document(bmqwen("info", checkpoint, "--seq-len", "256", "--json"))["chip_memory"]
    assert longer["cache"] > memory["cache"]
    assert longer["weights"] < memory["weights"]


def test_places_that_cannot_be_written(bmqwen: Run, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert_refused(bmqwen("export", checkpoint, "-o", tmp_path / "mine"), "not a bundle")
    (tmp_path / "file").write_text("")
    assert_refused(bmqwen("export", checkpoint, "-o", tmp_path / "file" / "bundle"), "cannot write", code=1)


def test_nan_weights(bmqwen: Run, tmp_path: Path) -> None:
    config = tiny_config()
    weights = random_weights(config, seed=1)
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = np.nan
    write_checkpoint(tmp_path / "model", config, seed=1, weights=weights)
    refused = bmqwen("export", tmp_path / "model", "-o", tmp_path / "bundle")
    assert_refused(refused, "model.layers.1.mlp.up_proj.weight")
    assert [p.name for p in tmp_path.iterdir() if "bundle" in p.name] == []


def test_a_truncated_checkpoint(bmqwen: Run, checkpoint: Path, tmp_path: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert_refused(bmqwen("export", checkpoint, "-o", tmp_path / "bundle"), "model.safetensors")


def test_a_config_that_lies(bmqwen: Run, checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    assert_refused(bmqwen("export", checkpoint, "-o", tmp_path / "bundle"), "mlp")
    (checkpoint / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    assert_refused(bmqwen("info", checkpoint), "hidden_act", "gelu", "config.json")


def small_files_only() -> None:
    """A file that grows beyond a limit is what a full disk looks like."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))


def test_a_full_disk_leaves_nothing(checkpoint: Path, environment: dict[str, str], tmp_path: Path) -> None:
    # A measured process could not write what it reached.
    unmeasured = {name: value for name, value in environment.items() if not name.startswith("COVERAGE")}
    result = subprocess.run(
        [sys.executable, "-m", "bmqwen", "export", str(checkpoint), "-o", str(tmp_path / "bundle")],
        env=unmeasured,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=small_files_only,
    )
    assert_refused(result, "no space left", "bundle", code=1)
    assert [p.name for p in tmp_path.iterdir() if "bundle" in p.name] == []


@pytest.fixture(scope="module")
def large(cli_folder: Path) -> Path:
    """A checkpoint that takes a second or more to convert."""
    config = tiny_config("qwen2.5", hidden_size=1024, intermediate_size=8192, layers=2, heads=16)
    return write_checkpoint(cli_folder / "large", config, seed=1)


def converting(large: Path, folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """A process that has begun to convert it to `folder/bundle`."""
    before = set(folder.glob(".bundle.*.part"))
    process = subprocess.Popen(
        [sys.executable, "-m", "bmqwen", "export", str(large), "-o", str(folder / "bundle")],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )
    while not any(
        (part / "model.onnx.data").exists() for part in set(folder.glob(".bundle.*.part")) - before
    ):
        assert process.poll() is None
        time.sleep(0.02)
    return process


def test_ctrl_c_stops_a_conversion_and_leaves_nothing(
    large: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    with converting(large, tmp_path, environment) as process:
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert stderr.endswith("bmqwen: interrupted\n")
    assert [p.name for p in tmp_path.iterdir() if "bundle" in p.name] == []


def test_the_next_run_removes_what_a_killed_one_left(
    large: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    with converting(large, tmp_path, environment) as killed:
        killed.kill()
    assert list(tmp_path.glob(".bundle.*.part"))
    with converting(large, tmp_path, environment) as process:
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert [p.name for p in tmp_path.iterdir() if "bundle" in p.name] == ["bundle"]


def test_two_at_once_make_one_bundle(large: Path, environment: dict[str, str], tmp_path: Path) -> None:
    with (
        converting(large, tmp_path, environment) as first,
        converting(large, tmp_path, environment) as second,
    ):
        errors = [process.communicate(timeout=120)[1] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], errors
    assert [p.name for p in tmp_path.iterdir() if "bundle" in p.name] == ["bundle"]
    read_bundle(tmp_path / "bundle").verify_files()


def test_list_and_remove_know_conversions(bmqwen: Run, checkpoint: Path, environment: dict[str, str]) -> None:
    assert bmqwen("chat", checkpoint, "-p", "hi", "--max-tokens", "2", "--quant", "f32").returncode == 0
    listed = document(bmqwen("list", "--json"))
    names = [entry["name"] for entry in listed["converted"] if entry["model"] == "model"]
    assert len(names) == 1
    removed = bmqwen("remove", names[0], "--json")
    assert document(removed)["bytes"] > 0
    assert not (Path(environment["BMQWEN_CACHE"]) / "bundles" / names[0]).exists()
    assert_refused(bmqwen("remove", names[0]), names[0])
