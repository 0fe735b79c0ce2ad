"""The whole way from a checkpoint to a bmodel bundle, with a stand-in for the compiler."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bmqwen.artifact.addresses import AddressMap
from bmqwen.artifact.bundle import read_bundle
from bmqwen.artifact.steps import StepNets, StepShape, step_shapes
from bmqwen.compiler.pipeline import compile_model
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.errors import CheckpointError, CompileError, InputError, MissingDependencyError, StorageError
from bmqwen.model.config import ModelConfig
from bmqwen.quant.precision import Precision
from bmqwen.util.float16 import from_half
from bmqwen.util.paths import cache_folder
from bmqwen.weights.checkpoint import open_checkpoint
from support.checkpoints import random_weights, tiny_config, write_checkpoint
from support.stand_in_compiler import compiled, stand_in

INT4 = Precision("int4", 32, "int8")
SHAPES = ["64-0", "32-64", "32-0", "8-64", "1-64"]


class Notes:
    """A Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.notes: list[str] = []
        self.shares: list[float] = []
        self._total = 1

    def start(self, label: str, total: int | None) -> None:
        self.labels.append(label)
        self._total = total or 1

    def advance(self, done: int) -> None:
        self.shares.append(done / self._total)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny checkpoint."""
    return write_checkpoint(tmp_path / "model", tiny_config("qwen1.5", layers=2), seed=3)


def run(
    model: Path,
    folder: Path,
    toolchain: Toolchain | None,
    precision: Precision = INT4,
    *,
    seq_len: int = 64,
    layers: int | None = None,
    sequences: int = 1,
    replace: bool = False,
    progress: Notes | None = None,
    jobs: int | None = None,
) -> StepNets:
    """Compile and return what the manifest says of the nets."""
    with open_checkpoint(model) as checkpoint:
        bundle = compile_model(
            checkpoint,
            folder,
            precision,
            seq_len=seq_len,
            layers=layers,
            sequences=sequences,
            drafts=sequences > 1,
            toolchain=toolchain,
            replace=replace,
            progress=progress,
            jobs=jobs,
        )
    bundle.verify_files()
    return StepNets.from_dict(bundle.details, str(folder))


def left_beside(folder: Path) -> list[str]:
    """What is next to a bundle that is to be, half-written folders above all."""
    return sorted(path.name for path in folder.parent.iterdir() if "bundle" in path.name)


def test_bundle_is_complete_and_says_what_it_holds(model: Path, tmp_path: Path) -> None:
    progress = Notes()
    nets = run(model, tmp_path / "bundle", stand_in(tmp_path), progress=progress)
    assert nets.context == 64
    assert nets.cycles == {
        StepShape(64, 0): 64000,
        StepShape(32, 64): 32000,
        StepShape(32, 0): 32000,
        StepShape(8, 64): 8000,
        StepShape(1, 64): 1000,
    }
    assert sorted(compiled(tmp_path)) == sorted(SHAPES)
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.kind == "bmodel"
    assert bundle.precision == INT4.to_dict()
    assert bundle.details["device_bytes"] == 1000 + AddressMap(bundle.config, list(nets.cycles)).size
    assert bundle.details["stages"][0]["bytes_read"] == 300
    # The longest step first: what model_tool says of memory is of the first.
    text = bundle.path("model.bmodel").read_text("latin-1")
    assert [text.index(f"input_states, [1, {n},") for n in (64, 32, 8, 1)] == sorted(
        text.index(f"input_states, [1, {n},") for n in (64, 32, 8, 1)
    )
    with open_checkpoint(model) as checkpoint:
        table = checkpoint.weights.read("model.embed_tokens.weight")
    stored = np.fromfile(bundle.path("embedding.bin"), np.uint16).reshape(table.shape)
    np.testing.assert_array_equal(from_half(stored, "f16"), table.astype(np.float16).astype(np.float32))
    assert bundle.path("tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    assert not [p for p in cache_folder("compile").iterdir() if p.is_dir()]
    assert any("5 of 5" in note for note in progress.notes)
    # Before the work: what it will take on the chip, and whether a chip has that.
    assert "MB on the chip: weights " in progress.notes[0]
    assert progress.notes[1].startswith("it fits on an SE7 box")
    assert max(progress.shares) <= 1.001


def test_bundle_for_several_sequences(model: Path, tmp_path: Path) -> None:
    """It says how many, which nets have results for several rows, and what that takes on the chip."""
    progress = Notes()
    nets = run(model, tmp_path / "bundle", stand_in(tmp_path), sequences=3, progress=progress)
    assert (nets.context, nets.sequences, nets.rows) == (64, 3, 256)
    assert set(nets.cycles) == set(step_shapes(64, 3))
    assert {shape.rows for shape in nets.cycles if shape.tokens == 8} == {8}
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.details["device_bytes"] == 1000 + AddressMap(bundle.config, list(nets.cycles)).size
    assert ", 3 sequences, 64 tokens: needs " in progress.notes[0]


def test_bf16_table(model: Path, tmp_path: Path) -> None:
    with open_checkpoint(model) as checkpoint:
        bundle = compile_model(
            checkpoint,
            tmp_path / "bundle",
            INT4,
            seq_len=64,
            half="bf16",
            sequences=1,
            drafts=False,
            toolchain=stand_in(tmp_path),
        )
        table = checkpoint.weights.read("model.embed_tokens.weight")
    stored = np.fromfile(bundle.path("embedding.bin"), np.uint16).reshape(table.shape)
    np.testing.assert_allclose(from_half(stored, "bf16"), table, rtol=2**-8)
    assert bundle.details["half"] == "bf16"


def test_up_to_date_bundle_needs_no_compiler(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(model, tmp_path / "bundle", stand_in(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(model, tmp_path / "bundle", None) == first
    with pytest.raises(MissingDependencyError, match="needs cmake"):
        run(model, tmp_path / "other", None)
    assert left_beside(tmp_path / "bundle") == ["bundle"]


def test_other_content_is_replaced_only_when_asked(model: Path, tmp_path: Path) -> None:
    toolchain = stand_in(tmp_path)
    run(model, tmp_path / "bundle", toolchain)
    with pytest.raises(InputError, match="holds another bundle"):
        run(model, tmp_path / "bundle", toolchain, layers=1)
    run(model, tmp_path / "bundle", toolchain, layers=1, replace=True)
    assert read_bundle(tmp_path / "bundle").config.num_hidden_layers == 1
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="is not a bundle"):
        run(model, tmp_path / "folder", toolchain, replace=True)


@pytest.mark.parametrize(
    ("precision", "seq_len", "layers", "message"),
    [
        (INT4, 60, None, "--seq-len 60 .* multiple of 8 from 32 to 256"),
        (INT4, 24, None, "--seq-len 24 cannot be compiled"),
        (INT4, 264, None, "--seq-len 264 .* to 256 for this model"),
        (INT4, -64, None, "--seq-len -64 cannot be compiled"),
        (INT4, 64, 3, "--layers 3 cannot be compiled: model has 2 layers"),
        (INT4, 64, 0, "--layers 0 cannot"),
        (Precision("f32", 32, "f32"), 64, None, "half precision"),
        (Precision("int4", 256, "int8"), 64, None, "64 columns, which the group size 256 does not divide"),
    ],
)
def test_options_that_do_not_fit(
    precision: Precision, seq_len: int, layers: int | None, message: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        run(model, tmp_path / "bundle", stand_in(tmp_path), precision, seq_len=seq_len, layers=layers)
    assert compiled(tmp_path) == []
    assert left_beside(tmp_path / "bundle") == []


def test_failure_keeps_the_log_and_what_is_finished(model: Path, tmp_path: Path) -> None:
    failing = "if stage == '8-64':\n    print('layer 3: error: out of local memory'); sys.exit(1)"
    with pytest.raises(CompileError, match=r"layer 3: error: out of local memory \(log: (\S+)\)") as caught:
        run(model, tmp_path / "bundle", stand_in(tmp_path, failing), jobs=1)
    log = Path(str(caught.value).split("(log: ")[1].rstrip(")"))
    assert "out of local memory" in log.read_text()
    assert [path.name for path in log.parent.iterdir()] == [log.name]
    assert left_beside(tmp_path / "bundle") == []
    progress = Notes()
    run(model, tmp_path / "bundle", stand_in(tmp_path), progress=progress, jobs=1)
    assert compiled(tmp_path) == [*SHAPES[:4], *SHAPES[3:]]
    assert progress.notes[0] == "64 tokens with none cached: compiled by an earlier run (1 of 5)"


def test_killed_compiler_is_named(model: Path, tmp_path: Path) -> None:
    killed = "os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(CompileError, match="it was killed, probably because memory ran out"):
        run(model, tmp_path / "bundle", stand_in(tmp_path, killed))
    assert left_beside(tmp_path / "bundle") == []


def test_one_failure_ends_the_other_compilers(model: Path, tmp_path: Path) -> None:
    behaviour = (
        "if stage == '8-64':\n    print('error: no'); sys.exit(1)\nif stage == '1-64':\n    time.sleep(600)"
    )
    started = time.monotonic()
    with pytest.raises(CompileError, match="error: no"):
        run(model, tmp_path / "bundle", stand_in(tmp_path, behaviour), jobs=2)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("damaged", ["joined", pytest.param("stage", marks=pytest.mark.thorough), "weights"])
def test_damaged_work_is_done_again(damaged: str, model: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    run(model, whole, stand_in(tmp_path / "other"))
    # With the one before the last missing, those before it are joined and the last waits.
    failing = (
        "if stage == '8-64':\n"
        "    while not os.path.exists('../1-64/stage.json'): time.sleep(0.02)\n"
        "    sys.exit(1)"
    )
    with pytest.raises(CompileError):
        run(model, tmp_path / "bundle", stand_in(tmp_path, failing), jobs=2)
    (work,) = (p for p in cache_folder("compile").iterdir() if p.is_dir())
    path = {
        "joined": work / "joined-3.bmodel",
        "stage": work / "1-64/step.bmodel",
        "weights": work / "weights.npz",
    }[damaged]
    path.write_bytes(path.read_bytes()[:-7])
    (tmp_path / "trace").unlink()
    run(model, tmp_path / "bundle", stand_in(tmp_path))
    again = {
        "joined": set(SHAPES[:4]),
        "stage": {"8-64", "1-64"},
        "weights": {"8-64"},
    }
    assert set(compiled(tmp_path)) == again[damaged]
    assert (tmp_path / "bundle/model.bmodel").read_bytes() == (whole / "model.bmodel").read_bytes()


def test_stages_lost_by_the_joining_program_are_noticed(model: Path, tmp_path: Path) -> None:
    toolchain = stand_in(tmp_path)
    text = toolchain.model_tool.read_text()
    toolchain.model_tool.write_text(text.replace("sys.argv[2:at]", "sys.argv[2:at][:1]"))
    with pytest.raises(
        CompileError, match="the joined bmodel has the stages 64 tokens with none cached in place of"
    ):
        run(model, tmp_path / "bundle", toolchain)
    assert left_beside(tmp_path / "bundle") == []
    # Nothing is built upon what is broken.
    run(model, tmp_path / "bundle", stand_in(tmp_path))
    assert len(compiled(tmp_path)) == 10


def test_place_that_cannot_be_written_is_said_before_work_starts(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*/file/bundle: .* is not a folder"):
        run(model, tmp_path / "file/bundle", stand_in(tmp_path))
    assert compiled(tmp_path) == []


def test_weights_that_are_not_numbers(tmp_path: Path) -> None:
    config: ModelConfig = tiny_config("qwen1.5")
    weights = random_weights(config)
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = np.nan
    model = write_checkpoint(tmp_path / "model", config, weights=weights)
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        run(model, tmp_path / "bundle", stand_in(tmp_path))
    assert compiled(tmp_path) == []
    (work,) = (p for p in cache_folder("compile").iterdir() if p.is_dir())
    assert list(work.iterdir()) == []


PROGRAM = """
import resource, sys
from pathlib import Path
sys.path[:0] = {paths!r}
from support.stand_in_compiler import stand_in
from bmqwen.weights.checkpoint import open_checkpoint
from bmqwen.compiler.pipeline import compile_model
from bmqwen.errors import BmqwenError
from bmqwen.quant.precision import Precision
from test_pipeline import Notes
notes = Notes()
limit = {limit}
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    with open_checkpoint(Path({model!r})) as checkpoint:
        compile_model(checkpoint, Path({folder!r}), Precision("int4", 32, "int8"), seq_len=64, jobs=2,
                      sequences=1, drafts=False,
                      toolchain=stand_in(Path({tmp!r}), {behaviour!r}), progress=notes)
