"""What passes between server and engine comes out as it went in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmqwen.errors import (
    BmqwenError,
    BusyError,
    ContextLengthError,
    DeviceError,
    InputError,
    RequestError,
    SchemaError,
)
from bmqwen.generate.params import Completion, Piece, SamplingParams, TokenLogprob, Usage
from bmqwen.serve.pool import wire

TOKENS = st.builds(
    lambda data, logprob, top: TokenLogprob(3, data.decode("utf-8", "replace"), data, logprob, tuple(top)),
    st.binary(max_size=6),
    st.floats(-100, 0),
    st.lists(
        st.builds(
            lambda data: TokenLogprob(4, data.decode("utf-8", "replace"), data, -1.0), st.binary(max_size=3)
        ),
        max_size=2,
    ),
)


# Text is decoded from tokens' bytes: it holds no halves of surrogate pairs.
@given(st.text(st.characters(codec="utf-8"), max_size=20), st.lists(TOKENS, max_size=3))
def test_pieces(text: str, logprobs: list[TokenLogprob]) -> None:
    piece = Piece(text, tuple(logprobs))
    line = wire.encode({"op": "piece", "id": 1, "piece": piece})
    assert line.count(b"\n") == 1
    assert wire.decode(line) == {"op": "piece", "id": 1, "piece": piece}


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(
            temperature=0.5,
            top_k=3,
            top_p=0.9,
            min_p=0.1,
            repetition_penalty=1.1,
            presence_penalty=-1,
            frequency_penalty=1,
            logit_bias={5: 1.5, 7: -100},
            seed=2**64 - 1,
            max_tokens=7,
            stop=("a", "b\n"),
            logprobs=3,
            json_schema='{"type": "object"}',
        ),
    ],
)
def test_parameters(params: SamplingParams) -> None:
    assert wire.decode(wire.encode({"op": "generate", "params": params}))["params"] == params


def test_parameters_out_of_range_are_refused_on_the_other_side_too() -> None:
    with pytest.raises(InputError, match="temperature"):
        wire.decode(b'{"op": "generate", "params": {"temperature": 9}}')


def test_completions() -> None:
    completion = Completion("", (1, 2), "length", Usage(5, 3, 2, 0.5, 0.25))
    assert wire.decode(wire.encode({"op": "done", "completion": completion}))["completion"] == completion


@pytest.mark.parametrize(
    "error",
    [
        InputError("a"),
        DeviceError("b"),
        SchemaError("c"),
        RequestError("d", "field"),
        ContextLengthError(3, 5),
        BmqwenError("e"),
    ],
)
def test_errors(error: BmqwenError) -> None:
    back = wire.decode(wire.encode({"op": "error", "fault": wire.Fault.of(error)}))["fault"].error()
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert getattr(back, "param", None) == getattr(error, "param", None)
    assert back.http_status == error.http_status


def test_an_unknown_error_is_the_engines_failure() -> None:
    for kind in ("Unheard", "ClassVar", "__doc__", ""):
        error = wire.Fault(kind, "x").error()
        assert type(error) is DeviceError
    with pytest.raises(ValueError):
        wire.decode(b"[]")


def test_a_full_queue_says_when_to_come_back() -> None:
    error = wire.Fault.of(BusyError("the queue is full", 7)).error()
    assert isinstance(error, BusyError)
    assert (str(error), error.retry_after) == ("the queue is full", 7)
