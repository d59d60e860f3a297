"""Prometheus metrics of one gateway; a registry of its own, so that a process may hold several."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.025, 0.1, 0.5, 1, 2.5, 10, 60, 600)


class Metrics:
    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.requests = Counter(
            "gateway_requests", "Requests answered", ["method", "route", "status"], registry=self._registry
        )
        self.request_seconds = Histogram(
            "gateway_request_seconds",
            "From request to the end of its answer",
            ["route"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self.upload_bytes = Counter("gateway_upload_bytes", "Bytes of recordings taken", registry=self._registry)
        self.uploads = Counter(
            "gateway_uploads", "Recordings by what became of them", ["outcome"], registry=self._registry
        )
        self.event_streams = Gauge(
            "gateway_event_streams", "Clients that follow a job's events", registry=self._registry
        )

    def text(self) -> bytes:
        return generate_latest(self._registry)
