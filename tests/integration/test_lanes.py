"""Lanes over a decoder that the test plays: what becomes of each window, whatever happens to its batch."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from services.worker.engine import decoding, lanes
from services.worker.engine.decoding import SEARCHES, Request
from services.worker.engine.lanes import JobLine, Lanes
from services.worker.engine.memory import BatchLimit, encoder_batch
from services.worker.pipeline.quality import Try
from services.worker.work import AttemptKey, Segment

TINY: Any = SimpleNamespace(name="tiny")
Play = Callable[[Sequence[Request]], list[Try]]
GOOD = Try((1, 2, 3), " good morning", -0.1, 0.0)
LOOP = Try((1, 2) * 40, " so so" * 40, -0.1, 0.0)


@dataclass
class FakeMemory:
    """``unused`` models that can go, one at each call."""

    unused: int = 0
    replaced: list[tuple[str, int, bool]] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)

    def release(self) -> bool:
        self.unused -= 1
        return self.unused >= 0

    def replace_process(self, reason: str, batch_size: int = 0, *, is_less: bool = False) -> None:
        self.replaced.append((reason, batch_size, is_less))
        self.asked.set()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Lanes]]:
    """Lanes whose device does what the test says."""
    started: list[Lanes] = []

    def make(play: Play, batch_size: int = 4, count: int = 1, memory: FakeMemory | None = None) -> Lanes:
        monkeypatch.setattr(decoding, "decode", lambda requests, encoder: play(requests))
        monkeypatch.setattr(
            decoding,
            "timed",
            lambda requests, texts: [(Segment(0.0, 1.0, tried.text),) for tried in texts],
        )
        monkeypatch.setattr(Request, "shape", property(lambda self: ("tiny", self.search)))
        made = Lanes(
            count, "cpu", lambda model: BatchLimit(batch_size), memory or FakeMemory(), lambda ended: None, 0.0
        )
        started.append(made)
        return made

    yield make
    for one in started:
        one.stop()


def request(index: int) -> Request:
    voice: Any = SimpleNamespace(model=TINY)
    return Request(AttemptKey("job", 1), index, voice, np.zeros((80, 3000), np.float32), 30.0)


def put(made: Lanes, count: int) -> list[Request]:
    requests = [request(index) for index in range(count)]
    line = JobLine(made.queue, made.queue.open())
    with made.line(TINY, 60.0):  # which makes its limit known
        pass
    for one in requests:
        line.put(one)
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


def test_words_that_cannot_be_timed_cost_only_themselves(
    made: Callable[..., Lanes], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = made(lambda requests: [Try((one.index,), f" {one.index}", -0.1, 0.0) for one in requests])
    timed = decoding.timed

    def broken(requests: Sequence[Request], texts: Sequence[Try]) -> list[tuple[Segment, ...]]:
        if any(one.index == 1 and one.words for one in requests):
            raise IndexError("arrays used as indices must be of integer type")
        return timed(requests, texts)

    monkeypatch.setattr(decoding, "timed", broken)
    requests = put(running, 3)
    running.start()
    assert [text(one.done) for one in requests] == [" 0", " 1", " 2"]


@pytest.mark.parametrize(
    ("message", "timed_again"),
    [("CUDA out of memory. Tried to allocate 2.00 GiB", True), ("cudaErrorInvalidDevice", False)],
)
def test_words_for_which_there_is_no_room_are_timed_by_row_first(
    made: Callable[..., Lanes], monkeypatch: pytest.MonkeyPatch, message: str, timed_again: bool
) -> None:
    """And where one alone has none it is decoded again, unless that is all that the driver ever says."""
    running = made(lambda requests: [Try((one.index,), f" {one.index}", -0.1, 0.0) for one in requests])
    timed, left, sizes = decoding.timed, [4], []

    def short(requests: Sequence[Request], texts: Sequence[Try]) -> list[tuple[Segment, ...]]:
        sizes.append((len(requests), requests[0].words))
        if requests[0].words and (len(requests) > 1 or requests[0].index == 1) and (left[0] > 0 or not timed_again):
            left[0] -= 1
            raise RuntimeError(f"parallel_for failed: {message}")
        return timed(requests, texts)

    monkeypatch.setattr(decoding, "timed", short)
    requests = put(running, 3)
    running.start()
    assert [text(one.done) for one in requests] == [" 0", " 1", " 2"]
    assert sizes[:3] == [(3, True), (1, True), (1, True)]
    assert ((1, False) in sizes) != timed_again


def test_all_of_a_batch_that_are_searched_again_are_so_together(made: Callable[..., Lanes]) -> None:
    sizes: list[tuple[int, int]] = []

    def play(requests: Sequence[Request]) -> list[Try]:
        sizes.append((requests[0].search, len(requests)))
        return [LOOP if one.search == 0 else GOOD for one in requests]

    running = made(play)
    requests = put(running, 4)
    running.start()
    assert [text(one.done) for one in requests] == [GOOD.text] * 4
    assert sizes == [(0, 4), (1, 4)]


def test_of_a_batch_that_failed_nothing_of_a_canceled_job_is_decoded_alone(made: Callable[..., Lanes]) -> None:
    alone: list[int] = []

    def play(requests: Sequence[Request]) -> list[Try]:
        if len(requests) > 1:
            raise RuntimeError("odd")
        alone.append(requests[0].index)
        made_of[0].close()
        return [GOOD]

    running = made(play)
    requests = [request(index) for index in range(4)]
    with running.line(TINY, 120.0):
        pass
    made_of = [JobLine(running.queue, running.queue.open())]
    for one in requests:
        made_of[0].put(one)
    running.start()
    with pytest.raises(futures.CancelledError):
        requests[3].done.result(10.0)
    assert alone == [0]


def test_what_comes_again_after_memory_ran_out_begins_as_it_began(made: Callable[..., Lanes]) -> None:
    one = request(0)
    other = Request(one.key, 1, one.voice, one.features, 30.0, search=1)
    other.search = 2
    for each in (one, other):
        each.begin_anew()
    assert (one.search, other.search) == (0, 1)


def test_where_no_search_helps_the_searching_ends(made: Callable[..., Lanes]) -> None:
    running = made(lambda requests: [LOOP for _ in requests])
    (only,) = put(running, 1)
    running.start()
    assert text(only.done) == LOOP.text
    assert len(only.tries) == len(SEARCHES)


def test_a_half_that_only_loops_has_no_words(made: Callable[..., Lanes]) -> None:
    running = made(lambda requests: [LOOP for _ in requests])
    (half,) = put(running, 1)
    half.part = True
    running.start()
    assert text(half.done) == ""


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
    with running.line(TINY, 60.0) as line:
        line.put(request(99))
    (only,) = put(running, 1)
    running.start()
    assert text(only.done) == GOOD.text
    assert decoded == [0]


def test_a_cancel_frees_the_device_after_the_batch_that_it_has_in_hand(made: Callable[..., Lanes]) -> None:
    decoded: list[list[int]] = []
    begun, canceled = threading.Event(), threading.Event()

    def play(requests: Sequence[Request]) -> list[Try]:
        decoded.append([one.index for one in requests])
        begun.set()
        assert canceled.wait(10.0)
        return [GOOD for _ in requests]

    running = made(play)
    with running.line(TINY, 60.0) as line:
        long = [request(index) for index in range(20)]
        for one in long:
            line.put(one)
        running.start()
        assert begun.wait(10.0)
        line.close()
        (other,) = put(running, 1)
        canceled.set()
        assert text(other.done) == GOOD.text
    assert decoded == [[0, 1, 2, 3], [0]]
    assert [one.done.cancelled() for one in long] == [False] * 4 + [True] * 16


def test_who_leaves_is_not_kept_waiting_by_a_window_that_would_be_searched_again(made: Callable[..., Lanes]) -> None:
    begun, left = threading.Event(), threading.Event()

    def play(requests: Sequence[Request]) -> list[Try]:
        begun.set()
        assert left.wait(10.0)
        return [LOOP for _ in requests]

    running = made(play)
    with running.line(TINY, 60.0) as line:
        line.put(only := request(0))
        running.start()
        assert begun.wait(10.0)
    threading.Timer(0.2, left.set).start()
    assert futures.wait([only.done], 10.0).done == {only.done}
    assert only.done.cancelled()


def test_the_device_does_not_wait_for_what_is_done_beside_it(
    made: Callable[..., Lanes], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    all_decoded = threading.Event()

    def play(requests: Sequence[Request]) -> list[Try]:
        decoded.extend(one.index for one in requests)
        if len(decoded) == 12:
            all_decoded.set()
        return [GOOD for _ in requests]

    running = made(play)
    timed = decoding.timed

    def slow(requests: Sequence[Request], texts: Sequence[Try]) -> list[tuple[Segment, ...]]:
        assert all_decoded.wait(10.0), "the lane waits for the first batch to be timed"
        return timed(requests, texts)

    monkeypatch.setattr(decoding, "timed", slow)
    requests = put(running, 12)
    running.start()
    assert [text(one.done) for one in requests] == [GOOD.text] * 12


def play_out_of_memory(above: int, sizes: list[int], message: str = "CUDA failed with error out of memory") -> Play:
    def play(requests: Sequence[Request]) -> list[Try]:
        sizes.append(len(requests))
        if len(requests) > above:
            raise RuntimeError(message)
        return [Try((one.index,), f" {one.index}", -0.1, 0.0) for one in requests]

    return play


@pytest.mark.parametrize(
    "message",
    [
        "CUDA failed with error out of memory",
        "cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED",
        "parallel_for failed: cudaErrorInvalidDevice: invalid device ordinal",
        "std::bad_alloc",
    ],
)
def test_when_memory_runs_out_batches_get_smaller_and_no_window_is_lost(
    made: Callable[..., Lanes], message: str
) -> None:
    sizes: list[int] = []
    memory = FakeMemory()
    running = made(play_out_of_memory(2, sizes, message), batch_size=8, memory=memory)
    requests = put(running, 12)
    running.start()
    assert [text(one.done) for one in requests] == [f" {index}" for index in range(12)]
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2]
    assert memory.replaced == []


def test_where_a_model_can_go_batches_stay_as_large(made: Callable[..., Lanes]) -> None:
    sizes: list[int] = []
    memory = FakeMemory(unused=1)

    def play(requests: Sequence[Request]) -> list[Try]:
        sizes.append(len(requests))
        if memory.unused > 0:
            raise RuntimeError("CUDA failed with error out of memory")
        return [GOOD for _ in requests]

    running = made(play, batch_size=4, memory=memory)
    requests = put(running, 8)
    running.start()
    assert [text(one.done) for one in requests] == [GOOD.text] * 8
    assert sizes == [4, 4, 4]


def test_where_what_goes_is_never_enough_batches_get_smaller_and_the_process_is_replaced(
    made: Callable[..., Lanes],
) -> None:
    """Torch's cache, say, which fills again and again."""
    sizes: list[int] = []

    class Endless(FakeMemory):
        def release(self) -> bool:
            return True

    memory = Endless()
    running = made(play_out_of_memory(0, sizes), batch_size=4, memory=memory)
    put(running, 4)
    running.start()
    assert memory.asked.wait(10.0)
    assert sizes[:3] == [4, 4, 2]
    assert memory.replaced[0][1:] == (1, True)


