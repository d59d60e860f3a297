"""Uploads in the controller: cut, taken over, sealed, kept once, and removed when nothing needs them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from services.contract.errors import Reason, ServiceError
from services.controller import recordings as recordings_module
from services.controller.jobs import ExecutionMode, Job, JobId, JobUpdate, Options, Owner, Recording, UploadId, changed
from services.controller.prober import AudioProber
from services.controller.recordings import Recordings
from services.controller.store.protocol import Upload
from services.controller.store.sql import SqlStore
from services.runtime import blobs
from services.runtime.blobs import BlobFolder
from tests.worker import eventually

ALICE, BOB = Owner("alice"), Owner("bob")
CONTENT = bytes(range(256)) * 100
DIGEST = hashlib.sha256(CONTENT).hexdigest()
HOUR, DAY = 3600.0, 24 * 3600.0


@dataclass
class FakeProber:
    """Says what it is told; ``gate`` holds the answer back."""

    asked: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def duration_seconds(self, path: Path) -> float:
        self.asked += 1
        await self.gate.wait()
        if path.read_bytes().startswith(b"not audio"):
            raise ServiceError(Reason.AUDIO_INVALID)
        return 12.5


@dataclass
class Desk:
    """Recordings over a real store and folder, which `again` opens anew, as after a crash."""

    folder: Path
    store: SqlStore
    prober: FakeProber
    recordings: Recordings

    @property
    def blobs(self) -> BlobFolder:
        return BlobFolder(self.folder / "blobs")

    def again(self) -> None:
        self.recordings = Recordings(self.store, self.blobs, cast(AudioProber, self.prober), 1 << 20)

    async def begin(self, request_id: str = "", owner: Owner = ALICE, **more: Any) -> Upload:
        given = {"size_bytes": len(CONTENT), "sha256": DIGEST} | more
        return await self.recordings.create(owner, "a.wav", given["size_bytes"], request_id, given["sha256"])

    async def write(self, upload: Upload, offset: int, data: bytes, finish: bool = False) -> Upload:
        async with self.recordings.writing(upload.owner, upload.id, offset, take_over=True) as writer:
            if data:
                await writer.append(data)
            if finish:
                await writer.complete("")
        return await self.now(upload)

    async def whole(self, request_id: str = "", **more: Any) -> Upload:
        return await self.write(await self.begin(request_id, **more), 0, CONTENT, finish=True)

    async def now(self, upload: Upload) -> Upload:
        return await self.recordings.owned(upload.owner, upload.id)

    async def gone(self, upload: Upload) -> bool:
        return await self.store.get_upload(upload.id) is None

    async def use(self, upload: Upload) -> JobId:
        recording = Recording(upload.id, upload.filename, upload.sha256, upload.size_bytes, upload.duration_seconds)
        job = Job(JobId("j"), upload.owner, recording, Options(), ExecutionMode.LOCAL, upload.created_at)
        update = changed(job, upload.created_at)
        await self.store.create_jobs([JobUpdate(update.job, update.changes)], "")
        return job.id


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    store = SqlStore(f"sqlite:///{tmp_path / 'x.db'}")
    await store.open()
    prober = FakeProber()
    prober.gate.set()
    recordings = Recordings(store, BlobFolder(tmp_path / "blobs"), cast(AudioProber, prober), 1 << 20)
    made = Desk(tmp_path, store, prober, recordings)
    yield made
    await made.recordings.close()
    await store.close()


async def refused(call: Any) -> Reason:
    with pytest.raises(ServiceError) as caught:
        await call
    return caught.value.reason


# --- in pieces


async def test_an_upload_in_pieces_becomes_a_blob(desk: Desk) -> None:
    upload = await desk.begin()
    for start in range(0, len(CONTENT), 9999):
        upload = await desk.write(upload, start, CONTENT[start : start + 9999])
        assert desk.recordings.committed(upload) == min(start + 9999, len(CONTENT))
    whole = await desk.write(upload, len(CONTENT), b"", finish=True)
    assert (whole.complete, whole.sha256, whole.size_bytes, whole.duration_seconds) == (
        True,
        DIGEST,
        len(CONTENT),
        12.5,
    )
    assert desk.blobs.path(DIGEST).read_bytes() == CONTENT
    assert await desk.write(whole, len(CONTENT), b"", finish=True) == whole
    assert desk.prober.asked == 1


async def test_another_offset_is_refused_also_when_it_is_complete(desk: Desk) -> None:
    upload = await desk.write(await desk.begin(), 0, CONTENT[:1000])
    assert await refused(desk.write(upload, 999, b"x")) is Reason.UPLOAD_OFFSET_MISMATCH
    whole = await desk.write(upload, 1000, CONTENT[1000:], finish=True)
    assert await refused(desk.write(whole, 0, b"x")) is Reason.UPLOAD_OFFSET_MISMATCH
    assert await refused(desk.write(whole, len(CONTENT), b"x")) is Reason.INVALID_REQUEST
    assert await desk.now(upload) == whole


async def test_a_finish_before_all_bytes_leaves_what_is_there(desk: Desk) -> None:
    upload = await desk.begin()
    assert await refused(desk.write(upload, 0, CONTENT[:-1], finish=True)) is Reason.UPLOAD_INCOMPLETE
    assert (await desk.write(upload, len(CONTENT) - 1, CONTENT[-1:], finish=True)).complete


async def test_more_than_was_declared_is_refused_and_not_written(desk: Desk) -> None:
    upload = await desk.begin()
    assert await refused(desk.write(upload, 0, CONTENT + b"x")) is Reason.INVALID_REQUEST
    assert desk.recordings.committed(await desk.now(upload)) == 0


@pytest.mark.parametrize(("content", "reason"), [
    (b"x" * len(CONTENT), Reason.UPLOAD_DIGEST_MISMATCH),
    (b"not audio", Reason.AUDIO_INVALID),
])  # fmt: skip
async def test_content_that_is_refused_is_dropped_and_may_be_sent_anew(
    desk: Desk, content: bytes, reason: Reason
) -> None:
    declared = "" if reason is Reason.AUDIO_INVALID else DIGEST
    upload = await desk.begin("r", size_bytes=len(content), sha256=declared)
    assert await refused(desk.write(upload, 0, content, finish=True)) is reason
    assert await desk.gone(upload)
    assert desk.recordings.committed(upload) == 0
    assert (await desk.begin("r")).id != upload.id


async def test_the_same_request_must_mean_the_same_content(desk: Desk) -> None:
    upload = await desk.begin("r")
    assert await desk.begin("r") == upload
    assert await refused(desk.begin("r", size_bytes=7)) is Reason.INVALID_REQUEST
    assert await refused(desk.begin("r", sha256="ab" * 32)) is Reason.INVALID_REQUEST


async def test_what_a_repeated_request_declares_first_is_held_to(desk: Desk) -> None:
    upload = await desk.begin("r", sha256="", size_bytes=0)
    assert await desk.begin("r") == replace(upload, declared_sha256=DIGEST, declared_bytes=len(CONTENT))
    assert await refused(desk.begin("r", sha256="ab" * 32)) is Reason.INVALID_REQUEST
    assert await refused(desk.write(upload, 0, b"x" * len(CONTENT), finish=True)) is Reason.UPLOAD_DIGEST_MISMATCH


async def test_what_a_repeated_request_declares_late_must_be_what_was_sent(desk: Desk) -> None:
    whole = await desk.whole("r", sha256="", size_bytes=0)
    assert await desk.begin("r") == whole
    assert await refused(desk.begin("r", sha256="ab" * 32)) is Reason.INVALID_REQUEST
    assert await refused(desk.begin("r", size_bytes=7)) is Reason.INVALID_REQUEST
    assert await desk.now(whole) == whole


async def test_a_request_whose_upload_is_refused_meanwhile_begins_another(desk: Desk) -> None:
    upload = await desk.begin("r", sha256="", size_bytes=9)
    await cut_while_finishing(desk, upload, b"not audio")
    again = asyncio.ensure_future(desk.begin("r", sha256="", size_bytes=9))
    desk.prober.gate.set()
    assert (await again).id != upload.id
    assert await desk.gone(upload)


async def test_a_complete_upload_whose_file_is_gone_is_sent_again(desk: Desk) -> None:
    whole = await desk.whole("r", sha256="")
    desk.blobs.path(DIGEST).unlink()
    again = await desk.begin("r", sha256="")
    assert (again.id, again.complete, desk.recordings.committed(again)) == (whole.id, False, 0)
    whole = await desk.write(again, 0, CONTENT, finish=True)
    assert whole.complete
    assert desk.blobs.path(DIGEST).read_bytes() == CONTENT


async def test_a_repeated_request_tells_an_offset_that_stays(desk: Desk) -> None:
    upload, took = await desk.begin("r"), asyncio.Event()

    async def stands_still() -> None:
        async with desk.recordings.writing(ALICE, upload.id, 0) as writer:
            await writer.append(CONTENT[:5000])
            took.set()
            await asyncio.Event().wait()

    old = asyncio.ensure_future(stands_still())
    await took.wait()
    assert desk.recordings.committed(await desk.begin("r")) == 5000
    assert await refused(old) is Reason.STREAM_TAKEN_OVER


async def test_content_that_is_there_need_not_be_sent_by_the_same_owner(desk: Desk) -> None:
    first = await desk.whole()
    second = await desk.begin("r")
    assert (second.complete, second.sha256, second.duration_seconds) == (True, DIGEST, 12.5)
    assert second.id != first.id
    assert (await desk.begin("r")).id == second.id
    assert not (await desk.begin(owner=BOB)).complete
    assert not (await desk.begin(size_bytes=7)).complete
    assert await desk.recordings.remove(first)
    assert desk.blobs.path(DIGEST).exists()
    assert await desk.recordings.remove(second)
    assert not desk.blobs.path(DIGEST).exists()


# --- one stream at a time


async def test_a_newer_stream_takes_over_and_what_the_old_one_took_is_synced(desk: Desk) -> None:
    upload, took = await desk.begin(), asyncio.Event()

    async def stands_still() -> None:
        async with desk.recordings.writing(ALICE, upload.id, 0) as writer:
            await writer.append(CONTENT[:5000])
            took.set()
            await asyncio.Event().wait()

    old = asyncio.ensure_future(stands_still())
    await took.wait()
    busy = desk.recordings.writing(ALICE, upload.id, 0)
    assert await refused(busy.__aenter__()) is Reason.UPLOAD_BUSY
    assert desk.recordings.committed(await desk.recordings.settled(ALICE, upload.id)) == 5000
    assert await refused(old) is Reason.STREAM_TAKEN_OVER
    assert (await desk.write(upload, 5000, CONTENT[5000:], finish=True)).complete


async def test_who_comes_while_it_is_finished_waits_for_the_end_of_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings_module, "FINISH_WAIT_SECONDS", 0.01)
    upload = await desk.begin()
    desk.prober.gate.clear()
    finishing = asyncio.ensure_future(desk.write(upload, 0, CONTENT, finish=True))
    await eventually(lambda: desk.prober.asked == 1)
    told = await desk.recordings.settled(ALICE, upload.id)
    assert (desk.recordings.committed(told), told.complete) == (len(CONTENT), False)
    again = [asyncio.ensure_future(desk.write(upload, len(CONTENT), b"", finish=True)) for _ in range(3)]
    removing = asyncio.ensure_future(desk.recordings.remove(upload))
    await asyncio.sleep(0)
    desk.prober.gate.set()
    await asyncio.gather(finishing, *again, removing, return_exceptions=True)
    assert desk.prober.asked == 1
    assert removing.result()
    assert await desk.gone(upload)
    assert list((desk.folder / "blobs").rglob("*/*")) == []


async def test_an_upload_is_removed_from_under_the_stream_that_writes_it(desk: Desk) -> None:
    upload, took = await desk.begin(), asyncio.Event()

    async def stands_still() -> None:
        async with desk.recordings.writing(ALICE, upload.id, 0) as writer:
            await writer.append(CONTENT[:5000])
            took.set()
            await asyncio.Event().wait()

    old = asyncio.ensure_future(stands_still())
    await took.wait()
    assert await desk.recordings.remove(upload)
    assert await refused(old) is Reason.STREAM_TAKEN_OVER
    assert await desk.gone(upload)
    assert list((desk.folder / "blobs").rglob("*/*")) == []


# --- a process that dies at any step


class Died(BaseException):
    """The process dies here: nothing after this line is done."""


STEPS = ("seal", "adopt before", "adopt after", "complete")


@pytest.mark.parametrize("by", ["a question", "a sweep", "a stream"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_death_between_any_two_steps_of_a_finish_loses_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, step: str, by: str
) -> None:
    upload = await desk.begin()
    save, adopt = SqlStore.save_upload, blobs.BlobFolder.adopt

    async def dying_save(self: SqlStore, saved: Upload) -> None:
        if step == ("complete" if saved.complete else "seal"):
            raise Died
        await save(self, saved)

    async def dying_adopt(self: BlobFolder, name: str, sha256: str) -> Path:
        if step == "adopt before":
            raise Died
        path = await adopt(self, name, sha256)
        if step == "adopt after":
            raise Died
        return path

    with monkeypatch.context() as dying:
        dying.setattr(SqlStore, "save_upload", dying_save)
        dying.setattr(BlobFolder, "adopt", dying_adopt)
        with pytest.raises(Died):
            await desk.write(upload, 0, CONTENT, finish=True)
    desk.again()
    if by == "a question":
        whole = await desk.recordings.settled(ALICE, upload.id)
    elif by == "a sweep":
        await desk.recordings.sweep(time.time() + 2 * DAY)
        whole = await desk.now(upload)
    else:
        whole = await desk.write(upload, len(CONTENT), b"", finish=True)
    assert (whole.complete, whole.sha256, whole.size_bytes) == (True, DIGEST, len(CONTENT))
    assert desk.blobs.path(DIGEST).read_bytes() == CONTENT
    assert not desk.blobs.partial_path(upload.id).exists()


async def test_a_sealed_upload_whose_file_is_gone_is_dropped(desk: Desk) -> None:
    upload = await desk.begin()
    await desk.store.save_upload(replace(upload, sha256=DIGEST, size_bytes=7))
    await desk.recordings.sweep(time.time())
    assert await desk.gone(upload)


async def test_what_is_told_is_synced_while_a_stream_writes(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "PIECE_BYTES", 1000)
    upload = await desk.write(await desk.begin(), 0, CONTENT[:500])
    path = desk.blobs.partial_path(upload.id)
    async with desk.recordings.writing(ALICE, upload.id, 500) as writer:
        await writer.append(CONTENT[500:5000])
        await eventually(lambda: path.stat().st_size == 5000)
        assert (await desk.recordings.told(upload))[1] == 500
    assert (await desk.recordings.told(upload))[1] == 5000


async def test_who_looks_at_what_a_killed_process_left_is_told_what_is_synced(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await desk.write(await desk.begin(), 0, CONTENT[:500])
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    await desk.recordings.synced(ALICE, upload.id)
    assert len(synced) == 1


async def test_an_upload_that_is_finished_between_two_looks_is_told_as_it_is(desk: Desk) -> None:
    seen = await desk.write(await desk.begin(), 0, CONTENT[:-1])
    whole = await desk.write(seen, len(CONTENT) - 1, CONTENT[-1:], finish=True)
    assert await desk.recordings.told(seen) == (whole, len(CONTENT))


# --- a client that goes away while it is finished


async def cut_while_finishing(desk: Desk, upload: Upload, content: bytes = CONTENT) -> None:
    """Leaves the prober's gate shut: what is finished stands there."""
    desk.prober.gate.clear()
    stream = asyncio.ensure_future(desk.write(upload, 0, content, finish=True))
    await eventually(lambda: desk.prober.asked == 1)
    stream.cancel()
    await asyncio.wait([stream])
    assert stream.cancelled()


