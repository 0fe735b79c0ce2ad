"""The scripts with the vendor's names: what they run, and what they refuse."""

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from bmqwen.cli.app import app
from bmqwen.hub.catalog import PUBLISHED, find

FOLDER = Path(__file__).parents[2] / "scripts"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
PROGRAM: Any = typer.main.get_command(app)


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A script, as from a shell."""
    return subprocess.run(
        [FOLDER / script, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def commands(script: str, *arguments: str) -> list[list[str]]:
    """The arguments of each bmqwen that a script would run; all of them parse."""
    done = run(script, *arguments, "--dry_run")
    assert done.returncode == 0, done.stderr
    found = [shlex.split(line)[1:] for line in done.stdout.splitlines()]
    for words in found:
        PROGRAM.commands[words[0]].make_context(words[0], words[1:])
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    if shutil.which("shellcheck"):
        checked = subprocess.run(
            ["shellcheck", "-x", script], cwd=FOLDER.parent, capture_output=True, text=True, check=False
        )
        assert checked.stdout == ""


def test_the_documented_options_compile() -> None:
    options = "--mode int4 --name qwen1.5-1.8b --seq_length 512 --num_device 1 --addr_mode io_alone"
    folder = "models/BM1684X/qwen1.5-1.8b_int4_seq512_1dev"
    assert commands("gen_bmodel.sh", *options.split()) == [
        ["compile", "qwen1.5-1.8b-chat", "-o", folder, "--quant", "int4", "--seq-len", "512"]
    ]


@pytest.mark.parametrize(
    ("mode", "options"),
    [("int8", ["--quant", "int8"]), ("f16", ["--quant", "f16"]), ("bf16", ["--quant", "f16", "--bf16"])],
)
def test_modes(mode: str, options: list[str]) -> None:
    (words,) = commands("gen_bmodel.sh", "--mode", mode, "--name", "qwen1.5-7b", "--seq_length", "1024")
    assert words[4:] == [*options, "--seq-len", "1024"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "--name is required"),
        ("--name qwen1.5-14b --seq_length 512", "unknown name qwen1.5-14b"),
        ("--name qwen1.5-7b", "--seq_length is required"),
        ("--name qwen1.5-7b --seq_length many", "--seq_length is required"),
        ("--name qwen1.5-7b --seq_length", "--seq_length needs a value"),
        ("--name qwen1.5-7b --seq_length 512 --mode w3", "unknown mode w3"),
        ("--name qwen1.5-7b --seq_length 512 --num_device 2", "for several use bmqwen compile --parts 2"),
        ("--name qwen1.5-7b --seq_length 512 --target bm1688", "for bm1684x only"),
        ("--name qwen1.5-7b --seq_length 512 --dynamic 1", "leave it out"),
        ("--name qwen1.5-7b --seq_length 512 --addr_mode basic", "nets are io_alone"),
        ("--frobnicate 1", "unknown option --frobnicate"),
    ],
)
def test_what_gen_bmodel_refuses(arguments: str, message: str) -> None:
    done = run("gen_bmodel.sh", *arguments.split(), "--dry_run")
    if arguments.endswith("--seq_length"):
        done = run("gen_bmodel.sh", *arguments.split())
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_download_fetches_what_was_published() -> None:
    everything = [words[1] for words in commands("download.sh")]
    assert everything == list(PUBLISHED[:4])
    assert [words[1] for words in commands("download.sh", "qwen1.5")] == list(PUBLISHED[4:])
    assert commands("download.sh", "qwen1.5-1.8b", "--mode", "int8") == [
        ["pull", "qwen1.5-1.8b_int8_1dev", "--source", "sophgo"]
    ]
    assert all(find(name).file == f"{name}.bmodel" for name in everything)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bm1688"], "for other chips or models"),
        (["qwen1.5-7b", "--mode", "int8"], "qwen1.5-7b was published in int4 only"),
        (["qwen1.5-7b", "--mode", "f16"], "--mode is int4 or int8"),
        (["llama"], "unknown llama"),
    ],
)
def test_what_download_refuses(arguments: list[str], message: str) -> None:
    done = run("download.sh", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
