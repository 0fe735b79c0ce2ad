"""The vendor's published programs, predicted as bmqwen's own nets are, beside what was published of them.

`python benchmarks/published_recipe.py` compiles their nets at real size, with random weights, adds their calls up and
prints the table that says how far `bmqwen estimate` is to be trusted. The compiler is downloaded on first use.
"""

import argparse
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bmqwen.artifact.steps import StepShape
from bmqwen.chip.spec import DEFAULT_CHIP, Host
from bmqwen.compiler.schedule import NetClock, run_nets
from bmqwen.compiler.toolchain import Toolchain, open_toolchain
from bmqwen.compiler.tpuc import Mode, Recipe
from bmqwen.compiler.work_folder import NET, WEIGHTS
from bmqwen.emit.mlir_file import MlirFile, WeightFile
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.estimate.cost import Cost
from bmqwen.estimate.estimate import PUBLISHED, Published
from bmqwen.estimate.net_store import Net, NetStore, NetTiming
from bmqwen.estimate.representative import RandomBlocks
from bmqwen.hub.known_config import known_config
from bmqwen.model.config import ModelConfig
from bmqwen.quant.precision import Format, Precision
from bmqwen.util.progress import Progress, Silent
from published_nets import PLATFORM, PublishedOps
from report import run_benchmark

GROUP = 64
# Of a net, before one is measured.
EXPECTED_SECONDS = 10.0
# Looking up rows takes as long in a small table.
TABLE_ROWS = 4096
# A launch of each layer, of embedding, head and choice; two copies a layer.
CALLS_A_LAYER, OTHER_CALLS = 3, 3


@dataclass(frozen=True)
class PublishedProgram:
    """A prediction of a published program.

    Attributes:
        timings: of each kind of net.
        first: reading a prompt, which always costs the whole context, up to the first token.
        token: one token more; it costs the same whatever the history.
    """

    timings: Mapping[str, NetTiming]
    first: Cost
    token: Cost


def predict(
    config: ModelConfig,
    form: Format,
    context: int,
    *,
    jobs: int = 1,
    toolchain: Toolchain | None = None,
    progress: Progress | None = None,
) -> PublishedProgram:
    """Compile the nets of a published program with random weights, equal layers once, and add its calls up.

    Args:
        config: of the model.
        form: "int4" (groups of 64) or "int8", layers and head alike; "f16".
        context: tokens that its prompt net reads.
        jobs: nets compiled at a time.
        toolchain: the compiler.
        progress: told how far it is.

    Raises MissingDependencyError, CompileError or StorageError as `bmqwen.estimate.representative.time_nets` does.
    """
    timings = _time(_Nets(config, form, context), jobs, toolchain, progress or Silent())
    profiles = {name: timing.profile for name, timing in timings.items()}
    layers, calls = config.num_hidden_layers, CALLS_A_LAYER * config.num_hidden_layers + OTHER_CALLS
    sums: list[Cost] = []
    for embedding, block in (("embedding", "block"), ("embedding_cache", "block_cache")):
        spent = Cost()
        spent.add(profiles[embedding], 0)
        spent.add(profiles[block], 0, layers)
        spent.add(profiles["lm_head"], calls)
        sums.append(spent)
    return PublishedProgram(timings, sums[0], sums[1])


class _Nets:
    """The five kinds of nets of a published program."""

    def __init__(self, config: ModelConfig, form: Format, context: int) -> None:
        self._context = context
        self._config = replace(config, num_hidden_layers=1, tie_word_embeddings=False)
        self._small = replace(self._config, vocab_size=TABLE_ROWS)
        # Their 8-bit weights are quantised by the compiler itself; on a grid of ours 4-bit ones take as long.
        self._precision = (
            Precision("int4", GROUP, "int4") if form == "int4" else Precision("f16", GROUP, "f16")
        )
        mode: Mode = "W8F16" if form == "int8" else "F16"
        prompt, step = StepShape(context, 0), StepShape(1, context)
        self._nets: dict[str, tuple[StepShape, Callable[[PublishedOps], None], Recipe]] = {
            # The prompt's time fits without layer groups: 0.191 s for 1.8B in place of 0.14.
            "block": (prompt, _block, Recipe(mode, GROUP, "basic", layer_group=False)),
            "block_cache": (step, _block, Recipe(mode, GROUP, "io_alone")),
            "lm_head": (step, _head, Recipe(mode, GROUP, "basic", float_output=True)),
            "embedding": (prompt, PublishedOps.embedding, Recipe("F16", GROUP, "basic")),
            "embedding_cache": (step, PublishedOps.embedding, Recipe("F16", GROUP, "basic")),
        }

    def names(self) -> list[str]:
        return list(self._nets)

    def net(self, name: str) -> Net:
        return Net(self._emit(name, None), self._nets[name][2])

    def write_weights(self, names: list[str], file: WeightFile) -> None:
        for name in names:
            self._emit(name, file)

    def _emit(self, name: str, weights: WeightFile | None) -> str:
        shape, write, _ = self._nets[name]
        config = self._small if name.startswith("embedding") else self._config
        blocks: WeightBlocks | None = RandomBlocks(config) if weights is not None else None
        file = MlirFile(NET, PLATFORM)
        write(PublishedOps(file, config, shape, self._context, self._precision, weights, blocks))
        return file.text(WEIGHTS)


def _block(ops: PublishedOps) -> None:
    ops.block(0, masked=True)


def _head(ops: PublishedOps) -> None:
    ops.head(fused=False)


def _time(nets: _Nets, jobs: int, toolchain: Toolchain | None, progress: Progress) -> dict[str, NetTiming]:
    """Timings by name; those of the cache are not compiled again."""
    texts = {name: nets.net(name) for name in nets.names()}
    toolchain = toolchain or open_toolchain(report=progress.note)
    store = NetStore(toolchain, "".join(net.text for net in texts.values()), progress.note)
    found = {name: timing for name, net in texts.items() if (timing := store.find(net)) is not None}
    missing = [name for name in texts if name not in found]
    if not missing:
        return found

    def write(path: Path) -> None:
        progress.start("writing random weights", None)
        with WeightFile(path) as file:
            nets.write_weights(missing, file)

    def timed(name: str, cancelled: threading.Event) -> NetTiming:
        return store.compile(name, texts[name], cancelled)

    clock = NetClock(len(missing), jobs, EXPECTED_SECONDS, progress)
    with store.working(write):
        return found | run_nets(missing, timed, clock)


def table_row(row: Published, found: PublishedProgram, host: Host) -> str:
    """Return a line of the table in Markdown."""
    first, tokens = found.first.seconds(host), 1 / found.token.seconds(host)
    return (
        f"| {row.model} {row.form} | {first:.3f} s | {row.first_token_s:.3f} s | {first / row.first_token_s:.2f} "
        f"| {tokens:.2f} | {row.tokens_per_s:.3f} | {tokens / row.tokens_per_s:.3f} |"
    )


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="only this model's rows")
    parser.add_argument("--jobs", type=int, default=1, help="nets compiled at a time")
    chosen = parser.parse_args(arguments)

    def measure() -> None:
        print("| model | first token | published | ratio | tokens/s | published | ratio |")
        print("|---|---|---|---|---|---|---|")
        for row in PUBLISHED:
            if row.known_nets and chosen.model in (None, row.model):
                _, config = known_config(row.model)
                found = predict(config, row.form, row.context, jobs=chosen.jobs)
                print(table_row(row, found, DEFAULT_CHIP.host), flush=True)

    return run_benchmark("published_recipe", measure)


if __name__ == "__main__":
    sys.exit(main())
