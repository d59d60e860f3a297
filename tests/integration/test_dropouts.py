"""Text that a model passes over is noticed and comes back: the benchmark's own engine, on a short set."""

from __future__ import annotations

from pathlib import Path

from benchmarks.corpus import make_corpus
from benchmarks.dropouts import LEAST_FOUND_PERCENT, Losses, engine, figures


def test_lost_text_is_noticed_and_comes_back(tmp_path: Path) -> None:
    losses = Losses(seed=1)
    corpus = make_corpus(tmp_path, 2, 120.0, 150.0)
    with engine(losses) as transcribe:
        whole = {spoken.name: transcribe(tmp_path / spoken.name) for spoken in corpus}
        losses.begin()
        spoiled = {spoken.name: transcribe(tmp_path / spoken.name) for spoken in corpus}
    lost, found, needless, before, after = (figure.value for figure in figures(losses, corpus, whole, spoiled))
    assert lost >= 3
    assert found >= LEAST_FOUND_PERCENT
    assert needless == 0
    assert after <= before + 3.0
