"""One attempt as the worker sees it: its states, its numbered events, and which stream listens to it.

Invariant: events are numbered from 1 without gaps, nothing follows the outcome, and nobody is told an event before
the journal holds it: what was told is still known after a restart.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

import structlog

from services.contract.errors import Reason, ServiceError
from services.runtime.bell import Bell
from services.worker.work import AttemptKey, Canceled, Completed, Failed, Report, StageChanged

log = structlog.get_logger()


class AttemptState(Enum):
    """Whether its engine still runs is another matter: a slot is free only once the engine let go of it."""

    ACCEPTING = "accepting"  # a slot is taken, and the journal is being told
    REFUSED = "refused"  # the journal has no room for it
    RUNNING = "running"
    ENDED = "ended"  # its outcome waits to be acknowledged
    SETTLED = "settled"  # nobody needs anything of it any more
    SUPERSEDED = "superseded"  # a higher attempt of its job was seen


TRANSITIONS: dict[AttemptState, frozenset[AttemptState]] = {
    AttemptState.ACCEPTING: frozenset({AttemptState.REFUSED, AttemptState.RUNNING, AttemptState.SUPERSEDED}),
    AttemptState.REFUSED: frozenset(),
    AttemptState.RUNNING: frozenset({AttemptState.ENDED, AttemptState.SUPERSEDED}),
    AttemptState.ENDED: frozenset({AttemptState.SETTLED, AttemptState.SUPERSEDED}),
    AttemptState.SETTLED: frozenset(),
    AttemptState.SUPERSEDED: frozenset(),
}

OVER = frozenset({AttemptState.REFUSED, AttemptState.SETTLED, AttemptState.SUPERSEDED})


@dataclass(frozen=True, slots=True)
class HandedBack:
    """The worker gives the attempt up unfinished; an outcome that no engine reports."""

    message: str


@dataclass(frozen=True, slots=True)
class Event:
    """``number`` counts from 1 in its attempt."""

    number: int
    occurred_at: datetime
    report: Report | HandedBack


FIRST_STAGE = StageChanged("preparing")
"""Of an attempt that was accepted: nobody has to be told."""

OUTCOMES = (Completed, Failed, Canceled, HandedBack)


class Attempt:
    """``changed`` rings at everything that a stream of it waits for."""

    def __init__(self, key: AttemptKey, audio_name: str = "", worker_job_id: str = "") -> None:
        self.key = key
        self.audio_name = audio_name
        self.worker_job_id = worker_job_id or f"wk_{uuid.uuid4().hex[:16]}"
        self.changed = Bell()
        self.log = log.bind(job_id=key.job_id, attempt=key.attempt, worker_job_id=self.worker_job_id)
        self.state = AttemptState.ACCEPTING
        self.refusal: ServiceError | None = None
        self.running = False
        """Whether it has a slot."""
        self.stop_asked = False
        self.giving_back = ""
        """Why the worker itself stops it; empty while it does not."""
        self.acknowledged = 0
        self.durable = 0
        self.outcome: Event | None = None
        self._stage = FIRST_STAGE
        self._events: list[Event] = []
        self._stream = 0
        self._attached = 0

    @property
    def last_event(self) -> int:
        return self.acknowledged + len(self._events)

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def attached(self) -> bool:
        return self._attached == self._stream != 0

    def move(self, state: AttemptState) -> None:
        """Raises ValueError where TRANSITIONS does not allow it."""
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"attempt {self.key} is {self.state.value}: cannot become {state.value}")
        self.state = state
        self.changed.ring()

    async def decided(self) -> None:
        """Until it is accepted. Raises why it is not."""
        while self.state is AttemptState.ACCEPTING:
            await self.changed.wait()
        if self.refusal is not None:
            raise self.refusal

    # --- events

    def record(self, report: Report | HandedBack) -> bool:
        """Numbers what happened; false for what is left out: what the engine still says after the outcome, and a stage in
        which the attempt is already."""
        if self.state is not AttemptState.RUNNING or report == self._stage:
            return False
        if isinstance(report, StageChanged):
            self._stage = report
        event = Event(self.last_event + 1, datetime.now(UTC), report)
        self._events.append(event)
        if isinstance(report, OUTCOMES):
            self.outcome = event
            self.move(AttemptState.ENDED)
        return True

    def restore(self, acknowledged: int, events: Sequence[Event]) -> None:
        """As the journal has it; only for a new one."""
        self.acknowledged = acknowledged
        self._events = list(events)
        self.durable = self.last_event
        self.move(AttemptState.RUNNING)
        if events and isinstance(events[-1].report, OUTCOMES):
            self.outcome = events[-1]
            self.move(AttemptState.ENDED)

    def unwritten(self) -> tuple[Event, ...]:
        """What the journal does not hold yet."""
        return tuple(self._events[max(0, self.durable - self.acknowledged) :])

    def written(self, through: int) -> None:
        """The journal holds all events up to this one: they may be told."""
        self.durable = max(self.durable, through)
        self.changed.ring()

    def event_after(self, number: int) -> Event | None:
        """The next one that may be told."""
        index = number - self.acknowledged
        return self._events[index] if number < self.durable and index < len(self._events) else None

    def acknowledge(self, through: int) -> None:
        """Forgets events up to ``through``. Raises INVALID_REQUEST for one that was never told."""
        if through > self.durable:
            raise ServiceError(
                Reason.INVALID_REQUEST, f"Event {through} of attempt {self.key} was not told; {self.durable} were."
            )
        if through > self.acknowledged:
            del self._events[: through - self.acknowledged]
            self.acknowledged = through
            if self.outcome is not None and through == self.outcome.number and self.state is AttemptState.ENDED:
                self.move(AttemptState.SETTLED)
            self.changed.ring()

    # --- streams

    def attach(self, last_event: int) -> int:
        """A new stream takes over, after what is durable on its side; returns the stream's number."""
        if not self.acknowledged <= last_event <= self.durable:
            raise ServiceError(
                Reason.ATTEMPT_UNKNOWN,
                f"The worker holds events {self.acknowledged + 1} to {self.durable} of attempt {self.key}, and cannot"
                f" go on after {last_event}.",
            )
        self.acknowledge(last_event)
        self._stream += 1
        self._attached = self._stream
        self.changed.ring()
        return self._stream

    def owned_by(self, stream: int) -> bool:
        return stream == self._stream

    def detach(self, stream: int) -> None:
        if stream == self._attached:
            self._attached = 0
            self.changed.ring()
