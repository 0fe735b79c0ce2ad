"""`bmqwen estimate`: of a bundle, whose manifest is enough, and what it refuses."""

import json
from pathlib import Path

import pytest

from bmqwen.artifact.bundle import Bundle, write_manifest
from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.chip.spec import DEFAULT_CHIP, DEFAULT_HOST, Host
from bmqwen.cli.app import run
from bmqwen.compiler.plan import Plan
from bmqwen.errors import InputError
from bmqwen.quant.precision import Precision
from support.checkpoints import tiny_config

CYCLES = {StepShape(1, 64): 1_000_000, StepShape(1, 128): 1_100_000, StepShape(32, 0): 2_000_000}


def write_bundle(folder: Path, kind: str = "bmodel", *, parts: bool = True, bytes_said: bool = True) -> Path:
    """A manifest, and nothing else of a bundle."""
    folder.mkdir()
    details = StepNets(128, CYCLES).to_dict()
    for stage in details["stages"]:
        if bytes_said:
            stage |= {"bytes_read": 50_000_000, "bytes_written": 1000, "bytes_copied": 0}
        if parts:
            stage["bus_idle"] = stage["cycles"] // 20
            stage["part_cycles"] = {"weights": stage["cycles"]}
            stage["part_bytes"] = {"weights": 50_001_000}
    precision = Precision("int4", 64, "int4").to_dict()
    config = tiny_config("qwen1.5")
    write_manifest(Bundle(folder, kind, "toy", config, precision, details, "key", "0"))  # type: ignore[arg-type]
    return folder


def test_a_bundle_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    assert run(["estimate", str(bundle), "--prompt-tokens", "20", "--new-tokens", "30"]) == 0
    said = capsys.readouterr().out
    assert "32 tokens with none cached (20 used)" in said
    assert "host 3 calls" in said
    assert "█" in said
    assert "from     65 cached tokens on" in said


def test_a_bundle_for_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    arguments = ["--prompt-tokens", "20", "--new-tokens", "30", "--host-op-ms", "0.1", "--json"]
    assert run(["estimate", str(bundle), *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["first_token_s"] == pytest.approx(2e-3 + 0.3e-3 + found["first_token_python_s"])
    # A token's keys and values of two layers are copied to their place, at 26 GB/s.
    rows = 2 * 2 * 64 * 2
    assert found["copied_bytes_per_token"] == rows
    assert found["tokens_per_s"] == pytest.approx(1 / (1.3e-3 + found["python_s_per_token"] + rows / 26e9))
    assert found["device_s_per_token"] == pytest.approx(1e-3 + rows / 26e9, rel=1e-5)
    assert found["host_ops_per_token"] == 3
    assert found["python_factor"] > 1
    assert found["bytes_per_token"] == 50_001_000 + 2 * rows
    assert len(found["nets"]) == 3
    assert found["model"] == "toy"


def test_an_older_bundle_has_no_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_bundle(tmp_path / "bundle", parts=False)
    assert run(["estimate", str(bundle), "--new-tokens", "5"]) == 0
    assert "older version" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "unknown model 'nonsense'"),
        (["qwen1.5-1.8b-chat", "--seq-len", "37"], "--seq-len 37 cannot be compiled"),
        (["qwen1.5-1.8b-chat", "--seq-len", "99999999"], "--seq-len 99999999 cannot be compiled"),
        (["qwen1.5-1.8b-chat", "--prompt-tokens", "600"], "do not fit into a context of 512"),
        (["qwen1.5-1.8b-chat", "--new-tokens", "500"], "do not fit into a context of 512"),
        (["qwen1.5-1.8b-chat", "--history", "-1"], "no negative --history"),
        (["qwen1.5-1.8b-chat", "--host-op-ms", "-1"], "--host-op-ms -1"),
        (["qwen1.5-1.8b-chat", "--chart", "chart.gif"], "ends in .svg, .png, .pdf"),
        (["qwen1.5-1.8b-chat", "--chart", "/no/such/chart.svg"], "there is no folder /no/such"),
        (["qwen1.5-1.8b-chat", "--trace", "/no/such/trace.json"], "there is no folder /no/such"),
        (["qwen1.5-1.8b-chat", "--all"], "leave qwen1.5-1.8b-chat out"),
        (["--all", "--chart", "chart.svg"], "in place of --all"),
        (["--all", "--trace", "trace.json"], "in place of --all"),
        (["--group-size", "7"], "group size 7 is not supported"),
    ],
)
def test_bad_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["estimate", *arguments]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_a_card_is_predicted_only_for_several_chips(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(_: str, plan: Plan, host: Host, *__: object, **___: object) -> None:
        raise InputError(f"{len(plan.parts)} on {host.name}")

    monkeypatch.setattr("bmqwen.estimate.estimate.estimate_model", told)
    box, card = (DEFAULT_CHIP.hosts[name].name for name in (DEFAULT_HOST, "pcie"))
    for parts, said in (("auto", f"1 on {box}"), ("1", f"1 on {box}"), ("2", f"2 on {card}")):
        assert run(["estimate", "qwen1.5-1.8b-chat", "--parts", parts]) == 2
        assert said in capsys.readouterr().err


def test_bundles_of_other_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["estimate", str(write_bundle(tmp_path / "cpu", "onnx"))]) == 2
    assert "is a bundle for the CPU" in capsys.readouterr().err
    assert run(["estimate", str(write_bundle(tmp_path / "bare", parts=False, bytes_said=False))]) == 2
    assert "make it again" in capsys.readouterr().err
    bundle = write_bundle(tmp_path / "whole")
    for option, name in (("--chart", "chart.svg"), ("--trace", "trace.json")):
        assert run(["estimate", str(bundle), option, str(tmp_path / name), "--new-tokens", "5"]) == 2
        assert f"for {option} name its model (toy)" in capsys.readouterr().err
        assert not (tmp_path / name).exists()


def test_no_compiler_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(["estimate", "qwen1.5-1.8b-chat"]) == 1
    said = capsys.readouterr().err
    assert "needs cmake, make, gcc, g++" in said
    assert said.count("\n") == 1
