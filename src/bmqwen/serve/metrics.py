"""What the server counts, for Prometheus."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bmqwen.generate.params import Usage
from bmqwen.serve.pool.pool import EngineView, Pool

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)
RATES = (1, 2, 5, 10, 15, 20, 30, 40, 50, 60, 80, 100, 150, 200)
Reading = Callable[[EngineView], float | None]
# What each engine is asked; a value of None is left out.
GAUGES: dict[str, tuple[str, Reading]] = {
    "engine_ready": ("1 while the engine can answer.", lambda engine: engine.state == "ready"),
    "engine_memory_bytes": ("Memory of the engine's process.", lambda engine: engine.memory.memory_bytes),
    "device_memory_bytes": (
        "Memory in use on the engine's device, where it tells.",
        lambda engine: engine.memory.device_bytes,
    ),
    "saved_conversations": (
        "Conversations whose K/V is kept in host memory.",
        lambda engine: engine.memory.conversations,
    ),
    "saved_conversations_bytes": ("Host memory that they take.", lambda engine: engine.memory.saved_bytes),
}
COUNTERS: dict[str, tuple[str, Reading]] = {
    "conversations_saved": ("Conversations put away for another one.", lambda engine: engine.memory.saved),
    "conversations_restored": ("Conversations taken back.", lambda engine: engine.memory.restored),
    "engine_restarts": ("Times that the engine had to be started again.", lambda engine: engine.restarts),
    "engine_hangs": ("Times of these that it hung and was killed.", lambda engine: engine.hangs),
}


class _Group:
    """Counters that share labels.

    Attributes:
        labels: which each of its samples gets, beside its own.
        registry: holds them.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.labels = labels
        self.registry = CollectorRegistry()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"bmqwen_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"bmqwen_{name}", text, registry=self.registry, buckets=buckets)


class RequestCounts(_Group):
    """Requests to a server, whatever model they are for.

    Attributes:
        requests: that were answered, by endpoint and status.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        super().__init__(labels)
        self.requests = self._counter(
            "requests",
            "Requests by endpoint and HTTP status (0: the client left before).",
            "endpoint",
            "status",
        )


class Metrics(_Group):
    """Counters of one model; what its pool knows is asked for when somebody reads them.

    Attributes:
        left: answers whose client left before their end.
        failures: answers that ended in an error, by its code.
    """

    def __init__(self, pool: Pool, labels: Mapping[str, str]) -> None:
        super().__init__(labels)
        self.registry.register(_State(pool))
        self._prompt = self._counter("prompt_tokens", "Tokens of prompts.")
        self._cached = self._counter("cached_tokens", "Tokens of prompts that were cached.")
        self._answer = self._counter("completion_tokens", "Tokens of answers.")
        self._drafted = self._counter("drafted_tokens", "Tokens that were guessed and checked.")
        self._accepted = self._counter("accepted_tokens", "Of these, the ones that answers got.")
        self._answers = self._counter(
            "answers",
            "Answers by how they ended (stop, length) and whether any of the prompt was cached.",
            "finish",
            "cache",
        )
        self.left = self._counter("cancelled_answers", "Answers whose client left before the end.")
        self.failures = self._counter(
            "failed_answers", "Answers that ended in an error, by its code.", "code"
        )
        self._queue = self._histogram("queue_seconds", "Time in the queue.", SECONDS)
        self._first = self._histogram(
            "first_token_seconds", "From the engine's start on a request to its first token.", SECONDS
        )
        self._rate = self._histogram("tokens_per_second", "Decoding speed of an answer.", RATES)

    def answered(self, finish: str, usage: Usage, queue_s: float) -> None:
        """Count an answer that was given."""
        self._answers.labels(finish, "hit" if usage.cached_tokens else "miss").inc()
        self._prompt.inc(usage.prompt_tokens)
        self._cached.inc(usage.cached_tokens)
        self._answer.inc(usage.completion_tokens)
        self._drafted.inc(usage.drafted_tokens)
        self._accepted.inc(usage.accepted_tokens)
        self._queue.observe(queue_s)
        if usage.completion_tokens:
            self._first.observe(usage.first_token_s)
        if usage.tokens_per_s:
            self._rate.observe(usage.tokens_per_s)


def joined(groups: Sequence[_Group]) -> bytes:
    """Return groups of counters in Prometheus' text format, those of one name together."""
    registry = CollectorRegistry()
    registry.register(_Joined(groups))
    return generate_latest(registry)


class _Joined(Collector):
    """The metrics of several groups."""

    def __init__(self, groups: Sequence[_Group]) -> None:
        self._groups = groups

    def describe(self) -> Iterator[Metric]:
        """Return nothing: what there is is known when it is asked for."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Return each metric once, with the samples of all groups."""
        found: dict[str, Metric] = {}
        for group in self._groups:
            for metric in group.registry.collect():
                samples = [
                    sample._replace(labels={**group.labels, **sample.labels}) for sample in metric.samples
                ]
                known = found.setdefault(
                    metric.name, Metric(metric.name, metric.documentation, metric.type, metric.unit)
                )
                known.samples.extend(samples)
        return iter(found.values())


class _State(Collector):
    """What is so at this moment: of the queue, and of each engine."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def describe(self) -> Iterator[Metric]:
        """Return nothing: what there is is known when it is asked for."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Return all of it."""
        pool, replicas = self._pool, self._pool.replicas
        names = list(replicas[0].labels) if replicas else []
        yield GaugeMetricFamily("bmqwen_queue_length", "Requests that wait.", value=pool.waiting)
        yield GaugeMetricFamily("bmqwen_running", "Requests that are being answered.", value=pool.running)
        for family, rows in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
            for name, (text, read) in rows.items():
                metric = family(f"bmqwen_{name}", text, labels=names)
                for replica in replicas:
                    if (value := read(replica)) is not None:
                        metric.add_metric(list(replica.labels.values()), float(value))
                yield metric
