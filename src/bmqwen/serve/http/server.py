"""Runs the application on a socket until it is told to stop."""

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import uvicorn

from bmqwen.artifact.bundle import Bundle
from bmqwen.engine import precision_of
from bmqwen.errors import InputError
from bmqwen.generate.params import SamplingParams
from bmqwen.generate.retrieval import EmbeddingPrompts, RerankPrompts, Task
from bmqwen.generate.template import ChatTemplate
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.serve.defaults import Limits
from bmqwen.serve.http.app import create_app
from bmqwen.serve.http.connection import ClientConnection
from bmqwen.serve.http.middleware import AccessRules
from bmqwen.serve.pool.scheduler import Scheduler
from bmqwen.serve.pool.wire import EngineConfig
from bmqwen.serve.service import Model, Service, Services

KEEP_ALIVE_SECONDS = 75
# After the running answers were told that they end.
LAST_SECONDS = 3
# Models that do not chat need no template: text is read as it is.
_AS_IT_IS = "{% for message in messages %}{{ message.content }}{% endfor %}"
LOG = logging.getLogger("bmqwen.serve")


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket, before anything is loaded. Raises InputError for an address that cannot be used."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"cannot listen on {host}, port {port}: {reason}; choose another --port or --host"
        ) from error
    return listener


def model_of(
    bundle: Bundle, name: str, defaults: SamplingParams, limits: Limits, task: Task = "chat"
) -> Model:
    """Read what the server itself needs of a bundle.

    Raises ConfigError for an unusable tokenizer or template, and for a reranker without its two words.
    """
    folder = bundle.tokenizer_folder
    tokenizer = Tokenizer.from_folder(folder)
    retrieval: EmbeddingPrompts | RerankPrompts | None = None
    if task != "chat":
        retrieval = EmbeddingPrompts(tokenizer, folder) if task == "embedding" else RerankPrompts(tokenizer)
        _ = retrieval.params
    template = ChatTemplate.from_folder(folder) if retrieval is None else ChatTemplate(_AS_IT_IS)
    return Model(
        name,
        precision_of(bundle),
        tokenizer,
        template,
        defaults,
        limits,
        int(time.time()),
        bundle.config.vocab_size,
        retrieval=retrieval,
        width=bundle.config.width,
    )


def url(listener: socket.socket) -> str:
    """Return the address of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(
    served: Sequence[tuple[Model, Sequence[EngineConfig]]],
    rules: AccessRules,
    listener: socket.socket,
    *,
    stop_seconds: float,
    strict_fields: bool,
    on_ready: Callable[[str, int], None],
) -> None:
    """Serve models, the one that chats first, each by its engines, until SIGTERM or Ctrl-C.

    `on_ready` gets the name of the first one's engines, and how many requests they answer at once, when each model has
    one that is loaded.

    When told to stop, running answers may go on for `stop_seconds`. With `strict_fields`, fields without effect are
    refused.

    Raises:
        BmqwenError: an engine cannot be loaded.
    """
    schedulers = [
        Scheduler(engines, queue_limit=model.limits.queue, seconds=model.limits.seconds)
        for model, engines in served
    ]
    several = len(served) > 1
    services = [
        Service(model, scheduler, labels={"model": model.name} if several else None)
        for (model, _), scheduler in zip(served, schedulers, strict=True)
    ]
    app = create_app(Services(services, strict_fields=strict_fields), rules)
    config = uvicorn.Config(
        app,
        http=ClientConnection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=LAST_SECONDS,
        proxy_headers=False,
    )
    # What goes wrong with a request the middleware writes down; this would add what was cut while stopping.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    server = _Server(config)
    loop = asyncio.get_running_loop()
    # The first signal lets running answers finish, the second one does not wait for them.
    signals: list[asyncio.Future[None]] = [loop.create_future(), loop.create_future()]
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _note_signal, signals)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    watcher = asyncio.create_task(_report(schedulers, on_ready))
    failures = [scheduler.failure for scheduler in schedulers]
    first: list[asyncio.Future[Any]] = [running, signals[0], *failures]
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    watcher.cancel()
    if signals[0].done():
        LOG.info("stopping: no new requests, running answers may take %g more seconds", stop_seconds)
        draining = asyncio.ensure_future(_drain(schedulers, stop_seconds))
        await asyncio.wait([draining, running, signals[1]], return_when=asyncio.FIRST_COMPLETED)
        draining.cancel()
        await _drain(schedulers, 0)
    server.should_exit = True
    try:
        await running
    except OSError as error:
        # Two servers may have bound the port before either listened.
        raise InputError(f"cannot listen on {url(listener)}: {error.strerror or error}") from error
    for failure in failures:
        if failure.done():
            raise failure.result()


async def _drain(schedulers: Sequence[Scheduler], seconds: float) -> None:
    await asyncio.gather(*(scheduler.drain(seconds) for scheduler in schedulers))


async def _report(schedulers: Sequence[Scheduler], on_ready: Callable[[str, int], None]) -> None:
    first = schedulers[0]
    while (facts := first.facts) is None or not all(scheduler.ready for scheduler in schedulers):
        await asyncio.sleep(0.05)
    on_ready(facts.name, facts.sequences * len(first.replicas))


def _note_signal(signals: list[asyncio.Future[None]]) -> None:
    for awaited in signals:
        if not awaited.done():
            awaited.set_result(None)
            return


class _Server(uvicorn.Server):
    """Leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing."""
        yield


def check_exposure(host: str, rules: AccessRules, *, waived: bool) -> None:
    """Raise InputError for an address that others reach, without a key."""
    if not is_local(host) and not rules.keys and not waived:
        raise InputError(
            f"other machines can reach this server on {host}: give it an API key with --api-key-file or "
            "BMQWEN_API_KEY, or let everybody use it with --insecure-no-key"
        )


def is_local(host: str) -> bool:
    """Return whether an address is one of this machine's own that others do not reach."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address[0])).is_loopback for *_, address in found)
