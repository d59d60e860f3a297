"""A diarization pipeline that is to come from the hub: its real client, pyannote's real loading, and a hub of this machine that gives
nothing out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from services.worker.engine import catalog
from services.worker.engine.protocol import EngineSettings
from services.worker.engine.supervisor import Supervisor
from services.worker.work import Completed, EngineState
from tests import recordings
from tests.engine import BUNDLED, DEADLINE, run

GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to it is restricted."}


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@asynccontextmanager
async def hub(status: int, headers: dict[str, str]) -> AsyncIterator[str]:
    """Its address; whatever is asked for, the answer is that."""

    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def engine_of(
    address: str, monkeypatch: pytest.MonkeyPatch, token: str = "hf_played"
) -> AsyncIterator[Supervisor]:
    monkeypatch.setenv("HF_ENDPOINT", address)
    settings = EngineSettings("demo", BUNDLED, device="cpu", diarization_model=catalog.HUB_PIPELINE, hf_token=token)
    made = Supervisor(settings)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def told(engine: Supervisor) -> EngineState:
    """Its state once it says anything of diarization."""
    async with asyncio.timeout(2 * DEADLINE):
        while not (engine.state.diarization_error or engine.state.diarization_note):
            assert engine.state.diarization == ""
            await engine.changed(engine.state)
    return engine.state


async def test_a_hub_that_does_not_answer_now_is_no_reason_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client asks again for half a minute by itself."""
    async with hub(503, {}) as address, engine_of(address, monkeypatch) as engine:
        state = await told(engine)
        assert (state.diarization, state.diarization_error) == ("", "")
        assert "the hub does not answer" in state.diarization_note
        assert isinstance((await run(engine, recordings.example(speakers=1).path)).outcome, Completed)


@pytest.mark.parametrize(
    ("status", "headers", "token", "said"),
    [
        (403, GATED, "hf_played", ["Accept the terms", catalog.HUB_PIPELINE]),
        (403, {}, "hf_played", ["fine-grained", "Accept the terms", catalog.HUB_PIPELINE]),
        (401, {}, "hf_played", ["refuses HF_TOKEN", "settings/tokens"]),
        (401, GATED, "", ["HF_TOKEN is not set", "settings/tokens", catalog.HUB_PIPELINE]),
    ],
)
async def test_a_hub_that_refuses_is_quoted_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, status: int, headers: dict[str, str], token: str, said: list[str]
) -> None:
    async with hub(status, headers) as address, engine_of(address, monkeypatch, token) as engine:
        state = await told(engine)
        for part in said:
            assert part in state.diarization_error
        refused = await run(engine, recordings.example(speakers=2).path, diarization=True)
        assert refused.failure.reason == "DIARIZATION_UNAVAILABLE"
