"""Jobs that the session has and the state knows nothing of: made by a run whose state is lost, or in place of others."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from scripts.batch.answers import Made
from scripts.batch.client import Gateway
from scripts.batch.state import Status


class MadeJobs:
    """Listed once for each session, when it is first asked for: a folder may hold thousands of recordings."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._listing = asyncio.Lock()
        self._cookie: str | None = None  # of the session whose jobs these are
        self._by_upload: dict[str, list[Made]] = {}
        self._lost: set[str] = set()

    async def find(self, upload_id: str, options: Mapping[str, object]) -> Made | None:
        """The upload's job with these options; of several, one that is complete, and the newest of those.

        Raises Refused or Faulty.
        """
        async with self._listing:
            if self._cookie is None or self._cookie != _cookie(self._gateway):
                self._by_upload = _by_upload(await self._gateway.jobs())
                self._cookie = _cookie(self._gateway)
        made = self._by_upload.get(upload_id, ())
        fitting = (job for job in made if job.job_id not in self._lost and job.has_options(options))
        return min(fitting, key=lambda job: _rank(job.status), default=None)

    def lost(self, job_id: str) -> None:
        """It is not found any more: the server no longer knows it."""
        self._lost.add(job_id)


def _by_upload(jobs: Sequence[Made]) -> dict[str, list[Made]]:
    """In their order, newest first."""
    by_upload: dict[str, list[Made]] = {}
    for job in jobs:
        by_upload.setdefault(job.upload_id, []).append(job)
    return by_upload


def _rank(status: Status) -> int:
    if status is Status.COMPLETE:
        return 0
    return 2 if status.ended else 1


def _cookie(gateway: Gateway) -> str | None:
    return gateway.session.cookie if gateway.session else None