async def test_a_finish_goes_on_when_its_client_is_gone_and_is_done_once(desk: Desk) -> None:
    upload = await desk.begin()
    await cut_while_finishing(desk, upload)
    joined = [asyncio.ensure_future(desk.write(upload, len(CONTENT), b"", finish=True))]
    joined += [asyncio.ensure_future(desk.recordings.settled(ALICE, upload.id)) for _ in range(3)]
    await asyncio.sleep(0.05)
    desk.prober.gate.set()
    for whole in await asyncio.gather(*joined):
        assert (whole.complete, whole.sha256) == (True, DIGEST)
    assert desk.prober.asked == 1


async def test_the_last_byte_is_enough_where_the_stream_ends_before_it_says_so(desk: Desk) -> None:
    upload = await desk.begin()
    await desk.write(upload, 0, CONTENT)
    await eventually(lambda: desk.prober.asked == 1)
    assert (await desk.recordings.settled(ALICE, upload.id)).complete
    assert desk.prober.asked == 1


async def test_who_asks_waits_a_while_for_the_finish_and_no_longer(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings_module, "FINISH_WAIT_SECONDS", 0.01)
    upload = await desk.begin()
    await cut_while_finishing(desk, upload)
    told = await desk.recordings.settled(ALICE, upload.id)
    assert (desk.recordings.committed(told), told.complete) == (len(CONTENT), False)


