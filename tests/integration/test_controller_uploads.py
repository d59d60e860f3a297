"""Uploads over the controller's contract: declared, cut, taken over, repeated, listed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from bulkscribe.jobs.v1 import uploads_pb2 as uploads

from services.contract.errors import Reason
from services.controller import __main__ as controller
from services.controller import recordings
from services.controller.prober import AudioProber
from services.runtime.errors import service_error
from tests.integration.conftest import Client, running_controller, wav

CONTENT = wav(seconds=30)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[Client]:
    """A controller without any worker."""
    async with running_controller(tmp_path) as client:
        yield client


async def begin(client: Client, request_id: str = "", sha256: str = DIGEST, size_bytes: int = len(CONTENT)) -> Any:
    request = uploads.CreateUploadRequest(
        owner=client.owner, filename="a.wav", size_bytes=size_bytes, sha256=sha256, request_id=request_id
    )
    return (await client.uploads.CreateUpload(request)).upload


async def told(client: Client, upload: Any, settle: bool = True) -> Any:
    request = uploads.GetUploadRequest(owner=client.owner, upload_id=upload.upload_id, settle=settle)
    return (await client.uploads.GetUpload(request)).upload


class Stream:
    """A WriteUpload that a test holds open."""

    def __init__(self, client: Client, upload: Any, offset: int = 0, take_over: bool = False) -> None:
        self.call = client.uploads.WriteUpload()
        self._header = uploads.WriteUploadHeader(
            owner=client.owner, upload_id=upload.upload_id, offset=offset, take_over=take_over
        )

    async def send(self, data: bytes) -> None:
        await self.call.write(uploads.WriteUploadRequest(header=self._header))
        if data:
            await self.call.write(uploads.WriteUploadRequest(data=data))

    async def finish(self) -> Any:
        await self.call.write(uploads.WriteUploadRequest(finish=uploads.FinishUpload()))
        return await self.end()

    async def end(self) -> Any:
        await self.call.done_writing()
        return (await self.call).upload


async def refusal(call: Any) -> Reason:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return service_error(caught.value, Reason.CONTROLLER_UNREACHABLE).reason


async def arrived(folder: Path, upload: Any) -> None:
    """Until the controller has a stream's first bytes on the disk, which it does once there are enough of them, or at
    its end. It tells of them once they are synced."""
    partial = folder / "data" / "blobs" / "partial" / upload.upload_id
    async with asyncio.timeout(20):
        while not partial.exists() or partial.stat().st_size == 0:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.01)


async def test_an_upload_in_streams_is_complete_after_the_last(alone: Client) -> None:
    upload = await begin(alone)
    assert (upload.size_bytes, upload.complete, upload.committed_bytes) == (len(CONTENT), False, 0)
    first = Stream(alone, upload)
    await first.send(CONTENT[:100_000])
    assert (await first.end()).committed_bytes == 100_000
    second = Stream(alone, upload, 100_000)
    await second.send(CONTENT[100_000:])
    whole = await second.finish()
    assert (whole.complete, whole.sha256, whole.committed_bytes) == (True, DIGEST, len(CONTENT))
    again = Stream(alone, upload, len(CONTENT))
    await again.send(b"")
    assert await again.finish() == whole
    request = uploads.ListUploadsRequest(owner=alone.owner, sha256=DIGEST)
    assert list((await alone.uploads.ListUploads(request)).uploads) == [whole]
    assert not (await alone.uploads.ListUploads(uploads.ListUploadsRequest(owner="bob", sha256=DIGEST))).uploads
    twin = await begin(alone, "r")
    assert (twin.complete, twin.committed_bytes) == (True, len(CONTENT))


async def test_a_stream_that_breaks_leaves_what_arrived(alone: Client) -> None:
    upload = await begin(alone)
    stream = Stream(alone, upload)
    await stream.send(CONTENT[:300_000])
    stream.call.cancel()
    committed = (await told(alone, upload)).committed_bytes
    assert committed in (0, 300_000)  # the cancel may overtake the bytes
    again = Stream(alone, upload, committed)
    await again.send(CONTENT[committed:])
    assert (await again.finish()).complete


class SlowProber:
    """Holds the answer back until the gate opens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.gate, self.probes = asyncio.Event(), asyncio.Event(), 0
        answer = AudioProber.duration_seconds

        async def held(prober: AudioProber, path: Path) -> float:
            self.probes += 1
            self.asked.set()
            await self.gate.wait()
            return await answer(prober, path)

        monkeypatch.setattr(AudioProber, "duration_seconds", held)


