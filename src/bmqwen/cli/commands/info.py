"""`bmqwen info`."""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from bmqwen.cli import options
from bmqwen.cli.terminal import print_result, progress_bar
from bmqwen.util.text import counted, size_text

# Names of a manifest, as people say them.
_LABELS = {
    "chip_kv_cache_bytes_per_token": "K/V cache a token, chip",
    "cpu_kv_cache_bytes_per_token": "K/V cache a token, CPU",
    "chip_state_bytes": "state of a sequence, chip",
    "bytes": "size",
    "half": "computes in",
    "context": "longest conversation",
    "toolchain": "compiler",
    "device_bytes": "memory on the chip",
    "checkpoint": "made from",
    "checkpoint_layers": "layers of that",
}


@options.grouped(precision=options.chip_precision)
def info(
    model: options.Model = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check every file of a bundle against its hash.")
    ] = False,
    *,
    precision: "options.PrecisionOptions",
    seq_len: options.SeqLen = None,
    sequences: options.ChipSequences = 1,
    parts: options.Parts = "1",
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Describe a checkpoint, bundle or bmodel: sizes, precision, files, memory on the chip."""
    from bmqwen.artifact.bmodel import read_description
    from bmqwen.artifact.bundle import is_bundle, read_bundle
    from bmqwen.artifact.fit import memory_findings
    from bmqwen.artifact.summary import describe_bmodel, describe_bundle, describe_checkpoint
    from bmqwen.chip.system import System
    from bmqwen.doctor.examination import find_request
    from bmqwen.errors import InputError
    from bmqwen.hub.hub import Hub
    from bmqwen.util.progress import Silent
    from bmqwen.weights.checkpoint import open_checkpoint

    count = options.part_count(parts)
    with progress_bar() as bar:
        path: Path = Hub(offline=offline or None).resolve(model, progress=bar)
    if check and not is_bundle(path):
        raise InputError(f"{path} is not a bundle: --check compares a bundle's files with its manifest")
    if path.suffix == ".bmodel":
        facts = describe_bmodel(read_description(path))
    elif is_bundle(path):
        bundle = read_bundle(path)
        facts = describe_bundle(bundle)
        if check:
            bundle.verify_files()
            facts["files_checked"] = True
    else:
        with open_checkpoint(path) as checkpoint:
            facts = describe_checkpoint(checkpoint)
    found = None
    if facts["kind"] != "onnx":
        found = find_request(str(path), precision, seq_len, sequences, count, offline=True, progress=Silent())
    lines = _lines(facts)
    if found is not None:
        findings = (f"  {finding}" for finding in memory_findings(found, System()))
        lines = chain(lines, ["\nmemory on the chip"], findings)
        facts = {**facts, "chip_memory": found.to_dict()}
    print_result(facts, lines, as_json=json)


def _lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """For people: a line a fact, then tables of nets and of files."""
    details = facts.get("details", {})
    plain = {key: value for key, value in facts.items() if key not in ("details", "files", "nets")}
    plain |= {key: value for key, value in details.items() if key not in ("stages", "evaluation", "parts")}
    for text in details.get("evaluation", {}).get("texts", ()):
        kl = f"mean KL {text['mean_kl']:.4f}, " if "mean_kl" in text else ""
        plain[f"evaluated on {Path(text['file']).name}"] = f"{kl}perplexity {text['perplexity']:.3f}"
    for key, value in plain.items():
        yield f"{_LABELS.get(key, key.replace('_', ' ')):28}{_text(key, value)}"
    if details.get("stages"):
        yield from _nets(details["stages"])
    for net in facts.get("nets", ()):
        yield from _net(net)
    if facts.get("files"):
        wide = max(len(name) for name in facts["files"])
        yield "\nfiles"
        for name, size in facts["files"].items():
            yield f"  {name:{wide}}{size_text(size):>12}"


def _net(net: dict[str, Any]) -> Iterator[str]:
    """Return the lines of a net and its stages; tensors of consecutive layers share one."""
    kind, stages = "dynamic" if net["dynamic"] else "static", net["stages"]
    yield f"\nnet {net['name']}: {kind}, address mode {net['address_mode']}, {counted(len(stages), 'stage')}"
    for number, stage in enumerate(stages):
        yield f"  stage {number}"
        for side, label in (("inputs", "in"), ("outputs", "out")):
            rows: dict[tuple[str, str, str], list[str]] = {}
            for tensor in stage[side]:
                shape = ", ".join(map(str, tensor["shape"]))
                key = (tensor["name"].rstrip("0123456789"), tensor["dtype"], shape)
                rows.setdefault(key, []).append(tensor["name"])
            for (_, dtype, shape), names in rows.items():
                name = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
                yield f"    {label:4}{name:36} {dtype:7} [{shape}]"


def _nets(stages: list[dict[str, Any]]) -> Iterator[str]:
    """Return a row for each net; what its maker did not measure is a dash."""
    yield "\nnets: tokens they take, cached tokens before these at most, and a launch on the chip as predicted"
    yield f"{'tokens':>8}{'history':>9}{'time':>12}{'bytes read':>13}"
    for stage in stages:
        cycles, read = stage.get("cycles"), stage.get("bytes_read")
        time = "-" if cycles is None else f"{cycles / 1e6:,.3f} ms"
        size = "-" if read is None else size_text(read)
        yield f"{stage['tokens']:8}{stage['history']:9}{time:>12}{size:>13}"


def _text(key: str, value: Any) -> str:
    if key == "precision" and isinstance(value, dict):
        from bmqwen.quant.precision import Precision

        return str(Precision(**value)) if value else "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items()) or "-"
    if isinstance(value, int) and "bytes" in key:
        return size_text(value) if value < 1000 else f"{size_text(value)} ({value:,} bytes)"
    return f"{value:,}" if isinstance(value, int) else str(value)
