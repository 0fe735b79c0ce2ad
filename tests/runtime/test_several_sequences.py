"""Sequences side by side in a compiled toy model say what each says alone, by libbmrt and by SAIL, on the simulator."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from bmqwen.artifact.bmodel import read_description
from bmqwen.artifact.footprint import bmodel_footprint, footprint
from bmqwen.compiler.toolchain import Toolchain
from bmqwen.errors import InputError
from bmqwen.evaluation.verify import choose_nets, verify
from bmqwen.generate.batcher import Batcher
from bmqwen.generate.params import SamplingParams
from bmqwen.quant.precision import Precision
from bmqwen.runtime.base import Feed
from bmqwen.runtime.bmrt.simulated import SimulatedRuntime
from bmqwen.weights.checkpoint import open_checkpoint
from support.compiled_models import CompiledModel, compile_toy
from support.toy_tokenizer import toy_tokenizer

pytestmark = pytest.mark.simulator
CONTEXT, SEQUENCES = 40, 3
PROMPTS = [
    np.random.default_rng(seed).integers(0, 300, count).tolist() for seed, count in ((1, 9), (2, 5), (3, 20))
]
ANSWER = 12
OPENERS = {"libbmrt": "bmqwen.runtime.bmrt.simulated:open_target", "SAIL": "support.sail_probe:current"}
# What the libraries have no part in needs one of them.
BY_LIBBMRT = pytest.mark.parametrize("runtime", [OPENERS["libbmrt"]], ids=["libbmrt"], indirect=True)


@pytest.fixture(scope="module")
def model(simulator: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> CompiledModel:
    """Nets for three sequences; two heads share their keys."""
    folder = tmp_path_factory.mktemp("several")
    return compile_toy(simulator, folder, "qwen2.5", "int4", 5, context=CONTEXT, sequences=SEQUENCES)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(OPENERS["libbmrt"], id="libbmrt"),
        pytest.param(OPENERS["SAIL"], id="SAIL", marks=pytest.mark.thorough),
    ],
)
def runtime(
    request: pytest.FixtureRequest, model: CompiledModel, simulator: Toolchain
) -> Iterator[SimulatedRuntime]:
    """It, loaded by either library; tests empty it."""
    runtime = SimulatedRuntime(model.bundle, simulator.simulator_folder, opener=request.param)
    yield runtime
    runtime.close()


def empty(runtime: SimulatedRuntime) -> None:
    """Forget everything."""
    for sequence in range(runtime.sequences):
        runtime.truncate(sequence, 0)


def say(runtime: SimulatedRuntime, sequence: int, tokens: Sequence[int]) -> int:
    """Feed one sequence; what comes next."""
    (output,) = runtime.step([Feed(sequence, tokens)])
    (token,) = output.greedy()
    return token


def alone(runtime: SimulatedRuntime, prompt: Sequence[int]) -> list[int]:
    """An answer while the other sequences are empty, a token a step."""
    empty(runtime)
    answer = [say(runtime, 1, prompt)]
    while len(answer) < ANSWER:
        answer.append(say(runtime, 1, answer[-1:]))
    return answer


@pytest.fixture(scope="module")
def expected(runtime: SimulatedRuntime) -> list[list[int]]:
    """The answers to all prompts."""
    return [alone(runtime, prompt) for prompt in PROMPTS]


def test_side_by_side_each_says_what_it_says_alone(
    runtime: SimulatedRuntime, expected: list[list[int]]
) -> None:
    assert runtime.sequences == SEQUENCES
    empty(runtime)
    answers: list[list[int]] = [[], [], []]
    for step in range(ANSWER + 6):
        # Each begins three steps after the one before: its prompt is read while the others go on.
        under_way = [s for s, answer in enumerate(answers) if step >= 3 * s and len(answer) < ANSWER]
        feeds = [Feed(s, answers[s][-1:] or PROMPTS[s]) for s in under_way]
        before = runtime.counters
        outputs = runtime.step(feeds)
        assert (runtime.counters - before).launches == 1
        for sequence, output in zip(under_way, outputs, strict=True):
            answers[sequence] += output.greedy()
        assert (runtime.counters - before).reads == 1
    assert answers == expected


@BY_LIBBMRT
def test_a_sequence_that_ends_or_comes_back_leaves_the_others_alone(
    runtime: SimulatedRuntime, expected: list[list[int]]
) -> None:
    empty(runtime)
    answers = [
        [token]
        for output in runtime.step([Feed(s, p) for s, p in enumerate(PROMPTS)])
        for token in output.greedy()
    ]
    for step in range(ANSWER - 1):
        if step == 4:
            saved = runtime.save(1)
            runtime.truncate(1, 0)
        going = [0, 2] if 4 <= step < 8 else [0, 1, 2]
        if step == 8:
            runtime.restore(1, saved, saved.position)
        outputs = runtime.step([Feed(s, answers[s][-1:]) for s in going])
        for sequence, output in zip(going, outputs, strict=True):
            answers[sequence] += output.greedy()
    assert (answers[0], answers[2]) == (expected[0], expected[2])
    assert answers[1] == expected[1][: len(answers[1])]
    # Drafted tokens that were wrong are forgotten.
    runtime.step([Feed(0, answers[0][-1:]), Feed(2, [7, 8, 9], every_row=True)])
    position = runtime.position(2) - 3
    runtime.truncate(2, position)
    token = say(runtime, 2, answers[2][-1:])
    assert token == alone_again(runtime, [*PROMPTS[2], *answers[2]])


def alone_again(runtime: SimulatedRuntime, tokens: Sequence[int]) -> int:
    """What follows these tokens in an empty cache."""
    empty(runtime)
    return say(runtime, 0, tokens)


@BY_LIBBMRT
@pytest.mark.parametrize("count", [5, pytest.param(13, marks=pytest.mark.thorough)])
def test_every_row_of_a_step_is_that_of_a_step_of_its_own(
    runtime: SimulatedRuntime, expected: list[list[int]], count: int
) -> None:
    text = [*PROMPTS[0], *expected[0], *PROMPTS[1]]
    empty(runtime)
    say(runtime, 0, text[:9])
    say(runtime, 2, PROMPTS[2])
    start = runtime.position(0)
    (output,) = runtime.step([Feed(0, text[start : start + count], every_row=True)])
    tokens, logits = output.greedy(), output.logits()
    assert logits.shape == (count, runtime.vocab_size)
    assert tokens == logits.argmax(axis=1).tolist()
    # Another prompt, read since by a net without history, has not touched its rows.
    answered = min(count, ANSWER - 1)
    assert tokens[:answered] == expected[0][1 : answered + 1]
    runtime.truncate(0, start)
    for token, row in zip(text[start : start + count], logits, strict=True):
        (single,) = runtime.step([Feed(0, [token])])
        other = single.logits()[0]
        assert np.dot(row, other) / np.linalg.norm(row) / np.linalg.norm(other) >= 0.9999
        assert single.greedy() == [int(row.argmax())]


@BY_LIBBMRT
def test_rows_that_the_chip_moves_are_the_same_there(runtime: SimulatedRuntime) -> None:
    """Two of three that fill the cache side by side are forgotten: their new prompts have room after a move only."""
    empty(runtime)
    text = np.random.default_rng(9).integers(0, 300, CONTEXT).tolist()
    for start in range(0, CONTEXT - 1, 4):
        piece = text[start : min(start + 4, CONTEXT - 1)]
        runtime.step([Feed(sequence, piece) for sequence in range(SEQUENCES)])
    (before,) = runtime.step([Feed(2, text[-1:])])
    row, likeliest = before.logits()[0], before.greedy()
    runtime.truncate(2, CONTEXT - 1)
    for sequence in (0, 1):
        runtime.truncate(sequence, 0)
    launches = []
    for sequence in (0, 1):
        counters = runtime.counters
        say(runtime, sequence, PROMPTS[2])
        launches.append((runtime.counters - counters).launches)
    # Some rows take several launches of the net that moves them.
    assert max(launches) > 2
    (after,) = runtime.step([Feed(2, text[-1:])])
    moved = after.logits()[0]
    assert np.dot(row, moved) / np.linalg.norm(row) / np.linalg.norm(moved) >= 0.9999
    assert after.greedy() == likeliest


@pytest.mark.thorough
def test_drafts_are_checked_in_one_launch_and_change_no_token(
    runtime: SimulatedRuntime, expected: list[list[int]]
) -> None:
    empty(runtime)
    batcher = Batcher(runtime, toy_tokenizer())
    params = SamplingParams(max_tokens=ANSWER)

    def answer(*numbers: int) -> int:
        """Answer prompts side by side; how many launches that took."""
        generations = [batcher.add(PROMPTS[number], params) for number in numbers]
        before = runtime.counters
        while not all(generation.over for generation in generations):
            batcher.step()
        for number, generation in zip(numbers, generations, strict=True):
            assert generation.completion is not None
            assert list(generation.completion.token_ids) == expected[number]
        return (runtime.counters - before).launches

    # Then it is an earlier answer from which drafts come: alone, and beside another's tokens.
    assert answer(0) <= ANSWER + 1
    assert answer(0) <= ANSWER // 2
    assert answer(0, 1) <= ANSWER + 1


@pytest.mark.thorough
@BY_LIBBMRT
def test_more_prompts_than_sequences_are_answered_as_each_is_alone(
    runtime: SimulatedRuntime, expected: list[list[int]]
) -> None:
    """The fourth waits until a sequence is free, and is read there while the others go on."""
    empty(runtime)
    batcher = Batcher(runtime, toy_tokenizer())
    numbers = (0, 1, 2, 0)
    lengths = (ANSWER - 4, ANSWER, ANSWER, ANSWER - 4)
    generations = [
        batcher.add(PROMPTS[number], SamplingParams(max_tokens=length), owner)
        for number, length, owner in zip(numbers, lengths, "aaab", strict=True)
    ]
    assert generations[3].slot is None
    before = runtime.counters
    while not all(generation.over for generation in generations):
        batcher.step()
    # Two answers of the first prompt after each other, and the steps in which prompts are read.
    assert (runtime.counters - before).launches <= 2 * ANSWER
    for number, length, generation in zip(numbers, lengths, generations, strict=True):
        assert generation.completion is not None
        assert list(generation.completion.token_ids) == expected[number][:length]


@BY_LIBBMRT
def test_nets_for_several_pass_verify(runtime: SimulatedRuntime, model: CompiledModel) -> None:
    shapes = [s for s in choose_nets(model.bundle, None) if s.rows > 1]
    assert {s.tokens for s in shapes} == {8, 16, 32}
    with open_checkpoint(model.checkpoint) as checkpoint:
        report = verify(model.bundle, checkpoint, runtime, shapes)
    assert report.passed
    for stage in report.stages:
        assert stage.to_grid is not None
        assert stage.to_grid.same_token


@pytest.mark.thorough
def test_memory_where_results_of_several_rows_take_more_than_a_prompt(
    simulator: Toolchain, tmp_path: Path
) -> None:
    wide = compile_toy(
        simulator, tmp_path, "qwen2.5", "int4", 5, context=CONTEXT, sequences=SEQUENCES, vocabulary=4096
    )
    assert_memory(wide)


def test_memory_is_what_the_arithmetic_gives(model: CompiledModel) -> None:
    assert_memory(model)


def assert_memory(model: CompiledModel) -> None:
    """Compare what the arithmetic and the bmodel say of weights, inputs and outputs."""
    description = read_description(model.bundle.bmodel)
    expected = footprint(model.bundle.config, Precision(**model.bundle.precision), CONTEXT, SEQUENCES)
    assert expected.pieces[-1] == max(stage.io_bytes for stage in description.nets["step"].stages)
    assert expected.weights == bmodel_footprint(description).weights


@BY_LIBBMRT
def test_a_step_that_fails_changes_no_sequence(runtime: SimulatedRuntime) -> None:
    empty(runtime)
    say(runtime, 0, PROMPTS[0])
    with pytest.raises(InputError, match="there is no sequence 3: the runtime has 3"):
        runtime.step([Feed(0, [1]), Feed(3, [1])])
    with pytest.raises(InputError, match="names each sequence once"):
        runtime.step([Feed(0, [1]), Feed(0, [2])])
    assert [runtime.position(s) for s in range(3)] == [9, 0, 0]