async def test_a_finish_that_is_cut_goes_on(alone: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "FINISH_WAIT_SECONDS", 0.05)
    slow, upload = SlowProber(monkeypatch), await begin(alone)
    stream = Stream(alone, upload)
    await stream.send(CONTENT)
    finishing = asyncio.ensure_future(stream.finish())
    await slow.asked.wait()
    stream.call.cancel()
    await asyncio.wait([finishing])
    known = await told(alone, upload)
    assert (known.committed_bytes, known.complete) == (len(CONTENT), False)
    again = Stream(alone, upload, len(CONTENT), take_over=True)
    await again.send(b"")
    joined = asyncio.ensure_future(again.finish())
    slow.gate.set()
    assert (await joined).complete
    assert (await told(alone, upload)).complete
    assert slow.probes == 1


async def test_a_controller_that_stops_ends_a_finish_and_the_next_one_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(controller, "GRACE_SECONDS", 0.1)
    with monkeypatch.context() as patched:
        slow = SlowProber(patched)
        async with running_controller(tmp_path) as client, asyncio.timeout(20):
            upload = await begin(client)
            stream = Stream(client, upload)
            await stream.send(CONTENT)
            finishing = asyncio.ensure_future(stream.finish())
            await slow.asked.wait()
    await asyncio.wait([finishing])
    assert not [task for task in asyncio.all_tasks() if "Recordings" in repr(task)]
    async with running_controller(tmp_path) as client:
        assert (await told(client, upload)).complete
    assert caplog.text == ""


async def test_a_newer_stream_takes_over(alone: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.runtime.blobs.PIECE_BYTES", 1000)
    upload = await begin(alone)
    old = Stream(alone, upload)
    await old.send(CONTENT[:300_000])
    await arrived(tmp_path, upload)
    polite = Stream(alone, upload, 300_000)
    await polite.send(b"")
    assert await refusal(polite.end()) is Reason.UPLOAD_BUSY
    newer = Stream(alone, upload, 300_000, take_over=True)
    await newer.send(CONTENT[300_000:])
    assert (await newer.finish()).complete
    assert await refusal(old.end()) is Reason.STREAM_TAKEN_OVER


async def test_who_asks_to_settle_ends_a_stream_that_stands_still(
    alone: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.runtime.blobs.PIECE_BYTES", 1000)
    upload = await begin(alone)
    old = Stream(alone, upload)
    await old.send(CONTENT[:300_000])
    await arrived(tmp_path, upload)
    assert (await told(alone, upload, settle=False)).committed_bytes == 0
    assert (await told(alone, upload)).committed_bytes == 300_000
    assert await refusal(old.end()) is Reason.STREAM_TAKEN_OVER


async def test_what_was_declared_is_held_to(alone: Client) -> None:
    upload = await begin(alone, "r")
    assert (await begin(alone, "r")).upload_id == upload.upload_id
    assert await refusal(begin(alone, "r", sha256="ab" * 32)) is Reason.INVALID_REQUEST
    early = Stream(alone, upload)
    await early.send(CONTENT[:1000])
    assert await refusal(early.finish()) is Reason.UPLOAD_INCOMPLETE
    late = Stream(alone, upload, 1000)
    await late.send(CONTENT)
    assert await refusal(late.end()) is Reason.INVALID_REQUEST
    assert (await told(alone, upload)).committed_bytes == 1000
    other = await begin(alone, sha256="ab" * 32)
    wrong = Stream(alone, other)
    await wrong.send(CONTENT)
    assert await refusal(wrong.finish()) is Reason.UPLOAD_DIGEST_MISMATCH
    assert await refusal(told(alone, other)) is Reason.NOT_FOUND


@pytest.mark.parametrize("sha256", ["abc", "AB" * 32, "g" * 64])
async def test_a_digest_that_is_none_is_refused(alone: Client, sha256: str) -> None:
    assert await refusal(begin(alone, sha256=sha256)) is Reason.INVALID_REQUEST
    request = uploads.ListUploadsRequest(owner=alone.owner, sha256=sha256)
    assert await refusal(alone.uploads.ListUploads(request)) is Reason.INVALID_REQUEST
