"""A checkpoint becomes a bmodel bundle: step nets written, compiled and joined."""

import hashlib
import json
import os
import re
import shutil
import threading
import time
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np

from bmqwen.artifact.addresses import AddressMap
from bmqwen.artifact.bundle import (
    BMODEL_FILE,
    EMBEDDING_FILE,
    Bundle,
    part_file,
    read_bundle,
    reusable_bundle,
    write_manifest,
)
from bmqwen.artifact.division import part_text
from bmqwen.artifact.fit import config_request, memory_findings
from bmqwen.artifact.steps import StepNets, StepShape
from bmqwen.chip.spec import DEFAULT_CHIP, ChipSpec
from bmqwen.chip.system import System
from bmqwen.compiler.plan import Plan, make_plan
from bmqwen.compiler.schedule import NetClock, parallel_jobs, run_nets
from bmqwen.compiler.toolchain import Toolchain, open_toolchain
from bmqwen.compiler.tpuc import Recipe, compile_net, describe
from bmqwen.compiler.work_folder import ADDRESSES, FinishedNet, WorkFolder, link_or_copy, open_work_folder
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.errors import CompileError, StorageError
from bmqwen.quant.precision import Precision, rounding_of
from bmqwen.util.float16 import MOST_F16, Half, to_half
from bmqwen.util.progress import Progress, Silent, counting
from bmqwen.util.storage import new_folder, require_free, storage_errors
from bmqwen.util.text import counted
from bmqwen.version import __version__
from bmqwen.weights.checkpoint import Checkpoint

# Before a net has been measured: weights that a compilation takes in a second.
BYTES_A_SECOND = 20e6
FULL_DISK = 64 << 20


@dataclass(frozen=True, slots=True)
class _Part:
    """A compiled part: its plan, its bmodel's file and name in the bundle, its nets, and memory that it takes."""

    plan: Plan
    work: WorkFolder
    name: str
    nets: Mapping[StepShape, FinishedNet]
    device_bytes: int


