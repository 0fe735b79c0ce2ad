"""Which nets there are, how large they get, and what is told about time: without a compiler."""

from dataclasses import replace
from pathlib import Path

import pytest

from bmqwen.artifact.steps import StepNets, StepShape, check_context, check_sequences, step_shapes
from bmqwen.compiler.plan import check_device_memory, default_sequences, make_plan, sizes
from bmqwen.compiler.schedule import NetClock, available_memory, parallel_jobs
from bmqwen.compiler.timing import Profile, read_profile
from bmqwen.errors import CompileError, InputError
from bmqwen.model.config import ModelConfig
from bmqwen.model.registry import parse_config
from bmqwen.quant.precision import Precision
from bmqwen.util.progress import Silent
from bmqwen.util.text import duration_text
from support.checkpoints import tiny_config

INT4 = Precision("int4", 64, "int8")


def qwen(hidden: int, layers: int, intermediate: int, heads: int) -> ModelConfig:
    """A Qwen1.5 of a published size."""
    return tiny_config(
        "qwen1.5",
        layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        heads=heads,
        vocab_size=151936,
        max_position_embeddings=32768,
    )


SMALL = qwen(2048, 24, 5504, 16)
LARGE = qwen(4096, 32, 11008, 32)


def test_shapes_of_the_usual_context() -> None:
    assert [(s.tokens, s.history) for s in step_shapes(512, drafts=False)] == [
        *((512, 0), (128, 512), (128, 0), (64, 512), (64, 0), (32, 512), (32, 0), (8, 512)),
        *((1, 512), (1, 384), (1, 256), (1, 128)),
    ]


