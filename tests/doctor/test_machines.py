"""What the doctor says of recorded machines: whole ones and broken ones."""

from pathlib import Path

import pytest

from bmqwen.artifact.fit import MemoryRequest, config_request
from bmqwen.chip.libraries import Libsophon, find_libsophon
from bmqwen.chip.machine import look
from bmqwen.chip.problems import (
    NO_DRIVER,
    NO_LIBRARIES,
    Problem,
    dead_chip,
    no_device,
    no_permission,
    old_libsophon,
    old_sail,
    sail_of_other_python,
    separate_memory,
)
from bmqwen.cli.commands.doctor import _lines
from bmqwen.doctor.examination import Examination, examine
from bmqwen.doctor.probe import Answer
from bmqwen.doctor.software import Environment
from bmqwen.hub.known_config import published_config
from bmqwen.quant.precision import Precision
from support.recorded import PACKAGES, recorded

MIB = 1 << 20
BOX = Environment(python=(3, 10, 12), machine="aarch64", cache=Path("/data/cache"), free=20_000_000_000)
PC = Environment(
    python=(3, 12, 3), machine="x86_64", cache=Path("/home/me/.cache/bmqwen"), free=20_000_000_000
)
# Three heaps of a card's chip, 100 MiB of the first in use.
CARD = Answer(((7615 * MIB, 7515 * MIB), (3071 * MIB, 3071 * MIB), (3993 * MIB, 3993 * MIB)))


def examined(
    name: str,
    folder: Path,
    host: Environment,
    *,
    answer: Answer = CARD,
    device: int | None = None,
    request: MemoryRequest | None = None,
) -> Examination:
    """A recorded machine, whose chips all say the same."""
    return examine(recorded(name, folder), host=host, probe=lambda _: answer, device=device, request=request)


def told(result: Examination, level: str = "") -> str:
    """The findings of a level as text."""
    return "\n".join(f"{f.text} -> {f.fix}" for f in result.findings if level in ("", f.level))


def has(result: Examination, problem: Problem, level: str = "error") -> bool:
    """Whether a problem is told in the words of the runtimes, with its fix."""
    return any(problem.cause in f.text and f.fix == problem.fix for f in result.findings if f.level == level)


def test_a_laptop_is_ready_for_the_cpu(tmp_path: Path) -> None:
    result = examined("bare", tmp_path, PC)
    assert result.healthy
    assert "no chip: no card on the PCIe bus, no SoC, no driver; models run on the CPU" in told(result, "ok")
    assert "CPU engine: onnxruntime 1.23.2" in told(result, "ok")


def test_a_laptop_that_was_asked_for_a_chip(tmp_path: Path) -> None:
    result = examined("bare", tmp_path, PC, device=0)
    assert not result.healthy
    errors = told(result, "error")
    assert "there is no device 0: no chip: no card on the PCIe bus" in errors
    # Not the advice to ask the doctor.
    assert "bmqwen doctor" not in errors
    without_driver = examined("sc7_no_driver", tmp_path / "card", PC, device=0)
    assert [f.text for f in without_driver.findings if f.level == "error"] == [
        f.text for f in examined("sc7_no_driver", tmp_path / "all", PC).findings if f.level == "error"
    ]


def test_an_se7_seen_by_its_user(tmp_path: Path) -> None:
    result = examined("se7", tmp_path, BOX, answer=Answer())
    assert result.healthy
    ok = told(result, "ok")
    assert "device 0: BM1684X (bm1684x_se7_v2.0)" in ok
    # The sizes are in the device tree, which everybody may read.
    assert "npu 4,142 MB, vpp 3,221 MB, vpu 2,146 MB; 9,510 MB in all" in ok
    assert "libsophon 0.5.1" in ok
    assert "SAIL 3.10.3" in ok
    assert "compiler: runs on x86-64 only" in ok
    assert "/sys/kernel/debug/ion, which only root may read" in told(result, "warning")


def test_an_se7_seen_by_root(tmp_path: Path) -> None:
    result = examined("se7_new", tmp_path, BOX, answer=Answer())
    assert told(result, "warning") == ""
    assert "libsophon 0.5.1, libbmrt of 20250624" in told(result, "ok")
    assert "npu 4,142 MB (13 MB used), vpp 3,221 MB (0 MB used), vpu 2,146 MB (0 MB used)" in told(
        result, "ok"
    )


def test_the_library_completes_what_a_user_may_not_read(tmp_path: Path) -> None:
    answer = Answer(((3950 * MIB, 3938 * MIB), (3072 * MIB, 3072 * MIB), (2047 * MIB, 2047 * MIB)))
    result = examined("se7", tmp_path, BOX, answer=answer)
    assert "npu 4,142 MB (13 MB used), vpp 3,221 MB (0 MB used), vpu 2,146 MB (0 MB used)" in told(
        result, "ok"
    )
    assert "only root may read" not in told(result)


