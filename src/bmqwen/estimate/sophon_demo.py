"""The vendor's published programs, predicted: their nets at real shapes, their calls, what was published of them."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bmqwen.artifact.steps import StepShape, check_context
from bmqwen.chip.spec import DEFAULT_CHIP, Host
from bmqwen.compiler.schedule import NetClock, run_nets
from bmqwen.compiler.toolchain import Toolchain, open_toolchain
from bmqwen.compiler.tpuc import Mode, Recipe
from bmqwen.compiler.work_folder import NET, WEIGHTS
from bmqwen.emit.mlir_file import MlirFile, WeightFile
from bmqwen.emit.published import PLATFORM, PublishedOps
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.estimate.forecast import Spent
from bmqwen.estimate.net_store import Net, NetStore, NetTiming
from bmqwen.estimate.published import Published, find_published, published_dict
from bmqwen.estimate.random_weights import RandomBlocks
from bmqwen.model.config import ModelConfig
from bmqwen.quant.precision import Format, Precision
from bmqwen.util.progress import Progress

GROUP = 64
# Of a net, before one is measured.
EXPECTED_SECONDS = 10.0
# Looking up rows takes as long in a small table.
TABLE_ROWS = 4096
# A launch of each layer, of embedding, head and choice; two copies a layer.
CALLS_A_LAYER, OTHER_CALLS = 3, 3


@dataclass(frozen=True)
class DemoEstimate:
    """A prediction of a published program.

    Attributes:
        model, form, layers, context: what was timed.
        host: the machine.
        timings: of each kind of net.
        first: reading a prompt, which always costs the whole context, up to the first token.
        token: one token more; it costs the same whatever the history.
        published: its row of the vendor's table, if it has one.
    """

    model: str
    form: Format
    layers: int
    context: int
    host: Host
    timings: Mapping[str, NetTiming]
    first: Spent
    token: Spent
    published: Published | None

    @property
    def first_token_s(self) -> float:
        """From the request to the first token, seconds."""
        return self.first.seconds(self.host)

    @property
    def tokens_per_s(self) -> float:
        """Tokens after the first one over the time that they take."""
        return 1 / self.token.seconds(self.host)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with the keys of `Forecast.to_dict`."""
        found: dict[str, Any] = {
            "first_token_s": self.first_token_s,
            "tokens_per_s": self.tokens_per_s,
            "device_s_per_token": self.token.device_ns / 1e9,
            "host_ops_per_token": self.token.host_ops,
            "bytes_per_token": self.token.bytes_moved,
            "first_token_device_s": self.first.device_ns / 1e9,
            "first_token_host_ops": self.first.host_ops,
            "host": self.host.name,
            "host_op_s": self.host.op_ms / 1e3,
            "context": self.context,
            "nets": [
                {"name": name, "cycles": t.profile.cycles, "bytes_moved": t.profile.bytes_moved}
                for name, t in self.timings.items()
            ],
            "model": self.model,
            "precision": self.form,
            "layers": self.layers,
            "recipe": "sophon-demo",
        }
        return found | published_dict(self.published)


def estimate_demo(
    name: str,
    config: ModelConfig,
    form: Format,
    context: int,
    host: Host,
    *,
    jobs: int | None = None,
    toolchain: Toolchain | None = None,
    progress: Progress,
) -> DemoEstimate:
    """Compile the nets of a published program with random weights, equal layers once, and add its calls up.

    Args:
        name: of the model.
        config: of the model.
        form: "int4" (groups of 64) or "int8", layers and head alike; "f16".
        context: tokens that its prompt net reads.
        host: the machine.
        jobs: nets compiled at a time; None: one.
        toolchain: the compiler.
        progress: told how far it is.

    Raises:
        InputError: a context that the model does not have.
        MissingDependencyError, CompileError, StorageError: as `time_nets`.
    """
    check_context(config, context)
    nets = _Nets(config, form, context)
    timings = _time(nets, jobs or 1, toolchain, progress)
    profiles = {name: timing.profile for name, timing in timings.items()}
    layers, calls = config.num_hidden_layers, CALLS_A_LAYER * config.num_hidden_layers + OTHER_CALLS
    sums: list[Spent] = []
    for embedding, block in (("embedding", "block"), ("embedding_cache", "block_cache")):
        spent = Spent()
        spent.add(profiles[embedding], 0)
        spent.add(profiles[block], 0, layers)
        spent.add(profiles["lm_head"], calls)
        sums.append(spent)
    row = find_published(name, form, context) if host == DEFAULT_CHIP.host else None
    return DemoEstimate(name, form, layers, context, host, timings, sums[0], sums[1], row)


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
