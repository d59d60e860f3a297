"""Jobs from upload to transcript, through a real controller and a scripted worker."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from bulkscribe.jobs.v1 import jobs_pb2
from bulkscribe.worker.v1 import worker_pb2 as pb

from services.contract.errors import Reason, ServiceError
from services.contract.limits import VERSION
from services.controller.jobs import ExecutionMode, Job, JobState, JobUpdate
from services.controller.run_stream import LinkLostError, RunStream
from services.controller.store.protocol import StoreFullError
from services.controller.store.sql import SqlStore
from services.controller.workers import LinkSettings, WorkerLink
from services.runtime.errors import service_error
from tests.fakes.worker import (
    FakeWorker,
    Held,
    completed,
    failed,
    handed_back,
    planned,
    progress,
    stage,
    whole_run,
    window,
)
from tests.faults.proxy import Proxy
from tests.integration.conftest import Client, running_controller, wav
from tests.ports import free_port


async def refusal(call: object) -> ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return service_error(caught.value, Reason.INTERNAL)


def worker_is_settled(worker: FakeWorker) -> bool:
    """Whether what runs has waited a little for company."""
    return asyncio.get_running_loop().time() - worker.changed_at > 0.6


async def until_workers(client: Client, condition: Callable[[Any], bool]) -> None:
    """Until the condition holds for all workers; fails after the deadline."""
    async with asyncio.timeout(10):
        while not all(map(condition, (await client.runtime()).workers)):  # noqa: ASYNC110 - as a client sees it
            await asyncio.sleep(0.01)


async def eventually_disconnected(client: Client) -> None:
    await until_workers(client, lambda worker: not worker.connected)


async def test_a_job_runs_to_its_transcript(client: Client, worker: FakeWorker) -> None:
    job_id = await client.submit()
    job = await client.wait(job_id, "complete")
    assert (job.attempt, job.progress.percent, job.last_error_code) == (1, 100.0, "")
    assert job.worker.worker_job_id.startswith("wk_")
    header, *segments = await client.transcript(job_id)
    assert header.header.language == "en"
    assert [part.segment.text for part in segments] == [" hello there", " good morning"]
    assert [part.segment.id for part in segments] == [0, 1]


async def test_events_come_once_in_order_and_resume_after_any_number(client: Client, worker: FakeWorker) -> None:
    job_id = await client.submit()
    await client.wait(job_id, "complete")
    events = await client.events(job_id)
    numbers = [event.number for event in events]
    assert numbers == list(range(1, len(events) + 1))
    statuses = [event.changed.status for event in events if event.WhichOneof("kind") == "changed"]
    assert statuses[:2] == [jobs_pb2.JOB_STATUS_QUEUED, jobs_pb2.JOB_STATUS_QUEUED_REMOTE]
    assert statuses[-1] == jobs_pb2.JOB_STATUS_COMPLETE
    segments = [event.segment for event in events if event.WhichOneof("kind") == "segment"]
    assert segments == [part.segment for part in (await client.transcript(job_id))[1:]]
    for after in range(len(events) + 1):
        assert await client.events(job_id, after) == events[after:]


async def test_watching_a_running_job_tells_each_event_as_it_comes(client: Client, worker: FakeWorker) -> None:
    worker.plan = lambda dispatch: [planned()]
    job_id = await client.submit()
    await client.wait(job_id, "running")
    watching = asyncio.ensure_future(client.events(job_id))
    held = next(iter(worker.held.values()))
    held.add(window(0, " one"))
    held.add(window(1, " two"), completed())
    events = await watching
    assert [e.segment.text for e in events if e.WhichOneof("kind") == "segment"] == [" one", " two"]


async def test_jobs_wait_for_capacity_and_leave_in_order(client: Client, worker: FakeWorker) -> None:
    worker.plan = lambda dispatch: [planned()]
    jobs = [await client.submit(seed) for seed in range(4)]
    await client.wait(jobs[0], "running")
    waiting = await client.wait(jobs[1], "queued_remote")
    assert (waiting.message, waiting.attempt) == ("Waiting for worker capacity", 0)
    runtime = await client.runtime()
    assert (runtime.queue.running, runtime.queue.queued_remote) == (1, 3)
    for job_id in jobs:
        await client.wait(job_id, "running")
        worker.held[(job_id, 1)].add(window(0, " x"), completed())
        await client.wait(job_id, "complete")
    assert [job for job, _ in worker.dispatched] == jobs
    assert worker.max_concurrent == 1


async def test_a_job_with_speakers_waits_for_the_worker_that_can_tell_them_apart(tmp_path: Path) -> None:
    able, lacking = FakeWorker(), FakeWorker()
    lacking.diarization, lacking.diarization_error = "", "HF_TOKEN is not set."
    urls = [await able.start(), await lacking.start()]
    async with running_controller(tmp_path, remote_worker_url=",".join(urls)) as client:
        await client.wait_connected()
        await able.stop()
        await until_workers(client, lambda worker: worker.connected == (worker.url == urls[1]))
        job_id = await client.submit(diarization_enabled=True)
        job = await client.wait(job_id, "queued_remote", lambda job: job.last_error_code != "")
        assert job.last_error_code == Reason.REMOTE_WORKER_UNREACHABLE.value
        assert job.message.startswith("Waiting for a worker that tells speakers apart. ")
        assert urls[0] in job.message
        back = FakeWorker()
        await back.start(port=able.port)
        job = await client.wait(job_id, "complete")
        assert (job.worker.url, job.last_error_code) == (urls[0], "")
        await back.stop()
    await lacking.stop()


async def test_a_job_with_speakers_waits_for_a_pipeline_that_is_yet_to_come(client: Client, worker: FakeWorker) -> None:
    """And holds no slot meanwhile."""
    worker.diarization, worker.diarization_note = "", "The hub does not answer."
    worker.changed()
    await until_workers(client, lambda worker: not worker.diarization)
    speakers, words = await client.submit(diarization_enabled=True), await client.submit(1)
    await client.wait(words, "complete")
    job = await client.wait(speakers, "queued_remote")
    assert job.message == "Waiting for a worker that tells speakers apart. The hub does not answer."
    assert (job.attempt, job.last_error_code) == (0, "")
    worker.diarization, worker.diarization_note = "demo", ""
    worker.changed()
    await client.wait(speakers, "complete")


async def test_what_a_worker_says_of_a_transcript_stays_with_the_job(client: Client, worker: FakeWorker) -> None:
    ended = completed()
    ended.outcome.completed.note = "Each side speaks into a channel of its own."
    worker.plan = lambda dispatch: [planned(), window(0, " x"), ended]
    job = await client.wait(await client.submit(), "complete")
    assert job.message == ended.outcome.completed.note


async def test_speakers_that_no_worker_can_tell_apart_are_refused(client: Client, worker: FakeWorker) -> None:
    worker.plan = lambda dispatch: [planned()]
    first, second = await client.submit(), await client.submit(1, diarization_enabled=True)
    await client.wait(first, "running")
    worker.refuse = lambda dispatch: ServiceError(Reason.DIARIZATION_UNAVAILABLE, worker.diarization_error)
    worker.diarization, worker.diarization_error = "", "HF_TOKEN is not set."
    worker.changed()
    await until_workers(client, lambda worker: not worker.diarization)
    refused = await refusal(client.submit(2, diarization_enabled=True))
    assert refused.reason is Reason.DIARIZATION_UNAVAILABLE
    assert refused.message == "No worker can tell speakers apart. HF_TOKEN is not set."
    worker.held[(first, 1)].add(window(0, " x"), completed())
    job = await client.wait(second, "failed")
    assert job.last_error_message == "HF_TOKEN is not set."


async def test_a_full_worker_costs_no_attempt(client: Client, worker: FakeWorker) -> None:
    refusals = iter([ServiceError(Reason.WORKER_FULL), ServiceError(Reason.WORKER_DRAINING)])
    worker.refuse = lambda dispatch: next(refusals, None)
    job = await client.wait(await client.submit(), "complete")
    assert job.attempt == 1


async def test_a_refused_dispatch_ends_the_job_with_the_workers_reason(client: Client, worker: FakeWorker) -> None:
    worker.refuse = lambda dispatch: ServiceError(Reason.MODEL_UNAVAILABLE, "The model demo cannot be loaded: no file.")
    job = await client.wait(await client.submit(), "failed")
    assert job.last_error_code == "REMOTE_DISPATCH_FAILED"
    assert "no file" in job.last_error_message
    worker.refuse = lambda dispatch: None
    await client.wait(await client.submit(1), "complete")


async def test_a_failure_that_the_worker_reports_is_the_jobs_end(client: Client, worker: FakeWorker) -> None:
    worker.plan = lambda dispatch: [failed(Reason.AUDIO_INVALID, "No audio can be decoded.")]
    job = await client.wait(await client.submit(), "failed")
    assert (job.last_error_code, job.last_error_message) == ("REMOTE_FAILED", "No audio can be decoded.")
    error = await refusal(client.transcript(job.job_id))
    assert error.reason is Reason.TRANSCRIPT_NOT_READY


async def test_a_crashed_engine_costs_an_attempt_and_goes_on_from_the_finished_windows(
    client: Client, worker: FakeWorker
) -> None:
    crash = failed(Reason.ENGINE_CRASHED, "The engine died.")
    scripts = iter([[planned(), window(0, " one"), crash], [planned(), window(1, " two"), completed()]])
    worker.plan = lambda dispatch: next(scripts)
    job = await client.wait(await client.submit(), "complete")
    assert (job.attempt, job.last_error_code) == (2, "")
    assert [part.segment.text for part in (await client.transcript(job.job_id))[1:]] == [" one", " two"]


async def test_the_next_attempt_is_told_what_is_finished(client: Client, worker: FakeWorker) -> None:
    dispatches = []

    def plan(dispatch: object) -> list[object]:
        dispatches.append(dispatch)
        crash = failed(Reason.ENGINE_CRASHED, "The engine died.")
        return [planned(), window(0, " one"), crash] if len(dispatches) == 1 else whole_run()

    worker.plan = plan  # type: ignore[assignment]
    await client.wait(await client.submit(), "complete", lambda job: job.attempt == 2)
    assert not dispatches[0].HasField("finished")
    assert dispatches[1].finished.plan.fingerprint == "f"
    assert list(dispatches[1].finished.windows) == [0]


async def test_another_plan_starts_the_transcript_again(client: Client, worker: FakeWorker) -> None:
    crash = failed(Reason.ENGINE_CRASHED, "The engine died.")
    again = [planned("other"), window(0, " uno"), window(1, " dos"), completed()]
    scripts = iter([[planned(), window(0, " one"), progress(50.0), crash], again])
    worker.plan = lambda dispatch: next(scripts)
    job = await client.wait(await client.submit(), "complete")
    assert [part.segment.text for part in (await client.transcript(job.job_id))[1:]] == [" uno", " dos"]
    told = [event.changed for event in await client.events(job.job_id)]
    assert 50.0 in [change.progress.percent for change in told]
    assert [change.progress.percent for change in told if "begins anew" in change.message] == [0.0]


def stretches(message: jobs_pb2.Job | jobs_pb2.TranscriptHeader) -> list[tuple[float, float]]:
    return [(one.start.ToMicroseconds() / 1e6, one.end.ToMicroseconds() / 1e6) for one in message.silent_stretches]


async def test_a_job_tells_which_model_it_waits_for(client: Client, worker: FakeWorker) -> None:
    worker.plan = lambda dispatch: [stage("loading", "loading model demo")]
    job_id = await client.submit()
    job = await client.wait(job_id, "running", lambda job: job.progress.stage == "loading")
    assert job.message == "loading model demo"
    worker.held[(job_id, 1)].add(stage("preparing"), *whole_run())
    await client.wait(job_id, "complete")
    told = [(event.changed.progress.stage, event.changed.message) for event in await client.events(job_id)]
    loading = told.index(("loading", "loading model demo"))
    assert told[loading + 1] == ("preparing", "")


async def test_the_time_left_is_told_until_the_job_ends(client: Client, worker: FakeWorker) -> None:
    worker.plan = lambda dispatch: [planned(), progress(10), progress(20, 181.5)]
    job_id = await client.submit()
    job = await client.wait(job_id, "running", lambda job: job.progress.percent == 20)
    assert job.progress.remaining.ToMicroseconds() == 181_500_000
    worker.held[(job_id, 1)].add(window(0, " one"), window(1, " two"), completed())
    job = await client.wait(job_id, "complete")
    assert not job.progress.HasField("remaining")
    told = [event.changed.progress for event in await client.events(job_id) if event.WhichOneof("kind") == "changed"]
    known = [progress.percent for progress in told if progress.HasField("remaining")]
    assert known == [20.0]


async def test_nobody_knows_the_time_left_while_the_worker_cannot_be_reached(
    client: Client, worker: FakeWorker
) -> None:
    worker.plan = lambda dispatch: [planned(), progress(20, 181.5)]
    job_id = await client.submit()
    await client.wait(job_id, "running", lambda job: job.progress.HasField("remaining"))
    await worker.stop()
    job = await client.wait(job_id, "running", lambda job: job.last_error_code == "REMOTE_WORKER_UNREACHABLE")
    assert (job.progress.percent, job.progress.HasField("remaining")) == (20.0, False)


async def test_silent_windows_are_told_with_their_times(client: Client, worker: FakeWorker) -> None:
    """Window 1 has no words and is not silent: nobody spoke in it."""
    said = [window(0, silent=True), window(1), window(2, " three"), window(3, silent=True), window(9, silent=True)]
    worker.plan = lambda dispatch: [planned(windows=4), *said, completed()]
    job = await client.wait(await client.submit(), "complete")
    assert stretches(job) == [(0.0, 10.0), (30.0, 40.0)]
    header, *segments = await client.transcript(job.job_id)
    assert stretches(header.header) == [(0.0, 10.0), (30.0, 40.0)]
    assert [part.segment.text for part in segments] == [" three"]


async def test_silent_windows_outlive_their_attempt(client: Client, worker: FakeWorker) -> None:
    crash = failed(Reason.ENGINE_CRASHED, "The engine died.")
    first = [planned(windows=3), window(0, silent=True), crash]
    again = [planned(windows=3), window(0, silent=True), window(1, " two"), window(2, silent=True), completed()]
    scripts = iter([first, again])
    worker.plan = lambda dispatch: next(scripts)
    job = await client.wait(await client.submit(), "complete")
    assert (job.attempt, stretches(job)) == (2, [(0.0, 10.0), (20.0, 30.0)])


async def test_silent_windows_outlive_the_controller(tmp_path: Path, worker: FakeWorker) -> None:
    worker.plan = lambda dispatch: [planned(windows=3), window(0, silent=True)]
    url = f"http://127.0.0.1:{worker.port}"
    async with running_controller(tmp_path, remote_worker_url=url) as client:
        job_id = await client.submit()
        await client.wait(job_id, "running", lambda job: len(job.silent_stretches) == 1)
    worker.held[(job_id, 1)].add(window(1, " two"), window(2, silent=True), completed())
    async with running_controller(tmp_path, remote_worker_url=url) as client:
        job = await client.wait(job_id, "complete")
        assert (job.attempt, stretches(job)) == (1, [(0.0, 10.0), (20.0, 30.0)])


async def test_another_plan_forgets_what_was_silent(client: Client, worker: FakeWorker) -> None:
    crash = failed(Reason.ENGINE_CRASHED, "The engine died.")
    again = [planned("other", windows=3), window(0, " uno"), window(1, " dos"), window(2, silent=True), completed()]
    scripts = iter([[planned(), window(0, silent=True), crash], again])
    worker.plan = lambda dispatch: next(scripts)
    job = await client.wait(await client.submit(), "complete")
    assert (job.attempt, stretches(job)) == (2, [(20.0, 30.0)])


async def test_a_recording_that_kills_the_engine_each_time_fails(client: Client, worker: FakeWorker) -> None:
    worker.plan = lambda dispatch: [failed(Reason.ENGINE_CRASHED, "The engine died.")]
    job = await client.wait(await client.submit(), "failed")
    assert (job.attempt, job.last_error_code) == (3, "REMOTE_FAILED")


async def test_cancel_of_a_waiting_job_contacts_nobody(client: Client, worker: FakeWorker) -> None:
    worker.plan = lambda dispatch: [planned()]
    running, waiting = await client.submit(0), await client.submit(1)
    await client.wait(running, "running")
    canceled = await client.cancel(waiting)
    assert canceled.status == jobs_pb2.JOB_STATUS_CANCELED
    assert canceled.last_error_code == "USER_CANCELED"
    worker.held[(running, 1)].add(completed())
    await client.wait(running, "complete")
    assert [job for job, _ in worker.dispatched] == [running]


async def test_cancel_of_a_running_job_frees_the_slot(client: Client, worker: FakeWorker) -> None:
    worker.plan = lambda dispatch: [planned(), progress(10)]
    first, second = await client.submit(0), await client.submit(1)
    await client.wait(first, "running")
    await client.cancel(first)
    assert (await client.job(first)).status == jobs_pb2.JOB_STATUS_CANCELED
    await client.wait(second, "running")
    error = await refusal(client.cancel(first))
    assert error.reason is Reason.JOB_ENDED


async def test_a_job_that_runs_too_long_times_out(tmp_path: Path, worker: FakeWorker) -> None:
    worker.plan = lambda dispatch: [planned()]
    url = f"http://127.0.0.1:{worker.port}"
    async with running_controller(tmp_path, remote_worker_url=url, remote_worker_timeout_seconds=0.3) as client:
        job_id = await client.submit()
        job = await client.wait(job_id, "failed")
        assert job.last_error_code == "REMOTE_WORKER_TIMEOUT"
        async with asyncio.timeout(10):
            while worker.active:  # noqa: ASYNC110 - the fake rings no bell
                await asyncio.sleep(0.01)


async def test_a_job_that_waits_too_long_for_a_slot_fails(tmp_path: Path, worker: FakeWorker) -> None:
    worker.plan = lambda dispatch: [planned()]
    url = f"http://127.0.0.1:{worker.port}"
    async with running_controller(
        tmp_path, remote_worker_url=url, remote_worker_capacity_timeout_seconds=0.5
    ) as client:
        running, waiting = await client.submit(0), await client.submit(1)
        await client.wait(running, "running")
        job = await client.wait(waiting, "failed")
        assert job.last_error_code == "REMOTE_WORKER_CAPACITY"
        assert (await client.job(running)).status == jobs_pb2.JOB_STATUS_RUNNING


async def test_a_worker_that_is_away_makes_no_job_fail_that_only_it_can_run(tmp_path: Path) -> None:
    """However long: others that are there have no slot for it either way."""
    here, away = FakeWorker(), FakeWorker(models=("other",))
    urls = [await here.start(), await away.start()]
    async with running_controller(
        tmp_path, remote_worker_url=",".join(urls), remote_worker_capacity_timeout_seconds=0.3
    ) as client:
        await client.wait_connected()
        await away.stop()
        await until_workers(client, lambda worker: worker.connected == (worker.url == urls[0]))
        job_id = await client.submit(model="other")
        job = await client.wait(job_id, "queued_remote", lambda job: job.last_error_code != "")
        assert job.last_error_code == Reason.REMOTE_WORKER_UNREACHABLE.value
        assert job.message.startswith("Waiting for a worker with the model 'other'. ")
        await asyncio.sleep(1.0)  # three times what a job may wait for a slot
        assert (await client.job(job_id)).status == jobs_pb2.JOB_STATUS_QUEUED_REMOTE
        back = FakeWorker(models=("other",))
        await back.start(port=away.port)
        job = await client.wait(job_id, "complete")
        assert (job.worker.url, job.last_error_code) == (urls[1], "")
        await back.stop()
    await here.stop()


async def test_an_unreachable_worker_is_a_condition_that_heals(tmp_path: Path) -> None:
    away = FakeWorker()
    url = await away.start()
    await away.stop()
    async with running_controller(
        tmp_path, remote_worker_url=url, remote_worker_capacity_timeout_seconds=0.2
    ) as client:
        job_id = await client.submit()
        job = await client.wait(job_id, "queued_remote", lambda job: job.last_error_code != "")
        assert job.last_error_code == "REMOTE_WORKER_UNREACHABLE"
        assert url in job.last_error_message
        back = FakeWorker()
        await back.start(port=away.port)
        job = await client.wait(job_id, "complete")
        assert job.last_error_code == ""
        await back.stop()


async def test_a_wrong_token_is_named_as_such(tmp_path: Path, worker: FakeWorker) -> None:
    url = f"http://127.0.0.1:{worker.port}"
    async with running_controller(tmp_path, remote_worker_url=url, remote_worker_token="wrong") as client:
        job = await client.wait(await client.submit(), "queued_remote", lambda job: job.last_error_code != "")
        assert job.last_error_code == "REMOTE_WORKER_UNAUTHORIZED"
        assert "REMOTE_WORKER_TOKEN" in job.last_error_message
        assert "wrong" not in job.last_error_message


async def test_a_worker_that_restarts_loses_nothing(client: Client, worker: FakeWorker) -> None:
    worker.plan = lambda dispatch: [planned(), window(0, " one")]
    job_id = await client.submit()
    await client.wait(job_id, "running", lambda job: job.last_event >= 4)
    await worker.stop()
    again = FakeWorker()
    again.instance = "two"
    again.plan = lambda dispatch: [planned(), window(1, " two"), completed()]
    await again.start(port=worker.port)
    job = await client.wait(job_id, "complete")
    assert job.attempt == 2
    assert [part.segment.text for part in (await client.transcript(job_id))[1:]] == [" one", " two"]
    await again.stop()


async def test_a_controller_that_restarts_finds_its_jobs_running(tmp_path: Path, worker: FakeWorker) -> None:
    worker.plan = lambda dispatch: [planned(), window(0, " one")]
    worker.slots = 2
    url = f"http://127.0.0.1:{worker.port}"
    async with running_controller(tmp_path, remote_worker_url=url) as client:
        job_id = await client.submit()
        await client.wait(job_id, "running", lambda job: job.last_event >= 4)
    worker.held[(job_id, 1)].add(window(1, " two"), completed())
    async with running_controller(tmp_path, remote_worker_url=url) as client:
        job = await client.wait(job_id, "complete")
        assert job.attempt == 1
        assert [part.segment.text for part in (await client.transcript(job_id))[1:]] == [" one", " two"]
    assert worker.dispatched == [(job_id, 1)]


async def test_one_worker_under_two_names_loses_no_attempt_when_the_controller_restarts(tmp_path: Path) -> None:
    worker = FakeWorker(slots=2)
    worker.plan = lambda dispatch: [planned()]
    url = await worker.start()
    urls = f"{url},{url.replace('127.0.0.1', 'localhost')}"
    async with running_controller(tmp_path, remote_worker_url=urls) as client:
        await client.wait_connected()
        jobs = [await client.submit(seed) for seed in range(4)]
        async with asyncio.timeout(10):
            while worker.active < 2:  # noqa: ASYNC110 - as it is seen from outside
                await asyncio.sleep(0.01)
    async with running_controller(tmp_path, remote_worker_url=urls) as client:
        await client.wait_connected()
        for job_id in jobs:
            await client.wait(job_id, "running")
            worker.held[(job_id, 1)].add(window(0, " x"), completed())
            assert (await client.wait(job_id, "complete")).attempt == 1
    await worker.stop()


async def test_what_a_worker_holds_by_a_name_that_answers_no_more_is_stopped_by_its_other_one(tmp_path: Path) -> None:
    worker = FakeWorker()
    worker.plan = lambda dispatch: [planned()]
    await worker.start()
    names = {f"http://127.0.0.1:{port}": Proxy(port, worker.port) for port in (free_port(), free_port())}
    for name in names.values():
        await name.accept()
    async with running_controller(
        tmp_path, remote_worker_url=",".join(names), remote_worker_lease_seconds=0.5, remote_worker_poll_seconds=0.2
    ) as client:
        await until_workers(client, lambda worker: worker.connected)
        job_id = await client.submit()
        followed = names.pop((await client.wait(job_id, "running")).worker.url)
        worker.plan = lambda dispatch: whole_run()
        followed.refuse()
        followed.cut()
        await client.wait(job_id, "queued_remote")
        (other,) = names.values()
        other.cut()  # the fake names what it holds where a heartbeat begins
        assert (await client.wait(job_id, "complete")).attempt == 2
    for name in (followed, other):
        await name.close()
    await worker.stop()


async def test_a_cut_upload_to_the_worker_goes_on_where_it_was_cut(client: Client, worker: FakeWorker) -> None:
    worker.upload_limit = 1 << 20
    content = wav(seconds=200)
    job_id = (await client.create(await client.upload(content)))[0].job_id
    await client.wait(job_id, "complete")
    assert [bytes(held) for held in worker.audio.values()] == [content]


async def test_a_fault_of_the_worker_ends_a_job_only_when_others_are_taken_meanwhile(
    client: Client, worker: FakeWorker
) -> None:
    always = await client.submit_refused(worker, lambda dispatch: ServiceError(Reason.INTERNAL))
    for _ in range(5):
        await client.wait(always, "queued_remote", lambda job: job.last_error_code == "INTERNAL")
    worker.refuse = lambda dispatch: ServiceError(Reason.INTERNAL) if dispatch.attempt.job_id == always else None
    for seed in range(1, 4):
        await client.wait(await client.submit(seed), "complete")
    ended = await client.wait(always, "failed")
    assert ended.last_error_code == "REMOTE_DISPATCH_FAILED"


async def test_a_worker_that_refuses_for_its_own_sake_is_not_asked_at_full_speed(
    client: Client, worker: FakeWorker
) -> None:
    worker.refuse = lambda dispatch: ServiceError(Reason.STORAGE_FULL)
    jobs = [await client.submit(seed) for seed in range(8)]
    await client.wait(jobs[0], "queued_remote", lambda job: job.last_error_code == "STORAGE_FULL")
    before = worker.asked
    await asyncio.sleep(2.0)
    assert worker.asked - before < 20, "its pauses grow, from a fortieth of a second"
    worker.refuse = lambda dispatch: None
    for job in jobs:
        await client.wait(job, "complete")


async def test_jobs_that_an_engine_died_under_run_alone_and_their_neighbors_are_not_blamed_for_it(
    tmp_path: Path,
) -> None:
    """One recording kills the engine each time, and with it whatever runs beside it."""
    worker = FakeWorker(slots=3)
    url = await worker.start()
    killers: list[str] = []

    def plan(dispatch: pb.Dispatch) -> list[pb.Event]:
        return [planned()]

    async def run_engine() -> None:
        """Finishes what runs without a killer beside it, and dies of a killer."""
        while True:
            running = [key for key, held in worker.held.items() if not worker._ended(held)]
            crash = any(job in killers for job, _ in running)
            if len(running) == 3 or (running and worker_is_settled(worker)):
                for key in running:
                    end = failed(Reason.ENGINE_CRASHED, "The engine died.") if crash else completed()
                    worker.held[key].add(window(0, " a"), window(1, " b"), end) if not crash else worker.held[key].add(
                        end
                    )
                worker.changed()
            await asyncio.sleep(0.05)

    worker.plan = plan
    async with running_controller(tmp_path, remote_worker_url=url) as client:
        await client.wait_connected()
        jobs = [await client.submit(seed) for seed in range(6)]
        killers.append(jobs[0])
        engine = asyncio.ensure_future(run_engine())
        states = {job: (await client.wait_ended(job)).status for job in jobs}
        engine.cancel()
    await worker.stop()
    assert states[jobs[0]] == jobs_pb2.JOB_STATUS_FAILED
    assert {states[job] for job in jobs[1:]} == {jobs_pb2.JOB_STATUS_COMPLETE}


@pytest.mark.parametrize(("version", "works"), [("", True), ("0.0.1", True), ("0.99.7", True), ("9.0.0", False)])
async def test_a_worker_of_another_minor_version_works_and_of_another_major_one_is_not_asked(
    client: Client, worker: FakeWorker, version: str, works: bool
) -> None:
    worker.version = version
    worker.changed()
    worker.plan = lambda dispatch: [pb.Event(), *whole_run()]  # the first is of a kind that is not known here
    if not works:
        await eventually_disconnected(client)
    job_id = await client.submit()
    if works:
        await client.wait(job_id, "complete")
        return
    waiting = await client.wait(job_id, "queued_remote", lambda job: job.last_error_code == "VERSION_INCOMPATIBLE")
    assert "9.0.0" in waiting.last_error_message
    assert VERSION in waiting.last_error_message
    assert worker.dispatched == []
    worker.version = VERSION
    worker.changed()
    await client.wait(job_id, "complete")


async def test_the_same_request_returns_the_same_jobs(client: Client, worker: FakeWorker) -> None:
    upload = await client.upload()
    first = await client.create(upload, upload, request_id="r1")
    again = await client.create(upload, upload, request_id="r1")
    assert [job.job_id for job in first] == [job.job_id for job in again]
    assert len({job.job_id for job in first}) == 2
    other = await client.create(upload, request_id="r2")
    assert other[0].job_id not in {job.job_id for job in first}


async def test_what_no_worker_offers_is_refused_at_once(client: Client) -> None:
    upload = await client.upload()
    unknown = await refusal(client.create(upload, model="enormous"))
    assert unknown.reason is Reason.MODEL_UNKNOWN
    assert "demo" in unknown.message
    assert (await refusal(client.create(upload, language="xx"))).reason is Reason.LANGUAGE_UNSUPPORTED
    assert (await refusal(client.create(upload, language="de"))).reason is Reason.LANGUAGE_UNSUPPORTED
    speakers = await refusal(client.create(upload, min_speakers=3, max_speakers=2))
    assert speakers.reason is Reason.INVALID_REQUEST
    assert (await refusal(client.create("nothing"))).reason is Reason.NOT_FOUND


async def test_an_owner_sees_its_own_only(client: Client, worker: FakeWorker) -> None:
    job_id = await client.submit()
    await client.wait(job_id, "complete")
    upload_id = (await client.job(job_id)).upload_id
    mallory = Client(client.channel, "mallory")
    for call in (mallory.job(job_id), mallory.cancel(job_id), mallory.events(job_id), mallory.transcript(job_id)):
        assert (await refusal(call)).reason is Reason.NOT_FOUND
    assert (await refusal(mallory.create(upload_id))).reason is Reason.NOT_FOUND
    listed = await mallory.jobs.ListJobs(jobs_pb2.ListJobsRequest(owner="mallory"))
    assert not listed.jobs


async def test_lists_come_in_pages_newest_first(client: Client, worker: FakeWorker) -> None:
    upload = await client.upload()
    jobs = [job.job_id for job in await client.create(*[upload] * 5)]
    seen: list[str] = []
    token = ""
    while True:
        page = await client.jobs.ListJobs(jobs_pb2.ListJobsRequest(owner="alice", page_size=2, page_token=token))
        seen += [job.job_id for job in page.jobs]
        token = page.next_page_token
        if not token:
            break
    assert seen == jobs[::-1]
    bad = client.jobs.ListJobs(jobs_pb2.ListJobsRequest(owner="alice", page_token="x"))
    assert (await refusal(bad)).reason is Reason.INVALID_REQUEST


async def test_delete_removes_a_job_and_its_recording(client: Client, worker: FakeWorker, tmp_path: Path) -> None:
    worker.plan = lambda dispatch: [planned()]
    job_id = await client.submit()
    await client.wait(job_id, "running")
    request = jobs_pb2.DeleteJobRequest(owner="alice", job_id=job_id)
    assert (await refusal(client.jobs.DeleteJob(request))).reason is Reason.JOB_NOT_ENDED
    await client.cancel(job_id)
    await client.jobs.DeleteJob(request)
    assert (await refusal(client.job(job_id))).reason is Reason.NOT_FOUND
    blobs = [path for path in (tmp_path / "data" / "blobs").rglob("*") if path.is_file()]
    assert blobs == []


async def test_the_next_recording_is_at_the_worker_before_its_slot_is_free(client: Client, worker: FakeWorker) -> None:
    worker.plan = lambda dispatch: [planned()]
    first, second = await client.submit(0), await client.submit(1)
    await client.wait(first, "running")
    async with asyncio.timeout(10):
        while len(worker.audio) < 2:  # noqa: ASYNC110 - the fake rings no bell
            await asyncio.sleep(0.01)
    assert (await client.job(second)).attempt == 0
    assert worker.dispatched == [(first, 1)]


@pytest.mark.parametrize(("seconds", "asked"), [(10, 0), (70, 1)])
async def test_what_goes_in_one_message_is_not_asked_about(
    client: Client, worker: FakeWorker, seconds: int, asked: int
) -> None:
    content = wav(seconds=seconds)
    (job,) = await client.create(await client.upload(content))
    await client.wait(job.job_id, "complete")
    assert (worker.stats, worker.uploads) == (asked, 1)
    (again,) = await client.create(await client.upload(content))
    await client.wait(again.job_id, "complete")
    assert (worker.stats, worker.uploads) == (asked, 1)  # it said a moment ago that it holds it


async def test_a_recording_that_a_worker_lost_is_sent_again(client: Client, worker: FakeWorker) -> None:
    content = wav(seconds=10)
    for uploads in (1, 2):
        (job,) = await client.create(await client.upload(content))
        assert (await client.wait(job.job_id, "complete")).attempt == 1
        assert (worker.stats, worker.uploads) == (0, uploads)
        worker.audio.clear()


@pytest.mark.parametrize("held", [1, 1000, None])
async def test_what_a_worker_has_of_a_small_recording_is_gone_on_from(
    client: Client, worker: FakeWorker, held: int | None
) -> None:
    """As a controller that was killed leaves it: the new one knows nothing of what was sent."""
    content = wav(seconds=10)
    sha256 = hashlib.sha256(content).hexdigest()
    worker.audio[sha256] = bytearray(content[:held])
    (job,) = await client.create(await client.upload(content))
    assert (await client.wait(job.job_id, "complete")).attempt == 1
    assert worker.audio == {sha256: content}
    assert (worker.stats, worker.uploads) == (1, 0 if held is None else 1)


async def test_one_recording_that_is_submitted_twice_is_sent_to_a_worker_once(tmp_path: Path) -> None:
    worker = FakeWorker(slots=2)
    await worker.start()
    async with running_controller(tmp_path, remote_worker_url=f"http://127.0.0.1:{worker.port}") as client:
        await client.wait_connected()
        upload = await client.upload(wav(seconds=200))
        for job in await client.create(upload, upload):
            assert (await client.wait(job.job_id, "complete")).attempt == 1
    assert worker.uploads == 1
    await worker.stop()


async def test_a_store_without_room_at_the_end_of_an_attempt_ends_nothing_else(
    client: Client, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_attempt, calls = SqlStore.end_attempt, iter([StoreFullError(), StoreFullError()])

    async def full(self: SqlStore, *given: object) -> None:
        trouble = next(calls, None)
        if trouble is not None:
            raise trouble
        await end_attempt(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(SqlStore, "end_attempt", full)
    first = await client.submit(0)
    await client.wait(first, "complete")
    await client.wait(await client.submit(1), "complete")
    assert (await client.job(first)).status == jobs_pb2.JOB_STATUS_COMPLETE


async def test_a_stream_that_breaks_with_a_fault_costs_no_attempt(client: Client, worker: FakeWorker) -> None:
    worker.broken_streams = 2
    job = await client.wait(await client.submit(), "complete")
    assert job.attempt == 1
    assert len(worker.dispatched) == 1


async def test_a_recording_that_is_gone_from_the_disk_ends_its_job_with_a_reason(
    client: Client, worker: FakeWorker, tmp_path: Path
) -> None:
    worker.plan = lambda dispatch: [planned()]
    running = await client.submit(0)
    await client.wait(running, "running")
    upload = await client.upload(wav(seed=1))
    for blob in (tmp_path / "data" / "blobs").rglob("*"):
        if blob.is_file():
            blob.unlink()
    lost = (await client.create(upload))[0].job_id
    worker.held[(running, 1)].add(completed())
    job = await client.wait(lost, "failed")
    assert job.last_error_code == "REMOTE_DISPATCH_FAILED"
    assert "cannot read the recording (No such file or directory)" in job.last_error_message


async def test_attempts_that_were_handed_back_do_not_count_as_crashes(client: Client, worker: FakeWorker) -> None:
    crash = failed(Reason.ENGINE_CRASHED, "The engine died.")
    scripts = iter([[handed_back()], [handed_back()], [crash], whole_run()])
    worker.plan = lambda dispatch: next(scripts)
    job = await client.wait(await client.submit(), "complete")
    assert job.attempt == 4


async def test_an_attempt_that_went_on_elsewhere_is_stopped_where_it_was(tmp_path: Path) -> None:
    first, second = FakeWorker(), FakeWorker()
    first.plan = second.plan = lambda dispatch: [planned()]
    urls = [await first.start(), await second.start()]
    async with running_controller(
        tmp_path, remote_worker_url=",".join(urls), remote_worker_lease_seconds=0.3
    ) as client:
        await client.wait_connected()
        job_id = await client.submit()
        await client.wait(job_id, "running")
        left, taken = (first, second) if first.held else (second, first)
        await left.stop()
        await client.wait(job_id, "running", lambda job: job.attempt == 2)
        await left.start(port=left.port)
        async with asyncio.timeout(10):
            while left.held:  # noqa: ASYNC110 - the fake rings no bell
                await asyncio.sleep(0.01)
        taken.held[(job_id, 2)].add(completed())
        await client.wait(job_id, "complete")
    await first.stop()
    await second.stop()


async def test_the_next_recording_is_brought_to_one_of_several_workers(tmp_path: Path) -> None:
    workers = [FakeWorker() for _ in range(3)]
    urls = [await worker.start() for worker in workers]
    for worker in workers:
        worker.plan = lambda dispatch: [planned()]
    async with running_controller(tmp_path, remote_worker_url=",".join(urls)) as client:
        await client.wait_connected()
        jobs = [await client.submit(seed) for seed in range(4)]
        for job_id in jobs[:3]:
            await client.wait(job_id, "running")
        async with asyncio.timeout(10):
            while sum(worker.uploads for worker in workers) < 4:  # noqa: ASYNC110 - the fakes ring no bell
                await asyncio.sleep(0.01)
    assert sorted(worker.uploads for worker in workers) == [1, 1, 2]
    for worker in workers:
        await worker.stop()


async def test_watching_ends_with_a_job_that_is_deleted_or_has_no_such_event(
    client: Client, worker: FakeWorker
) -> None:
    worker.plan = lambda dispatch: [planned()]
    job_id = await client.submit()
    await client.wait(job_id, "running")
    beyond = asyncio.ensure_future(client.events(job_id, after=9999))
    await client.cancel(job_id)
    await client.jobs.DeleteJob(jobs_pb2.DeleteJobRequest(owner="alice", job_id=job_id))
    async with asyncio.timeout(10):
        assert await beyond == []


async def test_a_requeued_job_does_not_hide_those_that_waited_longer(tmp_path: Path) -> None:
    worker = FakeWorker()
    url = await worker.start()
    async with running_controller(
        tmp_path, remote_worker_url=url, remote_worker_capacity_timeout_seconds=2.0
    ) as client:
        await client.wait_connected()
        worker.plan = lambda dispatch: [planned()]
        running, waiting = await client.submit(0), await client.submit(1)
        await client.wait(running, "running")
        worker.refuse = lambda dispatch: ServiceError(Reason.WORKER_FULL)
        worker.held[(running, 1)].add(handed_back())
        await client.wait(running, "queued_remote")
        created = (await client.job(waiting)).created_at.ToDatetime()
        late = await client.wait(waiting, "failed")
        assert (late.finished_at.ToDatetime() - created).total_seconds() < 3.0
    await worker.stop()


async def test_an_attempt_that_was_accepted_unheard_is_found_and_followed(tmp_path: Path) -> None:
    """The controller died between the worker's acceptance and noting it; the worker has room for more."""
    worker = FakeWorker(slots=2)
    url = await worker.start()
    worker.refuse = lambda dispatch: ServiceError(Reason.WORKER_FULL)
    async with running_controller(tmp_path, remote_worker_url=url) as client:
        await client.wait_connected()
        job_id = await client.submit()
        await client.wait(job_id, "queued_remote")
        async with asyncio.timeout(10):
            while not worker.asked:  # noqa: ASYNC110 - the fake rings no bell
                await asyncio.sleep(0.01)
    held = worker.held[(job_id, 1)] = Held(pb.Dispatch(), [planned(), window(0, " one")])
    worker.refuse = lambda dispatch: None
    async with running_controller(tmp_path, remote_worker_url=url) as client:
        await client.wait(job_id, "running")
        held.add(window(1, " two"), completed())
        job = await client.wait(job_id, "complete")
        assert (job.attempt, held.canceled, worker.dispatched) == (1, False, [])
        assert [part.segment.text for part in (await client.transcript(job_id))[1:]] == [" one", " two"]
    await worker.stop()


