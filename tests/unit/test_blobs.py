"""Uploads that are cut and go on, disks that are full, and blobs that are there whole or not at all."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import os
import random
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from services.contract.errors import Reason, ServiceError
from services.runtime import blobs
from services.runtime.blobs import BlobFolder, PartialFile, committed_bytes

PIECE = 1000
CONTENT = random.Random(7).randbytes(10 * PIECE + 123)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
EMPTY = hashlib.sha256(b"").hexdigest()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a short file has many."""
    monkeypatch.setattr(blobs, "PIECE_BYTES", PIECE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "partial" / "upload"


def content(path: Path) -> bytes:
    return path.read_bytes()


def left_by_a_crash(path: Path, kept: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(kept)


async def opened(path: Path) -> PartialFile:
    file = PartialFile(path)
    await file.open(committed_bytes(path))
    return file


async def append(file: PartialFile, data: bytes, chunk: int = 300) -> None:
    for start in range(0, len(data), chunk):
        await file.append(data[start : start + chunk])


async def refused(call: Any) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await call
    return caught.value


# --- cut and gone on


@pytest.mark.parametrize("chunk", [1, 300, PIECE, PIECE + 1, 5 * PIECE, len(CONTENT)])
async def test_the_digest_is_the_contents_however_it_is_cut_into_messages(path: Path, chunk: int) -> None:
    file = await opened(path)
    await append(file, CONTENT, chunk)
    assert file.size == len(CONTENT)
    assert await file.digest() == DIGEST
    await file.close()
    assert content(path) == CONTENT


async def test_nothing_is_a_file_too(path: Path) -> None:
    file = await opened(path)
    assert (await file.digest(), await file.sync(), file.size) == (EMPTY, 0, 0)
    await file.close()
    assert committed_bytes(path) == 0


@pytest.mark.parametrize("seed", range(8))
async def test_an_upload_whose_stream_broke_again_and_again_has_the_same_digest(path: Path, seed: int) -> None:
    cuts = sorted(random.Random(seed).sample(range(len(CONTENT) + 1), 5))
    for begin, end in zip([0, *cuts], cuts, strict=False):
        file = await opened(path)
        assert file.size == begin
        await append(file, CONTENT[begin:end])
        await file.close()
        assert committed_bytes(path) == end
    file = await opened(path)
    await append(file, CONTENT[cuts[-1] :])
    assert await file.digest() == DIGEST
    await file.close()


@pytest.mark.parametrize("kept", [0, 1, PIECE - 1, PIECE, 4 * PIECE + 321, len(CONTENT)])
async def test_after_a_crash_it_goes_on_from_what_is_on_the_disk(path: Path, kept: int) -> None:
    left_by_a_crash(path, CONTENT[:kept])
    file = await opened(path)
    await append(file, CONTENT[kept:])
    assert await file.digest() == DIGEST
    await file.close()


async def test_syncing_in_between_makes_what_arrived_durable_and_goes_on(path: Path) -> None:
    file = await opened(path)
    await append(file, CONTENT[:1234])
    assert await file.sync() == 1234
    assert content(path) == CONTENT[:1234]
    await append(file, CONTENT[1234:])
    assert await file.digest() == DIGEST
    await file.close()


async def test_a_resume_reads_nothing_and_the_end_reads_the_file_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    digest_of = blobs._file_digest
    monkeypatch.setattr(blobs, "_file_digest", lambda given: (read.append(given), digest_of(given))[1])
    for start in range(0, len(CONTENT), 400):
        file = await opened(path)
        await append(file, CONTENT[start : start + 400])
        await file.close()
    assert read == []
    file = await opened(path)
    assert await file.digest() == DIGEST
    assert read == [path]
    await file.close()


@pytest.mark.parametrize("offset", [0, 1999, 2001, len(CONTENT)])
async def test_any_offset_but_the_committed_one_is_refused_and_nothing_touched(path: Path, offset: int) -> None:
    left_by_a_crash(path, CONTENT[:2000])
    error = await refused(PartialFile(path).open(offset))
    assert error.reason is Reason.UPLOAD_OFFSET_MISMATCH
    assert error.message == f"The upload goes on at byte 2000, not at {offset}."
    assert content(path) == CONTENT[:2000]


async def test_the_first_offset_is_nothing(path: Path, tmp_path: Path) -> None:
    assert (await refused(PartialFile(path).open(1))).reason is Reason.UPLOAD_OFFSET_MISMATCH
    assert os.listdir(tmp_path) == []


async def test_closing_twice_and_closing_what_was_never_opened_is_no_error(path: Path) -> None:
    await PartialFile(path).close()
    file = await opened(path)
    await append(file, CONTENT)
    await file.close()
    await file.close()
    assert content(path) == CONTENT


# --- disks that are full, broken or slow


class Disk:
    """What files opened for appending are written to: with ``room`` bytes left, then ``error``; ``at_once`` is the
    most that one write takes."""

    def __init__(self) -> None:
        self.room = 1 << 40
        self.error = errno.ENOSPC
        self.at_once = 1 << 40
        self.writable = threading.Event()
        self.writable.set()
        self.begun = threading.Event()

    def write(self, file: io.FileIO, data: Any) -> int:
        self.begun.set()
        assert self.writable.wait(20), "nobody let the disk go on"
        fits = bytes(data)[: min(self.room, self.at_once)]
        if not fits:
            raise OSError(self.error, os.strerror(self.error))
        self.room -= len(fits)
        return io.FileIO.write(file, fits)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    open_path = Path.open

    class OnDisk(io.FileIO):
        def write(self, data: Any, /) -> int:
            return made.write(self, data)

    def opener(path: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        return OnDisk(path, "ab") if mode == "ab" else open_path(path, mode, *more, **named)

    monkeypatch.setattr(Path, "open", opener)
    return made


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("room", [0, 1, PIECE, 1500])
async def test_a_full_disk_is_said_and_keeps_what_was_committed(path: Path, disk: Disk, room: int, error: int) -> None:
    file = await opened(path)
    await append(file, CONTENT[:2500])
    assert await file.sync() == 2500
    disk.room, disk.error = room, error
    failed = await refused(append(file, CONTENT[2500:]))
    assert failed.reason is Reason.STORAGE_FULL
    assert str(path.parent) not in failed.message
    assert (await refused(file.close())).reason is Reason.STORAGE_FULL

    kept = committed_bytes(path)
    assert kept >= 2500
    assert content(path) == CONTENT[:kept]

    disk.room = 1 << 40
    again = await opened(path)
    await append(again, CONTENT[kept:])
    assert await again.digest() == DIGEST
    await again.close()


@dataclass(frozen=True)
class Free:
    """What `fstatvfs` says of a disk."""

    f_bavail: int
    f_frsize: int = 1


async def test_room_for_what_is_small_is_left_on_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = await opened(path)
    free = [Free(blobs.RESERVED_BYTES + PIECE), Free(blobs.RESERVED_BYTES + PIECE - 1)]
    monkeypatch.setattr(os, "fstatvfs", lambda _: free.pop(0))
    await append(file, CONTENT[:PIECE], PIECE)
    assert await file.sync() == PIECE
    await append(file, CONTENT[PIECE : 2 * PIECE], PIECE)
    for call in (file.sync, file.close):
        assert (await refused(call())).reason is Reason.STORAGE_FULL
    assert content(path) == CONTENT[:PIECE]


async def test_once_it_failed_it_stays_failed_though_there_is_room_again(path: Path, disk: Disk) -> None:
    file = await opened(path)
    disk.room = 500
    assert (await refused(append(file, CONTENT[: 5 * PIECE]))).reason is Reason.STORAGE_FULL
    disk.room = 1 << 40
    for call in (file.sync, file.digest, lambda: append(file, CONTENT[: 2 * PIECE]), file.close):
        assert (await refused(call())).reason is Reason.STORAGE_FULL
    assert content(path) == CONTENT[:500]


async def test_a_disk_that_tells_only_when_it_is_asked_to_sync(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = await opened(path)
    await append(file, CONTENT)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", full)
        assert (await refused(file.sync())).reason is Reason.STORAGE_FULL
    assert await file.digest() == DIGEST
    await file.close()


@pytest.mark.parametrize("error", [errno.EIO, errno.EROFS, errno.EACCES])
async def test_any_other_error_of_the_disk_is_not_taken_for_a_full_one(path: Path, disk: Disk, error: int) -> None:
    file = await opened(path)
    disk.room, disk.error = 0, error
    failed = await refused(append(file, CONTENT))
    assert failed.reason is Reason.STORAGE_FAILED
    assert str(path.parent) not in failed.message
    assert (await refused(file.close())).reason is Reason.STORAGE_FAILED


@pytest.mark.parametrize("error", [TimeoutError(), FileNotFoundError(errno.ENOENT, "No such file"), ValueError()])
def test_what_is_no_error_of_the_disk_passes(error: Exception) -> None:
    with pytest.raises(type(error)), blobs.storage_errors():
        raise error


async def test_no_room_for_the_folder_is_a_full_disk_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    assert (await refused(PartialFile(path).open(0))).reason is Reason.STORAGE_FULL


async def test_a_disk_that_takes_less_at_once_than_it_is_given_gets_all_of_it(path: Path, disk: Disk) -> None:
    disk.at_once = 77
    file = await opened(path)
    await append(file, CONTENT)
    assert await file.digest() == DIGEST
    await file.close()
    assert content(path) == CONTENT


async def test_a_stream_that_is_canceled_while_the_disk_is_slow_loses_and_repeats_nothing(
    path: Path, disk: Disk
) -> None:
    file = await opened(path)
    disk.writable.clear()
    await file.append(CONTENT[:PIECE])
    second = asyncio.ensure_future(file.append(CONTENT[PIECE : 2 * PIECE]))
    async with asyncio.timeout(20):
        await asyncio.to_thread(disk.begun.wait)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    closing = asyncio.ensure_future(file.close())
    disk.writable.set()
    async with asyncio.timeout(20):
        await closing
    kept = committed_bytes(path)
    assert kept >= PIECE
    again = await opened(path)
    await append(again, CONTENT[kept:])
    assert await again.digest() == DIGEST
    await again.close()


async def test_the_loop_is_free_while_the_disk_is_slow(path: Path, disk: Disk) -> None:
    file = await opened(path)
    disk.writable.clear()
    async with asyncio.timeout(20):
        await file.append(CONTENT[:PIECE])
        await asyncio.to_thread(disk.begun.wait)
    assert committed_bytes(path) == 0
    disk.writable.set()
    await file.close()
    assert content(path) == CONTENT[:PIECE]


# --- blobs


@pytest.fixture
def folder(tmp_path: Path) -> BlobFolder:
    return BlobFolder(tmp_path / "blobs")


async def write_partial(folder: BlobFolder, name: str, data: bytes = CONTENT) -> str:
    file = await opened(folder.partial_path(name))
    await append(file, data)
    digest = await file.digest()
    await file.close()
    return digest


async def test_a_blob_is_there_under_its_digest_once_it_is_adopted(folder: BlobFolder) -> None:
    digest = await write_partial(folder, "u1")
    assert not folder.has(digest)
    path = await folder.adopt("u1", digest)
    assert path == folder.path(digest) == folder.folder / digest[:2] / digest
    assert folder.has(digest)
    assert content(path) == CONTENT
    assert not folder.partial_path("u1").exists()


async def test_the_same_content_twice_is_one_blob_and_who_reads_it_reads_on(folder: BlobFolder) -> None:
    for name in ("u1", "u2"):
        await write_partial(folder, name)
    with (await folder.adopt("u1", DIGEST)).open("rb", buffering=0) as reader:
        begin = reader.read(1000)
        await folder.adopt("u2", DIGEST)
        assert begin + reader.read() == CONTENT
    assert [file for file in folder.folder.rglob("*") if file.is_file()] == [folder.path(DIGEST)]


async def test_a_blob_comes_by_one_rename_and_the_rename_is_made_durable(
    folder: BlobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_partial(folder, "u1")
    done: list[str] = []
    replace, fsync = Path.replace, os.fsync

    def noted_replace(source: Path, target: Path) -> Path:
        assert not folder.has(DIGEST)
        done.append("rename")
        return replace(source, target)

    def noted_fsync(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    monkeypatch.setattr(Path, "replace", noted_replace)
    monkeypatch.setattr(os, "fsync", noted_fsync)
    await folder.adopt("u1", DIGEST)
    assert done == ["rename", DIGEST[:2], "blobs"]


@pytest.mark.parametrize("step", ["mkdir", "replace"])
async def test_adopting_on_a_full_disk_leaves_the_partial_file_and_no_blob(
    folder: BlobFolder, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    await write_partial(folder, "u1")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, step, full)
        assert (await refused(folder.adopt("u1", DIGEST))).reason is Reason.STORAGE_FULL
    assert not folder.has(DIGEST)
    assert folder.partial_path("u1").read_bytes() == CONTENT
    assert (await folder.adopt("u1", DIGEST)).read_bytes() == CONTENT


async def test_adopting_what_is_not_there_is_an_error_and_makes_no_blob(folder: BlobFolder) -> None:
    with pytest.raises(FileNotFoundError):
        await folder.adopt("u1", DIGEST)
    assert not folder.has(DIGEST)


async def test_removing_and_discarding_take_what_is_there(folder: BlobFolder) -> None:
    await write_partial(folder, "u1")
    await write_partial(folder, "u2", b"other")
    await folder.adopt("u1", DIGEST)
    for _ in range(2):
        await folder.remove(DIGEST)
        await folder.discard_partial("u2")
    assert not folder.has(DIGEST)
    assert not folder.partial_path("u2").exists()


async def test_a_blob_that_was_adopted_may_be_adopted_again(tmp_path: Path) -> None:
    folder = BlobFolder(tmp_path)
    left_by_a_crash(folder.partial_path("a"), CONTENT)
    path = await folder.adopt("a", DIGEST)
    assert await folder.adopt("a", DIGEST) == path
    assert content(path) == CONTENT
    assert await folder.digests() == {DIGEST}
    with pytest.raises(FileNotFoundError):
        await folder.adopt("a", EMPTY)


async def test_a_new_file_is_there_after_a_crash_and_its_folder_is_synced_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(blobs, "sync_folder", synced.append)
    file = await opened(path)
    await append(file, CONTENT[:1500])
    assert file.synced == 0
    await file.close()
    assert file.synced == 1500
    file = await opened(path)
    assert file.synced == 1500
    await file.close()
    await (await opened(path.with_name("other"))).close()
    assert synced == [path.parent, path.parent.parent, path.parent]


async def test_a_partial_file_that_goes_while_it_is_looked_at_is_not_idle(
    folder: BlobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = folder.partial_path("kept")
    kept.parent.mkdir(parents=True)
    kept.touch()
    gone = folder.partial_path("gone")
    monkeypatch.setattr(Path, "iterdir", lambda _: iter([gone, kept]))
    now = kept.stat().st_mtime
    assert await folder.idle_partials(5, now + 6) == {"kept"}
    assert await folder.settle("kept") == 0
    os.utime(kept, (1, 1))
    await folder.settle("kept")
    assert await folder.idle_partials(5, now + 4) == frozenset()


async def test_closing_syncs_to_its_end_also_when_the_task_is_canceled_meanwhile(path: Path, disk: Disk) -> None:
    file = await opened(path)
    await append(file, CONTENT[:900])
    disk.writable.clear()
    closing = asyncio.ensure_future(file.close())
    assert await asyncio.to_thread(disk.begun.wait, 20)
    closing.cancel()
    await asyncio.sleep(0)
    assert not closing.done()
    disk.writable.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert content(path) == CONTENT[:900]


async def test_a_full_disk_is_no_forgotten_error_of_a_canceled_closing(path: Path, disk: Disk) -> None:
    file = await opened(path)
    await append(file, CONTENT[:900])
    disk.room = 0
    disk.writable.clear()
    closing = asyncio.ensure_future(file.close())
    assert await asyncio.to_thread(disk.begun.wait, 20)
    closing.cancel()
    disk.writable.set()
    with pytest.raises(asyncio.CancelledError):
        await closing


async def test_opening_that_is_canceled_leaves_no_file_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, gate, files = threading.Event(), threading.Event(), list[BinaryIO]()
    now = PartialFile._open

    def slow(file: PartialFile) -> BinaryIO:
        began.set()
        assert gate.wait(10)
        files.append(now(file))
        return files[0]

    monkeypatch.setattr(PartialFile, "_open", slow)
    opening = asyncio.ensure_future(PartialFile(path).open(0))
    await asyncio.to_thread(began.wait, 10)
    opening.cancel()
    asyncio.get_running_loop().call_later(0.05, gate.set)
    with pytest.raises(asyncio.CancelledError):
        await opening
    await asyncio.sleep(0)
    assert [file.closed for file in files] == [True]
