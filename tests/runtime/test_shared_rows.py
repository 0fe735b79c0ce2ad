"""`StepRuntime` beside lists of tokens: each token sees its own sequence's rows, whatever happens."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from bmqwen.artifact.steps import StepNets, step_shapes
from bmqwen.errors import DeviceError
from bmqwen.runtime.base import Feed, SavedCache
from bmqwen.runtime.bmodel.device_state import DeviceState
from bmqwen.runtime.bmodel.step_runtime import StepRuntime
from bmqwen.runtime.bmodel.step_stages import StepStages
from support.array_device import MODULUS, ArrayDevice, write_bundle
from support.checkpoints import tiny_config

CONFIG = tiny_config(layers=1, hidden_size=16, heads=2, kv_heads=1, head_dim=8, vocab_size=50)


class Talk:
    """A runtime and what its sequences should hold."""

    def __init__(
        self, folder: Path, context: int, sequences: int, seed: int, *, states: bool = False
    ) -> None:
        shapes = step_shapes(context, sequences, states=states)
        cycles = {s: 1_000_000 + 10_000 * s.tokens + 1000 * s.history if s.rows else 40_000 for s in shapes}
        nets = StepNets(context, cycles, sequences=sequences)
        self.device = ArrayDevice(nets, CONFIG)
        bundle = write_bundle(folder, nets, CONFIG)
        self.runtime = StepRuntime(bundle, lambda *_: self.device)
        self.random, self.context = random.Random(seed), context
        self.texts: list[list[int]] = [[] for _ in range(sequences)]
        self.saved: list[tuple[SavedCache, list[int]]] = []

    def feeds(self) -> list[Feed]:
        """Some sequences with one token, a few, or as many as still fit."""
        found = []
        for sequence, text in enumerate(self.texts):
            room = self.context - len(text)
            if room and self.random.random() < 0.7:
                count = min(room, self.random.choice([1, 1, 1, 2, 7, 8, 9, 33, room]))
                tokens = [self.random.randrange(50) for _ in range(count)]
                found.append(Feed(sequence, tokens, count > 1 and self.random.random() < 0.3))
        return found

    def step(self, feeds: Sequence[Feed]) -> None:
        """Append, and compare what each result saw with its sequence."""
        outputs = self.runtime.step(feeds)
        for feed in feeds:
            self.texts[feed.sequence] += feed.tokens
        for feed, output in zip(feeds, outputs, strict=True):
            text = self.texts[feed.sequence]
            bits, places = np.array(text) + 1, np.arange(1, len(text) + 1)
            sums = [places, np.cumsum(bits * places), np.cumsum(bits * places**2) % MODULUS]
            wanted = len(feed.tokens) if feed.every_row else 1
            assert output.logits()[:, :3].tolist() == np.stack(sums, axis=1)[-wanted:].tolist()

    def change(self) -> None:
        """Cut a sequence, save it, or put a saved one in its place, in part or whole."""
        sequence = self.random.randrange(len(self.texts))
        text, what = self.texts[sequence], self.random.random()
        if what < 0.4:
            kept = self.random.choice([0, len(text) // 2, max(0, len(text) - 1)])
            self.runtime.truncate(sequence, kept)
            del text[kept:]
        elif what < 0.7:
            self.saved = [*self.saved[-3:], (self.runtime.save(sequence), list(text))]
        elif self.saved:
            saved, tokens = self.random.choice(self.saved)
            position = self.random.randint(0, len(tokens))
            self.runtime.restore(sequence, saved, position)
            self.texts[sequence] = tokens[:position]

    def check(self) -> None:
        """Positions, and the rows on the device."""
        for sequence, text in enumerate(self.texts):
            assert self.runtime.position(sequence) == len(text)
            rows = self.runtime.save(sequence).rows
            assert rows[0, :, 0, 0].tolist() == [token + 1 for token in text]
            assert rows[1, :, 0, 1].tolist() == list(range(len(text)))


@pytest.mark.parametrize(("context", "sequences"), [(32, 1), (32, 3), (64, 8), (512, 2)])
def test_each_token_sees_its_own_sequence(context: int, sequences: int, tmp_path: Path) -> None:
    talk = Talk(tmp_path, context, sequences, seed=context + sequences)
    for _ in range(120):
        if feeds := talk.feeds():
            talk.step(feeds)
        if talk.random.random() < 0.4 or not feeds:
            talk.change()
        talk.check()


@pytest.mark.parametrize(("context", "sequences"), [(32, 1), (32, 3), (64, 8)])
def test_a_device_that_fails_leaves_no_wrong_rows(context: int, sequences: int, tmp_path: Path) -> None:
    """What is still said to be cached is right, and so is what follows it."""
    talk = Talk(tmp_path, context, sequences, seed=7 * context + sequences)
    failing, failed = 0.0, 0

    def fault(_: str) -> None:
        if talk.random.random() < failing:
            raise DeviceError("the device failed")

    talk.device.fault = fault
    for _ in range(250):
        feeds = talk.feeds()
        failing = 0.1
        try:
            if feeds:
                talk.step(feeds)
            if talk.random.random() < 0.4 or not feeds:
                talk.change()
        except DeviceError:
            failed += 1
            for sequence, text in enumerate(talk.texts):
                del text[talk.runtime.position(sequence) :]
        failing = 0.0
        talk.check()
    assert failed > 20


class NoStates:
    """The states of nets that have none: where they are is all that is followed."""

    def read_states(self) -> tuple[()]:
        return ()

    def write_states(self, states: object) -> None:
        pass


def test_rows_to_be_read_again_after_a_failure_are_nobody_elses(tmp_path: Path) -> None:
    """With a state, which is lost where a launch fails: what it saw is read again, some of it in the step after."""
    talk = Talk(tmp_path, 1024, 1, seed=0, states=True)
    talk.runtime._state = DeviceState(cast(StepStages, NoStates()))
    launches = 0

    def fault(what: str) -> None:
        nonlocal launches
        launches += what == "launch"
        if what == "launch" and launches == 2:
            raise DeviceError("the device failed")

    def read(count: int, *, prompt: bool = True) -> None:
        talk.step([Feed(0, [talk.random.randrange(50) for _ in range(count)], prompt=prompt)])

    # The net that reads a prompt's last tokens again leaves rows free before them; the next prompt's copy is above.
    for prompt in (512, 100):
        read(prompt)
        for _ in range(100):
            read(1, prompt=False)
    rows = talk.runtime._pool.rows(0)
    assert (rows != np.arange(len(rows))).any()
    talk.runtime.truncate(0, 800)
    del talk.texts[0][800:]
    talk.device.fault = fault
    with pytest.raises(DeviceError):
        read(1, prompt=False)
    rows = talk.runtime._pool.rows(0)
    assert len(set(rows.tolist())) == talk.runtime.position(0) == 800
    read(1, prompt=False)
    talk.check()


def test_a_state_that_cannot_be_restored_leaves_the_sequence_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Talk(tmp_path, 64, 1, seed=0, states=True)
    talk.runtime._state = DeviceState(cast(StepStages, NoStates()))
    talk.step([Feed(0, [1, 2, 3, 4, 5, 6, 7, 8, 9], prompt=True)])
    saved = talk.runtime.save(0)

    def failing(_: NoStates, states: object) -> None:
        del states
        raise DeviceError("the device failed")

    with monkeypatch.context() as patch:
        patch.setattr(NoStates, "write_states", failing)
        with pytest.raises(DeviceError):
            talk.runtime.restore(0, saved, 9)
    assert talk.runtime.position(0) == 0
    talk.texts[0] = []
    talk.step([Feed(0, [9, 8, 7], prompt=True)])
    talk.check()


def test_a_saved_cache_is_in_the_order_of_its_tokens(tmp_path: Path) -> None:
    """Also where the rows lie side by side, but the last tokens' before the others'."""
    talk = Talk(tmp_path, 32, 2, seed=0)
    talk.step([Feed(0, [1, 2, 3, 4, 5, 6, 7, 8])])
    talk.step([Feed(1, [9])])
    talk.runtime.truncate(0, 0)
    talk.texts[0] = []
    talk.runtime._pool.append(4, [(0, 4)])
    talk.runtime._pool.append(0, [(0, 4)])
    talk.runtime._tokens[0] = talk.texts[0] = [5, 6, 7, 8, 1, 2, 3, 4]
    saved = talk.runtime.save(0)
    assert saved.rows[0, :, 0, 0].tolist() == [6, 7, 8, 9, 2, 3, 4, 5]
