"""A job as its client sees it: every event once, through every outage; and what must hold of the events of a job."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import aiohttp

from services.runtime.bell import Bell
from tests.faults.visitor import PAUSE_SECONDS, Visitor

ENDS = ("complete", "failed", "canceled")

Event = dict[str, Any]


class Followed:
    """``moved`` has the times (of the loop) of events that say that the job runs: a segment, or any news of a running job;
    ``told`` those of the segments."""

    def __init__(self, visitor: Visitor, recording: str, job_id: str, bell: Bell) -> None:
        self.recording = recording
        self.job_id = job_id
        self.events: list[Event] = []
        self.moved: list[float] = []
        self.told: list[float] = []
        self.end: str | None = None
        self.ended = asyncio.Event()
        self.canceled = False
        """Whether somebody asked for its end."""
        self.followed_by = visitor
        self._bell = bell

    @property
    def last(self) -> int:
        return int(self.events[-1]["id"]) if self.events else 0

    async def follow(self) -> None:
        """To the job's end."""
        while self.end is None:
            try:
                async with aclosing(self.followed_by.events(self.job_id, self.last)) as stream:
                    async for event in stream:
                        self._take(event)
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass
            if self.end is None:
                await asyncio.sleep(PAUSE_SECONDS)
        self.ended.set()
        self._bell.ring()

    def _take(self, event: Event) -> None:
        self.events.append(event)
        if event["data"].get("status") in ENDS:
            self.end = self.end or event["data"]["status"]
        now = asyncio.get_running_loop().time()
        if "segment" in event["data"]:
            self.told.append(now)
        if "segment" in event["data"] or event["data"].get("status") == "running":
            self.moved.append(now)
            self._bell.ring()


def states(events: Sequence[Event]) -> list[str]:
    """The states that a job went through, in order, each as often as it was entered."""
    told = [str(event["data"]["status"]) for event in events if "status" in event["data"]]
    return [state for before, state in zip(["", *told], told, strict=False) if state != before]


def segments(events: Sequence[Event]) -> list[dict[str, Any]]:
    return [event["data"]["segment"] for event in events if "segment" in event["data"]]


def wrong_numbers(events: Sequence[Event]) -> int:
    """Events whose number does not follow the one before: told twice, or out of turn."""
    numbers = [int(event["id"]) for event in events]
    return sum(1 for before, number in zip([0, *numbers], numbers, strict=False) if number <= before)


def ends(events: Sequence[Event]) -> int:
    """How many events say that the job has ended."""
    return sum(1 for event in events if event["data"].get("status") in ENDS)
