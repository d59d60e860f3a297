"""A recording that was prepared: its sound on this disk, and where in it the windows lie. Reads what it is asked for only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.worker.pipeline.channels import Levels
from services.worker.pipeline.windows import SAMPLE_RATE, Span, SpeechWindow, voice_clock

Samples = NDArray[np.float32]
"""Mono at 16 kHz, in [-1, 1]."""

BYTES_PER_SAMPLE = 2


@dataclass(frozen=True, slots=True)
class PreparedRecording:
    """``spool``: ``samples`` of signed 16-bit mono at 16 kHz, little-endian, without a header. ``levels``: of the channels, where
    they were asked for and there are two throughout. ``voice``: where it is heard, of windows that hold more than that; None where it
    is all that they hold. ``note``: what people should know of the file, in sentences."""

    spool: Path
    samples: int
    windows: tuple[SpeechWindow, ...]
    levels: Levels | None = field(default=None, compare=False)
    note: str = ""
    voice: tuple[Span, ...] | None = None

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE

    def voiced(self, window: SpeechWindow) -> Callable[[float], float]:
        """Of a time in the window, in seconds, how much voice there is before it."""
        return float if self.voice is None else voice_clock(window, self.voice)

    def cut_out(self, window: SpeechWindow) -> Samples:
        """The window's speech without its silences."""
        return self._read(window.spans)

    def stretch(self, start: int, length: int) -> Samples:
        """So many samples from ``start`` on, or what there is of them."""
        return (
            self._read([Span(start, min(start + length, self.samples))])
            if start < self.samples
            else np.zeros(0, np.float32)
        )

    def close(self) -> None:
        """Removes the spool; again is no fault."""
        self.spool.unlink(missing_ok=True)

    def _read(self, spans: Iterable[Span]) -> Samples:
        found = bytearray()
        with self.spool.open("rb") as file:
            for span in spans:
                file.seek(span.start * BYTES_PER_SAMPLE)
                found += file.read(span.length * BYTES_PER_SAMPLE)
        samples = np.frombuffer(found, "<i2").astype(np.float32)
        samples /= np.float32(32768.0)  # in place: it may be hours
        return samples
