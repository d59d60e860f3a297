"""What was written last, so that whoever reads it next asks no database."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=str)
Value = TypeVar("Value")


class Writing(Generic[Key]):
    """A write on its way, equal to itself alone."""

    def __init__(self, key: Key) -> None:
        self.key = key


class Newest(Generic[Key, Value]):
    """Values by their keys, the ``most`` that were used last.

    Filled by writes alone: what was read may be old by the time it arrives. A value is known from the end of its write to the
    beginning of the next one; a write that fails, is canceled, or was overtaken by another leaves nothing. One process writes to a
    database: what another one wrote would not be seen here.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[Key, Value | Writing[Key]] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        """None where it is to be read."""
        entry = self._entries.get(key)
        if entry is None or isinstance(entry, Writing):
            return None
        self._entries.move_to_end(key)
        return entry

    def writing(self, key: Key) -> Writing[Key]:
        """Called before the write is handed to the database, for `written` after it; alone, for a removal."""
        write = Writing(key)
        self._put(key, write)
        return write

    def written(self, write: Writing[Key], value: Value) -> None:
        if self._entries.get(write.key) is write:
            self._put(write.key, value)

    def _put(self, key: Key, entry: Value | Writing[Key]) -> None:
        self._entries[key] = entry
        self._entries.move_to_end(key)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)
