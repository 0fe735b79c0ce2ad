"""The formats that a budget buys are measured on the model: each part alone, by KL, bytes and predicted time."""

from pathlib import Path

import numpy as np
import pytest

from bmqwen.calibration.budget import Budget, Costs, byte_costs, choose, spend
from bmqwen.calibration.chip_time import part_times, token_ns
from bmqwen.calibration.sensitivity import (
    EVERY,
    FORMATS,
    PARTS,
    PIECE,
    formats_of_parts,
    mean,
    measure,
    pieces_of,
    standard_error,
)
from bmqwen.compiler.plan import Plan
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.emit.numpy import NumpyOps
from bmqwen.emit.weight_blocks import WeightBlocks
from bmqwen.errors import CompileError, InputError
from bmqwen.evaluation.divergence import Divergence
from bmqwen.quant.grid_weights import GridWeights
from bmqwen.quant.precision import Precision
from bmqwen.util.kept_work import kept_work
from bmqwen.util.progress import Silent
from bmqwen.weights.checkpoint import open_checkpoint
from bmqwen.weights.weights import Weights
from support.checkpoints import tiny_config, write_checkpoint

DIVERGENCES = {"down_proj": {"int4:64": 0.02, "int8": 0.001}, "lm_head": {"int4:64": 0.05, "int8": 0.0}}
COSTS = Costs({"down_proj": {"int4:64": 10, "int8": 20}, "lm_head": {"int4:64": 30, "int8": 60}}, rest=100)


def test_the_least_divergence_within_the_budget_is_chosen() -> None:
    def bought(most: float) -> dict[str, str]:
        return dict(choose(DIVERGENCES, COSTS, Budget(most, "ns")).formats)

    assert bought(140) == bought(149) == {"down_proj": "int4:64", "lm_head": "int4:64"}
    assert bought(150) == {"down_proj": "int8", "lm_head": "int4:64"}
    assert bought(170) == {"down_proj": "int4:64", "lm_head": "int8"}
    assert bought(1000) == {"down_proj": "int8", "lm_head": "int8"}


def test_a_budget_that_nothing_meets_is_refused() -> None:
    divergences = {part: {"int4:64": 0.0} for part in PARTS}
    costs = Costs({part: {"int4:64": 1e6} for part in PARTS})
    with pytest.raises(InputError, match=r"int4 group 64, lm_head int4 takes 5.00 ms a token, and nothing"):
        choose(divergences, costs, Budget(1e6, "ns"))


def test_budgets_are_sizes_and_times() -> None:
    assert Budget.parse("300") == Budget.parse("300 MB") == Budget.parse("0.3gb") == Budget(300e6, "bytes")
    assert Budget.parse("8.5ms") == Budget(8.5e6, "ns")
    for text in ("", "fast", "8.5s", "-3MB", "1e3"):
        with pytest.raises(InputError, match="write 300MB, 1"):
            Budget.parse(text)


