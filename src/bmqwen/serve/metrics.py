"""What the server counts, for Prometheus."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bmqwen.generate.params import Usage
from bmqwen.serve.pool.scheduler import Scheduler

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)
RATES = (1, 2, 5, 10, 15, 20, 30, 40, 50, 60, 80, 100, 150, 200)


class Metrics:
    """Counters of one server; what the scheduler knows is asked for when somebody reads them."""

    def __init__(self, scheduler: Scheduler) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._registry.register(_State(scheduler))
        self._requests = Counter(
            "bmqwen_requests",
            "Requests by endpoint and HTTP status (0: the client left before).",
            ["endpoint", "status"],
            registry=self._registry,
        )
        self._prompt = Counter("bmqwen_prompt_tokens", "Tokens of prompts.", registry=self._registry)
        self._cached = Counter(
            "bmqwen_cached_tokens", "Tokens of prompts that were cached.", registry=self._registry
        )
        self._answer = Counter("bmqwen_completion_tokens", "Tokens of answers.", registry=self._registry)
        self._answers = Counter(
            "bmqwen_answers",
            "Answers by how they ended (stop, length) and whether any of the prompt was cached.",
            ["finish", "cache"],
            registry=self._registry,
        )
        self._left = Counter(
            "bmqwen_cancelled_answers", "Answers whose client left before the end.", registry=self._registry
        )
        self._failures = Counter(
            "bmqwen_failed_answers",
            "Answers that ended in an error, by its code.",
            ["code"],
            registry=self._registry,
        )
        self._queue = Histogram(
            "bmqwen_queue_seconds", "Time in the queue.", registry=self._registry, buckets=SECONDS
        )
        self._first = Histogram(
            "bmqwen_first_token_seconds",
            "From the engine's start on a request to its first token.",
            registry=self._registry,
            buckets=SECONDS,
        )
        self._rate = Histogram(
            "bmqwen_tokens_per_second",
            "Decoding speed of an answer.",
            registry=self._registry,
            buckets=RATES,
        )

    def request(self, endpoint: str, status: int) -> None:
        """Count a request that was answered."""
        self._requests.labels(endpoint, str(status)).inc()

    def answered(self, finish: str, usage: Usage, queue_s: float) -> None:
        """Count an answer that was given."""
        self._answers.labels(finish, "hit" if usage.cached_tokens else "miss").inc()
        self._prompt.inc(usage.prompt_tokens)
        self._cached.inc(usage.cached_tokens)
        self._answer.inc(usage.completion_tokens)
        self._queue.observe(queue_s)
        if usage.completion_tokens:
            self._first.observe(usage.first_token_s)
        if usage.tokens_per_s:
            self._rate.observe(usage.tokens_per_s)

    def left(self) -> None:
        """Count an answer whose client left before its end."""
        self._left.inc()

    def failed(self, code: str) -> None:
        """Count an answer that ended in an error."""
        self._failures.labels(code).inc()

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._registry)


class _State(Collector):
    """What is so at this moment."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def describe(self) -> Iterator[Metric]:
        """Return nothing: what there is is known when it is asked for."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Return gauges of the queue, and of each engine."""
        scheduler = self._scheduler
        yield GaugeMetricFamily("bmqwen_queue_length", "Requests that wait.", value=scheduler.waiting)
        yield GaugeMetricFamily(
            "bmqwen_running", "Requests that are being answered.", value=scheduler.running
        )
        per_engine = {
            "bmqwen_engine_ready": "1 while the engine can answer.",
            "bmqwen_engine_memory_bytes": "Memory of the engine's process.",
            "bmqwen_device_memory_bytes": "Memory in use on the engine's device, where it tells.",
            "bmqwen_saved_conversations": "Conversations whose K/V is kept in host memory.",
            "bmqwen_saved_conversations_bytes": "Host memory that they take.",
        }
        gauges = {name: GaugeMetricFamily(name, text, labels=["engine"]) for name, text in per_engine.items()}
        counts = {
            "bmqwen_conversations_saved": "Conversations put away for another one.",
            "bmqwen_conversations_restored": "Conversations taken back.",
            "bmqwen_engine_restarts": "Times that the engine had to be started again.",
            "bmqwen_engine_hangs": "Times of these that it hung and was killed.",
        }
        counters = {name: CounterMetricFamily(name, text, labels=["engine"]) for name, text in counts.items()}
        for replica in scheduler.replicas:
            label, memory = [str(replica.index)], replica.memory
            values = (
                replica.state == "ready",
                memory.memory_bytes,
                memory.device_bytes,
                memory.conversations,
                memory.saved_bytes,
            )
            for gauge, value in zip(gauges.values(), values, strict=True):
                if value is not None:
                    gauge.add_metric(label, float(value))
            totals = (memory.saved, memory.restored, replica.restarts, replica.hangs)
            for counter, total in zip(counters.values(), totals, strict=True):
                counter.add_metric(label, total)
        yield from gauges.values()
        yield from counters.values()
