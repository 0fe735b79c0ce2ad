"""What all endpoints share: the model's name, prompts, engines, counters."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from fastapi import Request

from bmqwen.errors import BmqwenError, ModelNotFoundError, NotOfferedError, UnsupportedFieldError
from bmqwen.generate.params import Completion, Piece, SamplingParams
from bmqwen.generate.retrieval import EmbeddingPrompts, RerankPrompts, Task
from bmqwen.generate.template import ChatTemplate
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.serve.defaults import Limits
from bmqwen.serve.http.fields import RequestModel
from bmqwen.serve.http.kept_answers import KeptAnswers
from bmqwen.serve.metrics import Metrics, RequestCounts, joined
from bmqwen.serve.pool.job import Job, Started
from bmqwen.serve.pool.pool import Pool
from bmqwen.serve.prompts import Prompts
from bmqwen.version import __version__

# Where models are asked, by their tasks.
PLACES: Mapping[Task, str] = {
    "chat": "/v1/chat/completions",
    "embedding": "/v1/embeddings",
    "rerank": "/v1/rerank",
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a name of the API key, and whose turn in the queue it uses."""

    owner: str
    client: tuple[str, str]

    @classmethod
    def of(cls, request: Request, user: str | None) -> "Caller":
        """Return the caller of a request; `user` is what its body says."""
        owner = str(request.scope.get("owner", ""))
        address = request.client.host if request.client else ""
        return cls(owner, (f"{owner} {address}", user or ""))


@dataclass(frozen=True, slots=True)
class Model:
    """The model that is served.

    Attributes:
        name: as requests name it.
        precision: how its weights are stored, for people.
        created: when it was loaded, in seconds since 1970.
        vocab_size: tokens that it knows, those included that its tokenizer has no text for.
        aliases: other names that requests may have for it; "*" is any name.
        retrieval: how it is asked, if it is for embeddings or for reranking.
        width: numbers that it gives for a token: logits, or a hidden state.
    """

    name: str
    precision: str
    tokenizer: Tokenizer
    template: ChatTemplate
    defaults: SamplingParams
    limits: Limits
    created: int
    vocab_size: int
    aliases: tuple[str, ...] = ()
    retrieval: EmbeddingPrompts | RerankPrompts | None = None
    width: int = 0

    @property
    def task(self) -> Task:
        """What it is for."""
        if self.retrieval is None:
            return "chat"
        return "embedding" if isinstance(self.retrieval, EmbeddingPrompts) else "rerank"


class Service:
    """One model and the engines that answer for it.

    Attributes:
        kept: answers under way, which may be those of other models as well.
    """

    def __init__(self, model: Model, pool: Pool, *, labels: Mapping[str, str] | None = None) -> None:
        """`labels` are those of all of its metrics."""
        self.model, self.pool = model, pool
        self.metrics = Metrics(pool, labels or {})
        self.kept = KeptAnswers()
        self.prompts = Prompts(model.tokenizer, model.template, model.limits, pool.check)

    @property
    def fingerprint(self) -> str:
        """Changes when answers may: version and precision."""
        return f"bmqwen-{__version__}-{self.model.precision.replace(' ', '-').replace(',', '')}"

    def progress(self, job: Job) -> str:
        """Return how a job comes along before its first word: "queue 2", "read 512/2048", or nothing."""
        if job.state == "queued":
            return f"queue {self.pool.ahead(job)}"
        if job.state == "running" and job.read and not job.pieces:
            return f"read {job.read}/{len(job.prompt)}"
        return ""

    async def generate(
        self,
        prompt: list[int],
        params: SamplingParams,
        caller: Caller,
        on_job: Callable[[Job], None] = lambda _: None,
    ) -> AsyncGenerator[Started | Piece | tuple[Completion, float], None]:
        """Yield an answer as it comes, then the Completion and the seconds it waited in the queue.

        `on_job` gets the job that is made for it.

        Closing this cancels the answer. Raises as `Scheduler.submit` does, and what the engine raises.
        """
        job = Job(prompt, params, caller.owner, caller.client)
        on_job(job)
        try:
            self.pool.submit(job)
            async with aclosing(job.events()) as events:
                async for event in events:
                    if isinstance(event, Completion):
                        self.metrics.answered(event.finish_reason, event.usage, job.queue_s)
                        yield event, job.queue_s
                    else:
                        yield event
        except BmqwenError as error:
            self.metrics.failures.labels(error.code).inc()
            raise
        except (GeneratorExit, asyncio.CancelledError):
            if job.state != "over":
                self.metrics.left.inc()
            raise
        finally:
            self.pool.cancel(job)


class Services:
    """The models behind one address: what endpoints find a request's model in.

    Attributes:
        first: the model of requests that name none.
        names: each model by its own name and by its others.
        requests: counts them, by endpoint and status.
        kept: answers under way.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        strict_fields: bool = False,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """With `strict_fields`, a request with a field that no answer depends on is refused.

        There is one service at least; no two have models of one name. `labels` are those of the requests' counter.
        """
        self._services = {service.model.name: service for service in services}
        aliases = {alias: service for service in services for alias in service.model.aliases}
        self._any = aliases.pop("*", None)
        self.names = {**self._services, **aliases, **self._services}
        self.first, self._strict_fields = services[0], strict_fields
        self.requests = RequestCounts(labels or {})
        self.kept = self.first.kept
        for service in services:
            service.kept = self.kept

    def __iter__(self) -> Iterator[Service]:
        return iter(self._services.values())

    @property
    def ready(self) -> bool:
        """Whether each model can answer."""
        return all(service.pool.ready for service in self)

    def find(self, name: str | None) -> Service:
        """Return the service of a model, the first one for no name. Raises ModelNotFoundError for others."""
        if not name:
            return self.first
        service = self.names.get(name, self._any)
        if service is None:
            names = ", ".join(map(repr, self._services))
            raise ModelNotFoundError(
                f"the model {name[:200]!r} does not exist here; this server has {names}, and accepts other names "
                "that are given with --alias",
                "model",
            )
        return service

    def of_task(self, name: str | None, task: Task) -> Service:
        """Return the service of a model for a task, the first one for no name.

        Raises:
            NotOfferedError: there is none for the task.
            ModelNotFoundError: the name is that of none, or of one for another task.
        """
        offered = [service for service in self if service.model.task == task]
        if not offered:
            raise NotOfferedError(f"this server has no {task} model: start it with --{task} MODEL")
        if not name:
            return offered[0]
        service = self.find(name)
        if service.model.task != task:
            if name not in self.names:  # any name is the chat model's
                return offered[0]
            raise ModelNotFoundError(
                f"{name[:200]!r} is the {service.model.task} model, which answers at {PLACES[service.model.task]}: "
                f"name {offered[0].model.name!r} here",
                "model",
            )
        return service

    def accept(self, body: RequestModel, request: Request, task: Task = "chat") -> Service:
        """Return the service that a request is for, and note its fields without effect, which the middleware reports.

        Raises:
            NotOfferedError: there is no model for the task.
            ModelNotFoundError: it names a model that is not served, or not for this task.
            UnsupportedFieldError: it has a field without effect, and the server is strict.
        """
        service = self.of_task(getattr(body, "model", None), task)
        ignored = body.ignored()
        if ignored and self._strict_fields:
            raise UnsupportedFieldError(
                f"{ignored[0]} has no effect here, and this server was started to refuse such fields: leave it out",
                ignored[0],
            )
        request.scope["ignored"] = ignored
        return service

    def metrics(self) -> bytes:
        """Return all counters in Prometheus' text format."""
        return joined([self.requests, *(service.metrics for service in self)])