@pytest.mark.parametrize("context", [32, 40, 64, 128, 200, 512, 600, 1024, 2048, 4096, 32768])
def test_shapes_feed_every_prompt(context: int) -> None:
    shapes = step_shapes(context, drafts=False)
    assert len(set(shapes)) == len(shapes)
    lengths = [t for t in (512, 128, 64, 32, 8, 1) if t <= context]
    assert list(dict.fromkeys(s.tokens for s in shapes)) == lengths
    assert all(s.history <= context for s in shapes)
    nets = StepNets(context, {s: s.tokens * 10_000 + s.history * 100 + 1_000_000 for s in shapes})
    for position in (0, 1, context // 2, context - 1):
        count = context - position
        assert sum(used for _, used in nets.plan(position, count)) == count
    # A net that no position would ever use is not compiled.
    used = {
        nets.shape(tokens, position) for tokens in lengths for position in range(0, context - tokens + 1, 8)
    }
    assert used >= set(shapes)
    # A conversation begins without reading a history, and a short one does not pay for the whole context.
    assert nets.plan(0, 26)[0] == (StepShape(32, 0), 26)
    assert (nets.shape(1, 0) or shapes[0]).history <= max(128, context // 2) or context < 256


def test_few_enough_to_compile() -> None:
    assert len(step_shapes(64, drafts=False)) == 5
    assert len(step_shapes(512, drafts=False)) <= 12
    assert len(step_shapes(4096, drafts=False)) <= 30
    assert len(step_shapes(32768, drafts=False)) <= 40
    assert len(step_shapes(512)) <= 17
    assert len(step_shapes(512, 8)) <= 32
    assert len(step_shapes(2048, 8)) <= 52


def test_shapes_for_drafts_and_for_several_sequences() -> None:
    """All that one sequence needs without them, the short steps with a result for each token, and longer histories."""
    plain, drafts, several = step_shapes(512, drafts=False), step_shapes(512), step_shapes(512, 8)
    short = [s for s in drafts if s.tokens in (8, 16)]
    assert [(s.tokens, s.history) for s in short] == [(n, h) for n in (16, 8) for h in (512, 256, 128)]
    assert all(s.rows == s.tokens for s in short)
    assert {s for s in plain if s.tokens != 8} == {s for s in drafts if s not in short}
    beyond = [s for s in several if s not in drafts]
    # Rows for all, and for a step that is not full.
    assert max(s.history for s in beyond) == 8 * 512 + 128
    mover = StepShape(128, 8 * 512 + 128, 0)
    assert all((s.history > 512 or not s.history) and s.rows == 8 for s in beyond if s != mover)
    assert mover in beyond
    assert {s.tokens for s in beyond} == {8, 32, 64, 128}
    assert max(s.rows for s in step_shapes(512, 16)) == 16


@pytest.mark.parametrize(("context", "sequences"), [(512, 0), (512, 17), (2048, 9), (32768, 2)])
def test_sequences_that_cannot_be(context: int, sequences: int) -> None:
    most = {512: 16, 2048: 8, 32768: 1}[context]
    with pytest.raises(
        InputError, match=f"--sequences {sequences} cannot be compiled .*: choose 1 to {most}"
    ):
        check_sequences(context, sequences)


def test_each_chip_of_several_has_a_group_of_sequences() -> None:
    check_sequences(512, 32, 2)
    with pytest.raises(InputError, match=r"--sequences 33 cannot be compiled .*: choose 1 to 32"):
        check_sequences(512, 33, 3)
    assert max(s.rows for s in step_shapes(512, 32)) == 16
    with pytest.raises(InputError, match=r"choose 1 to 16, or divide .* among 2 chips with --parts 2$"):
        make_plan(("small", SMALL), INT4, 512, "f16", sequences=24, parts=None)


def test_sequences_that_exceed_the_chip_name_how_many_fit() -> None:
    with pytest.raises(
        InputError, match=r"--seq-len 2048 with --sequences 8 needs .*: choose --sequences 3 or"
    ):
        check_device_memory(LARGE, INT4, 2048, sequences=8)
    check_device_memory(LARGE, INT4, 2048, sequences=3)
    # In parts there may be more than one step gives results.
    part = qwen(4096, 20, 11008, 32)
    with pytest.raises(InputError, match=r"choose --sequences 25 or"):
        check_device_memory(part, INT4, 512, sequences=32)
    check_device_memory(part, INT4, 512, sequences=25)


def test_default_sequences_are_those_that_fit_where_one_does() -> None:
    assert default_sequences(SMALL, INT4, 512) == 8
    assert default_sequences(SMALL, INT4, 4096) < 8
    assert default_sequences(LARGE, INT4, 16384) == 1


@pytest.mark.parametrize("context", [0, 8, 31, 33, 100, 264, 1 << 40])
def test_contexts_that_cannot_be(context: int) -> None:
    with pytest.raises(InputError, match=rf"--seq-len {context} cannot be compiled: .* from 32 to 256"):
        check_context(tiny_config("qwen1.5", max_position_embeddings=256), context)


def test_sizes_are_those_of_a_compiled_model() -> None:
    """Against what the compiler really made of this shape: 858,251,264 bytes, 1,000,572,672 on the chip."""
    size = sizes(SMALL, Precision("int4", 64, "int4"), 512, drafts=False)
    # The file has the chip's kernels in it, too.
    assert 0.97 < size.chip.weights / 858_251_264 < 1
    assert size.chip.total == pytest.approx(1_000_572_672, rel=0.005)
    assert size.table == 2 * 151936 * 2048
    assert size.bundle > 858_251_264 + size.table
    # With a head of 8 bits: the file of weights that was really written.
    assert sizes(SMALL, INT4, 512).weight_file == pytest.approx(1_027_017_478, rel=0.01)


def test_context_that_exceeds_the_chip_names_one_that_fits() -> None:
    with pytest.raises(
        InputError, match=r"needs 2\d\.\d GB .* K/V cache 17\.4.* at most 15\.5.*: choose --seq-len"
    ) as caught:
        check_device_memory(LARGE, INT4, 32768)
    fitting = int(str(caught.value).split("--seq-len ")[-1].split()[0])
    check_device_memory(LARGE, INT4, fitting)
    more = fitting + 256
    with pytest.raises(InputError):
        check_device_memory(LARGE, INT4, more)


@pytest.mark.parametrize("config", [qwen(8192, 80, 49152, 64), LARGE])
def test_weights_that_exceed_the_largest_heap(config: ModelConfig) -> None:
    f16 = Precision("f16", 64, "f16")
    with pytest.raises(InputError, match=r"which the weights have to fit into: choose a smaller --quant"):
        check_device_memory(config, f16, 512)


def test_jobs_follow_memory() -> None:
    needed = sizes(LARGE, INT4, 512).compiler
    assert parallel_jobs(needed, 5, 3, available=1 << 30) == 3
    assert parallel_jobs(needed, 2, 3, available=1 << 30) == 2
    assert 1 <= parallel_jobs(needed, 4096, None, available=1 << 50) <= 4096
    with pytest.raises(InputError, match=r"needs about \S+ GB .*--jobs 1"):
        parallel_jobs(needed, 5, None, available=needed - 1)
    assert parallel_jobs(needed, 5, None, available=needed) == 1
    assert parallel_jobs(needed, 5, 1, available=0) == 1
    # Where all nets are there already, memory does not matter.
    assert parallel_jobs(needed, 0, None, available=0) == 1
    assert 0 < available_memory() < 1 << 50


def test_profile_of_a_net(tmp_path: Path) -> None:
    path = tmp_path / "profile.txt"
    path.write_text(
        "Arg_198|GDMA_TENSOR|s:114491|b:541|dr:1|sz:4\nAPI_END total_cycle:114515|b:541|g:157\n\n"
        "GDMA SUMMARY : |dr[0] S2L:745540|dr[1] L2S:362372|dr[2] S2S:4352|dr[3] L2L:0\n"
    )
    assert read_profile(path) == Profile(114515, 745540, 362372, 4352)
    path.write_text("Arg_198|GDMA_TENSOR|s:114491|b:541|dr:1|sz:4\n")
    with pytest.raises(CompileError, match="did not finish"):
        read_profile(path)
    with pytest.raises(CompileError, match="left no timing"):
        read_profile(tmp_path / "nothing")


def test_time_left_comes_from_what_is_measured() -> None:
    clock = NetClock(total=4, jobs=2, expected=1000, progress=Silent())
    assert clock.seconds_left == 2000
    clock.reused(StepShape(32, 64), 20)
    clock.reused(StepShape(8, 64), 40)
    assert clock.net_seconds == 30
    assert clock.seconds_left == 30
    clock.started(StepShape(1, 64))
    assert 29 < clock.seconds_left <= 30


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (45, "45 s"), (200, "3 min 20 s"), (240, "4 min"), (3599, "60 min")]
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_what_a_recurrent_state_cannot_be_compiled_for_is_refused_before_any_work() -> None:
    model = ("qwen3.5-0.8b", tiny_config("qwen3.5", layers=4, max_position_embeddings=512))
    plan = make_plan(model, INT4, 512, "f16")
    assert (plan.sequences, plan.drafts, {shape.rows for shape in plan.shapes}) == (1, False, {1})
    with pytest.raises(
        InputError, match=r"qwen3\.5-0\.8b cannot be compiled with --sequences 2: .*on the CPU"
    ):
        make_plan(model, INT4, 512, "f16", sequences=2)
    with pytest.raises(InputError, match=r"with --parts 2: .*leave the option out"):
        make_plan(model, INT4, 512, "f16", parts=2)
    with pytest.raises(InputError, match=r"with --bf16: .*compile it without"):
        make_plan(model, INT4, 512, "bf16")
    with pytest.raises(InputError, match=r"--layers 3 cannot be compiled: .*full attention"):
        make_plan(model, INT4, 512, "f16", layers=3)
    large = tiny_config("qwen3.5", layers=40, hidden_size=8192, intermediate_size=49152, heads=64)
    with pytest.raises(InputError, match=r"choose a smaller --quant$"):
        make_plan(("large", large), INT4, 256, "f16")


def test_fewer_layers_have_their_own_kinds_alone() -> None:
    """The configuration of what is compiled can be read again."""
    whole = tiny_config("qwen3.5", layers=8, max_position_embeddings=512)
    whole = replace(whole, layer_types=(*["linear_attention"] * 3, "full_attention") * 2)
    config = make_plan(("qwen3.5-0.8b", whole), INT4, 512, "f16", layers=4).config
    assert parse_config(config.to_dict(), "a manifest") == config
    assert len(config.layer_types) == 4
