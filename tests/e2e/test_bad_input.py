"""What must not work over HTTP says why in one sentence, and everything beside it goes on. Real processes, real decoding."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from benchmarks.multipart import recording_body
from gateway.sessions import CSRF_HEADER
from scripts.demo import EXAMPLES
from tests.e2e.test_main_job import MONOLOGUE, ended, submit
from tests.gateway import Browser
from tests.recordings import cut_off, encode, tone, video
from tests.system import MAX_UPLOAD_MB, System

TEXT = b"A shopping list, and no recording: milk, eggs, bread.\n" * 20


def sound(folder: Path) -> bytes:
    return encode(folder / "sound.wav", tone(1), "pcm_s16le").read_bytes()


def silent_video(folder: Path) -> bytes:
    return video(folder / "silent.mp4").read_bytes()


def junk_as_wav(folder: Path) -> bytes:
    return b"RIFF\xff\xff\xff\xffWAVEfmt " + bytes(range(256)) * 40


def playlist(folder: Path) -> bytes:
    """FFmpeg would open what it names."""
    return b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n"


async def assert_all_goes_on(browser: Browser) -> None:
    """The system still does its main job."""
    job = await ended(browser, await submit(browser, MONOLOGUE, useRemoteWorker=True))
    assert job["status"] == "complete", job


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("list.mp3", lambda _: TEXT, "no audio can be decoded"),
        ("empty.mp3", lambda _: b"", "it is empty"),
        ("film.mp4", silent_video, "no sound track"),
        ("broken.wav", junk_as_wav, "no audio can be decoded"),
        ("list.m3u8", playlist, "no audio can be decoded"),
    ],
)
async def test_what_is_no_recording_is_refused_and_the_one_beside_it_is_kept(
    browser: Browser, tmp_path: Path, name: str, content: Callable[[Path], bytes], said: str
) -> None:
    status, answer = await browser.upload((name, content(tmp_path)), ("good.wav", sound(tmp_path)))
    assert status == 200
    assert [upload["filename"] for upload in answer["uploads"]] == ["good.wav"]
    (refused,) = answer["errors"]
    assert (refused["filename"], refused["code"]) == (name, "AUDIO_INVALID")
    assert said in refused["error"]
    assert "/" not in refused["error"]
    await assert_all_goes_on(browser)


async def test_a_truncated_recording_is_used_as_far_as_it_goes(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "cut.mp3"
    path.write_bytes(next(EXAMPLES.glob("*.mp3")).read_bytes())
    status, answer = await browser.upload(("cut.mp3", cut_off(path, 0.6).read_bytes()))
    assert (status, answer["errors"]) == (200, [])
    body = {"uploadIds": [answer["uploads"][0]["id"]], "options": {"model": "demo", "useRemoteWorker": True}}
    _, created = await browser.post("/api/jobs", json=body)
    job = await ended(browser, created["jobId"])
    assert job["status"] == "complete", job
    _, transcript = await browser.get(f"/api/jobs/{job['jobId']}/transcript")
    assert transcript["segments"]


async def test_a_file_over_the_limit_is_refused_with_what_to_do(browser: Browser, tmp_path: Path) -> None:
    large = bytes(MAX_UPLOAD_MB * 1024 * 1024 + 1)
    status, answer = await browser.upload(("large.wav", large), ("good.wav", sound(tmp_path)))
    assert status == 200
    (refused,) = answer["errors"]
    assert (refused["code"], len(answer["uploads"])) == ("FILE_TOO_LARGE", 1)
    assert f"{MAX_UPLOAD_MB} MB" in refused["error"]
    assert "GATEWAY_MAX_UPLOAD_MB" in refused["error"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../../etc/cron.d/evil.wav", "evil.wav"),
        ("..\\..\\windows\\evil.wav", "evil.wav"),
        ("bell\x07\x1b[2Jtitle.wav", "bell[2Jtitle.wav"),
        ("Grüße 👩‍🚀 от Анны.wav", "Grüße 👩‍🚀 от Анны.wav"),
        ("x" * 300 + ".wav", "x" * 236 + ".wav"),
        ('"; rm -rf ~; ".wav', '"; rm -rf ~; ".wav'),
    ],
)
async def test_hostile_names_are_shown_safely_everywhere(
    browser: Browser, tmp_path: Path, name: str, shown: str
) -> None:
    content = sound(tmp_path)
    body = recording_body(name, len(content))
    sent = b"".join([piece async for piece in body.pieces(io.BytesIO(content))])
    status, answer = await browser.post("/api/uploads", data=sent, headers={"Content-Type": body.content_type})
    assert (status, answer["errors"]) == (200, [])
    assert answer["uploads"][0]["filename"] == shown
    wanted = {"uploadIds": [answer["uploads"][0]["id"]], "options": {"model": "demo", "useRemoteWorker": True}}
    _, created = await browser.post("/api/jobs", json=wanted)
    job = await ended(browser, created["jobId"])
    assert (job["status"], job["filename"]) == ("complete", shown)
    async with browser.http.get(f"{browser.url}/api/jobs/{job['jobId']}/transcript?format=srt") as response:
        assert response.status == 200
        assert response.headers["Content-Disposition"].isascii()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "object"),
        (b'{"uploadIds": []}', "uploadIds"),
        (b'{"uploadIds": "abc"}', "uploadIds"),
        (b'{"uploadIds": ["a"], "options": {"modell": "demo"}}', "options.modell is not known"),
        (b'{"uploadIds": ["a"], "options": {"minSpeakers": 0}}', "minSpeakers"),
        (b"\xff\xfe\x00", "JSON"),
        (b'{"a":' * 10_000, "JSON"),
    ],
)
async def test_malformed_json_names_what_is_wrong(browser: Browser, body: bytes, said: str) -> None:
    headers = {"Content-Type": "application/json"}
    status, answer = await browser.post("/api/jobs", data=body, headers=headers)
    assert (status, answer["code"]) == (400, "INVALID_REQUEST"), answer
    assert said in answer["error"]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data; boundary=b", b"--b\r\nno header"),
        ("multipart/form-data; boundary=b", b"nothing of the kind"),
        ("multipart/form-data", b"--b\r\n"),
        ("application/json", b"{}"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="other"\r\n\r\nx\r\n--b--\r\n',
        ),
    ],
)
async def test_malformed_multipart_is_a_400(browser: Browser, content_type: str, body: bytes) -> None:
    status, answer = await browser.post("/api/uploads", data=body, headers={"Content-Type": content_type})
    assert (status, answer["code"]) == (400, "INVALID_REQUEST"), answer
    assert answer["error"].endswith(".")


async def test_a_body_that_breaks_off_leaves_no_upload_behind(system: System, browser: Browser) -> None:
    host, _, port = system.url.removeprefix("http://").partition(":")
    cookie = next(iter(browser.http.cookie_jar))
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /api/uploads HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        + f"Cookie: {cookie.key}={cookie.value}\r\n{CSRF_HEADER}: {browser.csrf}\r\n".encode()
        + b"Content-Length: 1000000\r\n\r\n"
        + b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
        + bytes(100_000)
    )
    await writer.drain()
    writer.close()
    partial = system.folder / "data" / "blobs" / "partial"
    async with asyncio.timeout(20):
        while partial.exists() and list(partial.iterdir()):  # noqa: ASYNC110 - another process removes it
            await asyncio.sleep(0.05)
    assert not await reader.read()
    await assert_all_goes_on(browser)


async def test_without_the_csrf_token_nothing_changes(system: System, browser: Browser, tmp_path: Path) -> None:
    job_id = await submit(browser, MONOLOGUE, useRemoteWorker=True)
    stranger = Browser(system.url, browser.http, csrf="wrong")
    for method, path in (
        ("POST", "/api/uploads"),
        ("POST", "/api/jobs"),
        ("POST", f"/api/jobs/{job_id}/cancel"),
        ("DELETE", f"/api/jobs/{job_id}"),
    ):
        status, answer = await stranger.ask(method, path, data=b"{}")
        assert (status, answer["code"]) == (403, "CSRF_INVALID")
        assert CSRF_HEADER in answer["error"]
    assert (await ended(browser, job_id))["status"] == "complete"


async def test_another_sessions_things_are_not_there(system: System, browser: Browser) -> None:
    job_id = await submit(browser, MONOLOGUE, useRemoteWorker=True)
    job = await ended(browser, job_id)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        mallory = Browser(system.url, http)
        await mallory.begin()
        for method, path in (
            ("GET", f"/api/jobs/{job_id}"),
            ("GET", f"/api/jobs/{job_id}/transcript"),
            ("GET", f"/api/jobs/{job_id}/events"),
            ("POST", f"/api/jobs/{job_id}/cancel"),
            ("DELETE", f"/api/jobs/{job_id}"),
        ):
            status, answer = await mallory.ask(method, path)
            assert (status, answer["code"]) == (404, "NOT_FOUND"), path
        status, _ = await mallory.post("/api/jobs", json={"uploadIds": [job["uploadId"]]})
        assert status == 404
        assert (await mallory.get("/api/jobs"))[1]["jobs"] == []
    assert (await browser.get(f"/api/jobs/{job_id}"))[0] == 200


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ({"model": "enormous", "useRemoteWorker": True}, "MODEL_UNKNOWN", "demo"),
        ({"model": "enormous"}, "MODEL_UNKNOWN", "demo"),
        ({"model": "demo", "language": "de", "useRemoteWorker": True}, "LANGUAGE_UNSUPPORTED", "en"),
        ({"model": "demo", "language": "klingon"}, "LANGUAGE_UNSUPPORTED", "code"),
        ({"model": "demo", "minSpeakers": 3, "maxSpeakers": 2}, "INVALID_REQUEST", "minSpeakers"),
    ],
)
async def test_what_cannot_be_done_is_refused_when_it_is_asked_for(
    browser: Browser, tmp_path: Path, options: dict[str, Any], code: str, said: str
) -> None:
    _, uploaded = await browser.upload(("a.wav", sound(tmp_path)))
    body = {"uploadIds": [uploaded["uploads"][0]["id"]], "options": options}
    status, answer = await browser.post("/api/jobs", json=body)
    assert (400 <= status < 500, answer["code"]) == (True, code), answer
    assert said in answer["error"]


async def test_a_model_that_is_not_on_this_machine_fails_with_what_to_do(browser: Browser) -> None:
    for _ in range(2):  # found out by the first job, known to the second
        job = await ended(browser, await submit(browser, MONOLOGUE, model="tiny", useRemoteWorker=True))
        assert job["status"] == "failed"
        assert job["lastErrorCode"] in ("REMOTE_FAILED", "REMOTE_DISPATCH_FAILED")
        assert "'tiny'" in job["lastErrorMessage"]
        assert "WORKER_MODEL_DIR" in job["lastErrorMessage"]
        assert "HF_HUB_OFFLINE" in job["lastErrorMessage"]
    _, runtime = await browser.get("/api/runtime")
    models = {model["name"]: model for model in runtime["remoteWorker"]["workerCapabilities"]["models"]}
    assert models["tiny"]["state"] == "failed"
    assert "HF_HUB_OFFLINE" in models["tiny"]["error"]
    await assert_all_goes_on(browser)


async def test_a_transcript_that_is_not_there_yet_is_a_409(browser: Browser, tmp_path: Path) -> None:
    job = await ended(browser, await submit(browser, MONOLOGUE, model="tiny", useRemoteWorker=True))
    status, answer = await browser.get(f"/api/jobs/{job['jobId']}/transcript")
    assert (status, answer["code"]) == (409, "TRANSCRIPT_NOT_READY")
    status, answer = await browser.post(f"/api/jobs/{job['jobId']}/cancel")
    assert (status, answer["code"]) == (409, "JOB_ENDED")


async def test_no_error_of_all_this_was_a_fault(system: System) -> None:
    """Bad input is nobody's bug: no line of the log has a traceback."""
    lines = [json.loads(line) for line in system.log.read_text().splitlines()]
    assert [line["event"] for line in lines if "exception" in line] == []
