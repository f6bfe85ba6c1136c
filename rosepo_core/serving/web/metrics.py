"""What the server counts, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        """`waiting` says how many questions wait."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "rosepo_requests", "Requests that were answered.", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "rosepo_request_seconds", "Time of a request.", ["route"], buckets=SECONDS, registry=self._registry
        )
        self._batches = Histogram(
            "rosepo_batch_size", "Questions that were answered together.", buckets=SIZES, registry=self._registry
        )
        self._model = Counter("rosepo_model_seconds", "Time in which the model worked.", registry=self._registry)
        self._reloads = Counter("rosepo_reloads", "Times that runs were loaded again.", registry=self._registry)
        Gauge("rosepo_waiting", "Questions that wait.", registry=self._registry).set_function(waiting)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, size: int, seconds: float) -> None:
        """Count a batch."""
        self._batches.observe(size)
        self._model.inc(seconds)

    def reload(self) -> None:
        """Count a reload."""
        self._reloads.inc()

    def text(self) -> bytes:
        """All metrics."""
        return generate_latest(self._registry)
