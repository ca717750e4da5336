"""What one gateway instance counts. Labels are bounded: routes are templates, never paths."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of one instance, in a separate registry."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.streams = Gauge("tidegate_gateway_streams", "Open event streams.", registry=registry)
        self.partitions = Gauge(
            "tidegate_gateway_partitions", "Partitions that are read for open streams.", registry=registry
        )
        self.events_out = Counter("tidegate_gateway_events_out_total", "Events put into streams.", registry=registry)
        self.resumes = Counter(
            "tidegate_gateway_resumes_total", "Streams that came back with a cursor.", registry=registry
        )
        self.resets = Counter(
            "tidegate_gateway_resets_total", "Streams that had to begin with a snapshot.", registry=registry
        )
        self.closed = Counter(
            "tidegate_gateway_streams_closed_total",
            "Streams that were closed, by reason.",
            ["reason"],
            registry=registry,
        )
        self.catch_up_seconds = Histogram(
            "tidegate_gateway_catch_up_seconds",
            "From a resuming client's connection to the end of what it had missed.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.requests = Histogram(
            "tidegate_gateway_request_seconds",
            "Requests but streams, by route, method and status.",
            ["route", "method", "status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.refused = Counter(
            "tidegate_gateway_refused_total", "Requests that were refused, by problem.", ["problem"], registry=registry
        )