@pytest.mark.parametrize(("content", "digest"), [(b"not audio", ""), (b"x" * 9, DIGEST)])
async def test_content_that_is_refused_after_a_cut_is_gone_for_who_asks(
    desk: Desk, content: bytes, digest: str
) -> None:
    upload = await desk.begin(size_bytes=len(content), sha256=digest)
    await desk.write(upload, 0, content[:-1])
    with desk.blobs.partial_path(upload.id).open("ab") as file:
        file.write(content[-1:])  # as a process leaves it that dies after the last byte
    desk.again()
    assert await refused(desk.recordings.settled(ALICE, upload.id)) is Reason.NOT_FOUND
    assert await desk.gone(upload)


async def test_a_sweep_finishes_what_has_all_its_bytes_however_old(desk: Desk) -> None:
    upload = await desk.begin()
    desk.blobs.partial_path(upload.id).parent.mkdir(parents=True)
    desk.blobs.partial_path(upload.id).write_bytes(CONTENT)
    await desk.recordings.sweep(time.time() + 3 * DAY)
    assert (await desk.now(upload)).complete


async def test_closing_ends_a_finish_which_the_next_process_goes_on_with(desk: Desk) -> None:
    upload = await desk.begin()
    await cut_while_finishing(desk, upload)
    await desk.recordings.close()
    assert not (await desk.now(upload)).complete
    desk.again()
    desk.prober.gate.set()
    await desk.recordings.sweep(time.time())
    assert (await desk.now(upload)).complete


