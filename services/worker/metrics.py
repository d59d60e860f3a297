"""What the worker counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from services.worker.status import WorkerStatus


class Metrics:
    """One registry a worker, so that tests may hold several."""

    def __init__(self, status: WorkerStatus) -> None:
        self.registry = CollectorRegistry()
        self.attempts = Counter(
            "worker_attempts", "Attempts that ended, by outcome.", ["outcome"], registry=self.registry
        )
        self.refused = Counter(
            "worker_attempts_refused", "Dispatches that were refused, by reason.", ["reason"], registry=self.registry
        )
        self.events = Counter("worker_events", "Events that attempts gave.", registry=self.registry)
        self.audio_seconds = Counter(
            "worker_audio_transcribed_seconds", "Length of completed recordings.", registry=self.registry
        )
        self.received_bytes = Counter("worker_audio_received_bytes", "Bytes of recordings.", registry=self.registry)
        self.stored_bytes = Gauge("worker_audio_stored_bytes", "Recordings on the disk.", registry=self.registry)
        slots = Gauge("worker_slots", "Attempts that fit at once.", registry=self.registry)
        slots.set_function(lambda: status.slots.total)
        active = Gauge("worker_active_attempts", "Slots that are taken.", registry=self.registry)
        active.set_function(lambda: status.slots.taken)
        draining = Gauge("worker_draining", "1 while the worker shuts down.", registry=self.registry)
        draining.set_function(lambda: status.slots.draining)

    def text(self) -> bytes:
        return generate_latest(self.registry)
