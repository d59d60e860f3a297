"""A gRPC call that the other side ended in the middle of a write, of which grpc.aio forgot the reason."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import grpc


class EndedCall:
    """Takes so many messages, and no more."""

    def __init__(self, messages: int) -> None:
        self._left = messages

    async def write(self, message: object) -> None:
        self._left -= 1
        if self._left < 0:
            raise asyncio.InvalidStateError

    def __await__(self) -> Generator[Any, None, None]:
        yield from asyncio.sleep(0).__await__()
        raise grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata())