def test_a_host_with_four_chips(tmp_path: Path) -> None:
    result = examined("sc7", tmp_path, PC)
    assert result.healthy
    ok = told(result, "ok")
    assert "PCIe host with 4 chips, driver 0.5.1" in ok
    for index, bus in enumerate(("03", "04", "05", "06")):
        assert f"device {index}: BM1684X (SC7-224T, 000:{bus}:00.0), Active" in ok
        assert f"device {index} memory: heap0 7,985 MB (105 MB used), heap1 3,220 MB (0 MB used)" in ok
    assert "SAIL: not installed, bmqwen calls libbmrt itself" in ok
    assert has(examined("sc7", tmp_path, PC, device=4), no_device(4, 4))


def test_only_the_device_that_matters_is_told(tmp_path: Path) -> None:
    text = told(examined("sc7_dead_chip", tmp_path, PC, device=1))
    assert "device 1: BM1684X" in text
    assert "device 2" not in text


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("sc7_dead_chip", dead_chip(2)),
        ("sc7_no_library", NO_LIBRARIES),
        ("sc7_no_permission", no_permission(["/dev/bmdev-ctl", "/dev/bm-sophon0", "/dev/bm-sophon1"])),
        ("sc7_no_driver", NO_DRIVER),
        ("se7_old", old_libsophon("0.4.9")),
    ],
)
def test_what_is_broken_is_named_with_its_cure(name: str, problem: Problem, tmp_path: Path) -> None:
    result = examined(name, tmp_path, PC)
    assert not result.healthy
    assert has(result, problem)
    # One cause, one error.
    assert len([f for f in result.findings if f.level == "error"]) == 1


def test_a_card_without_a_driver_is_named(tmp_path: Path) -> None:
    text = told(examined("sc7_no_driver", tmp_path, PC), "error")
    assert "BM1684X at 0000:03:00.0, BM1684X at 0000:04:00.0 on the PCIe bus, but the driver" in text


def test_versions_of_two_sdks(tmp_path: Path) -> None:
    result = examined("sc7_mixed", tmp_path, PC)
    assert result.healthy
    assert "libsophon 0.5.2 and driver 0.5.1 are of different SDKs" in told(result, "warning")


def test_an_old_sail_is_a_warning(tmp_path: Path) -> None:
    result = examined("se7_old", tmp_path, BOX)
    assert has(result, old_sail("3.7.0"), "warning")


def test_a_sail_that_this_python_cannot_load_is_a_warning(tmp_path: Path) -> None:
    module = tmp_path / PACKAGES.lstrip("/") / "sophon" / "sail.cpython-310-aarch64-linux-gnu.so"
    module.parent.mkdir(parents=True)
    module.touch()
    assert "SAIL 3.10.3" in told(examined("se7", tmp_path, BOX), "ok")
    module.rename(module.with_name("sail.cpython-38-aarch64-linux-gnu.so"))
    problem = sail_of_other_python("3.10.3", BOX.python)
    assert has(examined("se7", tmp_path, BOX), problem, "warning")


def test_who_holds_the_memory(tmp_path: Path) -> None:
    result = examined("se7_busy", tmp_path, BOX, answer=Answer())
    assert "video_server (process 812) use device 0" in told(result, "warning")


def test_a_chip_that_does_not_answer_is_dead(tmp_path: Path) -> None:
    result = examined("se7_root", tmp_path, BOX, answer=Answer(failure="no answer within 30 seconds"))
    assert has(result, dead_chip(0))


def test_chips_that_may_not_be_opened_or_are_given_up_are_not_asked(tmp_path: Path) -> None:
    asked: list[int] = []

    def probe(index: int) -> Answer:
        asked.append(index)
        return CARD

    for name, expected in (("sc7_no_permission", []), ("sc7_dead_chip", [0, 1, 3])):
        asked.clear()
        examine(recorded(name, tmp_path / name), host=PC, probe=probe)
        assert asked == expected


def test_a_machine_is_read_from_its_files(tmp_path: Path) -> None:
    machine = look(recorded("sc7", tmp_path))
    assert [chip.index for chip in machine.chips] == [0, 1, 2, 3]
    assert {heap.name: heap.total for heap in machine.chips[3].heaps} == {
        "heap0": 0x1DBF00000,
        "heap1": 0xBFF00000,
        "heap2": 0xF9900000,
    }
    assert (machine.driver, machine.denied) == ("0.5.1", ())
    assert machine.libsophon == Libsophon("0.5.1")


