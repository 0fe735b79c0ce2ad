"""What every request has to pass before anything is done for it: host, origin, key, size and time of its body."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from prometheus_client import Counter
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bmqwen.errors import (
    BmqwenError,
    LargeRequestError,
    MediaTypeError,
    OriginRefusedError,
    RequestError,
    SlowRequestError,
)
from bmqwen.serve.http.errors import error_response
from bmqwen.serve.http.keys import ApiKeys

LOG = logging.getLogger("bmqwen.serve")
BODY_SECONDS = 30.0
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
# Of these nobody wants to read more in a header.
MOST_IGNORED = 30
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.\[\]-]{1,60}")
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
# The page itself holds no secret; it asks its user for the key.
PUBLIC = ("/", "/favicon.ico", "/health", "/api/info")
PUBLIC_FOLDER = "/page/"
# What the page asks for by itself: a visit is one line in the log, not ten.
QUIET = ("/favicon.ico", "/api/info", "/tokenize")


@dataclass(frozen=True, slots=True)
class AccessRules:
    """Who may talk to the server.

    Attributes:
        keys: API keys; none: everybody.
        hosts: names in the Host header, where a foreign name means that a web page tricked a browser; None: any.
        origins: web pages elsewhere that may call, such as "https://chat.example.org", or "*".
        body_bytes: largest body.
    """

    keys: ApiKeys = field(default_factory=ApiKeys)
    hosts: frozenset[str] | None = LOCAL_NAMES
    origins: Sequence[str] = ()
    body_bytes: int = 4 << 20


class AccessMiddleware:
    """ASGI middleware that checks requests, logs and counts them.

    It sets scope["owner"] to a name of the key used. Endpoints set scope["note"], for the log (what came of a request,
    where the status does not say it), and scope["ignored"], the names of fields without effect.
    """

    def __init__(self, app: ASGIApp, rules: AccessRules, requests: Counter, policy: str) -> None:
        """`requests` counts answers by endpoint (as the program names it) and status.

        `policy` is the Content-Security-Policy of every answer.
        """
        self._app, self._rules, self._requests = app, rules, requests
        self._headers = (*HEADERS, (b"content-security-policy", policy.encode()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        method = scope["method"]
        if method == "HEAD":  # what GET would say, without its body
            scope = {**scope, "method": "GET"}
        headers = dict(scope["headers"])
        origin = headers.get(b"origin", b"").decode("latin-1")
        status = 0
        request_id = headers.get(b"x-request-id", b"")
        if _REQUEST_ID.fullmatch(request_id) is None:
            request_id = f"req-{secrets.token_hex(8)}".encode()

        async def send_more(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *self._headers, (b"x-request-id", request_id)]
                if ignored := _ignored(scope):
                    message["headers"].append((b"x-bmqwen-ignored", ignored.encode()))
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        try:
            try:
                self._check_place(headers, origin)
                path = scope["path"]
                if path.endswith("/") and not path.startswith(PUBLIC_FOLDER):
                    path = scope["path"] = path.rstrip("/") or "/"
                public = path in PUBLIC or path.startswith(PUBLIC_FOLDER)
                scope["owner"] = "" if public else self._rules.keys.owner(_authorization(headers))
                self._check_body(headers)
                await self._app(scope, self._limited(receive), send_more)
            except BmqwenError as error:
                if status:
                    raise
                await error_response(error, scope["path"])(scope, receive, send_more)
        except ClientDisconnect:
            scope["note"] = "the client left"
            # The framework's answer to that, if there was none before, reaches nobody.
            status = status if status < 500 else 0
        except Exception as error:
            LOG.error("%s %s failed: %r", method, _path(scope), error, exc_info=error)
            if not status:
                internal = BmqwenError("the server failed; its log says why")
                await error_response(internal, scope["path"])(scope, receive, send_more)
        finally:
            seconds = time.perf_counter() - begin
            ignored = _ignored(scope)
            notes = [scope.get("note", ""), ignored and f"ignored: {ignored}", request_id.decode()]
            self._requests.labels(getattr(scope.get("route"), "path", "other"), str(status)).inc()
            quiet = status < 400 and (scope["path"] in QUIET or scope["path"].startswith(PUBLIC_FOLDER))
            level = logging.DEBUG if quiet else logging.INFO
            what = " ".join(filter(None, notes))
            LOG.log(level, "%s %s %s %.3f s %s", method, _path(scope), status, seconds, what)

    def _check_place(self, headers: dict[bytes, bytes], origin: str) -> None:
        """Refuse web pages that are not ours: those of other origins, and those that took our address for theirs."""
        host = headers.get(b"host", b"").decode("latin-1")
        hosts = self._rules.hosts
        if hosts is not None and host and _name_of(host) not in hosts:
            raise OriginRefusedError(
                f"this server does not answer to the name {host[:100]}: use the address that it printed"
            )
        if not origin or origin in self._rules.origins or "*" in self._rules.origins:
            return
        if not host or urlsplit(origin).netloc != host:
            raise OriginRefusedError(
                f"web pages of {origin[:100]} may not use this server: allow them with --cors-origin"
            )

    def _check_body(self, headers: dict[bytes, bytes]) -> None:
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18:
            raise RequestError("the header Content-Length is not a number")
        if int(length) > self._rules.body_bytes:
            raise self._too_large()
        # Only JSON: a browser asks first before it sends that to another origin.
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if (length != b"0" or b"transfer-encoding" in headers) and kind != b"application/json":
            raise MediaTypeError("send the request as JSON, with the header Content-Type: application/json")

    def _limited(self, receive: Receive) -> Receive:
        """`receive` that gives up on bodies that are too large or too slow."""
        got, complete = 0, False
        end = time.monotonic() + BODY_SECONDS

        async def receive_some() -> Message:
            nonlocal got, complete
            if complete:  # waits for the client to leave
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, end - time.monotonic()))
            except asyncio.TimeoutError:
                raise SlowRequestError(
                    f"the request did not arrive within {BODY_SECONDS:g} seconds"
                ) from None
            if message["type"] == "http.request":
                got += len(message.get("body", b""))
                complete = not message.get("more_body", False)
                if got > self._rules.body_bytes:
                    raise self._too_large()
            return message

        return receive_some

    def _too_large(self) -> LargeRequestError:
        return LargeRequestError(
            f"the request is larger than the {self._rules.body_bytes:,} bytes that this server takes"
        )


def _name_of(host: str) -> str:
    """The name in a Host header; empty where that is none."""
    try:
        parts = urlsplit(f"//{host}")
        parts.port  # noqa: B018  (raises for one that is not a number)
    except ValueError:
        return ""
    return "" if set(host) & set("/@\\ ?#") else parts.hostname or ""


def _ignored(scope: Scope) -> str:
    """Names of the fields without effect, the odd ones in quotes, as a header may have them."""
    names = [name if _PLAIN_NAME.fullmatch(name) else ascii(name[:60]) for name in scope.get("ignored", [])]
    more = [f"{len(names) - MOST_IGNORED} more"] if len(names) > MOST_IGNORED else []
    return ", ".join(names[:MOST_IGNORED] + more)


def _authorization(headers: dict[bytes, bytes]) -> bytes | None:
    """The header with the key, which Anthropic's clients send in one of their own."""
    key = headers.get(b"x-api-key")
    return headers.get(b"authorization") or (key and b"Bearer " + key)


def _path(scope: Scope) -> str:
    """Without the query, which might hold a secret, and without line breaks."""
    return ascii(scope["path"][:200])[1:-1]
