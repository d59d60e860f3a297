"""Lanes over a decoder that the test plays: what becomes of each window, whatever happens to its batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from services.worker.engine import decoding, lanes
from services.worker.engine.decoding import SEARCHES, Request
from services.worker.engine.lanes import Lanes
from services.worker.pipeline.quality import Try
from services.worker.work import AttemptKey, Segment

Play = Callable[[Sequence[Request]], list[Try]]
GOOD = Try((1, 2, 3), " good morning", -0.1, 0.0)
LOOP = Try((1, 2) * 40, " so so" * 40, -0.1, 0.0)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Lanes]]:
    """Lanes whose device does what the test says."""
    started: list[Lanes] = []

    def make(play: Play, batch_size: int = 4, count: int = 1) -> Lanes:
        monkeypatch.setattr(decoding, "decode", lambda requests, rows: play(requests))
        monkeypatch.setattr(
            decoding,
            "timed",
            lambda requests, texts: [(Segment(0.0, 1.0, tried.text),) for tried in texts],
        )
        monkeypatch.setattr(Request, "shape", property(lambda self: self.search))
        made = Lanes(count, batch_size, 1, 0.0, lambda ended: None)
        started.append(made)
        return made

    yield make
    for one in started:
        one.stop()


def request(index: int) -> Request:
    voice: Any = None
    return Request(AttemptKey("job", 1), index, voice, np.zeros((80, 3000), np.float32), 30.0)


def put(made: Lanes, count: int) -> list[Request]:
    requests = [request(index) for index in range(count)]
    with_line = made.queue.open()
    for one in requests:
        made.queue.put(with_line, one)
    return requests


def text(done: Future[tuple[Segment, ...]]) -> str:
    return "".join(segment.text for segment in done.result(10.0))


def test_windows_come_in_batches_and_each_gets_its_own_text(made: Callable[..., Lanes]) -> None:
    sizes = []

    def play(requests: Sequence[Request]) -> list[Try]:
        sizes.append(len(requests))
        return [Try((one.index,), f" {one.index}", -0.1, 0.0) for one in requests]

    running = made(play)
    requests = put(running, 6)
    running.start()
    assert [text(one.done) for one in requests] == [f" {index}" for index in range(6)]
    assert sizes == [4, 2]


def test_a_window_that_cannot_be_decoded_takes_no_other_along(made: Callable[..., Lanes]) -> None:
    def play(requests: Sequence[Request]) -> list[Try]:
        if any(one.index == 1 for one in requests):
            raise RuntimeError("no such window")
        return [GOOD for _ in requests]

    running = made(play)
    requests = put(running, 3)
    running.start()
    assert text(requests[0].done) == text(requests[2].done) == GOOD.text
    with pytest.raises(RuntimeError, match="no such window"):
        requests[1].done.result(10.0)


def test_a_bad_text_is_searched_again_in_another_way_and_the_best_is_taken(made: Callable[..., Lanes]) -> None:
    searched: list[tuple[int, int]] = []

    def play(requests: Sequence[Request]) -> list[Try]:
        searched.extend((one.index, one.search) for one in requests)
        return [LOOP if one.index == 1 and one.search == 0 else GOOD for one in requests]

    running = made(play)
    requests = put(running, 3)
    running.start()
    assert [text(one.done) for one in requests] == [GOOD.text] * 3
    assert searched == [(0, 0), (1, 0), (2, 0), (1, 1)]


def test_where_no_search_helps_the_searching_ends(made: Callable[..., Lanes]) -> None:
    running = made(lambda requests: [LOOP for _ in requests])
    (only,) = put(running, 1)
    running.start()
    assert text(only.done) == LOOP.text
    assert len(only.tries) == len(SEARCHES)


def test_a_fault_beside_the_device_is_told_to_those_who_wait(
    made: Callable[..., Lanes], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = made(lambda requests: [GOOD for _ in requests])

    def broken(texts: Sequence[Try]) -> Try:
        raise ValueError("no best")

    monkeypatch.setattr(lanes, "best", broken)
    (only,) = put(running, 1)
    running.start()
    with pytest.raises(ValueError, match="no best"):
        only.done.result(10.0)


def test_a_job_that_left_is_not_decoded_and_does_not_disturb(made: Callable[..., Lanes]) -> None:
    decoded: list[int] = []

    def play(requests: Sequence[Request]) -> list[Try]:
        decoded.extend(one.index for one in requests)
        return [GOOD for _ in requests]

    running = made(play)
    with running.line() as line:
        line.put(request(99))
    (only,) = put(running, 1)
    running.start()
    assert text(only.done) == GOOD.text
    assert decoded == [0]