@pytest.mark.parametrize(
    ("version", "built", "shares"),
    [
        ("0.5.0", "", False),
        ("0.5.1", "", False),
        ("0.5.1", "20250117", False),
        ("0.5.1", "20250218", True),
        ("0.5.2", "", True),
        # A library that lies beside the installed one tells no version.
        ("of unknown version", "20240701", False),
        ("of unknown version", "", True),
    ],
)
def test_which_runtimes_share_memory(version: str, built: str, shares: bool) -> None:
    assert Libsophon(version, built).shares_memory is shares


def test_a_runtime_that_copies_histories_is_told_with_the_newer_one(tmp_path: Path) -> None:
    box, card = examined("se7_root", tmp_path / "box", BOX), examined("sc7", tmp_path / "card", PC)
    assert has(box, separate_memory("0.5.1", "soc"), "warning")
    assert has(card, separate_memory("0.5.1", "pcie"), "warning")
    assert "LLM-TPU/support/lib_soc" in told(box, "warning")
    assert "LLM-TPU/support/lib_pcie" in told(card, "warning")


def test_a_runtime_in_the_library_path_goes_first_but_not_a_simulator(tmp_path: Path) -> None:
    system = recorded("se7_root", tmp_path)
    for folder, names in (("newer", ["libbmrt.so.1.0"]), ("sim", ["libbmrt.so.1.0", "libcmodel_bm1684x.so"])):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text(
                "libbmrt_version:1.0.0, branch:b,commit:c ,compiled on 20260101-0."
            )
    system.library_path = ["/sim"]
    assert find_libsophon(system) == Libsophon("0.5.1")
    system.library_path = ["/sim", "/newer"]
    assert find_libsophon(system) == Libsophon("of unknown version", "20260101")


def test_a_simulator_in_the_library_path_is_no_chip(tmp_path: Path) -> None:
    system = recorded("bare", tmp_path)
    (tmp_path / "sim").mkdir()
    for name in ("libbmrt.so.1.0", "libbmlib.so.0", "libcmodel.so"):
        (tmp_path / "sim" / name).touch()
    system.library_path = ["/sim"]
    assert examine(system, host=PC, probe=lambda _: CARD).healthy


@pytest.mark.parametrize(
    ("python", "level"),
    [((3, 9, 2), "error"), ((3, 10, 0), "ok"), ((3, 13, 9), "ok"), ((3, 14, 0), "warning")],
)
def test_versions_of_python(python: tuple[int, int, int], level: str, tmp_path: Path) -> None:
    result = examined("bare", tmp_path, Environment(python, "x86_64", Path("/cache"), 20_000_000_000))
    assert next(f.level for f in result.findings if f.text.startswith("Python")) == level


def test_a_machine_that_can_run_nothing(tmp_path: Path) -> None:
    system = recorded("bare", tmp_path)
    for path in (tmp_path / "usr/lib/python3/dist-packages").glob("onnxruntime*/METADATA"):
        path.unlink()
    result = examine(
        system, host=Environment((3, 12, 0), "x86_64", Path("/cache"), 1_000_000), probe=lambda _: CARD
    )
    assert "no chip, and no CPU engine" in told(result, "error")
    warnings = told(result, "warning")
    assert "1 MB free in /cache" in warnings
    assert "sudo apt install" in warnings


def test_a_cache_and_a_compiler_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BMQWEN_CACHE", str(tmp_path / "file"))
    monkeypatch.setenv("BMQWEN_TOOLCHAIN", str(tmp_path / "sdk"))
    errors = told(examined("bare", tmp_path / "machine", Environment(machine="x86_64")), "error")
    assert f"the cache {tmp_path}/file is not a folder that you may write to" in errors
    assert f"BMQWEN_TOOLCHAIN: {tmp_path}/sdk has no BM1684X compiler" in errors
    assert "name the folder of an unpacked tpu_mlir" in errors


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_guides_show_what_the_program_says(language: str, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / language / "chip.md").read_text(encoding="utf-8")
    config = published_config("qwen1.5-7b-chat")
    assert config is not None
    large = config_request("qwen1.5-7b-chat", config, Precision.choose("int8", 64, "int8"), 512)
    box = examined("se7", tmp_path / "box", BOX, answer=Answer())
    card = examined("sc7_dead_chip", tmp_path / "card", PC)
    new = examined("se7_new", tmp_path / "new", BOX, answer=Answer(), request=large)
    for lines in ([*_lines(box.findings)], [*_lines(card.findings)], model_part([*_lines(new.findings)])):
        assert "\n".join(lines) in page


def model_part(lines: list[str]) -> list[str]:
    """From the heading on."""
    return lines[lines.index("model") :]
