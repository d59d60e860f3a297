"""How full batches are when real jobs' threads, the real queue and real lanes have a device that the test plays."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from services.worker.engine import decoding
from services.worker.engine.decoding import Request
from services.worker.engine.lanes import Lanes
from services.worker.engine.memory import BatchLimit
from services.worker.engine.transcription import Transcription
from services.worker.pipeline.quality import Try
from services.worker.pipeline.windows import SAMPLE_RATE, Span, SpeechWindow
from services.worker.work import AttemptKey, Segment, Word

SIZE = 32
BATCH_SECONDS = 0.03
"""Whatever is in it, as on a GPU."""
GOOD = Try((5, 6, 7), " some good words", -0.1, 0.0)
UNSURE = Try((5, 6, 7), " some bad words", -1.5, 0.0)
NOTHING = Try((), "", -0.5, 0.1)


@dataclass
class Device:
    """``says`` what is found in each window; ``batches``: how many rows each had."""

    says: Callable[[Request], Try]
    batches: list[int] = field(default_factory=list)

    def decode(self, requests: list[Request], _encoder: object) -> list[Try]:
        self.batches.append(len(requests))
        time.sleep(BATCH_SECONDS)
        return [self.says(request) for request in requests]


@pytest.fixture
def lanes_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Device], Lanes]]:
    made: list[Lanes] = []

    def make(device: Device) -> Lanes:
        monkeypatch.setattr(decoding, "decode", device.decode)
        monkeypatch.setattr(decoding, "timed", lambda requests, texts: [spoken(t) for t in texts])
        monkeypatch.setattr(Request, "shape", property(lambda self: ("tiny", self.search)))
        memory: Any = SimpleNamespace()
        lanes = Lanes(2, "cuda", lambda model: BatchLimit(SIZE), memory, lambda ended: None)
        lanes.start()
        made.append(lanes)
        return lanes

    yield make
    for lanes in made:
        lanes.stop()


def spoken(found: Try) -> tuple[Segment, ...]:
    """Words all along the window, where there are any."""
    words = tuple(Word(" so", float(second), second + 0.5, 1.0) for second in range(28))
    return (Segment(0.0, 28.0, found.text, words=words),) if found.text else ()


def transcribe(lanes: Lanes, name: str, count: int) -> int:
    """A job of so many windows; how many have words."""
    model: Any = SimpleNamespace(name="tiny", times_words=True)
    voice: Any = SimpleNamespace(model=model, features=SimpleNamespace(of=lambda samples: samples))
    recording: Any = SimpleNamespace(cut_out=lambda window: None, voiced=lambda window: float)
    length = 28 * SAMPLE_RATE
    windows = [SpeechWindow(i, (Span(i * length, (i + 1) * length),)) for i in range(count)]
    nothing_to_wait_for: Future[None] = Future()
    nothing_to_wait_for.set_result(None)
    with lanes.line(model, 28.0 * count) as line:
        job = Transcription(AttemptKey(name, 1), voice, line, recording, lambda: False, lambda: lanes.ahead(model))
        return sum(bool(segments) for _, segments in job.windows(windows, nothing_to_wait_for))


def transcribe_all(lanes: Lanes, **jobs: int) -> None:
    begin = threading.Barrier(len(jobs))

    def one(name: str, count: int) -> None:
        begin.wait()
        transcribe(lanes, name, count)

    with ThreadPoolExecutor(len(jobs)) as threads:
        for done in [threads.submit(one, name, count) for name, count in jobs.items()]:
            done.result(60)


@pytest.mark.parametrize("jobs", [1, 4])
def test_batches_are_full(jobs: int, lanes_of: Callable[[Device], Lanes]) -> None:
    device = Device(lambda request: GOOD)
    transcribe_all(lanes_of(device), **{f"job {number}": 20 * SIZE // jobs for number in range(jobs)})
    assert sum(device.batches) == 20 * SIZE
    assert len(device.batches) <= 28, device.batches


def test_what_is_searched_again_costs_few_batches(lanes_of: Callable[[Device], Lanes]) -> None:
    """A window in twenty: one batch for each of them would be as many as all others have."""
    device = Device(lambda request: UNSURE if request.index % 20 == 7 and request.search == 0 else GOOD)
    transcribe_all(lanes_of(device), job=20 * SIZE)
    assert sum(device.batches) == 21 * SIZE
    assert len(device.batches) <= 32, device.batches


def test_windows_without_words_are_decoded_again_many_at_once(lanes_of: Callable[[Device], Lanes]) -> None:
    """Music that is taken for voice: each window is decoded as a whole, and its halves."""
    device = Device(lambda request: NOTHING)
    assert transcribe(lanes_of(device), "music", 4 * SIZE) == 0
    assert sum(device.batches) == 12 * SIZE
    assert len(device.batches) <= 20, device.batches


def test_a_job_without_words_does_not_empty_the_batches_of_the_others(lanes_of: Callable[[Device], Lanes]) -> None:
    device = Device(lambda request: NOTHING if request.key.job_id == "music" else GOOD)
    transcribe_all(lanes_of(device), music=2 * SIZE, speech=6 * SIZE, more_speech=6 * SIZE)
    assert sum(device.batches) == 18 * SIZE
    assert len(device.batches) <= 26, device.batches
