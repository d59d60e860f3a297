"""Uploads by tus: what the protocol says, what a cut leaves, and what is no upload."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from gateway.answers import KnownUploadAnswer
from gateway.sessions import CSRF_HEADER
from services.controller.jobs import UploadId
from tests.fakes.controller import NOT_AUDIO
from tests.gateway import MAX_UPLOAD_BYTES, Browser, Setup, gateway_over_fake, until

PATH = "/api/uploads/tus"
CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
BYTES = "application/offset+octet-stream"


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    async with gateway_over_fake() as running:
        yield running


@dataclass
class Answer:
    status: int
    headers: Any
    code: str
    error: str

    @property
    def offset(self) -> int:
        return int(self.headers["Upload-Offset"])


async def ask(browser: Browser, method: str, path: str, data: Any = None, **headers: str) -> Answer:
    """Header names with underscores; an empty one is left out."""
    given = {"Tus_Resumable": "1.0.0", CSRF_HEADER: browser.csrf} | headers
    data = io.BytesIO(data) if isinstance(data, bytes) else data
    named = {name.replace("_", "-"): value for name, value in given.items() if value}
    async with browser.http.request(method, browser.url + path, headers=named, data=data) as response:
        text = await response.text()
        if response.status >= 400 and method != "HEAD":
            document = await response.json()
            assert set(document) == {"error", "code"}
            return Answer(response.status, response.headers, document["code"], document["error"])
        assert text == ""
        return Answer(response.status, response.headers, "", "")


def metadata(filename: str = "a.wav", **more: str) -> str:
    pairs = {"filename": filename, **more}
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in pairs.items())


async def begin(browser: Browser, length: int = len(CONTENT), **more: str) -> str:
    answer = await ask(browser, "POST", PATH, Upload_Length=str(length), Upload_Metadata=metadata(**more))
    assert (answer.status, answer.offset) == (201, 0), answer
    location = str(answer.headers["Location"])
    assert location.startswith(f"{PATH}/")
    return location


async def patch(browser: Browser, location: str, offset: int, data: Any, **headers: str) -> Answer:
    given = {"Content_Type": BYTES, "Upload_Offset": str(offset)} | headers
    return await ask(browser, "PATCH", location, data, **given)


async def tell(browser: Browser, location: str) -> Answer:
    return await ask(browser, "HEAD", location)


async def shown(browser: Browser, location: str) -> dict[str, Any]:
    status, answer = await browser.get(location.replace("/tus", ""))
    assert status == 200
    return dict(answer)


async def test_a_server_says_what_it_speaks_to_anybody(setup: Setup) -> None:
    async with setup.another_browser() as other:
        for path in (PATH, f"{PATH}/u1"):
            answer = await ask(other, "OPTIONS", path, Tus_Resumable="")
            assert answer.status == 204
            assert answer.headers["Tus-Version"] == answer.headers["Tus-Resumable"] == "1.0.0"
            assert set(answer.headers["Tus-Extension"].split(",")) >= {"creation", "termination"}
            assert answer.headers["Tus-Max-Size"] == str(MAX_UPLOAD_BYTES)


async def test_an_upload_in_pieces_is_complete_with_its_last_byte(setup: Setup) -> None:
    location = await begin(setup.browser, filename="ä🎙.wav", sha256=DIGEST.upper())
    for start in range(0, len(CONTENT), 300_000):
        answer = await patch(setup.browser, location, start, CONTENT[start : start + 300_000])
        assert (answer.status, answer.offset) == (204, min(start + 300_000, len(CONTENT)))
        assert answer.headers["Tus-Resumable"] == "1.0.0"
        complete = answer.offset == len(CONTENT)
        told = await tell(setup.browser, location)
        assert (told.status, told.offset, told.headers["Upload-Length"]) == (200, answer.offset, str(len(CONTENT)))
        assert told.headers["Cache-Control"] == "no-store"
        known = await shown(setup.browser, location)
        assert (known["complete"], known["offset"], known["sizeBytes"]) == (complete, answer.offset, len(CONTENT))
    assert set(known) == set(KnownUploadAnswer.__annotations__)
    assert (known["filename"], known["sha256"], known["durationSeconds"]) == ("ä🎙.wav", DIGEST, 60.0)


async def test_bytes_may_come_with_the_creation(setup: Setup) -> None:
    headers = {"Upload_Length": str(len(CONTENT)), "Upload_Metadata": metadata(), "Content_Type": BYTES}
    answer = await ask(setup.browser, "POST", PATH, CONTENT[:100_000], **headers)
    assert (answer.status, answer.offset) == (201, 100_000)
    last = await patch(setup.browser, answer.headers["Location"], 100_000, CONTENT[100_000:])
    assert (last.status, last.offset) == (204, len(CONTENT))


async def test_the_same_request_id_is_the_same_upload_with_the_offset_to_go_on_from(setup: Setup) -> None:
    location = await begin(setup.browser, requestId="r1")
    await patch(setup.browser, location, 0, CONTENT[:1000])
    headers = {"Upload_Length": str(len(CONTENT)), "Upload_Metadata": metadata(requestId="r1")}
    again = await ask(setup.browser, "POST", PATH, CONTENT, Content_Type=BYTES, **headers)
    assert (again.status, again.headers["Location"], again.offset) == (201, location, 1000)
    await patch(setup.browser, location, 1000, CONTENT[1000:])
    complete = await ask(setup.browser, "POST", PATH, **headers)
    assert (complete.headers["Location"], complete.offset) == (location, len(CONTENT))
    assert await begin(setup.browser, requestId="r2") != location
    async with setup.another_browser() as other:
        await other.begin()
        assert await begin(other, requestId="r1") != location


async def test_complete_uploads_are_found_by_their_content(setup: Setup) -> None:
    location = await begin(setup.browser)
    assert (await setup.browser.get(f"/api/uploads?sha256={DIGEST}"))[1] == {"uploads": []}
    await patch(setup.browser, location, 0, CONTENT)
    _, found = await setup.browser.get(f"/api/uploads?sha256={DIGEST}")
    assert found == {"uploads": [await shown(setup.browser, location)]}
    assert (await setup.browser.get("/api/uploads?sha256=abc"))[0] == 400
    assert (await setup.browser.get("/api/uploads"))[0] == 400
    async with setup.another_browser() as other:
        await other.begin()
        assert (await other.get(f"/api/uploads?sha256={DIGEST}"))[1] == {"uploads": []}


async def all_there_but_not_finished(setup: Setup, **more: str) -> str:
    """What a crash before the finish leaves."""
    location = await begin(setup.browser, **more)
    upload = setup.fake.uploads[location.rpartition("/")[2]]
    await patch(setup.browser, location, 0, CONTENT[:-1])
    upload.written, upload.message.committed_bytes = len(CONTENT), len(CONTENT)
    upload.digest.update(CONTENT[-1:])
    return location


async def test_a_finish_that_was_cut_is_done_by_no_bytes_at_the_end(setup: Setup) -> None:
    location = await all_there_but_not_finished(setup)
    answer = await patch(setup.browser, location, len(CONTENT), b"")
    assert (answer.status, answer.offset) == (204, len(CONTENT))
    assert (await shown(setup.browser, location))["complete"]


async def test_the_last_offset_is_told_of_a_complete_upload_only(setup: Setup) -> None:
    location = await all_there_but_not_finished(setup, requestId="r1")
    setup.fake.finishes = False  # it takes longer than anybody waits
    begun = {"Upload_Length": str(len(CONTENT)), "Upload_Metadata": metadata(requestId="r1")}
    answer = await tell(setup.browser, location)
    assert (answer.status, answer.headers["Retry-After"], "Upload-Offset" in answer.headers) == (503, "5", False)
    answer = await ask(setup.browser, "POST", PATH, **begun)
    assert (answer.status, answer.code, "Upload-Offset" in answer.headers) == (409, "UPLOAD_BUSY", False)
    setup.fake.finishes = True
    assert (await tell(setup.browser, location)).offset == len(CONTENT)
    assert (await shown(setup.browser, location))["complete"]


async def test_an_upload_that_was_refused_after_a_cut_is_gone_for_who_asks(setup: Setup) -> None:
    location = await all_there_but_not_finished(setup, sha256="ab" * 32)
    assert (await tell(setup.browser, location)).status == 404


async def test_what_arrived_before_a_cut_counts_and_is_not_sent_again(setup: Setup) -> None:
    length = 3_000_000
    location = await begin(setup.browser, length)
    sent = asyncio.Event()

    async def cut() -> AsyncIterator[bytes]:
        yield b"\1" * 1_500_000
        await sent.wait()
        raise ConnectionResetError

    async with asyncio.TaskGroup() as group:
        sending = group.create_task(expect_cut(setup.browser, location, cut()))
        await until(lambda: setup.fake.received > 0)
        sent.set()
        await sending
    offset = (await tell(setup.browser, location)).offset
    assert offset == setup.fake.received > 0
    answer = await patch(setup.browser, location, offset, b"\1" * (length - offset))
    assert (answer.status, answer.offset) == (204, length)
    assert setup.fake.received == length


async def expect_cut(browser: Browser, location: str, data: AsyncIterator[bytes]) -> None:
    with pytest.raises(aiohttp.ClientError):
        await patch(browser, location, 0, data)


async def test_a_newer_request_takes_over_from_one_whose_client_is_silent(setup: Setup) -> None:
    location = await begin(setup.browser)
    upload_id = UploadId(location.rpartition("/")[2])

    async def silent() -> AsyncIterator[bytes]:
        yield CONTENT[:200_000]
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        old = group.create_task(patch(setup.browser, location, 0, silent()))
        await until(lambda: setup.fake.received == 200_000 and upload_id in setup.fake.turns)
        offset = (await tell(setup.browser, location)).offset
        assert offset == 200_000
        answer = await patch(setup.browser, location, offset, CONTENT[offset:])
        assert (answer.status, answer.offset) == (204, len(CONTENT))
        old.cancel()
    assert setup.fake.received == len(CONTENT)


@pytest.mark.parametrize("offset", [1, 999, 1001, 10**12])
async def test_another_offset_is_a_conflict_that_changes_nothing(setup: Setup, offset: int) -> None:
    location = await begin(setup.browser)
    await patch(setup.browser, location, 0, CONTENT[:1000])
    answer = await patch(setup.browser, location, offset, b"x")
    assert (answer.status, answer.code) == (409, "UPLOAD_OFFSET_MISMATCH")
    assert (await tell(setup.browser, location)).offset == 1000


@pytest.mark.parametrize(
    ("method", "path"), [("POST", PATH), ("PATCH", f"{PATH}/u1"), ("HEAD", f"{PATH}/u1"), ("DELETE", f"{PATH}/u1")]
)
@pytest.mark.parametrize("version", ["", "0.2.2", "1.0", "2.0.0"])
async def test_another_version_is_refused(setup: Setup, method: str, path: str, version: str) -> None:
    answer = await ask(setup.browser, method, path, Tus_Resumable=version, Upload_Length="1")
    assert answer.status == 412
    assert answer.headers["Tus-Version"] == "1.0.0"


@pytest.mark.parametrize(
    ("length", "given", "status", "code"),
    [
        ("", metadata(), 400, "INVALID_REQUEST"),
        ("-1", metadata(), 400, "INVALID_REQUEST"),
        ("+5", metadata(), 400, "INVALID_REQUEST"),
        ("1e3", metadata(), 400, "INVALID_REQUEST"),
        ("9" * 40, metadata(), 400, "INVALID_REQUEST"),
        ("0", metadata(), 422, "AUDIO_INVALID"),
        (str(MAX_UPLOAD_BYTES + 1), metadata(), 413, "FILE_TOO_LARGE"),
        ("5", "filename %%%", 400, "INVALID_REQUEST"),
        ("5", "filename YQ", 400, "INVALID_REQUEST"),
        ("5", "filename /w==", 400, "INVALID_REQUEST"),
        ("5", metadata(sha256="abc"), 400, "INVALID_REQUEST"),
        ("5", metadata(sha256=DIGEST + "0"), 400, "INVALID_REQUEST"),
        ("5", metadata(requestId="r" * 201), 400, "INVALID_REQUEST"),
        ("5", metadata(requestId="a\0b"), 400, "INVALID_REQUEST"),
    ],
)
async def test_what_begins_no_upload(setup: Setup, length: str, given: str, status: int, code: str) -> None:
    answer = await ask(setup.browser, "POST", PATH, Upload_Length=length, Upload_Metadata=given)
    assert (answer.status, answer.code) == (status, code)
    assert not setup.fake.uploads


@pytest.mark.parametrize("given", ["", "filename", "filename ", "name YQ=="])
async def test_a_recording_without_a_name_gets_one(setup: Setup, given: str) -> None:
    answer = await ask(setup.browser, "POST", PATH, Upload_Length="5", Upload_Metadata=given)
    assert answer.status == 201
    assert (await shown(setup.browser, answer.headers["Location"]))["filename"] == "recording"


@pytest.mark.parametrize("method", ["PATCH", "DELETE", "HEAD"])
async def test_another_method_in_a_header_begins_no_upload(setup: Setup, method: str) -> None:
    headers = {"Upload_Length": "5", "Upload_Metadata": metadata(), "X_HTTP_Method_Override": method}
    answer = await ask(setup.browser, "POST", PATH, **headers)
    assert (answer.status, answer.code) == (400, "INVALID_REQUEST")
    assert not setup.fake.uploads


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\music\\ä🎙.wav", "ä🎙.wav"),
        ("a\r\nSet-Cookie: x=y.wav", "aSet-Cookie: x=y.wav"),
        ("\u202egpj.exe\x1b[31m.wav", "gpj.exe[31m.wav"),
        ("..", "recording"),
        ("a" * 1000 + ".wav", "a" * 236 + ".wav"),
    ],
)
async def test_names_are_made_safe(setup: Setup, name: str, kept: str) -> None:
    location = await begin(setup.browser, filename=name)
    assert (await shown(setup.browser, location))["filename"] == kept
    told = await tell(setup.browser, location)
    assert base64.b64decode(told.headers["Upload-Metadata"].split()[1]).decode() == kept


@pytest.mark.parametrize("content_type", ["application/octet-stream", "multipart/form-data; boundary=x", "audio/wav"])
async def test_another_content_type_is_refused(setup: Setup, content_type: str) -> None:
    location = await begin(setup.browser)
    answer = await patch(setup.browser, location, 0, b"x", Content_Type=content_type)
    assert (answer.status, answer.code) == (415, "INVALID_REQUEST")
    assert setup.fake.received == 0


@pytest.mark.parametrize("encoding", ["gzip", "compress", "identity, gzip"])
async def test_a_body_that_is_compressed_is_refused(setup: Setup, encoding: str) -> None:
    location = await begin(setup.browser)
    data = gzip.compress(CONTENT)
    answer = await patch(setup.browser, location, 0, data, Content_Encoding=encoding)
    assert (answer.status, answer.code) == (415, "INVALID_REQUEST")
    begun = {"Upload_Length": "5", "Content_Type": BYTES, "Content_Encoding": encoding}
    assert (await ask(setup.browser, "POST", PATH, data, **begun)).status == 415
    assert (setup.fake.received, len(setup.fake.uploads)) == (0, 1)
    assert (await patch(setup.browser, location, 0, CONTENT, Content_Encoding="identity")).status == 204


@pytest.mark.parametrize("offset", ["", "-1", "x", "1.5", " "])
async def test_an_offset_that_is_none_is_refused(setup: Setup, offset: str) -> None:
    location = await begin(setup.browser)
    answer = await patch(setup.browser, location, 0, b"x", Upload_Offset=offset)
    assert (answer.status, answer.code) == (400, "INVALID_REQUEST")


async def test_more_than_was_declared_is_refused(setup: Setup) -> None:
    location = await begin(setup.browser, 1000)
    answer = await patch(setup.browser, location, 0, b"x" * 1001)
    assert (answer.status, answer.code) == (400, "INVALID_REQUEST")
    assert setup.fake.received == 0

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 300
            await asyncio.sleep(0)

    answer = await patch(setup.browser, location, 0, endless())
    assert (answer.status, answer.code) == (400, "INVALID_REQUEST")
    assert setup.fake.received <= 1000


async def test_anothers_upload_is_not_there(setup: Setup) -> None:
    location = await begin(setup.browser)
    async with setup.another_browser() as other:
        await other.begin()
        assert (await tell(other, location)).status == 404
        assert (await patch(other, location, 0, b"x")).status == 404
        assert (await ask(other, "DELETE", location)).status == 404
        assert (await other.get(location.replace("/tus", "")))[0] == 404
    assert (await tell(setup.browser, location)).status == 200
    assert (await tell(setup.browser, f"{PATH}/nothing")).status == 404


async def test_an_upload_that_is_removed_is_gone(setup: Setup) -> None:
    location = await begin(setup.browser)
    assert (await ask(setup.browser, "DELETE", location)).status == 204
    assert (await tell(setup.browser, location)).status == 404
    assert not setup.fake.uploads


async def test_a_client_that_knows_no_patch_may_say_so_in_a_header(setup: Setup) -> None:
    location = await begin(setup.browser)
    headers = {"Content_Type": BYTES, "Upload_Offset": "0", "X_HTTP_Method_Override": "PATCH"}
    answer = await ask(setup.browser, "POST", location, CONTENT[:1000], **headers)
    assert (answer.status, answer.offset) == (204, 1000)
    assert (await ask(setup.browser, "POST", location)).status == 405
    assert (await ask(setup.browser, "POST", location, X_HTTP_Method_Override="DELETE")).status == 204
    assert (await tell(setup.browser, location)).status == 404


async def test_content_that_is_not_what_was_declared_is_refused_at_its_end(setup: Setup) -> None:
    location = await begin(setup.browser, sha256="ab" * 32)
    answer = await patch(setup.browser, location, 0, CONTENT)
    assert (answer.status, answer.code) == (422, "UPLOAD_DIGEST_MISMATCH")
    assert (await tell(setup.browser, location)).status == 404


async def test_content_that_is_no_audio_is_refused_at_its_end(setup: Setup) -> None:
    location = await begin(setup.browser, len(NOT_AUDIO))
    answer = await patch(setup.browser, location, 0, NOT_AUDIO)
    assert (answer.status, answer.code) == (422, "AUDIO_INVALID")


async def test_a_full_disk_is_said_and_gone_on_from(setup: Setup) -> None:
    location = await begin(setup.browser)
    await patch(setup.browser, location, 0, CONTENT[:1000])
    setup.fake.full = True
    answer = await patch(setup.browser, location, 1000, CONTENT[1000:])
    assert (answer.status, answer.code) == (507, "STORAGE_FULL")
    setup.fake.full = False
    assert (await tell(setup.browser, location)).offset == 1000
    assert (await patch(setup.browser, location, 1000, CONTENT[1000:])).status == 204


async def test_a_controller_that_is_away_is_a_503(setup: Setup) -> None:
    location = await begin(setup.browser)
    await setup.fake.stop()
    answer = await patch(setup.browser, location, 0, CONTENT)
    assert (answer.status, answer.code) == (503, "CONTROLLER_UNREACHABLE")
    await setup.fake.start()
    assert (await patch(setup.browser, location, 0, CONTENT)).status == 204
