"""Uploads: begun, written in one or many streams, probed when whole, removed when nothing needs them.

Invariants: what was synced is never asked for again. An upload that has all bytes is finished whether or not the stream
that brought the last one lives: whoever asks, or the next sweep, sees to it. A whole upload is sealed in the store before its file becomes a
blob, so that a process that dies between the two is gone on from, and no blob is without an upload for long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

import structlog

from services.contract.errors import Reason, ServiceError
from services.contract.filenames import safe_filename
from services.contract.limits import MEGABYTE
from services.controller.finishes import Finishes
from services.controller.jobs import Owner, UploadId
from services.controller.prober import AudioProber
from services.controller.store.protocol import Store, Upload
from services.controller.turns import Turn, Turns
from services.runtime.blobs import BlobFolder, PartialFile, committed_bytes

log = structlog.get_logger()

UNFINISHED_SECONDS = 24 * 3600.0
"""How long an upload that nobody goes on with is kept."""

UNSEEN_SECONDS = 6 * 3600.0
"""How long, of that, one process must have heard nothing of its client: a machine may have been off for the whole day."""

UNUSED_SECONDS = 7 * 24 * 3600.0
"""How long a complete upload is kept that no job ever used: a batch submits at once, a person after a weekend."""

ORPHAN_SECONDS = 6 * 3600.0
"""How long one process sees a blob that no upload names before it removes it. Only what dies while it removes one leaves
any; and a controller that was started on another database by mistake takes nothing away before somebody notices."""

FINISH_WAIT_SECONDS = 4.0
"""How long who asks for an upload waits for its finish: well below the time that callers give a call."""


class Recordings:
    """``max_bytes`` bounds one recording. Whoever made it closes it, before the store and the prober."""

    def __init__(self, store: Store, blobs: BlobFolder, prober: AudioProber, max_bytes: int) -> None:
        self._store = store
        self._blobs = blobs
        self._prober = prober
        self._max_bytes = max_bytes
        self._turns = Turns()
        # A finish is begun by who has the upload's turn, or while nobody has; who takes the turn waits for its end.
        self._finishes = Finishes()
        self._written: dict[UploadId, PartialFile] = {}  # by the streams that have the turn
        self._seen: dict[UploadId, float] = {}  # unfinished -> when a client was here, or a sweep saw it first
        self._keeping = asyncio.Lock()  # else a blob could be removed that another upload has just found there
        self._orphans: dict[str, float] = {}  # digest -> when it was first seen, in seconds since the epoch

    async def close(self) -> None:
        """Ends what is being finished; the next process goes on with it."""
        await self._finishes.close()

    async def create(self, owner: Owner, filename: str, size_bytes: int, request_id: str, sha256: str = "") -> Upload:
        """The upload of that request; complete at once where the owner has that content already.

        ``size_bytes`` and ``sha256`` are what it must become; 0 and empty where that is not known. Raises
        FILE_TOO_LARGE, and INVALID_REQUEST when the first call of this request declared something else.
        """
        self._check_size(size_bytes)
        begun = Upload(
            UploadId(uuid4().hex),
            owner,
            safe_filename(filename),
            datetime.now(UTC),
            request_id=request_id,
            declared_bytes=size_bytes,
            declared_sha256=sha256,
        )
        async with self._keeping:
            upload = await self._store.create_upload(await self._with_known_content(begun))
        if upload.id == begun.id:
            return upload
        try:
            return await self._gone_on_with(upload, size_bytes, sha256)
        except ServiceError as error:
            if error.reason is not Reason.NOT_FOUND:
                raise
        return await self.create(owner, filename, size_bytes, request_id, sha256)  # it was refused, or removed just now

    async def _gone_on_with(self, upload: Upload, size_bytes: int, sha256: str) -> Upload:
        """The upload of an earlier call of the request, settled. Raises INVALID_REQUEST, NOT_FOUND."""
        async with self._turns.take(upload.id, take_over=True) as turn:
            turn.hold()
            await self._finishes.wait(upload.id)
            known = await self.owned(upload.owner, upload.id)
            if self._is_other(known, size_bytes, sha256):
                raise ServiceError(
                    Reason.INVALID_REQUEST, "The requestId belongs to another upload: its content differs."
                )
            await self._save_declared(known, size_bytes, sha256)
        return await self.settled(upload.owner, upload.id)

    def _is_other(self, known: Upload, size_bytes: int, sha256: str) -> bool:
        """Whether what is known of an upload, declared or there, cannot become what is declared now."""
        return (
            _differ(known.size_bytes or known.declared_bytes, size_bytes)
            or _differ(known.sha256 or known.declared_sha256, sha256)
            or 0 < size_bytes < self.committed(known)
        )

    async def _save_declared(self, known: Upload, size_bytes: int, sha256: str) -> None:
        """What came later than the first call, so that it is held to as well; and that a file is gone, if it is."""
        now = known
        async with self._keeping:
            if known.complete and not self._blobs.has(known.sha256):
                log.error("upload_lost", upload_id=known.id, reason="its file is gone from the disk; it is sent again")
                now = replace(
                    known, complete=False, completed_at=None, sha256="", size_bytes=0, duration_seconds=0.0,
                    declared_bytes=known.size_bytes, declared_sha256=known.sha256,
                )  # fmt: skip
            elif not known.sealed:
                now = replace(
                    known,
                    declared_bytes=known.declared_bytes or size_bytes,
                    declared_sha256=known.declared_sha256 or sha256,
                )
            if now != known:
                await self._store.save_upload(now)

    async def _with_known_content(self, begun: Upload) -> Upload:
        if not begun.declared_sha256:
            return begun
        for known in await self._store.uploads_of_content(begun.owner, begun.declared_sha256):
            if known.size_bytes == begun.declared_bytes and self._blobs.has(known.sha256):
                return replace(
                    begun,
                    sha256=known.sha256,
                    size_bytes=known.size_bytes,
                    duration_seconds=known.duration_seconds,
                    complete=True,
                    completed_at=begun.created_at,
                )
        return begun

    async def owned(self, owner: Owner, upload_id: UploadId) -> Upload:
        """Raises ServiceError(NOT_FOUND), for another's as well."""
        upload = await self._store.get_upload(upload_id)
        if upload is None or upload.owner != owner:
            raise ServiceError(Reason.NOT_FOUND, "There is no such upload in this session.")
        return upload

    async def synced(self, owner: Owner, upload_id: UploadId) -> Upload:
        """As `owned`, once all that is there is synced, where no stream writes it: see `told`."""
        upload = await self.owned(owner, upload_id)
        self._seen[upload_id] = time.time()
        if not upload.sealed and upload_id not in self._turns:
            await self._blobs.settle(upload_id)
        return upload

    async def settled(self, owner: Owner, upload_id: UploadId) -> Upload:
        """As `synced`, once what writes it has ended.

        Where that is all of it, also once it is finished, or after FINISH_WAIT_SECONDS: it is not complete then.
        """
        await self.owned(owner, upload_id)
        await self._turns.settle(upload_id)
        upload = await self.synced(owner, upload_id)
        self._finish_if_whole(upload)
        if upload_id not in self._finishes:
            return upload
        await self._finishes.wait(upload_id, FINISH_WAIT_SECONDS)
        return await self.owned(owner, upload_id)

    async def of_content(self, owner: Owner, sha256: str) -> list[Upload]:
        """The owner's complete ones, oldest first."""
        return list(await self._store.uploads_of_content(owner, sha256))

    async def told(self, upload: Upload) -> tuple[Upload, int]:
        """As it is now, with its committed bytes. Raises NOT_FOUND."""
        if not self.committed(upload):  # it may have been sealed, and its file renamed, since it was read
            upload = await self.owned(upload.owner, upload.id)
        return upload, self.committed(upload)

    def committed(self, upload: Upload) -> int:
        """What no crash takes away, where a stream writes it or `synced` was called."""
        if upload.sealed:
            return upload.size_bytes
        written = self._written.get(upload.id)
        return written.synced if written else committed_bytes(self._blobs.partial_path(upload.id))

    @asynccontextmanager
    async def writing(
        self, owner: Owner, upload_id: UploadId, offset: int, take_over: bool = False
    ) -> AsyncIterator[UploadWriter]:
        """A writer that goes on at ``offset``; leaving, however, syncs what arrived.

        Raises NOT_FOUND, UPLOAD_BUSY (or takes over), UPLOAD_OFFSET_MISMATCH, STREAM_TAKEN_OVER.
        """
        await self.owned(owner, upload_id)
        await self._finishes.wait(upload_id)
        async with self._turns.take(upload_id, take_over) as turn:
            await self._finishes.wait(upload_id)
            upload = await self.owned(owner, upload_id)  # as it is now that nobody else writes it
            file = PartialFile(self._blobs.partial_path(upload.id))
            self._seen[upload_id] = time.time()
            if not upload.sealed:
                await file.open(offset)
            elif offset != upload.size_bytes:
                raise ServiceError(Reason.UPLOAD_OFFSET_MISMATCH, "All bytes of the upload are already there.")
            writer = UploadWriter(self, upload, file, turn)
            self._written[upload_id] = file
            try:
                yield writer
            finally:
                turn.hold()
                try:
                    await file.close()
                finally:
                    del self._written[upload_id]
                    self._seen[upload_id] = time.time()
                    if not writer.finishing:
                        self._begin_finish_if_whole(upload)
                log.info("upload_stream_ended", upload_id=upload.id, offset=offset, bytes=max(file.size - offset, 0))

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise ServiceError(
                Reason.FILE_TOO_LARGE,
                f"The file is over the limit of {self._max_bytes // MEGABYTE} MB. Split it, or raise CONTROLLER_MAX_UPLOAD_MB.",
            )

    async def check_grown(self, upload: Upload, size_bytes: int) -> None:
        """Raises FILE_TOO_LARGE, and drops what was written of it; INVALID_REQUEST past what was declared."""
        if upload.sealed or size_bytes > (upload.declared_bytes or size_bytes):
            raise ServiceError(Reason.INVALID_REQUEST, "More data came than the upload was declared to have.")
        try:
            self._check_size(size_bytes)
        except ServiceError:
            await self._drop(upload)
            raise

    def begin_finish(self, upload: Upload, file: PartialFile, expected_sha256: str) -> None:
        """Has what was written verified, probed and kept; done again, it goes on from where it was. ``file`` is
        closed, and the caller has the turn."""
        self._finishes.begin(upload.id, partial(self._finish, upload.id, file, expected_sha256))

    async def finished(self, upload: Upload) -> Upload:
        """What has begun. Raises UPLOAD_INCOMPLETE; UPLOAD_DIGEST_MISMATCH and AUDIO_INVALID, and it is dropped then;
        NOT_FOUND where its file is gone."""
        return await self._finishes.result(upload.id)

    def _finish_if_whole(self, upload: Upload) -> None:
        """Begins what a stream should have begun that is gone."""
        if upload.id not in self._turns:
            self._begin_finish_if_whole(upload)

    def _begin_finish_if_whole(self, upload: Upload) -> None:
        if not upload.complete and self._is_whole(upload):
            self._finishes.begin(upload.id, partial(self._finish, upload.id))

    def _is_whole(self, upload: Upload) -> bool:
        """Where it is known how large it must become."""
        return upload.sealed or 0 < upload.declared_bytes == self.committed(upload)

    async def _finish(
        self, upload_id: UploadId, written: PartialFile | None = None, expected_sha256: str = ""
    ) -> Upload:
        """``written`` is what a stream wrote; without it, what is on the disk counts. Raises as `finished`."""
        upload = await self._store.get_upload(upload_id)
        if upload is None:
            raise ServiceError(Reason.NOT_FOUND, "The upload was removed.")
        if upload.complete:
            return upload
        if not upload.sealed:
            upload = await self._seal(upload, written or await self._found(upload_id), expected_sha256)
        try:
            return await self._keep(upload)
        except FileNotFoundError:
            log.error("upload_lost", upload_id=upload_id, reason="its file is gone from the disk")  # noqa: TRY400
            await self._drop(upload)
            raise ServiceError(Reason.NOT_FOUND, "The upload's file is gone.") from None

    async def _found(self, upload_id: UploadId) -> PartialFile:
        """What other streams left on the disk, synced and closed."""
        path = self._blobs.partial_path(upload_id)
        file = PartialFile(path)
        await file.open(committed_bytes(path))
        await file.close()
        return file

    async def _seal(self, upload: Upload, file: PartialFile, expected_sha256: str) -> Upload:
        if file.size < upload.declared_bytes:
            raise ServiceError(
                Reason.UPLOAD_INCOMPLETE,
                f"{file.size} of the {upload.declared_bytes} bytes are there. Send the others first.",
            )
        digest = await file.digest()
        try:
            if not {expected_sha256, upload.declared_sha256} <= {"", digest}:
                raise ServiceError(Reason.UPLOAD_DIGEST_MISMATCH)
            if file.size == 0:
                raise ServiceError(Reason.AUDIO_INVALID, "The file cannot be transcribed: it is empty.")
            duration = await self._prober.duration_seconds(self._blobs.partial_path(upload.id))
        except ServiceError as error:
            log.info("upload_refused", upload_id=upload.id, reason=error.reason.value)
            await self._drop(upload)
            raise
        sealed = replace(upload, sha256=digest, size_bytes=file.size, duration_seconds=duration)
        await self._store.save_upload(sealed)
        return sealed

    async def _keep(self, sealed: Upload) -> Upload:
        """May be repeated. Raises FileNotFoundError where the file is gone."""
        whole = replace(sealed, complete=True, completed_at=datetime.now(UTC))
        async with self._keeping:
            await self._blobs.adopt(sealed.id, sealed.sha256)
            await self._store.save_upload(whole)
        log.info(
            "upload_completed", upload_id=whole.id, bytes=whole.size_bytes, seconds=round(whole.duration_seconds, 2)
        )
        return whole

    async def remove(self, upload: Upload) -> bool:
        """False, and nothing done, while a job uses it. Whoever writes it is ended."""
        async with self._turns.take(upload.id, take_over=True) as turn:
            turn.hold()
            await self._finishes.wait(upload.id)
            now = await self._store.get_upload(upload.id)  # whoever wrote it may have come to its end
            if now is None:
                return True
            if not now.complete:  # before the store, which may have no room to write before this made some
                await self._blobs.discard_partial(now.id)
            if not await self._store.delete_upload(now.id):
                return False
        await self._remove_unnamed(now.sha256)
        return True

    async def remove_unused(self, upload_id: UploadId) -> None:
        upload = await self._store.get_upload(upload_id)
        if upload is not None:
            await self.remove(upload)

    async def sweep(self, now: float) -> None:
        """Removes uploads that were cut and never gone on with, complete ones that no job ever used, and what a
        process that died left of others; ``now`` is in seconds since the epoch."""
        uploads = await self._store.incomplete_uploads()
        self._seen = {upload.id: self._seen.get(upload.id, now) for upload in uploads}
        for upload in uploads:
            async with _logged(upload.id):
                await self._sweep_unfinished(upload, now)
        for name in await self._blobs.idle_partials(UNFINISHED_SECONDS, now) - {upload.id for upload in uploads}:
            await self._blobs.discard_partial(name)
        for upload in await self._store.unused_uploads(datetime.fromtimestamp(now - UNUSED_SECONDS, UTC)):
            async with _logged(upload.id):
                if await self.remove(upload):
                    log.info("upload_dropped", upload_id=upload.id, reason="no job used it")
        await self._sweep_orphans(now)
        for upload in uploads:  # last: what came before may have made the room that this needs
            self._finish_if_whole(upload)
            await self._finishes.wait(upload.id)

    async def _sweep_unfinished(self, upload: Upload, now: float) -> None:
        if upload.sealed or upload.id in self._turns:
            return
        partial_file = self._blobs.partial_path(upload.id)
        touched = partial_file.stat().st_mtime if partial_file.exists() else upload.created_at.timestamp()
        if now - touched > UNFINISHED_SECONDS and now - self._seen.get(upload.id, now) > UNSEEN_SECONDS:
            await self._drop_unfinished(upload.id)

    async def _drop_unfinished(self, upload_id: UploadId) -> None:
        """Unless somebody went on with it after all, until this moment; nobody does from here on."""
        async with self._turns.take(upload_id, take_over=True) as turn:
            turn.hold()
            await self._finishes.wait(upload_id)
            upload = await self._store.get_upload(upload_id)
            if upload is not None and not upload.sealed:
                await self._drop(upload)
                log.info("upload_dropped", upload_id=upload_id, reason="nobody went on with it")

    async def _sweep_orphans(self, now: float) -> None:
        orphans = await self._blobs.digests() - await self._store.blobs_in_use()
        self._orphans = {digest: self._orphans.get(digest, now) for digest in orphans}
        for digest, seen in self._orphans.items():
            if now - seen > ORPHAN_SECONDS:
                await self._remove_unnamed(digest)
                log.info("blob_dropped", sha256=digest, reason="no upload names it")

    async def _remove_unnamed(self, sha256: str) -> None:
        async with self._keeping:
            if sha256 and not await self._store.blob_in_use(sha256):
                await self._blobs.remove(sha256)

    async def _drop(self, upload: Upload) -> None:
        await self._blobs.discard_partial(upload.id)
        await self._store.delete_upload(upload.id)


class UploadWriter:
    """One stream into one upload, inside the block of `Recordings.writing`."""

    def __init__(self, recordings: Recordings, upload: Upload, file: PartialFile, turn: Turn) -> None:
        self._recordings = recordings
        self._file = file
        self._turn = turn
        self.upload = upload
        self.finishing = False

    async def append(self, data: bytes) -> None:
        await self._recordings.check_grown(self.upload, self._file.size + len(data))
        await self._file.append(data)

    async def complete(self, expected_sha256: str) -> None:
        """Nobody takes over from here on: who comes now waits for the end, which comes also when this is canceled."""
        self._turn.hold()
        await self._file.close()
        if self.upload.complete:
            return
        self.finishing = True
        self._recordings.begin_finish(self.upload, self._file, expected_sha256)
        self._turn.settled.set()
        self.upload = await self._recordings.finished(self.upload)


@asynccontextmanager
async def _logged(upload_id: UploadId) -> AsyncIterator[None]:
    """What fails with one upload is no reason to leave the others."""
    try:
        yield
    except Exception:  # a full disk, a locked database: there is a next time
        log.exception("upload_not_swept", upload_id=upload_id)


def _differ(first: object, second: object) -> bool:
    return bool(first) and bool(second) and first != second
