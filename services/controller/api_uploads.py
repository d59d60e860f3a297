"""UploadService: recordings on their way in."""

from __future__ import annotations

from collections.abc import AsyncIterator

from bulkscribe.jobs.v1 import uploads_pb2, uploads_pb2_grpc

from services.contract.errors import Reason, ServiceError
from services.controller import wire
from services.controller.jobs import Owner, UploadId
from services.controller.recordings import Recordings
from services.controller.store.protocol import Upload
from services.runtime.interceptors import Context


class UploadApi(uploads_pb2_grpc.UploadServiceServicer):
    def __init__(self, recordings: Recordings) -> None:
        self._recordings = recordings

    async def CreateUpload(
        self, request: uploads_pb2.CreateUploadRequest, context: Context
    ) -> uploads_pb2.CreateUploadResponse:
        upload = await self._recordings.create(
            Owner(request.owner), request.filename, request.size_bytes, request.request_id, request.sha256
        )
        return uploads_pb2.CreateUploadResponse(upload=await self._message(upload))

    async def WriteUpload(
        self, requests: AsyncIterator[uploads_pb2.WriteUploadRequest], context: Context
    ) -> uploads_pb2.WriteUploadResponse:
        first = await anext(requests, None)
        if first is None or first.WhichOneof("part") != "header":
            raise ServiceError(Reason.INVALID_REQUEST, "The first message of an upload is its header.")
        header = first.header
        owner, upload_id = Owner(header.owner), UploadId(header.upload_id)
        async with self._recordings.writing(owner, upload_id, header.offset, header.take_over) as writer:
            async for request in requests:
                if request.WhichOneof("part") == "finish":
                    await writer.complete(request.finish.sha256)
                    break
                await writer.append(request.data)
        return uploads_pb2.WriteUploadResponse(upload=await self._message(writer.upload))

    async def GetUpload(self, request: uploads_pb2.GetUploadRequest, context: Context) -> uploads_pb2.GetUploadResponse:
        look = self._recordings.settled if request.settle else self._recordings.synced
        upload = await look(Owner(request.owner), UploadId(request.upload_id))
        return uploads_pb2.GetUploadResponse(upload=await self._message(upload))

    async def ListUploads(
        self, request: uploads_pb2.ListUploadsRequest, context: Context
    ) -> uploads_pb2.ListUploadsResponse:
        uploads = await self._recordings.of_content(Owner(request.owner), request.sha256)
        return uploads_pb2.ListUploadsResponse(uploads=[await self._message(upload) for upload in uploads])

    async def DeleteUpload(
        self, request: uploads_pb2.DeleteUploadRequest, context: Context
    ) -> uploads_pb2.DeleteUploadResponse:
        upload = await self._recordings.owned(Owner(request.owner), UploadId(request.upload_id))
        if not await self._recordings.remove(upload):
            raise ServiceError(Reason.UPLOAD_IN_USE)
        return uploads_pb2.DeleteUploadResponse()

    async def _message(self, upload: Upload) -> uploads_pb2.Upload:
        return wire.upload_message(*await self._recordings.told(upload))
