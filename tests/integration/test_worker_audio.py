"""StatAudio and PutAudio: what is cut goes on, what is wrong is refused, what is used stays."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from bulkscribe.worker.v1 import worker_pb2 as pb

from services.contract.errors import Reason, ServiceError
from services.contract.limits import MEGABYTE
from services.runtime import blobs
from services.worker import __main__ as worker_process
from services.worker.audio import YOUNG_SECONDS, AudioLimits, AudioStore, Recording
from services.worker.metrics import Metrics
from services.worker.status import Offer, WorkerStatus
from tests.fakes.engine import STATE
from tests.worker import Rig, audio_of, dispatch, eventually, put_requests, reason_of, rig, running_worker

__all__ = ["rig"]

LARGE = os.urandom(9 * MEGABYTE + 17)


async def test_an_upload_is_found_by_its_content_and_need_not_be_repeated(rig: Rig) -> None:
    assert await rig.stat(LARGE) == pb.StatAudioResponse(committed_bytes=0, complete=False)
    assert await rig.put(LARGE) == pb.PutAudioResponse(committed_bytes=len(LARGE), complete=True)
    assert await rig.stat(LARGE) == pb.StatAudioResponse(committed_bytes=len(LARGE), complete=True)
    assert rig.stored(LARGE).read_bytes() == LARGE
    assert not list((rig.folder / "data" / "audio" / "partial").iterdir())
    assert await reason_of(rig.put(LARGE, until=0)) is Reason.UPLOAD_OFFSET_MISMATCH


async def test_the_engine_hears_of_a_recording_before_its_job_comes(rig: Rig) -> None:
    await rig.stat()
    await rig.put(until=1)
    assert rig.engine.foreseen == []
    await rig.put(offset=1)
    assert rig.engine.foreseen == [rig.stored()]
    await rig.stat()
    assert len(rig.engine.foreseen) == 2
    rig.engine.hold("a")
    async with rig.run(dispatch("a")) as call:
        await call.accepted()
        await rig.stat()
    assert len(rig.engine.foreseen) == 2, "a run reads it"


async def test_an_upload_in_two_calls(rig: Rig) -> None:
    cut = 5 * MEGABYTE
    assert await rig.put(LARGE, until=cut) == pb.PutAudioResponse(committed_bytes=cut, complete=False)
    assert (await rig.stat(LARGE)).committed_bytes == cut
    assert await reason_of(rig.put(LARGE, offset=cut - 1, until=cut - 1)) is Reason.UPLOAD_OFFSET_MISMATCH
    assert (await rig.put(LARGE, offset=cut)).complete
    assert rig.stored(LARGE).read_bytes() == LARGE


async def test_what_arrived_before_the_stream_broke_is_kept_and_the_upload_goes_on(rig: Rig) -> None:
    partial = rig.folder / "data" / "audio" / "partial" / f"{audio_of(LARGE).sha256}.part"
    call = rig.stub.PutAudio(metadata=rig.metadata)
    for request in put_requests(LARGE)[:7]:
        await call.write(request)
    await eventually(lambda: partial.exists() and partial.stat().st_size > 0)
    assert await reason_of(rig.put(LARGE, until=0)) is Reason.UPLOAD_BUSY
    call.cancel()
    await eventually(lambda: partial.stat().st_size >= 4 * MEGABYTE)
    async with asyncio.timeout(20):
        while (committed := (await rig.stat(LARGE)).committed_bytes) == 0:
            pass
    assert 0 < committed <= 6 * MEGABYTE
    assert (await rig.put(LARGE, offset=committed)).complete
    assert rig.stored(LARGE).read_bytes() == LARGE


async def test_content_that_differs_from_its_digest_is_dropped(rig: Rig) -> None:
    wrong = LARGE[:-1] + bytes([LARGE[-1] ^ 1])
    assert await reason_of(rig.put(wrong, audio=audio_of(LARGE))) is Reason.UPLOAD_DIGEST_MISMATCH
    assert (await rig.stat(LARGE)).committed_bytes == 0
    assert (await rig.put(LARGE)).complete


@pytest.mark.parametrize(
    ("requests", "reason"),
    [
        ([], Reason.INVALID_REQUEST),
        ([pb.PutAudioRequest(data=b"first")], Reason.INVALID_REQUEST),
        ([put_requests(LARGE)[0]] * 2, Reason.INVALID_REQUEST),
        ([put_requests(LARGE)[0], pb.PutAudioRequest(data=bytes(3 * MEGABYTE))], Reason.INVALID_REQUEST),
        ([put_requests(b"x", audio=audio_of(b"x"))[0], pb.PutAudioRequest(data=b"xy")], Reason.INVALID_REQUEST),
        (
            [pb.PutAudioRequest(header=pb.PutAudioHeader(audio=pb.Audio(sha256="../../etc", size_bytes=1)))],
            Reason.INVALID_REQUEST,
        ),
        (
            [pb.PutAudioRequest(header=pb.PutAudioHeader(audio=pb.Audio(sha256="a" * 64, size_bytes=1 << 50)))],
            Reason.FILE_TOO_LARGE,
        ),
    ],
)
async def test_malformed_uploads_are_refused(rig: Rig, requests: list[pb.PutAudioRequest], reason: Reason) -> None:
    assert await reason_of(rig.stub.PutAudio(iter(requests), metadata=rig.metadata)) is reason


async def test_too_large_is_refused_before_a_byte(tmp_path: Path) -> None:
    async with running_worker(tmp_path, worker_max_file_mb=8) as rig:
        assert await reason_of(rig.put(LARGE, until=0)) is Reason.FILE_TOO_LARGE
        assert await reason_of(rig.stat(LARGE)) is Reason.FILE_TOO_LARGE
        assert (await rig.capacity()).max_file_bytes == 8 * MEGABYTE


async def test_a_full_disk_corrupts_nothing_and_a_later_try_succeeds(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    room = 6 * MEGABYTE + 5
    write = blobs.PartialFile._write

    class FullDisk:
        """Takes what fits, then says so, as a real one does."""

        def __init__(self, file: BinaryIO) -> None:
            self.file = file

        def fileno(self) -> int:
            return self.file.fileno()

        def write(self, data: memoryview) -> int:
            left = room - self.file.tell()
            if left <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data[:left])

    def write_on_full_disk(self: blobs.PartialFile, piece: bytearray) -> None:
        real = self._file
        assert real is not None
        self._file = FullDisk(real)  # type: ignore[assignment]
        try:
            write(self, piece)
        finally:
            self._file = real

    with monkeypatch.context() as patched:
        patched.setattr(blobs.PartialFile, "_write", write_on_full_disk)
        assert await reason_of(rig.put(LARGE)) is Reason.STORAGE_FULL
    committed = (await rig.stat(LARGE)).committed_bytes
    assert committed == room
    assert (await rig.put(LARGE, offset=committed)).complete
    assert rig.stored(LARGE).read_bytes() == LARGE


def failing(error: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    return fail


async def test_a_use_that_cannot_be_noted_is_no_error(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.put(LARGE)
    monkeypatch.setattr(os, "utime", failing(errno.EROFS))
    assert (await rig.stat(LARGE)).complete
    async with rig.run(dispatch("job", content=LARGE)) as run:
        await run.until_accepted_and("outcome")


@pytest.mark.parametrize(
    ("module", "step", "error"),
    [
        (Path, "mkdir", errno.EROFS),
        (os, "fdatasync", errno.EIO),
        (Path, "replace", errno.EROFS),
        (hashlib, "file_digest", errno.EIO),
        (os, "fsync", errno.EIO),
    ],
)
async def test_a_disk_that_fails_is_said_and_a_later_try_succeeds(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, module: object, step: str, error: int
) -> None:
    cut = 0
    if step == "file_digest":  # it is read again only where it came in two parts
        cut = (await rig.put(LARGE, until=5 * MEGABYTE)).committed_bytes
    with monkeypatch.context() as patched:
        patched.setattr(module, step, failing(error))
        until = 0 if step in ("mkdir", "fsync") else None  # refused before anything is taken
        assert await reason_of(rig.put(LARGE, offset=cut, until=until)) is Reason.STORAGE_FAILED
    held = await rig.stat(LARGE)
    if not held.complete:
        assert (await rig.put(LARGE, offset=held.committed_bytes)).complete
    assert rig.stored(LARGE).read_bytes() == LARGE


async def test_a_disk_that_cannot_be_read_refuses_dispatches_and_says_why(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.put(LARGE)
    with monkeypatch.context() as patched:
        patched.setattr(AudioStore, "_is_complete", failing(errno.EIO))
        assert await reason_of(rig.stat(LARGE)) is Reason.STORAGE_FAILED
        async with rig.run(dispatch("job", content=LARGE)) as run:
            assert await run.refusal() is Reason.STORAGE_FAILED
    async with rig.run(dispatch("job", content=LARGE)) as run:
        await run.until_accepted_and("outcome")


async def test_a_restarted_worker_goes_on_with_the_upload(tmp_path: Path) -> None:
    cut = 5 * MEGABYTE
    async with running_worker(tmp_path) as rig:
        await rig.put(LARGE, until=cut)
    async with running_worker(tmp_path) as rig:
        assert (await rig.stat(LARGE)).committed_bytes == cut
        assert (await rig.put(LARGE, offset=cut)).complete


async def test_all_bytes_there_but_not_verified(rig: Rig) -> None:
    """The process died between the last byte and the digest."""
    partial = rig.folder / "data" / "audio" / "partial" / f"{audio_of(LARGE).sha256}.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(LARGE)
    assert await rig.stat(LARGE) == pb.StatAudioResponse(committed_bytes=len(LARGE), complete=False)
    assert (await rig.put(LARGE, offset=len(LARGE))).complete


async def test_an_upload_while_heartbeats_go_on(rig: Rig) -> None:
    watch = rig.watch(interval=0.1)

    async def slow() -> AsyncIterator[pb.PutAudioRequest]:
        for request in put_requests(LARGE):
            yield request
            await watch.read()

    assert (await rig.stub.PutAudio(slow(), metadata=rig.metadata)).complete
    watch.cancel()


async def test_recordings_in_use_survive_age_and_quota(tmp_path: Path) -> None:
    limits = AudioLimits(1 << 30, quota_bytes=150, max_age_seconds=3600.0)
    store = AudioStore(tmp_path, limits, Metrics(WorkerStatus(Offer("demo", 1), 1, STATE)))
    ages = {"used": 9e6, "old": 3601.0, "older": YOUNG_SECONDS + 200, "newer": YOUNG_SECONDS + 100, "young": 1.0}
    recordings = {name: _recording(100, name) for name in ages}
    for name, age in ages.items():
        await _store(store, recordings[name], name)
        path = store.find(recordings[name])
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age))
    await store.sweep(lambda: {recordings["used"].sha256})
    left = {name for name in ages if (tmp_path / recordings[name].sha256[:2] / recordings[name].sha256).exists()}
    assert left == {"used", "young"}


async def test_a_file_that_goes_while_the_folder_is_looked_through_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = AudioStore(
        tmp_path, AudioLimits(1 << 30, 1 << 30, 3600.0), Metrics(WorkerStatus(Offer("demo", 1), 1, STATE))
    )
    gone, old = _recording(100, "gone"), _recording(100, "old")
    for recording, name in ((gone, "gone"), (old, "old")):
        await _store(store, recording, name)
    os.utime(store.find(old), (0, 0))
    path = store.find(gone)
    is_file = Path.is_file

    def is_file_until_now(self: Path) -> bool:
        found = is_file(self)
        if self == path:
            self.unlink()
        return found

    monkeypatch.setattr(Path, "is_file", is_file_until_now)
    await store.sweep(set)
    assert not (tmp_path / old.sha256[:2] / old.sha256).exists()


async def test_housekeeping_goes_on_whatever_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "HOUSEKEEPING_SECONDS", 0.0)

    class Failing:
        """Of both kinds."""

        forgot, swept = 0, 0

        async def forget_old(self) -> None:
            self.forgot += 1
            raise sqlite3.DatabaseError("the disk image is malformed")

        async def sweep(self, _in_use: Callable[[], set[str]]) -> None:
            self.swept += 1
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        def recordings_in_use(self) -> set[str]:
            return set()

    failing = Failing()
    going = asyncio.ensure_future(worker_process._housekeeping(failing, failing))  # type: ignore[arg-type]
    await eventually(lambda: failing.forgot >= 2 and failing.swept >= 2)
    assert not going.done()
    going.cancel()


def _recording(size: int, seed: str) -> Recording:
    audio = audio_of(seed.encode().ljust(size))
    return Recording(audio.sha256, audio.size_bytes)


async def _store(store: AudioStore, recording: Recording, seed: str) -> None:
    async with store.upload(recording, 0) as upload:
        await upload.append(seed.encode().ljust(recording.size))
    assert upload.committed.complete


async def test_missing_audio_raises(tmp_path: Path) -> None:
    store = AudioStore(tmp_path, AudioLimits(1, 1, 1), Metrics(WorkerStatus(Offer("demo", 1), 1, STATE)))
    with pytest.raises(ServiceError, match="does not hold"):
        store.find(Recording("0" * 64, 1))