# --- removed when nothing needs them


async def test_uploads_that_nobody_goes_on_with_are_removed_after_a_day(desk: Desk) -> None:
    upload = await desk.begin()
    async with desk.recordings.writing(ALICE, upload.id, 0) as writer:
        await writer.append(b"the first half")
        await desk.recordings.sweep(time.time() + 2 * DAY)
    assert desk.recordings.committed(upload) == 14
    await desk.recordings.sweep(time.time() + 23 * HOUR)
    assert not await desk.gone(upload)
    await desk.recordings.sweep(time.time() + 25 * HOUR)
    assert await desk.gone(upload)
    assert desk.recordings.committed(upload) == 0


async def test_a_day_that_the_machine_was_off_is_not_its_clients_fault(desk: Desk) -> None:
    upload = await desk.write(await desk.begin(), 0, CONTENT[:1000])
    started = time.time() + 3 * DAY
    for _ in range(2):  # each process waits anew
        desk.again()
        await desk.recordings.sweep(started)
        await desk.recordings.sweep(started + 5 * HOUR)
        assert not await desk.gone(upload)
    await desk.recordings.sweep(started + 7 * HOUR)
    assert await desk.gone(upload)


@pytest.mark.parametrize("begun", [False, True])
async def test_an_upload_whose_client_asks_is_not_idle_though_nothing_comes(desk: Desk, begun: bool) -> None:
    upload = await desk.begin()
    await desk.store.save_upload(replace(upload, created_at=upload.created_at - 3 * timedelta(days=1)))
    now = time.time()
    await desk.recordings.sweep(now - 20 * HOUR)
    if begun:
        await desk.write(upload, 0, CONTENT[:1000])
        os.utime(desk.blobs.partial_path(upload.id), (now - 3 * DAY, now - 3 * DAY))
    await desk.recordings.settled(ALICE, upload.id)
    await desk.recordings.sweep(now + 5 * HOUR)
    assert not await desk.gone(upload)
    await desk.recordings.sweep(now + 25 * HOUR)
    assert await desk.gone(upload)


