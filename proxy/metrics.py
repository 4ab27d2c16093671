"""What the proxy counts, in Prometheus' form.

Labels are route templates, upstream names and status classes: no repository, tag, digest or path
ever becomes a label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

# Seconds; from a manifest on the same host to a registry that thinks for a minute.
_SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """One set of counters for one running proxy."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        # When each series began is half of the text and of no use to anybody here.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library's own gap
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "cnai_proxy_requests",
            "Requests answered, by route template, status class and origin of the bytes",
            ("route", "status", "origin"),
            registry=self._registry,
        )
        self._sent = Counter(
            "cnai_proxy_sent_bytes",
            "Body bytes sent to clients",
            ("route", "origin"),
            registry=self._registry,
        )
        self._received = Counter(
            "cnai_proxy_received_bytes",
            "Body bytes received from clients",
            ("route",),
            registry=self._registry,
        )
        self._in_flight = Gauge(
            "cnai_proxy_requests_in_flight",
            "Requests being answered now",
            registry=self._registry,
        )
        self._upstream_seconds = Histogram(
            "cnai_proxy_upstream_seconds",
            "Seconds from a request to the headers of the upstream's answer",
            ("upstream", "status"),
            buckets=_SECONDS_BUCKETS,
            registry=self._registry,
        )
        self._upstream_failures = Counter(
            "cnai_proxy_upstream_failures",
            "Requests without a usable answer of the upstream, by the status told to the client",
            ("upstream", "status"),
            registry=self._registry,
        )

        self._upstream_spared = Counter(
            "cnai_proxy_upstream_spared_requests",
            "Requests answered without the upstream, which had asked to be left alone for a while",
            ("upstream",),
            registry=self._registry,
        )
        self._circuit_open = Gauge(
            "cnai_proxy_upstream_circuit_open",
            "1 while the upstream was last seen unreachable and requests fail at once, else 0",
            ("upstream",),
            registry=self._registry,
        )
        self._circuits: dict[str, Callable[[], bool]] = {}

        self._reloads = Counter(
            "cnai_proxy_reloads",
            "Times the settings were read anew, by whether they could be used",
            ("result",),
            registry=self._registry,
        )
        for result in ("done", "failed"):  # shown as 0 before the first one
            self._reloads.labels(result)

    def request_started(self) -> None:
        """A request's headers are in."""
        self._in_flight.inc()

    def request_ended(
        self, *, route: str, status: int, origin: str, sent_bytes: int, received_bytes: int
    ) -> None:
        """A request is over, well or not."""
        self._in_flight.dec()
        self._requests.labels(route, _status_class(status), origin).inc()
        self._sent.labels(route, origin).inc(sent_bytes)
        self._received.labels(route).inc(received_bytes)

    def upstream_answered(self, upstream: str, status: int, seconds: float) -> None:
        """The headers of an upstream's answer are in."""
        self._upstream_seconds.labels(upstream, _status_class(status)).observe(seconds)

    def upstream_failed(self, upstream: str, status: int) -> None:
        """No usable answer came, or it broke within its body."""
        self._upstream_failures.labels(upstream, str(status)).inc()

    def upstream_spared(self, upstream: str) -> None:
        """A request was answered here, so that the upstream's rate limit is kept."""
        self._upstream_spared.labels(upstream).inc()

    @contextmanager
    def watching_circuit(self, upstream: str, is_open: Callable[[], bool]) -> Iterator[None]:
        """Show an upstream's circuit until the context ends; of one name the latest counts."""
        self._circuits[upstream] = is_open
        self._circuit_open.labels(upstream).set_function(lambda: float(is_open()))
        try:
            yield
        finally:
            # Settings read anew open an upstream of this name before the old one closes.
            if self._circuits.get(upstream) is is_open:
                del self._circuits[upstream]
                self._circuit_open.remove(upstream)

    @property
    def is_degraded(self) -> bool:
        """Whether an upstream was last seen unreachable."""
        return any(is_open() for is_open in self._circuits.values())

    def reloaded(self, result: Literal["done", "failed"]) -> None:
        """The settings were read anew, and are in effect or not."""
        self._reloads.labels(result).inc()

    def render(self) -> bytes:
        """All counters in Prometheus' text format."""
        return generate_latest(self._registry)


def _status_class(status: int) -> str:
    return f"{status // 100}xx"
