"""What a server has done, as Prometheus reads it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from fastgen.integrations.asgi.engine import Engine

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Metrics:
    """Counters of one application, in a registry of its own."""

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        own = {"registry": self._registry}
        self._requests = Counter("fastgen_requests", "Requests by status", ["status"], **own)
        self._seconds = Histogram(
            "fastgen_request_seconds", "Until the last sample", buckets=SECONDS, **own
        )
        gauges = {
            "fastgen_waiting_samples": ("Samples in the queue", lambda: engine.waiting),
            "fastgen_active_samples": ("Rows of the batch that are taken", lambda: engine.active),
            "fastgen_steps": ("Calls of the network so far", lambda: engine.steps),
            "fastgen_samples": ("Samples so far", lambda: engine.samples),
        }
        for name, (text, read) in gauges.items():
            Gauge(name, text, **own).set_function(read)

    def count(self, status: int, seconds: float | None = None) -> None:
        """One request more."""
        self._requests.labels(str(status)).inc()
        if seconds is not None:
            self._seconds.observe(seconds)

    def text(self) -> tuple[bytes, str]:
        """The page, and its type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
