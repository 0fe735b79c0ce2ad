"""`bmqwen doctor` as a program: what people and scripts get, and the exit code."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bmqwen.cli.app import run
from support.recorded import recorded

Doctor = Callable[..., tuple[int, str]]


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Runs it on a recorded machine: exit code and stdout."""

    def on(machine: str, *arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("bmqwen.chip.system.System", lambda: recorded(machine, tmp_path / machine))
        code = run(["doctor", *arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out

    return on


def test_no_chip_is_no_error_unless_one_is_asked_for(doctor: Doctor) -> None:
    code, said = doctor("bare")
    assert (code, said.splitlines()[0]) == (0, "software")
    assert "  ok       no chip: " in said
    code, said = doctor("bare", "--device", "0")
    assert code == 1
    assert "  ERROR    there is no device 0: no chip" in said


def test_a_script_gets_findings_with_their_cures(doctor: Doctor) -> None:
    code, said = doctor("sc7_no_driver", "--json")
    found = json.loads(said)
    assert (code, found["healthy"], found["model"]) == (1, False, None)
    (error,) = [item for item in found["findings"] if item["level"] == "error"]
    assert set(error) == {"area", "level", "text", "fix"}
    assert error["area"] == "chip"
    assert "`sudo modprobe bmsophon`" in error["fix"]
    assert {item["level"] for item in found["findings"]} <= {"ok", "warning", "error"}


def test_a_script_gets_the_heaps_and_what_a_model_needs(doctor: Doctor) -> None:
    # A chip whose library is not there is not asked: its driver's files tell.
    code, said = doctor(
        "sc7_no_library", "qwen1.5-1.8b-chat", "--quant", "int8", "--seq-len", "1024", "--json"
    )
    found = json.loads(said)
    assert code == 1
    assert [chip["index"] for chip in found["machine"]["chips"]] == [0, 1, 2, 3]
    assert found["machine"]["chips"][1]["heaps"][0]["total"] == 0x1DBF00000
    assert found["model"]["context"] == 1024
    parts = ("weights", "instructions", "cache", "activations", "copies")
    assert found["model"]["total"] == sum(found["model"][part] for part in parts) > 1 << 30
    assert any("it fits on device 0" in item["text"] for item in found["findings"] if item["area"] == "model")


def test_a_model_that_there_is_not(doctor: Doctor) -> None:
    assert doctor("bare", "qwen1.5-1.9b") == (2, "")
