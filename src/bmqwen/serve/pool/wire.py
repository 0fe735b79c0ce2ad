"""What passes between the server and an engine's process: one JSON object a line, nothing that needs to be trusted.

To the engine: `load` (once), `generate`, `cancel`. From it: `ready` or `error` (once); for each `generate` with its id
`start`, `read` for each part of the prompt, `piece` as often as there is text, then `done` or `error`. Another
host could stand at the other end.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict, TypeAdapter
from pydantic_core import to_json
from typing_extensions import Required, TypedDict

from bmqwen import errors
from bmqwen.errors import BmqwenError
from bmqwen.generate.params import Completion, Piece, SamplingParams
from bmqwen.generate.retrieval import Task
from bmqwen.runtime.registry import EngineName


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What an engine's process is to load.

    Attributes:
        model: a bundle's folder, or a published bmodel.
        saved_bytes: host memory for saved conversations.
        draft: as for `bmqwen.engine.load`.
        sequences: conversations that it answers at once, where the bundle leaves it open.
        reproducible: no answer depends on which others are computed beside it.
        hang_seconds: how long it may be silent once it is to end an answer: it finishes its launch first, which takes
            minutes on a simulator.
        load_seconds: how long loading may take.
        task: as for `bmqwen.engine.load`.
        kept: a folder for the conversations that are saved when it ends, and taken back when the next one begins.
    """

    model: str
    engine: EngineName = "auto"
    threads: int | None = None
    context_length: int | None = None
    devices: tuple[int, ...] = (0,)
    saved_bytes: int = 0
    draft: str = "auto"
    sequences: int = 1
    reproducible: bool = False
    hang_seconds: float = 300.0
    load_seconds: float = 900.0
    task: Task = "chat"
    kept: str = ""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What a loaded engine says of itself."""

    name: str
    context_length: int
    vocab_size: int
    sequences: int = 1


@dataclass(frozen=True, slots=True)
class EngineState:
    """What an engine last said of its memory.

    Attributes:
        memory_bytes: of the process.
        device_bytes: in use on its device, by all programs; None without one, or where it does not tell.
        saved_bytes: of the conversations saved in the process.
    """

    memory_bytes: int = 0
    device_bytes: int | None = None
    conversations: int = 0
    saved_bytes: int = 0
    saved: int = 0
    restored: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """An error's class, sentence and field."""

    kind: str
    message: str
    param: str | None = None
    retry_after: int | None = None

    @classmethod
    def of(cls, error: BmqwenError) -> "Fault":
        """Describe an error."""
        return cls(
            type(error).__name__,
            str(error),
            getattr(error, "param", None),
            getattr(error, "retry_after", None),
        )

    def error(self) -> BmqwenError:
        """Return the error; one that this side does not know is an engine's failure."""
        kind = getattr(errors, self.kind, None)
        if not (isinstance(kind, type) and issubclass(kind, BmqwenError)):
            kind = errors.DeviceError
        error: BmqwenError = kind.__new__(kind)
        error.args = (self.message,)
        if isinstance(error, errors.RequestError):
            error.param = self.param
        if isinstance(error, errors.BusyError):
            error.retry_after = self.retry_after or 1
        return error


class Message(TypedDict, total=False):
    """A line. `completion` is without text and log-probabilities, which its pieces had."""

    __pydantic_config__ = ConfigDict(val_json_bytes="base64")  # type: ignore[misc]

    op: Required[Literal["load", "generate", "cancel", "ready", "start", "read", "piece", "done", "error"]]
    id: int
    config: EngineConfig
    prompt: list[int]
    params: SamplingParams
    owner: str
    client: tuple[str, str]
    facts: EngineFacts
    state: EngineState
    done: int
    piece: Piece
    completion: Completion
    fault: Fault
    usable: bool


_MESSAGES = TypeAdapter(Message)


def encode(message: Message) -> bytes:
    """Encode a message as a line."""
    return to_json(message, bytes_mode="base64") + b"\n"


def decode(line: bytes) -> Message:
    """Decode a line. Raises ValueError for anything else, InputError for sampling parameters out of range."""
    return _MESSAGES.validate_json(line)
