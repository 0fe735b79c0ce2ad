"""What clients get when the process that took their request in is lost: our errors, not the words of Ray's proxy.

Ray's proxy, which passes requests on to that process, calls `middlewares` when it begins.
"""

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bmqwen.cluster.carried_body import CarryBody
from bmqwen.errors import BmqwenError, BusyError, EngineLostError, NotReadyError
from bmqwen.serve.http.anthropic.api import MessageWriter
from bmqwen.serve.http.errors import error_body, error_response
from bmqwen.serve.http.ollama.api import OllamaWriter
from bmqwen.serve.http.openai_responses.api import ResponseWriter
from bmqwen.serve.http.streaming import OPENAI, Framing

# Ray's name for what `middlewares` is called by, for the environment of its proxy.
VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
PLACE = "bmqwen.cluster.lost_answers.middlewares"

# Ray's own addresses.
_OF_RAY = "/-/"
_RETRY_SECONDS = 5


def middlewares() -> list[Middleware]:
    """Return what stands before Ray's proxy."""
    return [Middleware(LostAnswers), Middleware(CarryBody)]


class LostAnswers:
    """Gives answers an end that have none, and our sentence to those for which Ray has one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back."""
        if scope["type"] != "http" or scope["path"].startswith(_OF_RAY):
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope["path"], send)
        await self._app(scope, receive, answer.send)
        if answer.status and answer.ended:
            return
        error = (answer.is_rays and _rays(answer.status)) or EngineLostError(
            "the process that accepted this request stopped and is being started again; try again"
        )
        if not answer.status or answer.is_rays:
            await error_response(error, answer.path)(scope, receive, send)
        elif framing := answer.framing:
            last = framing.error(error_body(error, answer.path))
            await send({"type": "http.response.body", "body": last, "more_body": False})


class _Answer:
    """An answer on its way.

    Attributes:
        status: of HTTP; 0 before it has begun.
        is_rays: it is an error in Ray's words, which are not passed on.
        ended: it has come to its end.
        framing: of its events, if it is a stream.
    """

    def __init__(self, path: str, send: Send) -> None:
        self.path, self._send = path, send
        self.status, self.is_rays, self.ended = 0, False, False
        self.framing: Framing | None = None

    async def send(self, message: Message) -> None:
        """Pass a message on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            kind = dict(message.get("headers", ())).get(b"content-type", b"")
            # Errors of ours are JSON.
            self.is_rays = self.status in (404, 408, 429, 500, 503) and kind.startswith(b"text/plain")
            self.framing = _framing(self.path, kind)
        if self.is_rays:
            return
        if message["type"] == "http.response.body":
            self.ended = not message.get("more_body", False)
        await self._send(message)


def _rays(status: int) -> BmqwenError | None:
    """What Ray refuses a request for before our code has it."""
    if status == 429:
        return BusyError(
            f"the fleet has as many requests as it can take; try again in {_RETRY_SECONDS} seconds",
            _RETRY_SECONDS,
        )
    # It knows no application's addresses before it has begun one.
    if status in (404, 408, 503):
        return NotReadyError("the fleet is being started or is overloaded; try again in a few seconds")
    return None


def _framing(path: str, kind: bytes) -> Framing | None:
    """How events are sent at an address; None for what is no stream."""
    if kind == OllamaWriter.framing.media_type:
        return OllamaWriter.framing
    if not kind.startswith(b"text/event-stream"):
        return None
    writers = {"/v1/messages": MessageWriter.framing, "/v1/responses": ResponseWriter.framing}
    return next((framing for prefix, framing in writers.items() if path.startswith(prefix)), OPENAI)
