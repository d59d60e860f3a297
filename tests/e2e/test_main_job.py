"""The main job on real speech: uploaded, transcribed, followed and fetched over HTTP, in every format."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from bulkscribe.jobs.v1 import jobs_pb2
from bulkscribe.worker.v1 import worker_pb2
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from benchmarks.scoring import speaker_errors, word_errors
from scripts.demo import EXAMPLES
from services.contract.metadata import AUTHORIZATION, bearer
from tests.gateway import Browser
from tests.system import System

REFERENCES: dict[str, Any] = json.loads((EXAMPLES / "reference.json").read_text())
CONVERSATION = next(name for name, reference in REFERENCES.items() if reference["speakers"] == 2)
MONOLOGUE = min(
    (name for name, reference in REFERENCES.items() if reference["speakers"] == 1),
    key=lambda name: REFERENCES[name]["duration"],
)
END_SECONDS = 60.0


async def submit(browser: Browser, name: str, **options: object) -> str:
    status, uploaded = await browser.upload((name, (EXAMPLES / name).read_bytes()))
    assert status == 200, uploaded
    assert uploaded["uploads"][0]["durationSeconds"] == pytest.approx(REFERENCES[name]["duration"], abs=0.2)
    body = {"uploadIds": [uploaded["uploads"][0]["id"]], "options": {"model": "demo"} | options}
    status, created = await browser.post("/api/jobs", json=body)
    assert status == 200, created
    return str(created["jobId"])


async def ended(browser: Browser, job_id: str) -> dict[str, Any]:
    async with asyncio.timeout(END_SECONDS):
        await browser.events(job_id)
    _, job = await browser.get(f"/api/jobs/{job_id}")
    return dict(job)


async def text(browser: Browser, path: str) -> tuple[str, str]:
    """(content type, body)"""
    async with browser.http.get(browser.url + path) as response:
        assert response.status == 200, await response.text()
        return response.content_type, await response.text()


async def test_a_conversation_comes_out_right_with_its_speakers(browser: Browser) -> None:
    job_id = await submit(browser, CONVERSATION, useRemoteWorker=True, diarizationEnabled=True, wordTimestamps=True)
    job = await ended(browser, job_id)
    assert (job["status"], job["executionMode"], job["attempt"]) == ("complete", "remote", 1), job
    assert job["worker"]["workerJobId"].startswith("wk_")
    assert (job["lastErrorCode"], job["progress"]["percent"]) == (None, 100)
    _, transcript = await browser.get(f"/api/jobs/{job_id}/transcript?format=json")
    reference = REFERENCES[CONVERSATION]
    assert word_errors(reference["text"], transcript["text"]).rate <= 0.05
    assert transcript["speakers"] == ["SPEAKER_00", "SPEAKER_01"]
    assert speaker_errors(reference["turns"], transcript["turns"]).rate <= 0.05
    words = [word for segment in transcript["segments"] for word in segment["words"]]
    assert "".join(word["word"] for word in words).split() == transcript["text"].split()
    assert all(0 <= word["start"] <= word["end"] <= transcript["duration"] for word in words)


async def test_events_tell_all_of_it_and_go_on_after_any_of_them(browser: Browser) -> None:
    job_id = await submit(browser, CONVERSATION, useRemoteWorker=True, diarizationEnabled=True)
    async with asyncio.timeout(END_SECONDS):
        events = await browser.events(job_id)
    numbers = [event["id"] for event in events]
    assert numbers == sorted(set(numbers))
    states = [event["data"]["status"] for event in events if "status" in event["data"]]
    assert states[:2] == ["queued", "queued_remote"]
    assert states[-1] == "complete"
    assert "running" in states
    _, transcript = await browser.get(f"/api/jobs/{job_id}/transcript")
    assert [event["data"]["segment"] for event in events if "segment" in event["data"]] == transcript["segments"]
    for after in (numbers[0], numbers[len(numbers) // 2], numbers[-1]):
        assert await browser.events(job_id, after) == [event for event in events if event["id"] > after]


async def test_every_format(browser: Browser) -> None:
    job_id = await submit(browser, MONOLOGUE, useRemoteWorker=True)
    await ended(browser, job_id)
    path = f"/api/jobs/{job_id}/transcript?format="
    said = REFERENCES[MONOLOGUE]["text"].split()[0]
    for form, kind in (("txt", "text/plain"), ("md", "text/markdown"), ("srt", "application/x-subrip")):
        content_type, body = await text(browser, path + form)
        assert content_type == kind
        assert said in body
    content_type, vtt = await text(browser, path + "vtt")
    assert (content_type, vtt.splitlines()[0]) == ("text/vtt", "WEBVTT")
    _, tsv = await text(browser, path + "tsv")
    assert tsv.startswith("start\tend")
    status, refused = await browser.get(path + "docx")
    assert (status, refused["code"]) == (400, "INVALID_REQUEST")


async def test_a_job_that_does_not_ask_for_a_remote_worker_runs_on_this_machine(browser: Browser) -> None:
    job_id = await submit(browser, MONOLOGUE)
    job = await ended(browser, job_id)
    assert (job["status"], job["executionMode"]) == ("complete", "local"), job
    _, transcript = await browser.get(f"/api/jobs/{job_id}/transcript")
    assert word_errors(REFERENCES[MONOLOGUE]["text"], transcript["text"]).rate <= 0.05


async def test_the_guides_lines_for_operators(system: System) -> None:
    script = f"""
        set -euo pipefail
        curl -sS {system.worker_url}/health | jq -e '.status == "ok"'
        curl -sS -H "Authorization: Bearer $WORKER_TOKEN" {system.worker_url}/v1/ping | jq -e '.maxConcurrentJobs == 1'
        curl -sS {system.url}/api/runtime | jq -e '.remoteWorker.workerCapabilities | .activeJobs >= 0 and .gpu == false'
        curl -s {system.url}/api/runtime | jq -e '.remoteWorker.connected'
        tail -n 1000 {system.log} | grep -E 'remote_|capacity' | jq -es 'length > 0'
    """
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", script),
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", **system.secrets},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    if process.returncode == 127:
        pytest.skip("curl or jq is not installed")
    assert process.returncode == 0, out.decode()


@pytest.mark.parametrize("service", ["bulkscribe.jobs.v1.JobService", "bulkscribe.worker.v1.WorkerService"])
async def test_health_and_reflection_answer_on_both_servers(system: System, service: str) -> None:
    worker = "worker" in service
    target = system.worker_url.removeprefix("http://") if worker else system.controller_address
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    described = await asyncio.to_thread(_reflected, target, service, system)
    ours = (worker_pb2 if worker else jobs_pb2).DESCRIPTOR.services_by_name[service.rpartition(".")[2]]
    assert described == [method.name for method in ours.methods]


def _reflected(target: str, service: str, system: System) -> list[str]:
    """What `grpcurl describe` would show, token and all."""
    token = system.secrets["WORKER_TOKEN" if "worker" in service else "CONTROLLER_TOKEN"]
    assert bearer(token)
    assert AUTHORIZATION == "authorization"
    with grpc.insecure_channel(target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = descriptor_pool.DescriptorPool(database)
        return [method.name for method in pool.FindServiceByName(service).methods]


async def test_nothing_that_is_secret_is_told(system: System, browser: Browser) -> None:
    """Over all that the session's tests made it write and answer so far."""
    cookie = next(iter(browser.http.cookie_jar)).value
    _, runtime = await text(browser, "/api/runtime")
    _, document = await text(browser, "/api/openapi.json")
    written = system.log.read_text() + system.output
    for secret in [*system.secrets.values(), cookie, browser.csrf]:
        for place in (written, runtime, document):
            assert secret not in place


async def test_logs_are_lines_of_json_with_what_was_promised(system: System, browser: Browser) -> None:
    job_id = await submit(browser, MONOLOGUE, useRemoteWorker=True)
    await ended(browser, job_id)
    lines = [json.loads(line) for line in system.log.read_text().splitlines()]
    assert all({"event", "timestamp", "level", "service"} <= line.keys() for line in lines)
    assert {"gateway", "controller", "worker", "engine"} <= {line["service"] for line in lines}
    of_job = {line["event"] for line in lines if line.get("job_id") == job_id}
    assert {"remote_audio_uploaded", "remote_job_started", "remote_attempt_accepted", "remote_job_ended"} & of_job
    assert any(re.search("capacity", line["event"]) for line in lines)
    assert all(str(Path(line["event"])) == line["event"] for line in lines)


async def test_prometheus_metrics_of_worker_and_gateway(system: System) -> None:
    async with aiohttp.ClientSession() as http:
        for url, metric in ((system.worker_url, "worker_slots"), (system.url, "gateway_requests_total")):
            async with http.get(f"{url}/metrics") as response:
                assert response.status == 200
                assert metric in await response.text()
