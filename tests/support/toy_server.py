"""The server's application in this process, with a model that has no weights."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from starlette.testclient import TestClient

from bmqwen.errors import BmqwenError
from bmqwen.generate.params import SamplingParams
from bmqwen.generate.session import Session
from bmqwen.generate.template import ChatTemplate
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.serve.defaults import Limits
from bmqwen.serve.http.app import create_app
from bmqwen.serve.http.keys import ApiKeys
from bmqwen.serve.http.middleware import AccessRules
from bmqwen.serve.pool.job import Job, Started
from bmqwen.serve.pool.scheduler import Scheduler
from bmqwen.serve.pool.wire import EngineFacts
from bmqwen.serve.service import Model, Service, Services
from support.toy_runtime import ToyRuntime
from support.toy_tokenizer import toy_template, toy_tokenizer

NAME = "toy"


class ToyScheduler(Scheduler):
    """Answers each job by a session in this process, one after another."""

    def __init__(self, runtime: ToyRuntime, session: Session) -> None:
        super().__init__([], queue_limit=10, seconds=60)
        self._session = session
        self._facts = EngineFacts(runtime.name, runtime.context_length, runtime.vocab_size)
        self._tasks: dict[Job, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()

    @property
    def facts(self) -> EngineFacts:
        return self._facts

    @property
    def ready(self) -> bool:
        return True

    def submit(self, job: Job) -> None:
        self._tasks[job] = asyncio.create_task(self._answer(job))

    def cancel(self, job: Job) -> None:
        if job in self._tasks:
            self._tasks.pop(job).cancel()

    async def _answer(self, job: Job) -> None:
        async with self._turn:
            job.state, job.started = "running", job.clock()
            pieces = self._session.generate(
                job.prompt,
                job.params,
                owner=job.owner,
                on_prefill=lambda done, _: None if done else job.publish(Started()),
            )
            try:
                while True:
                    job.publish(next(pieces))
                    await asyncio.sleep(0)
            except StopIteration as end:
                job.publish(end.value)
            except BmqwenError as error:
                job.publish(error)
            finally:
                pieces.close()


class ToyServer(TestClient):
    """A client of the application; to be entered.

    Attributes:
        runtime: what computes.
    """

    def __init__(
        self,
        runtime: ToyRuntime | None = None,
        *,
        tokenizer: Tokenizer | None = None,
        keys: tuple[str, ...] = (),
        defaults: SamplingParams | None = None,
        template: ChatTemplate | None = None,
        aliases: tuple[str, ...] = (),
        **options: Any,
    ) -> None:
        """`options` are those of Services."""
        tokenizer = tokenizer or toy_tokenizer()
        self.runtime = runtime or ToyRuntime(tokenizer.vocab_size)
        session = Session(self.runtime, tokenizer)
        model = Model(
            NAME,
            "toy",
            tokenizer,
            template or toy_template(),
            defaults or SamplingParams(),
            Limits(),
            0,
            self.runtime.vocab_size,
            aliases,
        )

        def make() -> Any:
            service = Service(model, ToyScheduler(self.runtime, session))
            return create_app(Services([service], **options), AccessRules(ApiKeys(keys), hosts=None))

        super().__init__(_Late(make))

    def __enter__(self) -> "ToyServer":
        super().__enter__()
        return self

    def chat(self, text: str, **fields: Any) -> Any:
        """The response to one question."""
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 8, **fields}
        return self.post("/v1/chat/completions", json=body)

    def complete(self, prompt: Any, **fields: Any) -> Any:
        """The response to a prompt."""
        return self.post("/v1/completions", json={"prompt": prompt, "max_tokens": 8, **fields})


class _Late:
    """An application made by its first call: a scheduler needs a running loop."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._app = make, cast("Any", None)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._app is None:
            self._app = self._make()
        with suppress(asyncio.CancelledError):
            await self._app(scope, receive, send)
