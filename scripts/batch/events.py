"""Server-sent events out of a stream of bytes (HTML standard, section 9.2.6)."""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_LINE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Event:
    """``id`` is the newest id of the stream: what `Last-Event-ID` says to go on after this event."""

    id: str
    name: str
    data: str


class EventDecoder:
    """Takes the stream in any pieces; an event that the stream's end cuts is dropped, as the standard says."""

    def __init__(self) -> None:
        self._rest = b""
        self._id = ""
        self._name = ""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> list[Event]:
        """The events that this piece completes. Raises ValueError for a line without an end."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > LONGEST_LINE_BYTES:
            raise ValueError("a line of the event stream has no end")
        events = (self._line(line.removesuffix(b"\r").decode("utf-8", "replace")) for line in lines)
        return [event for event in events if event is not None]

    def _line(self, line: str) -> Event | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        elif field == "id" and "\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> Event | None:
        data, name = self._data, self._name
        self._data, self._name = [], ""
        return Event(self._id, name or "message", "\n".join(data)) if data else None
