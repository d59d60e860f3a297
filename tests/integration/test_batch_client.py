"""The batch runner's client against servers that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from scripts.batch.client import SENT_AT_ONCE_BYTES, Gateway, Refused
from scripts.batch.content import Content, UnreadableRecording, read_content
from scripts.batch.outages import Faulty, Outages
from scripts.batch.state import Session
from tests.fakes.gateway import FakeGateway, FakeUpload, after_doing, says

BIG_BYTES = 8 * 1024 * 1024
CONTENT = bytes(range(256)) * (BIG_BYTES // 256)


@asynccontextmanager
async def client(url: str, session: Session | None = None) -> AsyncIterator[tuple[Gateway, list[str], list[Session]]]:
    lines: list[str] = []
    renewed: list[Session] = []
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        yield Gateway(http, url, session, renewed.append, Outages(lines.append)), lines, renewed


@pytest.fixture
async def fake() -> AsyncIterator[FakeGateway]:
    async with FakeGateway().serving() as gateway:
        yield gateway


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "a.mp3"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
async def content(recording: Path) -> Content:
    return await read_content(recording, lambda _done, _size: None)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.batch.outages.FIRST_WAIT_SECONDS", 0.001)


async def test_an_upload_arrives_whole_and_tells_its_progress(
    fake: FakeGateway, recording: Path, content: Content
) -> None:
    sent: list[int] = []
    async with client(fake.url) as (gateway, _, renewed):
        assert await gateway.upload(recording, "ä.mp3", content, sent.append) == "u1"
    assert fake.uploads["u1"].content == CONTENT
    assert fake.uploads["u1"].filename == "ä.mp3"
    assert sent == sorted(sent)
    assert (sent[0], sent[-1]) == (0, BIG_BYTES)
    assert len(renewed) == 1


async def test_a_session_that_is_refused_in_the_middle_of_an_upload_is_renewed(
    fake: FakeGateway, recording: Path, content: Content
) -> None:
    async with client(fake.url) as (gateway, _, renewed):
        await gateway.connect()
        fake.forget_sessions()
        upload = await gateway.upload(recording, "a.mp3", content, lambda _size: None)
    assert upload == "u1"
    assert len(renewed) == 2
    assert renewed[0] != renewed[1]


async def test_a_session_that_is_known_is_kept(fake: FakeGateway) -> None:
    async with client(fake.url) as (first, _, renewed):
        await first.connect()
    async with client(fake.url, renewed[0]) as (second, _, again):
        await second.connect()
    assert again == []


async def test_a_session_that_ended_in_between_is_gone_back_to(fake: FakeGateway) -> None:
    key = fake.key
    async with client(fake.url) as (gateway, _, renewed):
        await gateway.connect()
        fake.forget_sessions()
        with pytest.raises(Refused):
            await gateway.job("nothing")
        fake.key = key
        with pytest.raises(Refused):
            await gateway.job("nothing")
    assert renewed[0].cookie != renewed[1].cookie
    assert renewed[2:] == renewed[:1]


async def test_an_upload_that_stands_still_is_begun_again(
    fake: FakeGateway, recording: Path, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.batch.client.UPLOAD_STALL_SECONDS", 0.2)

    async def hang(_request: object) -> None:
        await asyncio.Event().wait()

    fake.fault("send", hang)
    async with client(fake.url) as (gateway, lines, _):
        upload = await gateway.upload(recording, "a.mp3", content, lambda _size: None)
    assert upload == "u1"
    assert "stood still" in lines[0]


async def test_a_gateway_that_hangs_is_asked_again(fake: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.batch.client.ANSWER_SECONDS", 0.2)

    async def hang(_request: object) -> None:
        await asyncio.Event().wait()

    fake.fault("session", hang)
    async with client(fake.url) as (gateway, lines, _):
        await gateway.connect()
    assert "does not answer in time" in lines[0]


async def test_a_file_that_is_not_what_was_hashed_cannot_be_sent(
    fake: FakeGateway, recording: Path, content: Content
) -> None:
    async with client(fake.url) as (gateway, _, _):
        recording.write_bytes(CONTENT[:-1])
        with pytest.raises(UnreadableRecording, match="shorter"):
            await gateway.upload(recording, "a.mp3", content, lambda _size: None)
        recording.write_bytes(b"x" * BIG_BYTES)
        with pytest.raises(UnreadableRecording, match="changed"):
            await gateway.upload(recording, "b.mp3", content, lambda _size: None)
        with pytest.raises(UnreadableRecording, match="No such file"):
            await gateway.upload(recording.with_name("b.mp3"), "b.mp3", content, lambda _size: None)
        with pytest.raises(UnreadableRecording, match="No such file"):
            await read_content(recording.with_name("b.mp3"), lambda _done, _size: None)


async def test_an_upload_that_is_cut_goes_on_where_it_was_cut(
    fake: FakeGateway, recording: Path, content: Content
) -> None:
    fake.cut_after.extend(range(300_000, BIG_BYTES, 700_000))
    cuts = len(fake.cut_after)
    async with client(fake.url) as (gateway, lines, _):
        await gateway.upload(recording, "a.mp3", content, lambda _size: None)
    assert fake.uploads["u1"].content == CONTENT
    assert fake.received == BIG_BYTES
    assert fake.calls["send"] == cuts + 1
    assert "broke the connection off" in lines[0]


async def test_an_upload_whose_last_answer_is_lost_is_not_sent_again(
    fake: FakeGateway, recording: Path, content: Content
) -> None:
    fake.fault("send", after_doing(fake, "send"))
    async with client(fake.url) as (gateway, _, _):
        await gateway.upload(recording, "a.mp3", content, lambda _size: None)
        await gateway.upload(recording, "a.mp3", content, lambda _size: None)
    assert (fake.received, fake.begun) == (BIG_BYTES, 1)


async def test_an_upload_that_the_gateway_lost_is_begun_anew(
    fake: FakeGateway, recording: Path, content: Content
) -> None:
    async def lose(_request: object) -> None:
        fake.uploads.clear()

    fake.cut_after.append(300_000)
    fake.fault("offset", lose)
    async with client(fake.url) as (gateway, _, _):
        assert await gateway.upload(recording, "a.mp3", content, lambda _size: None) == "u2"


async def test_an_upload_that_is_new_is_not_asked_about(fake: FakeGateway, recording: Path, content: Content) -> None:
    async with client(fake.url) as (gateway, _, _):
        await gateway.upload(recording, "a.mp3", content, lambda _size: None)
    assert fake.calls == {"session": 1, "upload": 1, "send": 1}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.mp3"
    path.write_bytes(CONTENT[:SENT_AT_ONCE_BYTES])
    return path


async def test_a_small_recording_goes_with_the_request_that_begins_it(fake: FakeGateway, small: Path) -> None:
    content = await read_content(small, lambda _done, _size: None)
    sent: list[int] = []
    async with client(fake.url) as (gateway, _, _):
        await gateway.upload(small, "small.mp3", content, sent.append)
        assert fake.calls == {"session": 1, "upload": 1}
        await gateway.upload(small, "small.mp3", content, lambda _size: None)
    assert fake.calls == {"session": 1, "upload": 2}
    assert (fake.uploads["u1"].content, fake.received) == (small.read_bytes(), SENT_AT_ONCE_BYTES)
    assert sent == sorted(sent)
    assert (sent[0], sent[-1]) == (0, SENT_AT_ONCE_BYTES)


async def test_a_small_recording_that_is_cut_goes_on_where_it_was_cut(fake: FakeGateway, small: Path) -> None:
    content = await read_content(small, lambda _done, _size: None)
    fake.cut_after.append(300_000)
    async with client(fake.url) as (gateway, _, _):
        await gateway.upload(small, "small.mp3", content, lambda _size: None)
    assert (fake.uploads["u1"].content, fake.received) == (small.read_bytes(), SENT_AT_ONCE_BYTES)
    assert fake.calls["send"] == 1


async def test_a_small_recording_whose_last_answer_is_lost_is_not_sent_again(fake: FakeGateway, small: Path) -> None:
    content = await read_content(small, lambda _done, _size: None)
    fake.fault("upload", after_doing(fake, "upload"))
    async with client(fake.url) as (gateway, _, _):
        await gateway.upload(small, "small.mp3", content, lambda _size: None)
    assert (fake.received, fake.begun) == (SENT_AT_ONCE_BYTES, 1)


async def test_a_small_recording_that_is_not_what_was_hashed_cannot_be_sent(fake: FakeGateway, small: Path) -> None:
    content = await read_content(small, lambda _done, _size: None)
    async with client(fake.url) as (gateway, _, _):
        small.write_bytes(CONTENT[:1000])
        with pytest.raises(UnreadableRecording, match="shorter"):
            await gateway.upload(small, "a.mp3", content, lambda _size: None)
        small.write_bytes(bytes(SENT_AT_ONCE_BYTES))
        with pytest.raises(UnreadableRecording, match="changed"):
            await gateway.upload(small, "b.mp3", content, lambda _size: None)
        small.unlink()
        with pytest.raises(UnreadableRecording, match="No such file"):
            await gateway.upload(small, "c.mp3", content, lambda _size: None)


async def test_a_small_recording_that_is_refused_says_why(fake: FakeGateway, small: Path) -> None:
    content = await read_content(small, lambda _done, _size: None)
    fake.rejected["small.mp3"] = ("AUDIO_INVALID", "no audio in it")
    async with client(fake.url) as (gateway, _, _):
        with pytest.raises(Refused, match="AUDIO_INVALID: no audio in it"):
            await gateway.upload(small, "small.mp3", content, lambda _size: None)


async def test_an_upload_that_is_taken_in_part_only_is_not_believed(
    fake: FakeGateway, recording: Path, content: Content
) -> None:
    async def half(_request: web.Request) -> web.Response:
        return web.Response(status=204, headers={"Upload-Offset": str(BIG_BYTES // 2)})

    fake.fault("send", half)
    async with client(fake.url) as (gateway, lines, _):
        await gateway.upload(recording, "a.mp3", content, lambda _size: None)
    assert fake.uploads["u1"].content == CONTENT
    assert "only a part of it taken" in lines[0]


async def test_what_was_damaged_on_its_way_is_sent_again_and_given_up_in_the_end(
    fake: FakeGateway, recording: Path, content: Content
) -> None:
    finish, damaged = fake._finish, [3]

    def damage(upload: FakeUpload) -> None:
        damaged[0] -= 1
        upload.sha256 = "ab" if damaged[0] >= 0 else upload.sha256
        finish(upload)

    fake._finish = damage  # type: ignore[method-assign]
    async with client(fake.url) as (gateway, _, _):
        assert (await gateway.upload(recording, "a.mp3", content, lambda _size: None)) == "u4"
        damaged[0] = 10**6
        with pytest.raises(Faulty, match="not what the file holds"):
            await gateway.upload(recording, "b.mp3", content, lambda _size: None)


async def test_large_files_are_hashed_piece_by_piece_and_the_loop_goes_on(
    recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.batch.content.HASH_BYTES", 1_000_000)
    told: list[tuple[int, int]] = []
    await read_content(recording, lambda done, size: told.append((done, size)))
    assert [done for done, _ in told] == [*range(1_000_000, BIG_BYTES, 1_000_000), BIG_BYTES]
    assert {size for _, size in told} == {BIG_BYTES}


async def test_a_transcript_that_is_cut_is_not_kept(
    fake: FakeGateway, recording: Path, content: Content, tmp_path: Path
) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"half of")
        assert request.transport is not None
        request.transport.abort()
        return response

    path = tmp_path / "a.txt"
    fake.fault("transcript", cut)
    async with client(fake.url) as (gateway, _, _):
        upload = await gateway.upload(recording, "a.mp3", content, lambda _size: None)
        job = await gateway.create_job(upload, {}, "r1")
        await fake.until(lambda: fake.jobs[job.job_id].ended)
        await gateway.save_transcript(job.job_id, "txt", path)
    assert path.read_text() == "txt of a.mp3 by j1"
    assert fake.calls["transcript"] == 2


async def test_a_page_where_an_answer_should_be_is_asked_for_again(fake: FakeGateway) -> None:
    fake.fault("session", says("<html>"), says("[]", "application/json"))
    async with client(fake.url) as (gateway, lines, _):
        await gateway.connect()
    assert "no JSON" in lines[0]


async def test_a_refusal_is_told_with_its_code(fake: FakeGateway) -> None:
    async with client(fake.url) as (gateway, _, _):
        with pytest.raises(Refused) as refused:
            await gateway.job("nothing")
    assert (refused.value.status, refused.value.code, refused.value.unknown) == (404, "NOT_FOUND", True)


async def test_a_password_in_the_address_is_not_told() -> None:
    async def close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        closed.set()
        writer.close()

    closed = asyncio.Event()
    server = await asyncio.start_server(close, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, client(f"http://me:secret@127.0.0.1:{port}") as (gateway, lines, _):
        connecting = asyncio.ensure_future(gateway.connect())
        async with asyncio.timeout(10):
            await closed.wait()
            while not lines:  # noqa: ASYNC110 - a list has no event
                await asyncio.sleep(0.01)
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
    assert "secret" not in lines[0]