async def test_one_upload_that_cannot_be_swept_leaves_the_others_to_be(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await desk.begin("1"), await desk.begin("2")
    discard = BlobFolder.discard_partial

    async def failing(self: BlobFolder, name: str) -> None:
        if name == first.id:
            raise OSError(5, "Input/output error")
        await discard(self, name)

    monkeypatch.setattr(BlobFolder, "discard_partial", failing)
    await desk.recordings.sweep(time.time())
    await desk.recordings.sweep(time.time() + 2 * DAY)
    assert (await desk.gone(first), await desk.gone(second)) == (False, True)


async def test_complete_uploads_that_no_job_used_are_removed_after_a_week(desk: Desk) -> None:
    idle = await desk.whole()
    await desk.recordings.sweep(time.time() + 7 * DAY - HOUR)
    assert not await desk.gone(idle)
    await desk.recordings.sweep(time.time() + 7 * DAY + HOUR)
    assert await desk.gone(idle)
    assert not desk.blobs.path(DIGEST).exists()


async def test_an_upload_that_a_job_uses_stays_and_so_does_its_content(desk: Desk) -> None:
    used = await desk.whole()
    twin = await desk.begin()
    await desk.use(used)
    await desk.recordings.sweep(time.time() + 30 * DAY)
    assert (await desk.gone(used), await desk.gone(twin)) == (False, True)
    assert desk.blobs.path(DIGEST).exists()


async def test_blobs_and_partial_files_that_nothing_names_are_removed_in_the_end(desk: Desk) -> None:
    kept = await desk.whole()
    await desk.use(kept)
    orphan, partial = desk.blobs.path("cd" * 32), desk.blobs.partial_path("nobodys")
    for path in (orphan, partial):
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"x")
    now = time.time()
    await desk.recordings.sweep(now)
    await desk.recordings.sweep(now + 5 * HOUR)
    assert orphan.exists()
    assert partial.exists()
    await desk.recordings.sweep(now + 25 * HOUR)
    assert not orphan.exists()
    assert not partial.exists()
    assert desk.blobs.path(DIGEST).exists()


async def test_another_owners_upload_cannot_be_written(desk: Desk) -> None:
    upload = await desk.begin()
    for call in (desk.recordings.writing(BOB, upload.id, 0).__aenter__(), desk.recordings.settled(BOB, upload.id)):
        assert await refused(call) is Reason.NOT_FOUND
    assert await refused(desk.recordings.settled(ALICE, UploadId("x"))) is Reason.NOT_FOUND
