"""Requests' bodies on their way from Ray's proxy to the front: with the request itself.

Ray's proxy passes on all of a request but its body, which the receiver asks it for by a call of its own: that
takes as long as the request took (4 of 10 ms). The proxy's half runs there as one of `lost_answers.middlewares`.
"""

from collections import deque

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Of the scope, where the body is.
_KEY = "bmqwen.body"
# What is larger, or never ends, goes Ray's way.
_LARGEST = 1 << 20


class CarryBody:
    """Of the proxy: puts a body into its request's scope, which Ray passes on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for the body, unless it is large, and pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        messages: deque[Message] = deque()
        parts, size, more = [], 0, True
        while more and size <= _LARGEST:
            message = await receive()
            messages.append(message)
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)
            more = message.get("more_body", False)
        if not more and messages[-1]["type"] == "http.request":
            scope = {**scope, _KEY: b"".join(parts)}

        async def replay() -> Message:
            # Ray's proxy is to see all of the request as well: the front may not know of this.
            return messages.popleft() if messages else await receive()

        await self._app(scope, replay, send)


class CarriedBody:
    """Of the front: takes a body from its request's scope, if it is there."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        body = scope.pop(_KEY, None)
        if body is None:
            await self._app(scope, receive, send)
            return
        taken = False

        async def take() -> Message:
            nonlocal taken
            if not taken:
                taken = True
                return {"type": "http.request", "body": body, "more_body": False}
            # What Ray brings after it are the same bytes, and then that the client has left.
            while (message := await receive())["type"] == "http.request":
                pass
            return message

        await self._app(scope, take, send)
