"""Windows through the bundled model: how long their texts may be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.worker.engine import decoding
from services.worker.engine.decoding import MOST_TOKENS, Request, Voice, decode, most_tokens
from services.worker.engine.models import LoadedModel, Models
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


def test_a_text_ends_at_its_limit_and_is_then_taken_for_a_loop(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = window(model, 10.0)
    (whole,) = decode([request], 1)
    assert len(whole.tokens) > 6
    assert judge(whole) is Verdict.GOOD
    monkeypatch.setattr(decoding, "TOKENS_PER_SECOND", 0)
    monkeypatch.setattr(decoding, "TOKENS_BESIDE", 6)
    request.begin_anew()
    (cut,) = decode([request], 1)
    assert cut.tokens == whole.tokens[:6]
    assert judge(cut) is Verdict.LOOPS