def fail_saves(monkeypatch: pytest.MonkeyPatch, matches: Callable[[JobUpdate], bool], times: int) -> list[JobUpdate]:
    """So many of the matching writes meet a full disk; returns those that did, as they come."""
    save, failed_ones = SqlStore.save, list[JobUpdate]()

    async def full(self: SqlStore, update: JobUpdate) -> Job:
        if matches(update) and len(failed_ones) < times:
            failed_ones.append(update)
            raise StoreFullError
        return await save(self, update)

    monkeypatch.setattr(SqlStore, "save", full)
    return failed_ones


async def test_a_wait_that_cannot_be_ended_for_a_full_disk_is_ended_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = FakeWorker()
    url = await worker.start()
    worker.plan = lambda dispatch: [planned()]
    async with running_controller(
        tmp_path, remote_worker_url=url, remote_worker_capacity_timeout_seconds=0.5
    ) as client:
        await client.wait_connected()
        running, waiting = await client.submit(0), await client.submit(1)
        await client.wait(running, "running")
        met = fail_saves(monkeypatch, lambda update: update.job.state is JobState.FAILED, times=1)
        assert (await client.wait(waiting, "failed")).last_error_code == "REMOTE_WORKER_CAPACITY"
        assert len(met) == 1
    await worker.stop()


