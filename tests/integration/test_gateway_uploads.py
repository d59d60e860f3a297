"""Uploads over HTTP: names, good and bad files together, limits, broken bodies, clients that go away."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.answers import UploadAnswer
from gateway.sessions import CSRF_HEADER
from tests.fakes.controller import NOT_AUDIO
from tests.gateway import MAX_UPLOAD_BYTES, Setup, gateway_over_fake, until

BOUNDARY = "xx"


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    async with gateway_over_fake() as running:
        yield running


def part(disposition: str, content: bytes = b"sound") -> bytes:
    return f"--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


async def post(
    setup: Setup, body: bytes, content_type: str = f"multipart/form-data; boundary={BOUNDARY}"
) -> tuple[int, Any]:
    return await setup.browser.post("/api/uploads", data=body, headers={"Content-Type": content_type})


async def test_files_arrive_as_they_are(setup: Setup) -> None:
    content = bytes(range(256)) * 12_001
    status, answer = await setup.browser.upload(("a.wav", content), ("b.wav", b"\r\n--x" * 1000))
    assert (status, answer["errors"]) == (200, [])
    first = answer["uploads"][0]
    assert set(first) == set(UploadAnswer.__annotations__)
    assert (first["filename"], first["sizeBytes"], first["durationSeconds"]) == ("a.wav", len(content), 60.0)
    assert first["sha256"] == hashlib.sha256(content).hexdigest()
    assert answer["uploads"][1]["sha256"] == hashlib.sha256(b"\r\n--x" * 1000).hexdigest()


async def test_good_files_beside_bad_ones_are_kept(setup: Setup) -> None:
    large = b"\0" * (MAX_UPLOAD_BYTES + 1)
    files = (
        ("good.wav", b"sound"),
        ("bad.wav", NOT_AUDIO),
        ("empty.wav", b""),
        ("large.wav", large),
        ("last.wav", b"sound"),
    )
    status, answer = await setup.browser.upload(*files)
    assert status == 200
    assert [upload["filename"] for upload in answer["uploads"]] == ["good.wav", "last.wav"]
    assert [(error["filename"], error["code"]) for error in answer["errors"]] == [
        ("bad.wav", "AUDIO_INVALID"),
        ("empty.wav", "AUDIO_INVALID"),
        ("large.wav", "FILE_TOO_LARGE"),
    ]
    assert "4 MB" in answer["errors"][2]["error"]
    await until(lambda: len(setup.fake.uploads) == 2)


async def test_the_largest_size_is_taken(setup: Setup) -> None:
    _, answer = await setup.browser.upload(("a.wav", b"\1" * MAX_UPLOAD_BYTES))
    assert answer["uploads"][0]["sizeBytes"] == MAX_UPLOAD_BYTES


async def test_all_bad_is_an_answer_too(setup: Setup) -> None:
    status, answer = await setup.browser.upload(("bad.wav", NOT_AUDIO))
    assert (status, answer["uploads"], len(answer["errors"])) == (200, [], 1)


async def test_a_full_disk(setup: Setup) -> None:
    setup.fake.full = True
    status, answer = await setup.browser.upload(("a.wav", b"sound" * 700_000))
    assert (status, answer["code"]) == (507, "STORAGE_FULL")


@pytest.mark.parametrize(
    ("disposition", "shown"),
    [
        ('name="files"; filename="../../etc/a b.wav"', "a b.wav"),
        ('name="files"; filename="C:\\\\music\\\\ä🎙.wav"', "ä🎙.wav"),
        ("name=\"files\"; filename*=UTF-8''na%C3%AFve%20%F0%9F%8E%99.mp3", "naïve 🎙.mp3"),
        ('name="files"; filename=""', "recording"),
        ('name="files"', "recording"),
    ],
)
async def test_names(setup: Setup, disposition: str, shown: str) -> None:
    status, answer = await post(setup, part(disposition) + END)
    assert (status, [upload["filename"] for upload in answer["uploads"]]) == (200, [shown])


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"{}", "application/json"),
        (b"sound", "audio/wav"),
        (b"", f"multipart/form-data; boundary={BOUNDARY}"),
        (b"sound", "multipart/form-data"),
        (b"sound", f"multipart/form-data; boundary={BOUNDARY}"),
        (END, f"multipart/form-data; boundary={BOUNDARY}"),
        (part('name="other"; filename="a.wav"') + END, f"multipart/form-data; boundary={BOUNDARY}"),
        (part('name="files"; filename="a.wav"')[:-9], f"multipart/form-data; boundary={BOUNDARY}"),
        (part('name="files"; filename="a.wav"'), f"multipart/form-data; boundary={BOUNDARY}"),
        (
            part('name="files"\r\nContent-Type: multipart/mixed; boundary=yy') + END,
            f"multipart/form-data; boundary={BOUNDARY}",
        ),
        (f"--{BOUNDARY}\r\nno header here\r\n\r\nx\r\n".encode() + END, f"multipart/form-data; boundary={BOUNDARY}"),
    ],
)
async def test_what_is_no_upload(setup: Setup, body: bytes, content_type: str) -> None:
    status, answer = await post(setup, body, content_type)
    assert (status, answer["code"]) == (400, "INVALID_REQUEST")
    await until(lambda: not setup.fake.uploads)


@asynccontextmanager
async def raw_upload(setup: Setup) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which a large upload has begun."""
    url = urlsplit(setup.browser.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    cookie = next(iter(setup.browser.http.cookie_jar))
    head = (
        f"POST /api/uploads HTTP/1.1\r\nHost: x\r\nCookie: {cookie.key}={cookie.value}\r\n"
        f"{CSRF_HEADER}: {setup.browser.csrf}\r\nContent-Length: 1000000000\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    )
    writer.write(head.encode() + part('name="files"; filename="a.wav"', b"")[:-2])
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def test_a_client_that_goes_away_leaves_nothing_behind(setup: Setup) -> None:
    async with raw_upload(setup) as (_, writer):
        writer.write(b"\0" * 3_000_000)
        await until(lambda: setup.fake.received > 1_000_000)
    await until(lambda: setup.fake.canceled_writes == 1)
    await until(lambda: not setup.fake.uploads)


async def test_bytes_wait_in_the_client_while_the_controller_takes_none() -> None:
    async with gateway_over_fake(max_upload_bytes=10**9) as setup:
        setup.fake.taking.clear()
        sent = 0

        async def send_on(writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            while True:
                writer.write(b"\0" * 100_000)
                await writer.drain()
                sent += 100_000

        async with raw_upload(setup) as (_, writer):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(send_on(writer), 1)  # in which hundreds of megabytes would pass
        assert sent < 40_000_000  # what sockets and buffers on the way hold
        setup.fake.taking.set()


async def test_a_controller_that_goes_away_in_the_middle(setup: Setup) -> None:
    async with raw_upload(setup) as (reader, writer):
        writer.write(b"\0" * 2_000_000)
        await until(lambda: setup.fake.received > 1_000_000)
        await setup.fake.stop()
        writer.write(b"\0" * 2_000_000)
        assert b" 503 " in await reader.readline()


async def test_a_control_character_in_a_name_is_left_out_and_the_files_beside_it_are_kept(setup: Setup) -> None:
    names = (b"a.wav", b"be\x07ll\x1b[31m.wav", b"c.wav")
    parts = [
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="' + name + b'"\r\n\r\nsound\r\n'
        for name in names
    ]
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    status, answer = await setup.browser.post("/api/uploads", data=b"".join(parts) + b"--b--\r\n", headers=headers)
    assert (status, answer["errors"]) == (200, [])
    assert [upload["filename"] for upload in answer["uploads"]] == ["a.wav", "bell[31m.wav", "c.wav"]


async def test_a_part_that_aiohttp_cannot_read_is_a_400(setup: Setup) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="_charset_"\r\n\r\n' + b"x" * 100 + b"\r\n--b--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    status, answer = await setup.browser.post("/api/uploads", data=body, headers=headers)
    assert (status, answer["code"]) == (400, "INVALID_REQUEST")
