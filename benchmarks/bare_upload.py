"""The baseline of uploads: bare aiohttp that writes a multipart body to the disk. Prints its port, then serves."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from aiohttp import BodyPartReader, web

READ_BYTES = 512 * 1024
"""As the gateway's: aiohttp is twice as fast with it as with its default."""


def make_app(folder: Path) -> web.Application:
    async def upload(request: web.Request) -> web.Response:
        part = await (await request.multipart()).next()
        assert isinstance(part, BodyPartReader)
        size = 0
        with (folder / "bare").open("wb") as file:
            while data := await part.read_chunk(READ_BYTES):
                size += file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return web.json_response({"sizeBytes": size})

    app = web.Application()
    app.router.add_post("/api/uploads", upload)
    return app


def main(folder: Path, port: int) -> None:
    web.run_app(make_app(folder), host="127.0.0.1", port=port, print=None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
