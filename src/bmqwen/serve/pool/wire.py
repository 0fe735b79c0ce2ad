"""What passes between the server and an engine's process: one JSON object a line, nothing that needs to be trusted.

To the engine: `load` (once), `generate`, `cancel`. From it: `ready` or `error` (once); for each `generate` with its id
`start`, `piece` as often as there is text, then `done` or `error`. Another host could stand at the other end.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bmqwen import errors
from bmqwen.errors import BmqwenError
from bmqwen.generate.params import Completion, Piece, SamplingParams, TokenLogprob, Usage

Message = dict[str, Any]
# Made once: json.dumps makes one for each call.
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


def encode(message: Message) -> bytes:
    """Encode a message as a line."""
    return _ENCODE(message).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Decode a line. Raises ValueError for anything else."""
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("a message is an object")
    return message


def params_to_wire(params: SamplingParams) -> Message:
    """Encode sampling parameters."""
    return asdict(params)


def params_from_wire(values: Mapping[str, Any]) -> SamplingParams:
    """Decode sampling parameters. Raises InputError for values out of range."""
    return SamplingParams(
        **{
            **values,
            "stop": tuple(values["stop"]),
            "logit_bias": {int(token): bias for token, bias in values["logit_bias"].items()},
        }
    )


def piece_to_wire(piece: Piece) -> Message:
    """Encode a piece; most have no log-probabilities."""
    return {"text": piece.text, **({"logprobs": _logprobs_to_wire(piece.logprobs)} if piece.logprobs else {})}


def piece_from_wire(message: Message) -> Piece:
    """Decode a piece."""
    return Piece(message["text"], _logprobs_from_wire(message.get("logprobs", ())))


def completion_to_wire(completion: Completion) -> Message:
    """Encode a finished generation, without the text and log-probabilities, which the pieces had."""
    return {
        "token_ids": completion.token_ids,
        "finish_reason": completion.finish_reason,
        "usage": asdict(completion.usage),
    }


def completion_from_wire(message: Message) -> Completion:
    """Decode a finished generation, whose text stands in its pieces."""
    return Completion(
        "", tuple(message["token_ids"]), message["finish_reason"], Usage(**message["usage"]), ()
    )


def error_to_wire(error: BmqwenError) -> Message:
    """Encode an error's class and sentence."""
    return {"kind": type(error).__name__, "message": str(error), "param": getattr(error, "param", None)}


def error_from_wire(message: Message) -> BmqwenError:
    """Decode an error; one that this side does not know is an engine's failure."""
    kind = getattr(errors, str(message["kind"]), None)
    if not (isinstance(kind, type) and issubclass(kind, BmqwenError)):
        kind = errors.DeviceError
    error: BmqwenError = kind.__new__(kind)
    error.args = (str(message["message"]),)
    if isinstance(error, errors.RequestError):
        error.param = message.get("param")
    return error


def _logprobs_to_wire(logprobs: tuple[TokenLogprob, ...]) -> list[Any]:
    return [
        [item.token_id, item.data.decode("latin-1"), item.logprob, _logprobs_to_wire(item.top)]
        for item in logprobs
    ]


def _logprobs_from_wire(values: Any) -> tuple[TokenLogprob, ...]:
    found = []
    for token_id, text, logprob, top in values:
        data = text.encode("latin-1")
        found.append(
            TokenLogprob(token_id, data.decode("utf-8", "replace"), data, logprob, _logprobs_from_wire(top))
        )
    return tuple(found)
