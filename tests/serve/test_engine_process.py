"""What an engine's process tells the server of the answers in a step, without a process."""

import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bmqwen.errors import DeviceError
from bmqwen.generate.params import SamplingParams
from bmqwen.generate.session import Session
from bmqwen.serve.pool.engine_process import EngineProcess
from bmqwen.serve.pool.wire import Message, decode
from support.toy_runtime import ToyRuntime
from support.toy_tokenizer import toy_tokenizer

TOKENIZER = toy_tokenizer()
SHORT, FAILING = [5] * 6, [7] * 6
LENGTH = 3


@pytest.mark.parametrize("prompts", [(SHORT, FAILING), (FAILING, SHORT)])
def test_an_answer_that_ends_in_the_step_in_which_another_one_fails_is_whole(
    prompts: tuple[list[int], list[int]],
) -> None:
    """The device fails where a token of the one and the last of the other are read."""

    def next_token(prefix: tuple[int, ...]) -> int:
        if prefix[0] == FAILING[0] and runtime.position(prompts.index(SHORT)) == len(SHORT) + LENGTH - 1:
            raise DeviceError("the device failed")
        return 40 + len(prefix)

    runtime = ToyRuntime(TOKENIZER.vocab_size, sequences=2, next_token=next_token)
    ours, theirs = socket.socketpair()
    with ours, theirs, theirs.makefile("rb") as lines:
        process = EngineProcess(ours)
        engine = SimpleNamespace(session=Session(runtime, TOKENIZER), runtime=runtime)
        process._engine = cast(Any, engine)
        for job, prompt in enumerate(prompts):
            params = SamplingParams(max_tokens=LENGTH if prompt is SHORT else 99)
            process._begin({"op": "generate", "id": job, "prompt": prompt, "params": params, "owner": ""})
        while process._step():
            pass
        messages: list[Message] = []
        while len(ends := [m for m in messages if "usable" in m]) < 2:
            messages.append(decode(lines.readline()))
    whole, failed = ends
    assert prompts[whole["id"]] is SHORT
    assert (whole["usable"], len(whole["completion"].token_ids)) == (True, LENGTH)
    assert prompts[failed["id"]] is FAILING
    assert (failed["usable"], str(failed["fault"].error())) == (False, "the device failed")