def compile_model(
    checkpoint: Checkpoint,
    folder: Path,
    precision: Precision,
    *,
    seq_len: int = 512,
    half: Half = "f16",
    layers: int | None = None,
    sequences: int | None = None,
    drafts: bool = True,
    parts: int | None = 1,
    chip: ChipSpec = DEFAULT_CHIP,
    jobs: int | None = None,
    toolchain: Toolchain | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Compile a checkpoint to a bmodel bundle. A bundle that is there already and up to date is left as it is.

    An interrupted compilation leaves its finished nets in the cache, and the same call goes on from there.

    Args:
        folder: the bundle's folder; it appears when it is complete.
        precision: formats of the weights; f32 is not for the chip.
        seq_len: tokens that the K/V cache holds of a sequence.
        half: what the chip computes in.
        layers: only so many decoder layers, for trials.
        sequences: computed side by side; None: what there is memory for.
        drafts: with nets that check drafted tokens.
        parts: chips that the layers are divided among; None: as few as there is memory for.
        jobs: nets compiled at a time; None: what memory and processors allow.
        toolchain: the compiler; None: the pinned one, fetched when it is needed.
        replace: an existing bundle of other content is replaced.

    Raises:
        InputError: options that do not fit the model or the chip, or `folder` exists and is something else.
        CheckpointError: the checkpoint is damaged.
        MissingDependencyError: no compiler, or this machine cannot run it.
        CompileError: the compiler failed; the message names its log, which is kept.
        StorageError: not enough room, or a place that cannot be written.
    """
    progress = progress or Silent()
    plan = make_plan(
        checkpoint, precision, seq_len, half, layers, chip, sequences=sequences, drafts=drafts, parts=parts
    )
    if (existing := reusable_bundle(folder, plan.key, replace=replace)) is not None:
        return existing
    _check_place(folder, plan, checkpoint.name)
    if half == "f16" and checkpoint.largest_activation > MOST_F16:
        progress.note(
            f"{checkpoint.name} computes values of {checkpoint.largest_activation:,.0f}, and F16 holds 65,504: "
            "compile it with --bf16"
        )
    tokenizer = checkpoint.tokenizer_files()
    plans = plan.of_parts()
    texts = [{shape: (own.text(shape), own.addresses(shape)) for shape in own.shapes} for own in plans]
    toolchain = toolchain or open_toolchain(report=progress.note)
    made: list[_Part] = []
    with ExitStack() as folders:
        for number, (own, its) in enumerate(zip(plans, texts, strict=True), start=1):
            # The plan, and the very compiler.
            key = hashlib.sha256(json.dumps([own.key, *toolchain.identity]).encode()).hexdigest()[:16]
            work = folders.enter_context(open_work_folder(key, its, progress.note))
            # Another process may have made it while this one waited for the folder.
            if (existing := reusable_bundle(folder, plan.key, replace=replace)) is not None:
                return existing
            if len(plans) > 1:
                progress.note(f"part {number} of {len(plans)}: {part_text(own.config)}")
            name = BMODEL_FILE if len(plans) == 1 else part_file(number)
            made.append(_compile_part(checkpoint, own, work, name, toolchain, jobs, progress))
        progress.start(f"writing {folder}", None)
        with new_folder(folder, replace=replace) as place:
            for part in made:
                link_or_copy(part.work.bmodel, place / part.name)
            _write_table(checkpoint, plan, place / EMBEDDING_FILE)
            for name, content in tokenizer.items():
                (place / name).write_bytes(content)
            _write_manifest(checkpoint, plan, made, place, toolchain)
        bundle = read_bundle(folder)
        for part in made:
            part.work.remove()
    return bundle


def _compile_part(
    checkpoint: Checkpoint,
    plan: Plan,
    work: WorkFolder,
    name: str,
    toolchain: Toolchain,
    jobs: int | None,
    progress: Progress,
) -> _Part:
    """Compile one bmodel, which is to be called `name`."""
    try:
        finished = _compile_nets(checkpoint, plan, work, toolchain, jobs, progress)
    except KeyboardInterrupt:
        kept = sum(work.finished(shape) is not None for shape in plan.shapes)
        progress.note(
            f"{kept} of {counted(len(plan.shapes), 'net')} {'is' if kept == 1 else 'are'} kept in "
            f"{work.path}: the same command goes on from there"
        )
        raise
    try:
        device_bytes = _device_bytes(describe(toolchain, work.bmodel), plan)
    except CompileError:
        work.remove()
        raise
    return _Part(plan, work, name, finished, device_bytes)


def _check_place(folder: Path, plan: Plan, name: str) -> None:
    """Raise StorageError, before the work, unless the bundle can be written where it is to be."""
    with storage_errors(folder):
        parent = next(p for p in folder.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise StorageError(
            f"cannot write {folder}: {parent} is not a folder that you may write to; choose another"
        )
    require_free(parent, plan.size.bundle, f"the bundle of {name}")


def _compile_nets(
    checkpoint: Checkpoint,
    plan: Plan,
    work: WorkFolder,
    toolchain: Toolchain,
    jobs: int | None,
    progress: Progress,
) -> dict[StepShape, FinishedNet]:
    """All nets, those of an earlier run included."""
    finished = {s: found for s in plan.shapes if (found := work.finished(s)) is not None}
    missing = [shape for shape in plan.shapes if shape not in finished]
    jobs = parallel_jobs(plan.size.compiler, len(missing), jobs)
    clock = NetClock(len(plan.shapes), jobs, plan.size.chip.weights / BYTES_A_SECOND + 5, progress)
    for shape, done in finished.items():
        clock.reused(shape, done.seconds)
    if not missing:
        work.join(toolchain)
        return finished
    request = config_request(checkpoint.name, plan.config, plan.precision, plan.context, plan.sequences)
    for finding in memory_findings(request, System()):
        progress.note(str(finding))
    require_free(work.path, plan.size.scratch(jobs), f"compiling {checkpoint.name}")
    if not zipfile.is_zipfile(work.weights):
        label = f"converting the weights of {checkpoint.name} to {plan.precision}"
        advance = counting(progress, label, plan.size.values)
        plan.write_weights(work.weights, WeightBlocks(checkpoint.weights, advance))

    def compile_one(shape: StepShape, cancelled: threading.Event) -> FinishedNet:
        mlir = work.begin(shape)
        start = time.monotonic()
        recipe = Recipe(plan.mode, addresses=mlir.with_name(ADDRESSES), chip=plan.chip)
        try:
            net = compile_net(toolchain, mlir, recipe, cancelled=cancelled)
            describe(toolchain, net.bmodel)
            done = work.finish(shape, net, time.monotonic() - start)
        except BaseException as error:
            work.abandon(shape, keep_log=isinstance(error, CompileError) and not cancelled.is_set())
            raise
        work.join(toolchain, cancelled)
        return done

    try:
        finished |= run_nets(missing, compile_one, clock)
    except CompileError as error:
        if shutil.disk_usage(work.path).free < FULL_DISK:
            raise StorageError(
                f"no space left in {work.path} for compiling {checkpoint.name}: free some disk space or set "
                "BMQWEN_CACHE to a larger disk; the same command goes on from here"
            ) from error
        raise
    return finished


def _device_bytes(said: str, plan: Plan) -> int:
    """Memory of the chip that the bmodel takes: by model_tool, and its inputs and outputs, K/V among them.

    Raises CompileError unless model_tool names one net with just the planned stages, in their order.
    """
    tokens = re.findall(r"input_states, \[1, (\d+), ", said)
    masks = re.findall(r"attention_mask, \[1, 1, (\d+), (\d+)\]", said)
    results = re.findall(r"last_row, \[(\d+)\]", said)
    # A net that copies rows has a mask of one.
    found = [
        StepShape(int(count), int(columns) - int(count), int(rows) if queries == count else 0)
        for count, (queries, columns), rows in zip(tokens, masks, results, strict=True)
    ]
    if tuple(found) != plan.shapes or "\nnet 1:" in said:
        raise CompileError(
            f"the joined bmodel has the stages {', '.join(map(str, found))} in place of "
            f"{', '.join(map(str, plan.shapes))}: report this as a bug of bmqwen"
        )
    stated = re.search(r"device mem size: (\d+)", said)
    if stated is None:
        raise CompileError("model_tool does not say how much device memory the bmodel needs")
    return int(stated[1]) + AddressMap(plan.config, plan.shapes).size


def _write_table(checkpoint: Checkpoint, plan: Plan, path: Path) -> None:
    """The embedding table as raw halves [vocab, hidden], streamed."""
    with storage_errors(path), path.open("wb") as file:
        for block in WeightBlocks(checkpoint.weights).floats(["model.embed_tokens.weight"], np.float32):
            file.write(to_half(block, plan.half).data)


def _write_manifest(
    checkpoint: Checkpoint,
    plan: Plan,
    made: Sequence[_Part],
    place: Path,
    toolchain: Toolchain,
) -> None:
    """Complete the bundle in `place`."""
    profiles = {s: reduce(add, (part.nets[s].profile for part in made)) for s in plan.shapes}
    cycles = {shape: profile.cycles for shape, profile in profiles.items()}
    nets = StepNets(
        plan.context,
        cycles,
        half=plan.half,
        chip=plan.chip.name,
        toolchain=toolchain.version,
        sequences=plan.sequences,
        parts=len(made),
    )
    details = nets.to_dict()
    for entry in details["stages"]:
        entry |= asdict(profiles[StepShape.from_dict(entry)])
    if len(made) > 1:
        details["parts"] = [
            {
                "layers": part.plan.config.num_hidden_layers,
                "bmodel": part.name,
                "device_bytes": part.device_bytes,
                "stages": [asdict(shape) | asdict(part.nets[shape].profile) for shape in sorted(plan.shapes)],
            }
            for part in made
        ]
    details |= {
        "drafts": plan.drafts,
        "device_bytes": sum(part.device_bytes for part in made),
        "checkpoint": str(checkpoint.path.absolute()),
        **({"adapter": str(checkpoint.adapter.absolute())} if checkpoint.adapter else {}),
        "checkpoint_layers": checkpoint.config.num_hidden_layers,
        "rounding": rounding_of(checkpoint, plan.precision),
    }
    bundle = Bundle(
        place,
        "bmodel",
        checkpoint.name,
        plan.config,
        plan.precision.to_dict(),
        details,
        plan.key,
        __version__,
    )
    write_manifest(bundle)