except (BmqwenError, KeyboardInterrupt) as error:
    print(type(error).__name__, error, *notes.notes, sep="|")
"""


def start(model: Path, tmp_path: Path, behaviour: str, limit: int = 0) -> "subprocess.Popen[str]":
    """Compile in a process of its own."""
    here = Path(__file__).parent
    program = PROGRAM.format(
        paths=[str(here), str(here.parent)],
        model=str(model),
        folder=str(tmp_path / "bundle"),
        tmp=str(tmp_path),
        behaviour=behaviour,
        limit=limit,
    )
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def wait_for(tmp_path: Path, count: int) -> None:
    """Until so many nets were given to the compiler."""
    deadline = time.monotonic() + 60
    while len(compiled(tmp_path)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def compilers() -> list[int]:
    """Processes that run inside of the work folders."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            place = str((entry / "cwd").readlink())
            alive = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            continue
        if place.startswith(str(cache_folder("compile"))) and alive:
            found.append(int(entry.name))
    return found


HANG_AFTER_FIRST = "if stage != '64-0':\n    time.sleep(600)"


def test_interrupt_ends_the_compilers_and_keeps_what_is_finished(model: Path, tmp_path: Path) -> None:
    process = start(model, tmp_path, HANG_AFTER_FIRST)
    wait_for(tmp_path, 3)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert said.startswith("KeyboardInterrupt|")
    assert "1 of 5 nets is kept in " in said
    assert compilers() == []
    assert left_beside(tmp_path / "bundle") == []
    run(model, tmp_path / "bundle", stand_in(tmp_path))
    assert sorted(compiled(tmp_path)[3:]) == sorted(SHAPES[1:])