def test_each_part_is_measured_alone(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config("qwen2.5"), seed=6)
    tokens = list(range(300))
    lengths = [PIECE] * 4 + [300 - 4 * PIECE]
    with open_checkpoint(folder) as checkpoint:
        config = checkpoint.config
        possible = formats_of_parts(checkpoint)
        found = measure(checkpoint, [tokens], possible, Silent())
        rows = list(range(0, len(tokens), EVERY))

        def logits(weights: Weights) -> np.ndarray:
            return config.network.emit(NumpyOps(config, WeightBlocks(weights), tokens, rows, lengths))

        def divergence(precision: Precision, piece: int) -> float:
            # The same by the long way: the whole model with one part rounded.
            grid = GridWeights(checkpoint.weights, config, precision, search=False)
            ops = NumpyOps(grid.config, WeightBlocks(grid), tokens, rows, lengths)
            scores = Divergence()
            scores.begin_block()
            own = [place for place, row in enumerate(rows) if row // PIECE == piece]
            scores.add([0] * len(own), grid.config.network.emit(ops)[own], logits(checkpoint.weights)[own])
            assert scores.nearness is not None
            return scores.nearness.mean_kl

        down = Precision("f32", 64, "f32", projections={"down_proj": "int4:32"})
        head = Precision("f32", 64, "int4", 32)
        for piece in (0, 4):
            assert found.parts["down_proj"]["int4:32"][piece] == pytest.approx(
                divergence(down, piece), rel=1e-2
            )
            assert found.parts["lm_head"]["int4:32"][piece] == pytest.approx(
                divergence(head, piece), rel=5e-2
            )
        means = found.means()
        assert all(formats["int8"] < formats["int4:32"] for formats in means.values())
        both = found.sum({"down_proj": "int4:32", "lm_head": "int4:32"})
        assert mean(both) == pytest.approx(means["down_proj"]["int4:32"] + means["lm_head"]["int4:32"])
        assert len(both) == len(lengths)
        assert 0 < standard_error(both) < mean(both)
        assert [len(losses) for losses in found.layers] == [2] * config.num_hidden_layers
        # Codes of half a byte; a scale of two bytes and a zero point of one for 32 of them.
        values = config.vocab_size * config.hidden_size
        sizes = byte_costs(config, possible)
        assert sizes.parts["lm_head"]["int4:32"] == values * (1 / 2 + 3 / 32)


class _Interrupted(Silent):
    """Ctrl-C after so many layers; keeps what it was told."""

    def __init__(self, layers: int = -1) -> None:
        self._layers, self.told = layers, list[object]()

    def advance(self, done: int) -> None:
        self.told.append(done)
        if done == self._layers:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        self.told.append(text)


def test_what_was_measured_is_kept_over_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config("qwen2.5", layers=3)
    folder = write_checkpoint(tmp_path / "model", config, seed=6)
    text = [list(range(start, start + 80)) for start in range(9)]
    with open_checkpoint(folder) as checkpoint:
        possible = formats_of_parts(checkpoint)
        whole = measure(checkpoint, text, possible, Silent())
        again = _Interrupted()
        assert measure(checkpoint, text, possible, again) == whole
        assert len(again.told) == 1
        assert "measured by an earlier run" in str(again.told[0])
        monkeypatch.setenv("BMQWEN_CACHE", str(tmp_path / "cache"))
        with pytest.raises(KeyboardInterrupt):
            measure(checkpoint, text, possible, _Interrupted(2))
        resumed = _Interrupted()
        assert measure(checkpoint, text, possible, resumed) == whole
        assert resumed.told[:2] == ["going on after layer 2 of 3, which an earlier run reached", 2]
        assert [work.kind for work in kept_work()] == ["sensitivity"]
        assert kept_work()[0].bytes < 10000


def test_pieces_come_from_all_over_the_text() -> None:
    many = [[n] * (100 if n % 2 else 50) for n in range(40)]
    assert [piece[0] for piece in pieces_of(many)] == [1, 5, 11, 17, 21, 27, 33, 39]
    assert pieces_of([list(range(100))]) == [list(range(64)), list(range(64, 100))]


def test_a_precision_says_the_group_size_beside_its_own_part() -> None:
    assert str(Precision("int8", 32, "int4")) == "int8, lm_head int4 group 32"
    assert str(Precision("int4", 64, "int4", 32)) == "int4 group 64, lm_head int4 group 32"


def test_a_budget_of_bytes_does_without_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise CompileError("the compiler is broken")

    monkeypatch.setenv("BMQWEN_TOOLCHAIN", str(tmp_path))
    monkeypatch.setattr("bmqwen.calibration.chip_time.time_nets", broken)
    folder = write_checkpoint(tmp_path / "model", tiny_config("qwen2.5"))
    with open_checkpoint(folder) as checkpoint:
        assert spend(Budget(1e9, "bytes"), checkpoint, [range(8)], Silent()).times is None
        with pytest.raises(CompileError):
            spend(Budget(1e9, "ns"), checkpoint, [range(8)], Silent())


def test_a_model_larger_than_a_chip_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(plan: Plan, **_: object) -> None:
        raise CompileError(f"{len(plan.parts)} parts")

    monkeypatch.setattr("bmqwen.calibration.chip_time.time_nets", refuse)
    config = tiny_config("qwen2.5", layers=48, hidden_size=5120, intermediate_size=13824)
    with pytest.raises(CompileError, match="2 parts"):
        token_ns("large", config, Precision("int8", 64, "int8"), Silent())


@pytest.mark.simulator
def test_times_of_parts_add_up(simulator: Toolchain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMQWEN_TOOLCHAIN", str(simulator.root))
    config = tiny_config("qwen2.5", layers=3, hidden_size=256, intermediate_size=512)
    possible = {part: [name for name in FORMATS if name in ("int4:64", "int8")] for part in PARTS}
    times = Costs(*part_times("toy", config, possible, Silent()))
    mixture = dict.fromkeys(PARTS, "int4:64") | {"down_proj": "int8", "lm_head": "int8"}
    mixed = Precision("int4", 64, "int8", projections={"down_proj": "int8"})
    compiled = token_ns("toy", config, mixed, Silent())
    assert times.of(mixture) == pytest.approx(compiled, rel=0.03)
