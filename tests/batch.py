"""The batch runner as people start it, on a folder of its own."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "run_batch.sh"
DEADLINE = 60.0


@dataclass
class Ended:
    status: int
    out: str
    err: str


@dataclass
class Batch:
    """A folder of recordings, and the script that works on it."""

    folder: Path
    url: str

    def record(self, *names: str, content: bytes = b"sound") -> None:
        for name in names:
            (self.folder / name).write_bytes(content + name.encode("utf-8", "surrogateescape"))

    async def start(self, *options: str, cwd: Path | None = None) -> asyncio.subprocess.Process:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("WORKER_", "GATEWAY_"))}
        return await asyncio.create_subprocess_exec(
            SCRIPT, "--input", str(self.folder), "--controller", self.url, *options,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=cwd or self.folder.parent,
            env=environment,
        )  # fmt: skip

    async def run(self, *options: str, cwd: Path | None = None) -> Ended:
        return await ended(await self.start(*options, cwd=cwd))

    @property
    def state_file(self) -> Path:
        return self.folder / "batch_state.json"

    @property
    def state(self) -> Any:
        return json.loads(self.state_file.read_bytes())

    def transcript(self, name: str) -> str:
        return (self.folder / "transcripts" / name).read_text()


async def ended(process: asyncio.subprocess.Process) -> Ended:
    async with asyncio.timeout(DEADLINE):
        out, err = await process.communicate()
    assert process.returncode is not None
    assert b"Traceback" not in out + err
    return Ended(process.returncode, out.decode(), err.decode())