def test_after_a_kill_the_orphans_end_and_the_rest_is_compiled(model: Path, tmp_path: Path) -> None:
    process = start(model, tmp_path, HANG_AFTER_FIRST)
    wait_for(tmp_path, 3)
    process.kill()
    process.communicate(timeout=60)
    assert len(compilers()) == 2
    # Somebody who looks at the logs is no orphan.
    (log,) = cache_folder("compile").glob("*/32-64/compiler.log")
    reader = subprocess.Popen(["sleep", "600"], cwd=log.parent)
    run(model, tmp_path / "bundle", stand_in(tmp_path))
    assert compilers() in ([], [reader.pid])
    assert reader.poll() is None
    reader.kill()
    reader.wait()
    assert sorted(compiled(tmp_path)[3:]) == sorted(SHAPES[1:])


def test_full_disk_while_the_weights_are_written(model: Path, tmp_path: Path) -> None:
    process = start(model, tmp_path, "", limit=30_000)
    said = process.communicate(timeout=60)[0]
    assert said.startswith("StorageError|")
    assert "weights.npz" in said
    assert left_beside(tmp_path / "bundle") == []
    assert not list(cache_folder("compile").rglob("*weights*"))


def test_full_disk_while_the_bundle_is_written_keeps_the_nets(tmp_path: Path) -> None:
    # Room for everything but the table, which comes last: the weights are smaller in their 4 and 8 bits.
    table = write_checkpoint(tmp_path / "wide", tiny_config("qwen1.5", vocab_size=4096), seed=3)
    process = start(table, tmp_path, "", limit=2 * 4096 * 64 - 1000)
    said = process.communicate(timeout=60)[0]
    assert "embedding.bin" in said
    assert said.startswith("StorageError|")
    assert left_beside(tmp_path / "bundle") == []
    run(table, tmp_path / "bundle", stand_in(tmp_path))
    assert len(compiled(tmp_path)) == len(SHAPES)


def test_two_processes_compile_once(model: Path, tmp_path: Path) -> None:
    both = [start(model, tmp_path, "time.sleep(0.3)") for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert said == ["", ""]
    assert len(compiled(tmp_path)) == len(SHAPES)


def test_too_little_disk_is_said_before_work_starts(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    # The cache's disk is another than the bundle's.
    free = 1 << 20
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: usage if "cache" in str(path) else usage._replace(free=free)
    )
    with pytest.raises(StorageError, match=r"the bundle of model needs \d+ MB in .*free some space"):
        run(model, tmp_path / "bundle", stand_in(tmp_path))
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: usage._replace(free=free) if "cache" in str(path) else usage
    )
    with pytest.raises(StorageError, match=r"compiling model needs \d+ MB in .*compile.*free some space"):
        run(model, tmp_path / "bundle", stand_in(tmp_path))
    assert compiled(tmp_path) == []


def test_manifest_is_readable_by_people(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "bundle", stand_in(tmp_path), layers=1)
    details = json.loads((tmp_path / "bundle/bmqwen.json").read_text())["details"]
    assert details["checkpoint_layers"] == 2
    assert details["toolchain"] == "stand-in"
