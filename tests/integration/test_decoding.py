"""Windows through the bundled model: how long their texts may be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.worker.engine import decoding
from services.worker.engine.decoding import MOST_TOKENS, Request, Voice, decode, most_tokens
from services.worker.engine.features import NumpyFeatures
from services.worker.engine.memory import BatchLimit
from services.worker.engine.models import LoadedModel, Models, warm_up
from services.worker.engine.protocol import EngineSettings
from services.worker.pipeline.quality import Verdict, judge
from services.worker.work import AttemptKey, Options
from tests import recordings
from tests.recordings import RATE

BUNDLED = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="module")
def model() -> Iterator[LoadedModel]:
    with Models(EngineSettings("demo", BUNDLED), "cpu", 1, lambda: None).use("demo") as loaded:
        yield loaded


def window(model: LoadedModel, seconds: float) -> Request:
    voice = Voice(model, "en", Options())
    samples = recordings.example(speakers=1).samples()[: int(seconds * RATE)]
    return Request(AttemptKey("job", 1), 0, voice, voice.features.of(samples), seconds)


def test_the_limit_grows_with_the_speech_and_windows_of_a_class_share_it() -> None:
    assert [most_tokens(seconds) for seconds in (0.5, 5.0, 5.1, 10.0, 10.1, 30.0)] == [95, 95, 170, 170, 224, 224]
    assert most_tokens(30.0) == MOST_TOKENS


def test_encoder_and_decoder_have_batches_of_their_own(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is found does not depend on either, nor is a window encoded again for another search."""
    lengths = (10.5, 12.0, 20.0, 25.0, 30.0)
    alone = [decode([window(model, seconds)], BatchLimit(1))[0] for seconds in lengths]
    encoded: list[int] = []
    stacked = NumpyFeatures.stacked

    def counted(windows: Sequence[object]) -> object:
        encoded.append(len(windows))
        return stacked(windows)

    monkeypatch.setattr(NumpyFeatures, "stacked", staticmethod(counted))
    requests = [window(model, seconds) for seconds in lengths]
    found = decode(requests, BatchLimit(2))
    assert encoded == [2, 2, 1]
    assert [one.tokens for one in found] == [one.tokens for one in alone]
    assert [one.tokens for one in decode(requests[1:4], BatchLimit(16))] == [one.tokens for one in alone[1:4]]
    assert encoded == [2, 2, 1]


def test_where_the_encoder_has_no_room_it_takes_fewer_and_the_decoder_as_many_as_before(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacked = NumpyFeatures.stacked

    def short(windows: Sequence[object]) -> object:
        if len(windows) > 1:
            raise RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED")
        return stacked(windows)

    monkeypatch.setattr(NumpyFeatures, "stacked", staticmethod(short))
    encoder = BatchLimit(4)
    found = decode([window(model, 12.0) for _ in range(5)], encoder)
    assert len({one.tokens for one in found}) == 1
    assert len(found) == 5
    assert encoder.size == 1


def test_a_window_for_which_there_is_no_room_alone_is_told(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(windows: Sequence[object]) -> object:
        raise RuntimeError("CUDA failed with error out of memory")

    monkeypatch.setattr(NumpyFeatures, "stacked", staticmethod(never))
    with pytest.raises(RuntimeError, match="out of memory"):
        decode([window(model, 12.0)], BatchLimit(4))


class Echoing:
    """A model whose next call fails as CTranslate2's does after another one failed."""

    def __init__(self, model: Any, times: int) -> None:
        self._model = model
        self.left = times

    def __getattr__(self, name: str) -> Any:
        if name not in ("encode", "generate"):
            return getattr(self._model, name)

        def call(*arguments: Any, **named: Any) -> Any:
            if self.left:
                self.left -= 1
                raise RuntimeError("parallel_for failed: cudaErrorInvalidDevice: invalid device ordinal")
            return getattr(self._model, name)(*arguments, **named)

        return call


@pytest.mark.parametrize("times", [1, 2])
def test_an_error_that_is_told_again_costs_nothing_the_first_time(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    encoder = BatchLimit(4)
    expected = decode([window(model, 12.0) for _ in range(4)], encoder)
    echoing = Echoing(model.whisper.model, times)
    monkeypatch.setattr(model.whisper, "model", echoing)
    assert decode([window(model, 12.0) for _ in range(4)], encoder) == expected
    assert echoing.left == 0
    assert encoder.size == (4 if times == 1 else 2)


def test_warming_up_searches_in_both_ways_and_aligns(model: LoadedModel) -> None:
    asked: list[str] = []

    class Noting:
        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            return getattr(model.whisper.model, name)

    whisper: Any = SimpleNamespace(
        model=Noting(),
        encode=model.whisper.encode,
        feature_extractor=model.whisper.feature_extractor,
        hf_tokenizer=model.whisper.hf_tokenizer,
    )
    warm_up(whisper, times_words=True)
    assert asked == ["generate", "generate", "align"]


def test_a_text_ends_at_its_limit_and_is_then_taken_for_a_loop(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = window(model, 10.0)
    (whole,) = decode([request], BatchLimit(1))
    assert len(whole.tokens) > 6
    assert judge(whole) is Verdict.GOOD
    monkeypatch.setattr(decoding, "TOKENS_PER_SECOND", 0)
    monkeypatch.setattr(decoding, "TOKENS_BESIDE", 6)
    request.begin_anew()
    (cut,) = decode([request], BatchLimit(1))
    assert cut.tokens == whole.tokens[:6]
    assert judge(cut) is Verdict.LOOPS
