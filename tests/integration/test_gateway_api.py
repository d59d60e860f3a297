"""What is not about one resource: errors, runtime, health, metrics, OpenAPI, the page, a controller that is away."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator

import pytest
from bulkscribe.jobs.v1 import jobs_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from gateway.answers import RemoteWorkerAnswer, RuntimeAnswer
from tests.fakes.controller import FakeController, duration
from tests.gateway import Setup, gateway_over_fake


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    async with gateway_over_fake() as running:
        yield running


def remote_runtime() -> jobs_pb2.GetRuntimeResponse:
    worker = jobs_pb2.RemoteWorker(
        url="http://user:secret@gpu:8477/?token=secret",
        connected=True,
        last_seen_at=Timestamp(seconds=1_700_000_000, nanos=500_000_000),
        latency=duration(0.0125),
        version="0.1.0",
        active_jobs=1,
        max_concurrent_jobs=2,
        gpu=True,
        gpu_name="NVIDIA H200",
        models=[jobs_pb2.WorkerModel(name="demo", state="loaded", note="synthetic speech only")],
        diarization="demo",
        max_file_bytes=2000 * 1024 * 1024,
    )
    unknown = jobs_pb2.RemoteWorker(
        url="http://other:8477", error="It does not answer.", error_code="REMOTE_WORKER_UNREACHABLE"
    )
    queue = jobs_pb2.QueueDepth(queued=1, queued_remote=2, running=3)
    return jobs_pb2.GetRuntimeResponse(
        version="0.1.0", mode="optional", configured=True, workers=[worker, unknown], queue=queue
    )


async def test_runtime_with_workers(setup: Setup) -> None:
    setup.fake.runtime = remote_runtime()
    async with setup.another_browser() as anybody:
        status, runtime = await anybody.get("/api/runtime")
    assert status == 200
    assert set(runtime) == set(RuntimeAnswer.__annotations__)
    assert set(runtime["remoteWorker"]) == set(RemoteWorkerAnswer.__annotations__)
    assert runtime["remoteWorker"] == runtime["workers"][0] | {"mode": "optional", "configured": True}
    assert runtime["workers"][0]["url"] == "http://gpu:8477/"
    assert runtime["workers"][0]["lastSeenAt"] == "2023-11-14T22:13:20.500Z"
    assert runtime["workers"][0]["latencyMs"] == 12.5
    assert runtime["workers"][0]["workerCapabilities"] == {
        "activeJobs": 1,
        "maxConcurrentJobs": 2,
        "gpu": True,
        "gpuName": "NVIDIA H200",
        "models": [{"name": "demo", "state": "loaded", "error": None, "note": "synthetic speech only"}],
        "diarization": "demo",
        "diarizationNote": None,
        "maxFileMB": 2000,
    }
    assert set(runtime["workers"][1]["workerCapabilities"].values()) == {None}
    assert runtime["workers"][1]["errorCode"] == "REMOTE_WORKER_UNREACHABLE"
    assert runtime["queue"] == {"queued": 1, "queuedRemote": 2, "running": 3}


async def test_runtime_without_a_remote_worker(setup: Setup) -> None:
    _, runtime = await setup.browser.get("/api/runtime")
    worker = runtime["remoteWorker"]
    assert (worker["mode"], worker["configured"], worker["connected"], worker["url"]) == ("off", False, False, None)
    assert (runtime["workers"], runtime["localWorker"]) == ([], None)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/nothing", 404),
        ("POST", "/api/nothing", 404),
        ("GET", "/api/jobs/..%2f..%2fetc", 404),
        ("GET", "/static/../gateway/app.py", 404),
        ("PUT", "/api/jobs", 405),
        ("PUT", "/api/uploads", 405),
        ("GET", "/api/uploads/tus", 404),
        ("PUT", "/api/uploads/tus/u1", 405),
        ("POST", "/api/session", 405),
        ("DELETE", "/api/jobs", 405),
    ],
)
async def test_what_there_is_not(setup: Setup, method: str, path: str, expected: int) -> None:
    status, answer = await setup.browser.ask(method, path)
    assert status == expected
    assert set(answer) == {"error", "code"}


async def test_a_body_that_is_too_large(setup: Setup) -> None:
    status, answer = await setup.browser.post("/api/jobs", data=io.BytesIO(b"x" * 2_000_000))
    assert (status, answer["code"]) == (413, "INVALID_REQUEST")


async def test_a_fault_of_the_program_tells_nothing_of_itself(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(_: object) -> None:
        raise KeyError("/home/secret/path")

    monkeypatch.setattr("gateway.wire.runtime_answer", faulty)
    status, answer = await setup.browser.get("/api/runtime")
    assert (status, answer["code"]) == (500, "INTERNAL")
    assert "secret" not in answer["error"]


async def test_without_the_controller_there_is_a_503_and_health(setup: Setup) -> None:
    job_id = await setup.browser.new_job()
    await setup.fake.stop()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        asked = [
            group.create_task(setup.browser.ask(method, path, **more))
            for method, path, more in (
                ("GET", "/api/jobs", {}),
                ("GET", f"/api/jobs/{job_id}", {}),
                ("GET", f"/api/jobs/{job_id}/transcript", {}),
                ("GET", "/api/runtime", {}),
                ("POST", "/api/jobs", {"json": {"uploadIds": ["x"]}}),
                ("DELETE", f"/api/jobs/{job_id}", {}),
            )
        ]
        asked.append(group.create_task(setup.browser.upload(("a.wav", b"sound"))))
    assert {(status, answer["code"]) for status, answer in (task.result() for task in asked)} == {
        (503, "CONTROLLER_UNREACHABLE")
    }
    status, health = await setup.browser.get("/healthz")
    assert (status, health["status"], health["controllerConnected"]) == (200, "ok", False)
    await setup.fake.start()
    assert (await setup.browser.get(f"/api/jobs/{job_id}"))[0] == 200
    assert (await setup.browser.get("/healthz"))[1]["controllerConnected"] is True


async def test_a_controller_that_refuses_the_gateways_token() -> None:
    async with gateway_over_fake(token="wrong", fake=FakeController(token="right")) as setup:
        for status, answer in (await setup.browser.get("/api/jobs"), await setup.browser.upload(("a", b"b"))):
            assert (status, answer["code"]) == (503, "CONTROLLER_UNREACHABLE")
            assert "CONTROLLER_TOKEN" in answer["error"]
    async with gateway_over_fake(token="right", fake=FakeController(token="right")) as setup:
        assert (await setup.browser.get("/api/jobs"))[0] == 200


async def test_metrics_name_routes_and_no_ids(setup: Setup) -> None:
    job_id = await setup.browser.new_job()
    await setup.browser.get(f"/api/jobs/{job_id}")
    async with setup.browser.http.get(setup.browser.url + "/metrics") as response:
        text = await response.text()
    assert 'gateway_requests_total{method="GET",route="/api/jobs/{job_id}",status="200"} 1.0' in text
    assert "gateway_upload_bytes_total 5.0" in text
    assert "gateway_event_streams 0.0" in text
    assert job_id not in text


TUS = "/api/uploads/tus/"
"""Where HEAD is an operation of its own; elsewhere it goes with GET."""


async def test_openapi_names_every_route_and_schema(setup: Setup) -> None:
    _, document = await setup.browser.get("/api/openapi.json")
    routes = {
        (route.method.lower(), route.resource.canonical)
        for route in setup.app.router.routes()
        if route.resource is not None and (route.method != "HEAD" or route.resource.canonical.startswith(TUS))
    }
    assert {(method, path) for path, methods in document["paths"].items() for method in methods} == routes
    create = document["paths"]["/api/jobs"]["post"]
    assert create["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/CreateJobs"}
    assert set(create["responses"]) == {"200", "400", "403", "404", "409", "413", "503"}
    schemas = document["components"]["schemas"]
    assert schemas["JobOptions"]["additionalProperties"] is False
    assert {"diarizationFastSwitching", "speakerPerChannel"} <= set(schemas["JobOptions"]["properties"])
    assert "format" in [
        given["name"] for given in document["paths"]["/api/jobs/{job_id}/transcript"]["get"]["parameters"]
    ]
    for name in references(document):
        assert name in schemas


def references(value: object) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"].rpartition("/")[2]} if "$ref" in value else set()
        return own.union(*(references(item) for item in value.values()))
    return set[str]().union(*(references(item) for item in value)) if isinstance(value, list) else set()


@pytest.mark.parametrize(
    ("path", "content_type"),
    [("/", "text/html"), ("/static/page.js", "text/javascript"), ("/static/page.css", "text/css")],
)
async def test_the_page_runs_only_its_own_script(setup: Setup, path: str, content_type: str) -> None:
    async with setup.browser.http.get(setup.browser.url + path) as response:
        text = await response.text()
        assert response.content_type == content_type
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "unsafe" not in response.headers["Content-Security-Policy"]
    assert "style=" not in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "<script>" not in text


async def test_head_of_the_page_and_of_health(setup: Setup) -> None:
    for path in ("/", "/healthz"):
        async with setup.browser.http.head(setup.browser.url + path) as response:
            assert response.status == 200