async def test_a_job_that_came_back_waits_anew(tmp_path: Path) -> None:
    """What it waited for before it ran is over: its limit counts from when it came back."""
    worker = FakeWorker(slots=2)
    url = await worker.start()
    worker.plan = lambda dispatch: [planned()]
    async with running_controller(
        tmp_path, remote_worker_url=url, remote_worker_capacity_timeout_seconds=2.0
    ) as client:
        await client.wait_connected()
        job_id = await client.submit()
        started = (await client.wait(job_id, "running")).started_at.ToDatetime()
        await asyncio.sleep(1.5)
        worker.refuse = lambda dispatch: ServiceError(Reason.WORKER_FULL)
        worker.held[(job_id, 1)].add(handed_back())
        job = await client.wait(job_id, "failed")
        assert (job.finished_at.ToDatetime() - started).total_seconds() >= 3.4
    await worker.stop()


async def test_a_cancel_while_the_controller_recovers_reaches_the_worker(
    client: Client, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.plan = lambda dispatch: [planned()]
    job_id = await client.submit()
    await client.wait(job_id, "running", lambda job: job.last_event >= 3)
    met = fail_saves(monkeypatch, lambda update: bool(update.segments), times=3)
    held = worker.held[(job_id, 1)]
    held.add(window(0, " one"))
    async with asyncio.timeout(10):
        while not met:  # noqa: ASYNC110 - the store rings no bell
            await asyncio.sleep(0.001)
    await client.cancel(job_id)
    async with asyncio.timeout(10):
        while worker.held:  # noqa: ASYNC110 - the fake rings no bell
            await asyncio.sleep(0.01)
    assert held.canceled
    assert (await client.runtime()).queue.running == 0


async def test_a_start_that_cannot_be_noted_for_a_full_disk_is_noted_later(
    client: Client, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    met = fail_saves(monkeypatch, lambda update: update.job.state is JobState.RUNNING, times=2)
    job = await client.wait(await client.submit(), "complete")
    assert (job.attempt, len(met), len(worker.dispatched)) == (1, 2, 1)


async def test_a_job_that_a_worker_may_have_accepted_is_not_asked_of_another_before_the_lease_is_over(
    tmp_path: Path,
) -> None:
    """The worker is lost between accepting and saying so."""
    first, second = FakeWorker(), FakeWorker()
    urls = [await first.start(), await second.start()]
    second.slots = 0
    async with running_controller(
        tmp_path, remote_worker_url=",".join(urls), remote_worker_lease_seconds=1.5
    ) as client:
        await client.wait_connected()
        lost: list[float] = []

        def lose(dispatch: pb.Dispatch) -> ServiceError | None:
            lost.append(asyncio.get_running_loop().time())
            return ServiceError(Reason.REMOTE_WORKER_UNREACHABLE)

        first.refuse = lose
        second.plan = lambda dispatch: begun.append(asyncio.get_running_loop().time()) or whole_run()
        begun: list[float] = []
        job_id = await client.submit()
        async with asyncio.timeout(10):
            while not lost:  # noqa: ASYNC110 - the fake rings no bell
                await asyncio.sleep(0.001)
        await first.stop()
        second.slots = 1
        second.changed()
        waiting = await client.job(job_id)
        assert waiting.attempt == 0
        assert (await client.runtime()).queue.queued_remote == 1
        job = await client.wait(job_id, "complete")
        assert (job.attempt, second.dispatched) == (2, [(job_id, 2)])
        assert begun[0] - lost[0] >= 1.5
    await second.stop()


async def test_a_number_that_is_used_up_costs_an_attempt_and_not_the_job(client: Client, worker: FakeWorker) -> None:
    used_up = {1, 2}
    worker.refuse = lambda dispatch: ServiceError(Reason.ATTEMPT_STALE) if dispatch.attempt.attempt in used_up else None
    job = await client.wait(await client.submit(), "complete")
    assert job.attempt == 3


async def test_a_stream_that_is_canceled_before_it_began_keeps_nobody_waiting() -> None:
    worker = FakeWorker()
    url = await worker.start()
    link = WorkerLink(LinkSettings(url, ExecutionMode.REMOTE, "worker-token", 0.2), lambda: None, lambda *_: None)
    stream = RunStream(link)
    sending = asyncio.ensure_future(stream.send(pb.RunRequest()))
    await asyncio.sleep(0)
    stream._call.cancel()
    async with asyncio.timeout(5):
        assert not await sending
        with pytest.raises(LinkLostError):
            await stream.answer()
    stream.close()
    await link.close()
    await worker.stop()


async def test_an_attempt_whose_job_was_deleted_while_nobody_could_stop_it_is_stopped_later(tmp_path: Path) -> None:
    """Its worker is away, the job is canceled and deleted, and the controller is started again."""
    worker = FakeWorker()
    url = await worker.start()
    port = worker.port
    worker.plan = lambda dispatch: [planned()]
    async with running_controller(tmp_path, remote_worker_url=url) as client:
        await client.wait_connected()
        job_id = await client.submit()
        await client.wait(job_id, "running")
        await worker.stop()
        await client.wait(job_id, "running", lambda job: job.last_error_code == "REMOTE_WORKER_UNREACHABLE")
        await client.cancel(job_id)
        await client.delete(job_id)
    async with running_controller(tmp_path, remote_worker_url=url) as client:
        await worker.start(port=port)
        async with asyncio.timeout(20):
            while worker.held:  # noqa: ASYNC110 - the fake rings no bell
                await asyncio.sleep(0.01)
        assert worker.dispatched == [(job_id, 1)]
    await worker.stop()


async def test_an_old_attempt_that_does_not_end_holds_its_job_up_no_longer(tmp_path: Path) -> None:
    """Its worker comes back after the lease and takes its time to stop; another one is free."""
    slow, free = FakeWorker(), FakeWorker()
    urls = [await slow.start(), await free.start()]
    port = slow.port
    free.slots = 0
    slow.plan = lambda dispatch: [planned()]
    async with running_controller(
        tmp_path, remote_worker_url=",".join(urls), remote_worker_lease_seconds=0.3
    ) as client:
        await client.wait_connected()
        job_id = await client.submit()
        await client.wait(job_id, "running")
        await slow.stop()
        await client.wait(job_id, "queued_remote")
        slow.obedient = False
        slow.slots = 0
        await slow.start(port=port)
        await client.wait_connected()
        async with asyncio.timeout(20):
            while not slow.held[(job_id, 1)].canceled:  # noqa: ASYNC110 - the fake rings no bell
                await asyncio.sleep(0.01)
        free.slots = 1
        free.changed()
        job = await client.wait(job_id, "complete")
        assert (job.attempt, free.dispatched) == (2, [(job_id, 2)])
        assert (job_id, 1) in slow.held
    await slow.stop()
    await free.stop()


async def test_attempts_at_a_worker_that_is_not_understood_are_left_alone(tmp_path: Path) -> None:
    worker = FakeWorker()
    url = await worker.start()
    worker.plan = lambda dispatch: [planned()]
    async with running_controller(tmp_path, remote_worker_url=url) as client:
        await client.wait_connected()
        job_id = await client.submit()
        await client.wait(job_id, "running")
        await client.cancel(job_id)
        held = worker.held[(job_id, 1)]
    worker.held[(job_id, 1)], held.canceled, held.script = held, False, [planned()]
    worker.version = "9.0.0"
    async with running_controller(tmp_path, remote_worker_url=url) as client:
        await asyncio.sleep(1.0)
        assert not held.canceled
        worker.version = VERSION
        async with asyncio.timeout(20):
            while not held.canceled:  # noqa: ASYNC110 - the fake rings no bell
                await asyncio.sleep(0.01)
    await worker.stop()


async def test_a_job_is_in_line_also_when_its_client_went_away_in_the_middle(
    client: Client, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_jobs, stored = SqlStore.create_jobs, asyncio.Event()

    async def slow(self: SqlStore, *given: object) -> object:
        jobs = await create_jobs(self, *given)  # type: ignore[arg-type]
        stored.set()
        await asyncio.sleep(0.3)
        return jobs

    upload = await client.upload()
    monkeypatch.setattr(SqlStore, "create_jobs", slow)
    creating = asyncio.ensure_future(client.create(upload, request_id="r"))
    await asyncio.wait_for(stored.wait(), 10)
    creating.cancel()
    monkeypatch.setattr(SqlStore, "create_jobs", create_jobs)
    (job,) = await client.create(upload, request_id="r")
    await client.wait(job.job_id, "complete")
