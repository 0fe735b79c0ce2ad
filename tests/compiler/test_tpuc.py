"""Driving the compiler: with stand-ins for what can go wrong, and with the real one."""

import hashlib
import threading
import time
from pathlib import Path

import pytest

from bmqwen.compiler.toolchain import Toolchain, open_toolchain
from bmqwen.compiler.tpuc import Recipe, combine, compile_net, describe, forget_time
from bmqwen.errors import CompileError
from support.simulator_nets import attention_text, linear_text, write_net


def stand_in(folder: Path, script: str) -> Toolchain:
    """A toolchain whose compiler is a shell script."""
    program = folder / "root/bin/tpuc-opt"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return Toolchain(folder / "root", "stand-in", folder / "state")


def net(folder: Path) -> Path:
    """A net for a stand-in, which does not read it."""
    folder.mkdir(parents=True, exist_ok=True)
    mlir = folder / "block.mlir"
    mlir.write_text("")
    return mlir


def test_failure_shows_the_cause_in_one_line_and_keeps_the_log(tmp_path: Path) -> None:
    script = "echo chatter; echo \"block.mlir:7:5: error: 'top.MatMul' op shapes differ\"; echo more; exit 1"
    toolchain = stand_in(tmp_path, script)
    with pytest.raises(
        CompileError, match=r"block, pass 1 of 3: block\.mlir:7:5: error: .* shapes differ"
    ) as caught:
        compile_net(toolchain, net(tmp_path / "net"), Recipe("F16"))
    assert "\n" not in str(caught.value)
    assert "chatter" in (tmp_path / "net/compiler.log").read_text()


def test_crash_is_named_without_its_stack(tmp_path: Path) -> None:
    script = "echo 'too large for local memory'; echo ' #0 0x0000 tpuc-opt+0x95'; kill -ABRT $$"
    with pytest.raises(CompileError, match=r"it crashed \(SIGABRT\); too large for local memory"):
        compile_net(stand_in(tmp_path, script), net(tmp_path / "net"), Recipe("F16"))


def test_killed_for_want_of_memory(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="probably because memory ran out"):
        compile_net(stand_in(tmp_path, "kill -KILL $$"), net(tmp_path / "net"), Recipe("F16"))


def test_success_without_a_bmodel_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="the compiler wrote no bmodel; quietly did nothing"):
        compile_net(stand_in(tmp_path, "echo quietly did nothing"), net(tmp_path / "net"), Recipe("F16"))


def test_cancelling_kills_the_compiler_and_what_it_started(tmp_path: Path) -> None:
    toolchain = stand_in(tmp_path, f"sleep 600 & echo $! > {tmp_path}/child; wait")
    cancelled = threading.Event()

    def cancel_when_running() -> None:
        while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text().strip():
            time.sleep(0.02)
        cancelled.set()

    watcher = threading.Thread(target=cancel_when_running)
    watcher.start()
    with pytest.raises(CompileError, match="cancelled"):
        compile_net(toolchain, net(tmp_path / "net"), Recipe("F16"), cancelled=cancelled)
    watcher.join()
    child = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    deadline = time.monotonic() + 10
    # Killed, it is gone or a zombie until it is reaped.
    while child.exists() and child.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not child.exists() or child.read_text().split()[2] == "Z"


def test_failed_kernels_are_tried_again(tmp_path: Path) -> None:
    toolchain = stand_in(tmp_path, "exit 1")
    toolchain.kernels.mkdir(parents=True)
    (toolchain.kernels / "flag.txt").write_text("11 0\n12 127\n13 17\n")
    with pytest.raises(CompileError):
        compile_net(toolchain, net(tmp_path / "net"), Recipe("F16"))
    assert (toolchain.kernels / "flag.txt").read_text() == "11 0\n13 17\n"


def test_time_is_replaced_at_equal_length(tmp_path: Path) -> None:
    head = b"\x10\0\0\0version\0\0\x19\0\0\0Mon Nov 23 01:56:53 2026\n\0rest"
    path = tmp_path / "a.bmodel"
    path.write_bytes(head)
    forget_time(path)
    assert path.read_bytes() == head.replace(b"Mon Nov 23 01:56:53 2026", b"Thu Jan  1 00:00:00 1970")


@pytest.fixture(scope="module")
def toolchain() -> Toolchain:
    """The real compiler."""
    return open_toolchain()


@pytest.mark.simulator
def test_equal_nets_are_equal_files(toolchain: Toolchain, tmp_path: Path) -> None:
    nets = []
    for folder in ("a", "b"):
        mlir = write_net(tmp_path / folder, "linear", linear_text("linear", 4))
        nets.append(compile_net(toolchain, mlir, Recipe("F16")))
        time.sleep(1.1)  # the compiler writes the second of the day
    first, second = (hashlib.sha256(n.bmodel.read_bytes()).hexdigest() for n in nets)
    assert first == second
    assert "API_END" in nets[0].profile.read_text()


@pytest.mark.simulator
def test_combined_stages_share_their_weights(toolchain: Toolchain, tmp_path: Path) -> None:
    mlirs = [write_net(tmp_path / str(rows), "linear", linear_text("linear", rows)) for rows in (8, 1)]
    nets = [compile_net(toolchain, mlir, Recipe("F16")) for mlir in mlirs]
    combine(toolchain, [n.bmodel for n in nets], tmp_path / "all.bmodel")
    said = describe(toolchain, tmp_path / "all.bmodel")
    assert "stage 1" in said
    assert "net 1" not in said
    alone = describe(toolchain, nets[0].bmodel)
    assert said.split("weight: ")[1].split(",")[0] == alone.split("weight: ")[1].split(",")[0]


@pytest.mark.simulator
def test_attention_kernel_is_compiled_and_kept(toolchain: Toolchain, tmp_path: Path) -> None:
    text = attention_text(rows=1, history=24, heads=2, dim=32)
    compiled = compile_net(toolchain, write_net(tmp_path / "a", "attention", text), Recipe("F16"))
    assert compiled.bmodel.stat().st_size > 0
    assert any(toolchain.kernels.glob("*/compiled"))


@pytest.mark.simulator
def test_wrong_text_names_the_operation(toolchain: Toolchain, tmp_path: Path) -> None:
    text = linear_text("linear", 4).replace("top.MatMul", "top.Nothing")
    with pytest.raises(CompileError, match=r"pass 1 of 3: .*error.*top\.Nothing"):
        compile_net(toolchain, write_net(tmp_path / "a", "linear", text), Recipe("F16"))


@pytest.mark.simulator
def test_no_bmodel(toolchain: Toolchain, tmp_path: Path) -> None:
    (tmp_path / "x.bmodel").write_bytes(b"nothing" * 100)
    with pytest.raises(CompileError, match=r"x\.bmodel is not a bmodel"):
        describe(toolchain, tmp_path / "x.bmodel")
    with pytest.raises(CompileError, match=r"joining 1 net: .*is broken"):
        combine(toolchain, [tmp_path / "x.bmodel"], tmp_path / "all.bmodel")
    assert not (tmp_path / "all.bmodel").exists()
