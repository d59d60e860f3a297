"""Jobs over HTTP: creation, lists, details, cancel, delete, transcripts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from bulkscribe.jobs.v1 import jobs_pb2
from pydantic import TypeAdapter

from gateway.answers import CreatedJobs, JobAnswer, JobsAnswer, TranscriptAnswer
from tests.fakes.controller import segment
from tests.gateway import Setup, gateway_over_fake


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    async with gateway_over_fake() as running:
        yield running


def assert_shape(kind: Any, answer: Any) -> None:
    """All keys of the type are there, and no others."""
    TypeAdapter(kind).validate_python(answer, strict=True)
    assert set(answer) == set(kind.__annotations__)


async def test_a_job_for_each_upload_with_its_options(setup: Setup) -> None:
    browser = setup.browser
    _, uploaded = await browser.upload(("a.wav", b"one"), ("b.wav", b"two"))
    ids = [upload["id"] for upload in uploaded["uploads"]]
    options = {"model": "demo", "useRemoteWorker": True, "diarizationEnabled": True, "minSpeakers": 1, "maxSpeakers": 2}
    more = {
        "diarizationMaxDurationSeconds": 90,
        "speakerPerChannel": True,
        "wordTimestamps": True,
        "vad": False,
        "language": "EN",
        "hotwords": "x",
    }
    status, created = await browser.post("/api/jobs", json={"uploadIds": ids, "options": options | more})
    assert status == 200
    assert_shape(CreatedJobs, created)
    assert [job["uploadId"] for job in created["jobs"]] == ids
    assert created["jobId"] == created["jobs"][0]["jobId"]
    assert (created["status"], created["executionMode"]) == ("queued", "remote")
    _, job = await browser.get(f"/api/jobs/{created['jobId']}")
    assert_shape(JobAnswer, job)
    assert job["options"] == options | more | {
        "language": "en",
        "diarizationMaxDurationSeconds": 90.0,
        "diarizationFastSwitching": False,
        "initialPrompt": None,
    }
    assert job["createdAt"].endswith("Z")
    assert job["worker"] is job["startedAt"] is job["lastErrorCode"] is None


async def test_defaults_of_options(setup: Setup) -> None:
    _, job = await setup.browser.get(f"/api/jobs/{await setup.browser.new_job(language=None, model='')}")
    assert job["executionMode"] == "local"
    assert job["options"]["vad"] is True
    assert job["options"]["speakerPerChannel"] is False
    assert job["options"]["model"] is job["options"]["language"] is job["options"]["minSpeakers"] is None


async def test_the_same_request_id_returns_the_same_jobs(setup: Setup) -> None:
    _, uploaded = await setup.browser.upload(("a.wav", b"one"))
    body = {"uploadIds": [uploaded["uploads"][0]["id"]], "requestId": "once"}
    answers = [await setup.browser.post("/api/jobs", json=body) for _ in range(2)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b'"\xff"', "not valid JSON"),
        (b"[]", "body"),
        (b"{}", "uploadIds is missing"),
        (b'{"uploadIds": []}', "uploadIds"),
        (b'{"uploadIds": "u"}', "uploadIds"),
        (b'{"uploadIds": [1]}', "uploadIds.0"),
        (b'{"uploadIds": ["u"], "more": 1}', "more is not known"),
        (b'{"uploadIds": ["u"], "options": {"speed": 2}}', "options.speed is not known"),
        (b'{"uploadIds": ["u"], "options": {"vad": "yes"}}', "options.vad"),
        (b'{"uploadIds": ["u"], "options": {"speakerPerChannel": 1}}', "options.speakerPerChannel"),
        (
            b'{"uploadIds": ["u"], "options": {"diarizationMaxDurationSeconds": 0}}',
            "options.diarizationMaxDurationSeconds",
        ),
        (b'{"uploadIds": ["u"], "options": {"diarizationMaxDurationSeconds": NaN}}', "diarizationMaxDurationSeconds"),
        (b'{"uploadIds": ["u"], "options": {"minSpeakers": 0}}', "options.minSpeakers"),
        (b'{"uploadIds": ["u"], "options": {"minSpeakers": 3, "maxSpeakers": 2}}', "minSpeakers should be at most"),
        (b'{"uploadIds": ["u"], "options": {"language": "klingon"}}', "options.language"),
        (b'{"uploadIds": ["u\\u0000"]}', "U+0000"),
    ],
)
async def test_a_wrong_request_is_told_where(setup: Setup, body: bytes, place: str) -> None:
    status, answer = await setup.browser.post("/api/jobs", data=body, headers={"Content-Type": "application/json"})
    assert status == 400
    assert place in answer["error"]
    assert answer["code"] == ("LANGUAGE_UNSUPPORTED" if "language" in place else "INVALID_REQUEST")


async def test_what_the_controller_refuses(setup: Setup) -> None:
    _, uploaded = await setup.browser.upload(("a.wav", b"one"))
    ids = [uploaded["uploads"][0]["id"]]
    status, answer = await setup.browser.post("/api/jobs", json={"uploadIds": ids, "options": {"model": "huge"}})
    assert (status, answer["code"]) == (400, "MODEL_UNKNOWN")
    assert "huge" in answer["error"]
    status, answer = await setup.browser.post("/api/jobs", json={"uploadIds": ["nothing"]})
    assert (status, answer["code"]) == (404, "NOT_FOUND")


async def test_lists_by_page_and_status(setup: Setup) -> None:
    browser = setup.browser
    made = [await browser.new_job() for _ in range(3)]
    await setup.fake.change(made[0], jobs_pb2.JOB_STATUS_RUNNING, "transcribing", 40)
    _, first = await browser.get("/api/jobs?pageSize=2")
    assert_shape(JobsAnswer, first)
    _, rest = await browser.get(f"/api/jobs?pageSize=2&pageToken={first['nextPageToken']}")
    assert [job["jobId"] for job in first["jobs"] + rest["jobs"]] == made[::-1]
    assert rest["nextPageToken"] is None
    _, running = await browser.get("/api/jobs?status=running")
    assert [(job["jobId"], job["progress"]) for job in running["jobs"]] == [
        (made[0], {"stage": "transcribing", "percent": 40.0, "secondsLeft": None})
    ]


async def test_a_job_that_runs_tells_the_time_left_and_what_it_waits_for(setup: Setup) -> None:
    job_id = await setup.browser.new_job()
    await setup.fake.change(job_id, jobs_pb2.JOB_STATUS_RUNNING, "loading", message="loading model demo")
    _, job = await setup.browser.get(f"/api/jobs/{job_id}")
    assert job["progress"] == {"stage": "loading", "percent": 0.0, "secondsLeft": None}
    assert job["message"] == "loading model demo"
    await setup.fake.change(job_id, jobs_pb2.JOB_STATUS_RUNNING, "transcribing", 40, 181.25)
    _, job = await setup.browser.get(f"/api/jobs/{job_id}")
    assert_shape(JobAnswer, job)
    assert job["progress"] == {"stage": "transcribing", "percent": 40.0, "secondsLeft": 181.2}
    await setup.fake.complete(job_id)
    _, job = await setup.browser.get(f"/api/jobs/{job_id}")
    assert job["progress"] == {"stage": "done", "percent": 100.0, "secondsLeft": None}


async def test_where_voice_gave_no_words(setup: Setup) -> None:
    quiet, job_id = await setup.browser.new_job(), await setup.browser.new_job()
    setup.fake.add_silence(job_id, 30, 58.25)
    for made in (quiet, job_id):
        await setup.fake.complete(made, segment(0))
    silence = [{"start": 30.0, "end": 58.25}]
    for path, stretches in ((quiet, []), (job_id, silence)):
        assert (await setup.browser.get(f"/api/jobs/{path}"))[1]["silentStretches"] == stretches
        _, transcript = await setup.browser.get(f"/api/jobs/{path}/transcript")
        assert_shape(TranscriptAnswer, transcript)
        assert transcript["silentStretches"] == stretches


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("status=done", "'queued_remote'"),
        ("pageSize=0", "pageSize"),
        ("pageSize=1001", "pageSize"),
        ("pageSize=x", "pageSize"),
    ],
)
async def test_a_wrong_query_is_told_where(setup: Setup, query: str, place: str) -> None:
    status, answer = await setup.browser.get(f"/api/jobs?{query}")
    assert status == 400
    assert place in answer["error"]


async def test_cancel_and_delete(setup: Setup) -> None:
    browser, job_id = setup.browser, await setup.browser.new_job()
    assert (await browser.ask("DELETE", f"/api/jobs/{job_id}"))[0] == 409
    status, job = await browser.post(f"/api/jobs/{job_id}/cancel")
    assert (status, job["status"], job["lastErrorCode"]) == (200, "canceled", "USER_CANCELED")
    status, answer = await browser.post(f"/api/jobs/{job_id}/cancel")
    assert (status, answer["code"]) == (409, "JOB_ENDED")
    assert (await browser.ask("DELETE", f"/api/jobs/{job_id}"))[0] == 200
    assert (await browser.get(f"/api/jobs/{job_id}"))[0] == 404


async def test_another_session_sees_nothing(setup: Setup) -> None:
    job_id = await setup.browser.new_job()
    await setup.fake.complete(job_id, segment(0))
    async with setup.another_browser() as other:
        await other.begin()
        assert (await other.get("/api/jobs"))[1]["jobs"] == []
        for path in ("", "/events", "/transcript"):
            status, answer = await other.get(f"/api/jobs/{job_id}{path}")
            assert (status, answer["code"]) == (404, "NOT_FOUND")
        assert (await other.post(f"/api/jobs/{job_id}/cancel"))[0] == 404
        assert (await other.ask("DELETE", f"/api/jobs/{job_id}"))[0] == 404


async def test_transcript_as_json(setup: Setup) -> None:
    job_id = await setup.browser.new_job("interview 🎙.wav")
    status, answer = await setup.browser.get(f"/api/jobs/{job_id}/transcript")
    assert (status, answer["code"]) == (409, "TRANSCRIPT_NOT_READY")
    await setup.fake.complete(job_id, segment(0, " Héllo  there", "SPEAKER_00", words=True), segment(1, " you\n"))
    _, answer = await setup.browser.get(f"/api/jobs/{job_id}/transcript")
    assert_shape(TranscriptAnswer, answer)
    assert answer["text"] == "Héllo there you"
    assert answer["speakers"] == ["SPEAKER_00"]
    assert answer["segments"][0]["words"] == [
        {"word": " Héllo  there", "start": 0.0, "end": 1.5, "probability": 0.5, "speaker": "SPEAKER_00"}
    ]
    assert (answer["segments"][1]["speaker"], answer["segments"][1]["words"]) == (None, [])


@pytest.mark.parametrize(
    ("form", "content_type", "begins"),
    [
        ("json", "application/json", "{"),
        ("txt", "text/plain", "hello"),
        ("srt", "application/x-subrip", "1\n00:00:00,000 --> 00:00:01,500\nhello"),
        ("vtt", "text/vtt", "WEBVTT\n"),
        ("md", "text/markdown", "# "),
        ("tsv", "text/tab-separated-values", "start\tend\tspeaker\ttext\n0.000\t1.500\t\thello"),
    ],
)
async def test_transcript_formats(setup: Setup, form: str, content_type: str, begins: str) -> None:
    job_id = await setup.browser.new_job("interview 🎙.wav")
    await setup.fake.complete(job_id, segment(0))
    url = f"{setup.browser.url}/api/jobs/{job_id}/transcript?format={form}"
    async with setup.browser.http.get(url) as response:
        assert response.headers["Content-Type"] == f"{content_type}; charset=utf-8"
        assert f"interview%20%F0%9F%8E%99.wav.{form}" in response.headers["Content-Disposition"]
        assert (await response.text()).startswith(begins)


async def test_a_long_transcript_comes_whole(setup: Setup) -> None:
    job_id = await setup.browser.new_job()
    await setup.fake.complete(job_id, *(segment(number, f" number {number}", words=True) for number in range(3000)))
    _, answer = await setup.browser.get(f"/api/jobs/{job_id}/transcript")
    assert [given["text"] for given in answer["segments"]] == [f" number {number}" for number in range(3000)]


async def test_an_unknown_format_is_refused(setup: Setup) -> None:
    status, answer = await setup.browser.get(f"/api/jobs/{await setup.browser.new_job()}/transcript?format=docx")
    assert status == 400
    assert "'srt'" in answer["error"]
