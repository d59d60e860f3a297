"""The gateway's stream to the controller, when it breaks: what is asked then, and that nothing is written where it does not belong."""

from __future__ import annotations

import pytest
from bulkscribe.jobs.v1 import uploads_pb2

from gateway.controller import UNREACHABLE, Controller, UploadStream
from services.contract.errors import Reason, ServiceError
from services.runtime.channel import open_channel
from tests.fakes.controller import FakeController
from tests.fakes.ended_call import EndedCall

SIZE_BYTES = 1000


@pytest.mark.parametrize(
    ("committed", "offset", "begins_at", "full", "reason"),
    [
        (400, 400, 400, True, Reason.STORAGE_FULL),
        (400, 200, 900, True, Reason.STORAGE_FULL),
        (450, 400, 400, True, Reason.STORAGE_FULL),  # half of it was written
        (400, 200, 900, False, UNREACHABLE),
        (SIZE_BYTES, 200, 900, False, UNREACHABLE),
        (400, 401, 401, False, Reason.UPLOAD_OFFSET_MISMATCH),
        (400, 200, 200, False, Reason.UPLOAD_OFFSET_MISMATCH),
        (400, 300, 300, False, Reason.UPLOAD_OFFSET_MISMATCH),  # it ends where the upload does
    ],
)
async def test_asking_why_writes_no_bytes_where_others_belong(
    committed: int, offset: int, begins_at: int, full: bool, reason: Reason
) -> None:
    """Those before the last message may have been lost on the way; its own would be taken for them."""
    fake = FakeController()
    await fake.start()
    async with open_channel(fake.address) as channel:
        controller = Controller(channel, "")
        upload = await controller.create_upload("alice", "a.wav", SIZE_BYTES, "", "")
        stored = fake.upload_of("alice", upload.upload_id)
        stored.written = stored.message.committed_bytes = committed
        fake.full = full
        last = uploads_pb2.WriteUploadRequest(data=bytes(100))
        found = await controller._ask_why("alice", upload.upload_id, offset, last, begins_at)
        assert found.reason is reason
        assert stored.written == committed
    await fake.stop()


async def test_a_stream_knows_where_its_last_message_begins() -> None:
    asked: list[tuple[bytes, int]] = []

    async def ask_why(last: uploads_pb2.WriteUploadRequest, begins_at: int) -> ServiceError:
        asked.append((last.data, begins_at))
        return ServiceError(Reason.STORAGE_FULL)

    stream = UploadStream(EndedCall(messages=3), 500, ask_why)
    await stream.send(uploads_pb2.WriteUploadRequest(header=uploads_pb2.WriteUploadHeader(offset=500)))
    await stream.write(b"a" * 100)
    await stream.write(b"b" * 70)
    with pytest.raises(ServiceError):
        await stream.write(b"c" * 30)
    assert asked == [(b"c" * 30, 670)]
