"""/api/jobs: creating, listing, showing, canceling and deleting jobs, and their transcripts."""

from __future__ import annotations

from collections.abc import Iterator

from aiohttp import web

from gateway import wire
from gateway.answers import CreatedJobs, DeletedAnswer, JobAnswer, JobsAnswer, TranscriptAnswer
from gateway.controller import Controller
from gateway.endpoints import JOB_ID, Endpoint
from gateway.filenames import content_disposition
from gateway.requests import CreateJobs, GetTranscript, JobOptions, ListJobs, read_body, read_query
from gateway.sessions import owner_of
from gateway.transcripts import CONTENT_TYPES, render
from services.contract.errors import Reason

PIECE_BYTES = 64 * 1024
"""Rendered text is sent in pieces of about this size: other requests get their turn in between."""


class JobRoutes:
    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def endpoints(self) -> list[Endpoint]:
        job, away = f"/api/jobs{JOB_ID}", Reason.CONTROLLER_UNREACHABLE
        refused = (
            *(
                Reason.INVALID_REQUEST,
                Reason.MODEL_UNKNOWN,
                Reason.LANGUAGE_UNSUPPORTED,
                Reason.DIARIZATION_UNAVAILABLE,
            ),
            *(Reason.UPLOAD_INCOMPLETE, Reason.FILE_TOO_LARGE, Reason.NOT_FOUND, away),
        )
        return [
            Endpoint("POST", "/api/jobs", self.create, "One job for each upload", CreatedJobs, body=CreateJobs, errors=refused),
            Endpoint(
                "GET", "/api/jobs", self.list, "This session's jobs, newest first", JobsAnswer, query=ListJobs,
                errors=(Reason.INVALID_REQUEST, away),
            ),
            Endpoint("GET", job, self.show, "A job", JobAnswer, errors=(Reason.NOT_FOUND, away)),
            Endpoint(
                "POST", f"{job}/cancel", self.cancel, "Cancels a job that has not ended", JobAnswer,
                errors=(Reason.NOT_FOUND, Reason.JOB_ENDED, away),
            ),
            Endpoint(
                "DELETE", job, self.delete, "Removes an ended job and its files", DeletedAnswer,
                errors=(Reason.NOT_FOUND, Reason.JOB_NOT_ENDED, away),
            ),
            Endpoint(
                "GET", f"{job}/transcript", self.transcript, "The transcript of a complete job", TranscriptAnswer,
                query=GetTranscript, other_types=tuple(CONTENT_TYPES.values())[1:],
                errors=(Reason.INVALID_REQUEST, Reason.NOT_FOUND, Reason.TRANSCRIPT_NOT_READY, away),
            ),
        ]  # fmt: skip

    async def create(self, request: web.Request) -> web.Response:
        body = await read_body(request, CreateJobs)
        created = await self._controller.create_jobs(
            owner_of(request), body.upload_ids, body.options or JobOptions(), body.request_id or ""
        )
        return web.json_response(wire.created_answer(created))

    async def list(self, request: web.Request) -> web.Response:
        query = read_query(request, ListJobs)
        page = await self._controller.list_jobs(owner_of(request), query.status, query.page_size, query.page_token)
        return web.json_response(wire.jobs_answer(page))

    async def show(self, request: web.Request) -> web.Response:
        job = await self._controller.get_job(owner_of(request), request.match_info["job_id"])
        return web.json_response(wire.job_answer(job))

    async def cancel(self, request: web.Request) -> web.Response:
        job = await self._controller.cancel_job(owner_of(request), request.match_info["job_id"])
        return web.json_response(wire.job_answer(job))

    async def delete(self, request: web.Request) -> web.Response:
        job_id = request.match_info["job_id"]
        await self._controller.delete_job(owner_of(request), job_id)
        answer: DeletedAnswer = {"jobId": job_id, "deleted": True}
        return web.json_response(answer)

    async def transcript(self, request: web.Request) -> web.StreamResponse:
        form = read_query(request, GetTranscript).format
        transcript = await self._controller.transcript(owner_of(request), request.match_info["job_id"])
        response = web.StreamResponse(
            headers={
                "Content-Type": f"{CONTENT_TYPES[form]}; charset=utf-8",
                "Content-Disposition": content_disposition(f"{transcript.filename}.{form}"),
            }
        )
        await response.prepare(request)
        for piece in _pieces(render(transcript, form)):
            await response.write(piece)
        await response.write_eof()
        return response


def _pieces(texts: Iterator[str]) -> Iterator[bytes]:
    piece = bytearray()
    for text in texts:
        piece += text.encode("utf-8", "replace")
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)