def test_what_a_failed_batch_held_is_let_go_before_room_is_made(made: Callable[..., Lanes]) -> None:
    held: list[weakref.ref[np.ndarray]] = []

    class Looking(FakeMemory):
        def release(self) -> bool:
            assert held[-1]() is None
            return super().release()

    def play(requests: Sequence[Request]) -> list[Try]:
        if len(requests) > 2:
            joined = np.zeros(1000)
            held.append(weakref.ref(joined))
            raise RuntimeError(f"CUDA failed with error out of memory at {joined.nbytes}")
        return [GOOD for _ in requests]

    running = made(play, batch_size=4, memory=Looking())
    requests = put(running, 4)
    running.start()
    assert [text(one.done) for one in requests] == [GOOD.text] * 4
    assert len(held) == 1


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_encoders_batch_is_the_devices(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoders: list[BatchLimit] = []

    def play(requests: Sequence[Request], encoder: BatchLimit) -> list[Try]:
        encoders.append(encoder)
        return [GOOD for _ in requests]

    monkeypatch.setattr(decoding, "decode", play)
    monkeypatch.setattr(decoding, "timed", lambda requests, texts: [() for _ in texts])
    monkeypatch.setattr(Request, "shape", property(lambda self: ("tiny", self.search)))
    running = Lanes(1, device, lambda model: BatchLimit(64), FakeMemory(), lambda ended: None, 0.0)
    (only,) = put(running, 1)
    running.start()
    only.done.result(10.0)
    running.stop()
    assert [one.size for one in encoders] == [encoder_batch(device)]


def test_where_a_single_window_does_not_fit_models_go_first_and_then_the_process(made: Callable[..., Lanes]) -> None:
    sizes: list[int] = []
    memory = FakeMemory(unused=1)
    running = made(play_out_of_memory(0, sizes), batch_size=2, memory=memory)
    (only,) = put(running, 1)
    running.start()
    assert memory.asked.wait(10.0)
    running.stop()
    assert sizes == [1, 1]
    assert memory.replaced == [("no memory for a single window: CUDA failed with error out of memory", 1, True)]
    assert not only.done.done()  # it goes on in the next process


def test_who_began_with_a_single_window_tries_no_less_the_next_time(made: Callable[..., Lanes]) -> None:
    memory = FakeMemory()
    running = made(play_out_of_memory(0, []), batch_size=1, memory=memory)
    put(running, 1)
    running.start()
    assert memory.asked.wait(10.0)
    assert memory.replaced[0][1:] == (1, False)


@pytest.mark.parametrize(
    ("error", "size", "is_less"),
    [
        ("CUDA failed with error an illegal memory access was encountered", 0, False),  # it was not the batch's size
        ("cuBLAS failed with status CUBLAS_STATUS_EXECUTION_FAILED", 2, True),  # it may have been
    ],
)
def test_a_context_that_is_lost_asks_once_for_another_process_and_the_windows_go_back(
    error: str, size: int, is_less: bool, made: Callable[..., Lanes]
) -> None:
    memory = FakeMemory()

    def play(requests: Sequence[Request]) -> list[Try]:
        raise RuntimeError(error)

    running = made(play, batch_size=4, memory=memory)
    requests = put(running, 8)
    running.start()
    assert memory.asked.wait(10.0)
    running.stop()
    assert memory.replaced == [(error, size, is_less)]
    assert not any(one.done.done() for one in requests)


def test_what_was_learned_of_memory_outlives_a_lost_context(made: Callable[..., Lanes]) -> None:
    memory = FakeMemory()

    def play(requests: Sequence[Request]) -> list[Try]:
        if len(requests) > 2:
            raise RuntimeError("CUDA failed with error out of memory")
        raise RuntimeError("CUDA failed with error an illegal memory access was encountered")

    running = made(play, batch_size=4, memory=memory)
    put(running, 4)
    running.start()
    assert memory.asked.wait(10.0)
    assert memory.replaced[0][1:] == (2, False)


def test_memory_that_runs_out_beside_the_device_costs_no_window(
    made: Callable[..., Lanes], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = made(lambda requests: [GOOD for _ in requests], batch_size=4)
    timed, failed = decoding.timed, []

    def short(requests: Sequence[Request], texts: Sequence[Try]) -> list[tuple[Segment, ...]]:
        if len(requests) > 2:
            failed.append(len(requests))
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return timed(requests, texts)

    monkeypatch.setattr(decoding, "timed", short)
    requests = put(running, 4)
    running.start()
    assert [text(one.done) for one in requests] == [GOOD.text] * 4
    assert failed == [4]
    assert all(len(one.tries) == 1 for one in requests)
