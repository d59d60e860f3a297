"""The controller's side of `probe`: asks the child, starts it again when it died, and does not wait for ever."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import structlog

from services.contract.errors import Reason, ServiceError

log = structlog.get_logger()

ANSWER_SECONDS = 60.0
"""Longer than any file takes that a player would play; a hanging codec is killed then."""


class AudioProber:
    """One file at a time; the child starts at the latest with the first, and stays warm."""

    def __init__(self, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._answer_seconds = answer_seconds
        self._process: Process | None = None
        self._asking = asyncio.Lock()

    async def duration_seconds(self, path: Path) -> float:
        """The recording's length. Raises ServiceError(AUDIO_INVALID) that says what is wrong with it."""
        async with self._asking:
            try:
                async with asyncio.timeout(self._answer_seconds):
                    answer = await self._ask_again(path)
            except (TimeoutError, ConnectionError, json.JSONDecodeError) as error:
                log.warning("probe_failed", error=type(error).__name__)
                await self._stop()
                answer = {"error": "it cannot be read by the decoder"}
            except BaseException:  # canceled: the answer would be taken for the next file's
                await asyncio.shield(self._stop())
                raise
        if "error" in answer:
            raise ServiceError(Reason.AUDIO_INVALID, f"The file cannot be transcribed: {answer['error']}.")
        return float(str(answer["seconds"]))

    async def _ask_again(self, path: Path) -> dict[str, object]:
        """Once more where the child died: a signal for the whole group is not the file's fault; a second time it is."""
        try:
            return await self._ask(path)
        except (ConnectionError, json.JSONDecodeError):
            await self._stop()
            return await self._ask(path)

    async def start(self) -> None:
        """Has the child ready before the first file comes: loading the codecs takes half a second."""
        async with self._asking:
            self._process = self._process or await self._start()

    async def close(self) -> None:
        async with self._asking:
            await self._stop()

    async def _ask(self, path: Path) -> dict[str, object]:
        if self._process is not None and self._process.returncode is not None:  # it died while nobody asked
            await self._stop()
        process = self._process = self._process or await self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"path": str(path)}).encode() + b"\n")
        await process.stdin.drain()
        answer: dict[str, object] = json.loads(await process.stdout.readline())
        return answer

    async def _start(self) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.controller.probe", stdin=PIPE, stdout=PIPE
        )

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.kill()
            await process.wait()
