"""Says whether audio can be decoded from a file, and how long it is: one child process that answers line by line.

Codecs crash and hang on hostile files; here that costs a child and one answer. Run as
`python -m services.controller.probe`, it reads paths as JSON lines and writes findings as JSON lines.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

from services.contract.media import OPEN_OPTIONS, main_track

FRAMES_TRIED = 8
"""Frames to decode before a file is believed: junk that looks like audio fails within a few."""

NO_AUDIO = "it has no sound track"
NOT_DECODABLE = "no audio can be decoded from it"
EMPTY = "it is empty"


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the controller, which ends its children
    av.logging.set_level(av.logging.PANIC)
    for line in sys.stdin:
        print(json.dumps(probe(json.loads(line)["path"])), flush=True)  # noqa: T201 - the answer


def probe(path: str) -> dict[str, Any]:
    """{"seconds": length} or {"error": what is wrong}."""
    if Path(path).is_file() and Path(path).stat().st_size == 0:
        return {"error": EMPTY}
    try:
        with av.open(path, options=OPEN_OPTIONS) as container:
            stream = main_track(container)  # which the worker decodes
            if stream is None:
                return {"error": NO_AUDIO}
            if not _decodes(container, stream):
                return {"error": NOT_DECODABLE}
            return {"seconds": _stated_seconds(container, stream) or _measured_seconds(path)}
    except (av.error.FFmpegError, EOFError, ValueError):
        return {"error": NOT_DECODABLE}


def _decodes(container: Any, stream: Any) -> bool:
    """Whether sound comes out within the first frames; single broken packets are passed over, as players do."""
    heard = 0
    for packet in _packets(container, stream):
        try:
            heard += sum(frame.samples for frame in packet.decode())
        except av.error.InvalidDataError:
            continue
        if heard > 0:
            return True
    return False


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    for number, packet in enumerate(container.demux(stream)):
        if number >= FRAMES_TRIED * 8:
            return
        yield packet


def _stated_seconds(container: Any, stream: Any) -> float:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None:
        return float(container.duration / av.time_base)
    return 0.0


def _measured_seconds(path: str) -> float:
    """By reading all packets, for streams whose header does not say."""
    end = 0.0
    with av.open(path, options=OPEN_OPTIONS) as container:
        for packet in container.demux(main_track(container)):
            if packet.pts is not None and packet.time_base is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return end


if __name__ == "__main__":
    main()
