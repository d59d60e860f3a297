"""Text that a model passes over is noticed and comes back, or is told as missing: the benchmark's own engine, on a short set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.corpus import make_corpus
from benchmarks.dropouts import LEAST_FOUND_PERCENT, Losses, engine, figures, text_of
from services.worker.engine.decoding import Request
from services.worker.engine.memory import BatchLimit
from services.worker.pipeline.quality import Try
from tests import recordings
from tests.recordings import RATE


def test_lost_text_is_noticed_and_comes_back(tmp_path: Path) -> None:
    losses = Losses(seed=1)
    corpus = make_corpus(tmp_path, 2, 120.0, 150.0)
    with engine(losses.decode) as transcribe:
        whole = {spoken.name: text_of(transcribe(tmp_path / spoken.name)) for spoken in corpus}
        losses.begin()
        spoiled = {spoken.name: text_of(transcribe(tmp_path / spoken.name)) for spoken in corpus}
    lost, found, needless, before, after = (figure.value for figure in figures(losses, corpus, whole, spoiled))
    assert lost >= 3
    assert found >= LEAST_FOUND_PERCENT
    assert needless == 0
    assert after <= before + 3.0


def test_a_window_that_is_too_short_to_be_cut_is_searched_in_another_way(tmp_path: Path) -> None:
    (spoken,) = make_corpus(tmp_path, 1, 10.0, 10.0)
    searches: list[int] = []

    def decode(requests: Sequence[Request], encoder: BatchLimit, real: Callable[..., list[Try]]) -> list[Try]:
        searches.extend(one.search for one in requests)
        return [
            replace(found, tokens=(), text="") if one.search == 0 and one.seconds < 1.0 else found
            for one, found in zip(requests, real(requests, encoder), strict=True)
        ]

    with engine(decode) as transcribe:
        (whole,) = transcribe(tmp_path / spoken.name)
        begin = int(max(0.0, whole.segments[0].start - 0.1) * RATE)
        samples = recordings.decoded(tmp_path / spoken.name)[begin : begin + int(0.8 * RATE)]
        recordings.write_wav(tmp_path / "word.wav", samples)
        searches.clear()
        (word,) = transcribe(tmp_path / "word.wav")
    assert searches == [0, 1]
    assert word.segments
    assert not word.silent


def test_a_window_that_remains_without_words_is_told_as_silent(tmp_path: Path) -> None:
    (spoken,) = make_corpus(tmp_path, 1, 120.0, 120.0)
    deaf: set[int] = set()
    tried: list[tuple[int, bool]] = []

    def decode(requests: Sequence[Request], encoder: BatchLimit, real: Callable[..., list[Try]]) -> list[Try]:
        tried.extend((one.index, one.part) for one in requests if one.index in deaf)
        return [
            replace(found, tokens=(), text="") if one.index in deaf else found
            for one, found in zip(requests, real(requests, encoder), strict=True)
        ]

    with engine(decode) as transcribe:
        whole = transcribe(tmp_path / spoken.name)
        deaf.add(1)
        found = transcribe(tmp_path / spoken.name)
    assert [window.silent for window in whole] == [False] * len(whole)
    assert found == [replace(one, segments=(), silent=True) if one.index == 1 else one for one in whole]
    assert tried == [(1, False), (1, True), (1, True)], "both of its halves are tried"
