"""A job's events over HTTP: complete, in order, without gap or repeat whatever breaks between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from bulkscribe.jobs.v1 import jobs_pb2

from tests.fakes.controller import segment
from tests.gateway import DEADLINE, Setup, events_of, gateway_over_fake, until


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    async with gateway_over_fake(silence_seconds=0.05) as running:
        yield running


async def test_all_events_of_an_ended_job(setup: Setup) -> None:
    job_id = await setup.browser.new_job()
    await setup.fake.change(job_id, jobs_pb2.JOB_STATUS_RUNNING, "transcribing", 12.5, 90.0, message="working")
    await setup.fake.complete(job_id, segment(0, " one\n two", "SPEAKER_00", words=True), segment(1, " three\u2028"))
    events = await setup.browser.events(job_id)
    assert [event["id"] for event in events] == [1, 2, 3, 4, 5]
    assert [event["event"] for event in events] == ["status", "status", "segment", "segment", "status"]
    assert events[1]["data"] == {
        "status": "running",
        "progress": {"stage": "transcribing", "percent": 12.5, "secondsLeft": 90.0},
        "message": "working",
        "attempt": 1,
        "lastErrorCode": None,
        "lastErrorMessage": None,
    }
    assert events[-1]["data"]["status"] == "complete"
    assert events[-1]["data"]["progress"]["secondsLeft"] is None
    _, transcript = await setup.browser.get(f"/api/jobs/{job_id}/transcript")
    assert [event["data"]["segment"] for event in events if event["event"] == "segment"] == transcript["segments"]


async def test_resuming_after_the_end(setup: Setup) -> None:
    job_id = await setup.browser.new_job()
    await setup.fake.complete(job_id, segment(0), segment(1))
    assert [event["id"] for event in await setup.browser.events(job_id, after=2)] == [3, 4]
    assert await setup.browser.events(job_id, after=4) == []
    url = f"{setup.browser.url}/api/jobs/{job_id}/events?lastEventId=1"
    async with setup.browser.http.get(url) as response:
        assert [event["id"] async for event in events_of(response)] == [2, 3, 4]
    async with setup.browser.http.get(url, headers={"Last-Event-ID": "3"}) as response:
        assert [event["id"] async for event in events_of(response)] == [4]


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "99999999999999999999"])
async def test_a_wrong_last_event_id_is_refused(setup: Setup, last: str) -> None:
    job_id = await setup.browser.new_job()
    status, answer = await setup.browser.get(f"/api/jobs/{job_id}/events", headers={"Last-Event-ID": last})
    assert (status, answer["code"]) == (400, "INVALID_REQUEST")
    assert "lastEventId" in answer["error"]


async def test_events_come_as_they_happen_and_comments_in_between(setup: Setup) -> None:
    job_id = await setup.browser.new_job()
    async with (
        asyncio.timeout(DEADLINE),
        setup.browser.http.get(f"{setup.browser.url}/api/jobs/{job_id}/events") as response,
    ):
        assert response.content_type == "text/event-stream"
        lines = [(await response.content.readline()).decode() for _ in range(12)]
        assert lines.count(": keep-alive\n") >= 2
        await setup.fake.complete(job_id)
        rest = [event async for event in events_of(response)]
    assert rest[-1]["data"]["status"] == "complete"
    await until(lambda: setup.fake.open_watches == 0)


async def test_a_controller_that_restarts_costs_no_event(setup: Setup) -> None:
    job_id = await setup.browser.new_job()
    seen: list[int] = []

    async def follow() -> None:
        seen.extend(event["id"] for event in await setup.browser.events(job_id))

    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        group.create_task(follow())
        for number in range(3):
            await until(lambda: setup.fake.open_watches == 1)
            await setup.fake.add_segment(job_id, segment(number))
            await setup.fake.stop()
            await until(lambda: setup.fake.open_watches == 0)
            await setup.fake.add_segment(job_id, segment(number + 10))
            await setup.fake.start()
        await until(lambda: setup.fake.open_watches == 1)
        await setup.fake.complete(job_id)
    assert seen == list(range(1, 9))


async def test_a_client_that_goes_away_ends_the_watch(setup: Setup) -> None:
    job_id = await setup.browser.new_job()
    async with setup.browser.http.get(f"{setup.browser.url}/api/jobs/{job_id}/events") as response:
        await until(lambda: setup.fake.open_watches == 1)
        response.close()
    await until(lambda: setup.fake.open_watches == 0)


async def test_shutdown_ends_streams_at_once(setup: Setup) -> None:
    job_id = await setup.browser.new_job()
    async with setup.browser.http.get(f"{setup.browser.url}/api/jobs/{job_id}/events") as response:
        await until(lambda: setup.fake.open_watches == 1)
        async with asyncio.timeout(3):
            await setup.runner.cleanup()
        assert [event["id"] async for event in events_of(response)] == [1]


async def test_a_job_that_is_deleted_ends_its_stream(setup: Setup) -> None:
    job_id = await setup.browser.new_job()
    async with (
        asyncio.timeout(DEADLINE),
        setup.browser.http.get(f"{setup.browser.url}/api/jobs/{job_id}/events") as response,
    ):
        await until(lambda: setup.fake.open_watches == 1)
        await setup.fake.stop()
        del setup.fake.jobs[job_id]
        await setup.fake.start()
        assert [event["id"] async for event in events_of(response)] == [1]


async def test_away_at_the_beginning_is_a_503(setup: Setup) -> None:
    job_id = await setup.browser.new_job()
    await setup.fake.stop()
    async with asyncio.timeout(10):
        status, answer = await setup.browser.get(f"/api/jobs/{job_id}/events")
    assert (status, answer["code"]) == (503, "CONTROLLER_UNREACHABLE")


async def test_many_clients_follow_one_job(setup: Setup) -> None:
    job_id = await setup.browser.new_job()
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        followers = [group.create_task(setup.browser.events(job_id)) for _ in range(20)]
        await until(lambda: setup.fake.open_watches == 20)
        await setup.fake.complete(job_id, *(segment(number) for number in range(50)))
    assert all(task.result() == followers[0].result() for task in followers)
    assert len(followers[0].result()) == 52


async def test_a_fault_in_mid_stream_does_not_look_like_an_end(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = await setup.browser.new_job()
    monkeypatch.setattr("gateway.routes.events.frame", lambda _: 1 / 0)
    with pytest.raises(aiohttp.ClientError):
        await setup.browser.events(job_id)
