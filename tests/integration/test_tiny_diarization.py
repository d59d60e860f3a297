"""The demo's speaker models give pyannote what it asks for. Here, and not among the unit tests: torch takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from services.worker.engine.torchaudio_stub import import_torchaudio

# pyannote's own, wherever it is imported first
pytestmark = pytest.mark.filterwarnings("ignore:\\s*torchcodec is not installed correctly:UserWarning")

MODELS = Path(__file__).parents[2] / "models" / "diarization-demo"
NOBODY_ONE_OR_TWO_OF_FOUR = 1 + 4 + 6
CHUNK = 160_000


@pytest.fixture(scope="module")
def torch() -> Iterator[Any]:
    import torch

    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setenv("PYANNOTE_METRICS_ENABLED", "0")  # or it would tell its makers
        torch.manual_seed(1)
        yield torch


@pytest.fixture(scope="module")
def tiny(torch: Any) -> ModuleType:
    import_torchaudio()
    from services.worker.engine import tiny_diarization

    return tiny_diarization


@pytest.fixture(scope="module")
def segmentation(tiny: ModuleType) -> Any:
    from services.worker.engine.speaker_models import _demo_model

    return _demo_model(tiny.TinySegmentation, MODELS / "segmentation")


@pytest.fixture(scope="module")
def embedding(tiny: ModuleType) -> Any:
    from services.worker.engine.speaker_models import _demo_model

    return _demo_model(tiny.TinyEmbedding, MODELS / "embedding")


def test_frames_of_a_mel_are_a_hundredth_of_a_second(torch: Any, tiny: ModuleType) -> None:
    mel = tiny.LogMel(bands=64)
    assert mel(torch.zeros(2, 1, 16_000)).shape == (2, 64, 100)
    assert mel(torch.zeros(1, 1, 16_159)).shape == (1, 64, 100)
    assert mel(torch.zeros(1, 1, 1)).shape == (1, 64, 1)


def test_a_tone_is_loudest_in_the_band_of_its_pitch(torch: Any, tiny: ModuleType) -> None:
    centers = tiny.mel_matrix(64, 512, 16_000).argmax(dim=0) * 16_000 / 512
    for hertz in (300.0, 1000.0, 4000.0):
        tone = torch.sin(2 * torch.pi * hertz * torch.arange(16_000) / 16_000)
        loudest = tiny.LogMel()(tone[None, None])[0].mean(dim=1).argmax()
        assert centers[loudest] == pytest.approx(hertz, rel=0.12)


PITCHES = 40


@pytest.mark.parametrize("hertz", [120.0, 171.0, 245.0, 330.0])
@pytest.mark.parametrize("without_lowest", [False, True], ids=["all", "as over a telephone"])
def test_a_voice_has_its_pitch_whether_or_not_it_is_heard_itself(
    torch: Any, tiny: ModuleType, hertz: float, without_lowest: bool
) -> None:
    harmonics = range(1 + int(300 / hertz) if without_lowest else 1, int(4000 / hertz))
    time = torch.arange(16_000) / 16_000
    voice = 0.1 * sum(torch.sin(2 * torch.pi * hertz * number * time) / number for number in harmonics)
    found = tiny.LogMel(width=512, pitches=PITCHES)(voice[None, None])[0, -PITCHES:, 20:80].mean(dim=1)
    highest = 70 * (400 / 70) ** (found.argmax() / (PITCHES - 1))
    assert highest == pytest.approx(hertz, rel=0.04)


def test_silence_has_no_pitch_and_the_bands_are_what_they_are_without(torch: Any, tiny: ModuleType) -> None:
    mel = tiny.LogMel(width=512, pitches=PITCHES)
    assert not mel(torch.zeros(1, 1, 16_000))[:, -PITCHES:].any()
    sound = 0.1 * torch.randn(2, 1, 16_000)
    assert torch.equal(mel(sound)[:, :-PITCHES], tiny.LogMel(width=512)(sound))


@pytest.mark.parametrize("samples", [CHUNK, 80_000, 16_001])
def test_the_segmentation_says_for_every_frame_who_of_four_speaks(torch: Any, segmentation: Any, samples: int) -> None:
    scores = segmentation(0.1 * torch.randn(3, 1, samples))
    assert scores.shape == (3, segmentation.num_frames(samples), NOBODY_ONE_OR_TWO_OF_FOUR)
    assert torch.allclose(scores.exp().sum(dim=-1), torch.ones(3, scores.shape[1]), atol=0.01)


def test_chunks_in_one_batch_do_not_change_each_other(torch: Any, segmentation: Any) -> None:
    chunks = 0.1 * torch.randn(3, 1, CHUNK)
    together = segmentation(chunks)
    assert all(torch.equal(segmentation(chunks[i : i + 1])[0], together[i]) for i in range(3))


def test_silence_is_nobody(torch: Any, segmentation: Any) -> None:
    assert (segmentation(torch.zeros(1, 1, CHUNK)).argmax(dim=-1) == 0).all()


def test_an_embedding_has_96_numbers(torch: Any, embedding: Any) -> None:
    waveforms = 0.1 * torch.randn(4, 1, CHUNK)
    frames = embedding.num_frames(CHUNK)
    assert embedding(waveforms).shape == (4, 96)
    assert embedding(waveforms, torch.rand(4, frames)).shape == (4, 96)
    assert embedding(waveforms, torch.rand(4, frames // 2)).shape == (4, 96), "masks come at the segmentation's step"
    assert torch.isfinite(embedding(waveforms, torch.zeros(4, frames))).all(), "of a speaker who is never alone"


def test_a_chunk_is_embedded_once_for_all_its_speakers(torch: Any, embedding: Any) -> None:
    chunks, frames = 0.1 * torch.randn(2, 1, CHUNK), embedding.num_frames(CHUNK)
    masks = (torch.rand(2, 3, frames) > 0.5).float()
    together = embedding.forward_embedding(embedding.forward_frames(chunks), masks)
    assert together.shape == (2, 3, 96)
    for chunk in range(2):
        for speaker in range(3):
            alone = embedding(chunks[chunk : chunk + 1], masks[chunk : chunk + 1, speaker])
            assert torch.allclose(alone[0], together[chunk, speaker], atol=1e-4)
    assert not torch.allclose(together[0, 0], together[0, 1], atol=1e-2)


def test_a_mask_of_one_says_as_much_as_none(torch: Any, embedding: Any) -> None:
    waveforms = 0.1 * torch.randn(2, 1, CHUNK)
    masked = embedding(waveforms, torch.ones(2, embedding.num_frames(CHUNK)))
    assert torch.allclose(masked, embedding(waveforms), atol=1e-5)


def test_pyannote_learns_the_shortest_length_that_can_be_embedded(torch: Any, embedding: Any) -> None:
    with pytest.raises(ValueError, match="at least"):
        embedding(torch.zeros(1, 1, embedding.MIN_SAMPLES - 1))
    assert embedding(torch.zeros(1, 1, embedding.MIN_SAMPLES)).shape == (1, 96)


@pytest.mark.parametrize("seed", range(40))
def test_any_chunk_gets_a_class_for_every_frame(tiny: ModuleType, seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = int(rng.integers(1, 120))
    speaking = rng.choice(3, frames, p=rng.dirichlet([0.5, 0.5, 0.5]))
    scores = np.full((frames, 7), -6.0, np.float32)
    scores[np.arange(frames), np.array([0, 1, 4])[speaking] + rng.integers(0, 3, frames) * (speaking > 0)] = -0.01
    vectors = (
        rng.normal(size=(frames, 32)).astype(np.float32) + 3 * rng.normal(size=(3, 32))[rng.integers(0, 3, frames)]
    )
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    decided = tiny.decide_speakers(scores, vectors, threshold=0.5, min_frames=6)
    assert decided.shape == (frames, 7)
    classes = decided.argmax(axis=1)
    assert ((classes == 0) == (speaking == 0)).all(), "who speaks may change, but not whether anybody does"
    assert (classes[speaking == 1] <= 3).all()
    assert ((decided == decided.max(axis=1, keepdims=True)).sum(axis=1) == 1).all()


def test_frames_are_told_apart_by_their_vectors(tiny: ModuleType) -> None:
    """Three voices that speak in turn, and two of them together in between."""
    voices = np.eye(32, dtype=np.float32)[:3]
    who = np.repeat([0, 1, 2, 0], 20)
    scores = np.full((80, 7), -6.0, np.float32)
    scores[:, 1] = -0.01  # somebody alone; which one, the vectors say
    scores[18:22] = -6.0
    scores[18:22, 4] = -0.01
    classes = tiny.decide_speakers(scores, voices[who], threshold=0.5, min_frames=6).argmax(axis=1)
    names = [set(classes[np.flatnonzero(who == voice)].tolist()) - {4, 5, 6} for voice in range(3)]
    assert all(len(name) == 1 for name in names)
    assert set().union(*names) == {1, 2, 3}
    first, second = (name.pop() for name in names[:2])
    assert set(classes[18:22].tolist()) == {{(1, 2): 4, (1, 3): 5, (2, 3): 6}[min(first, second), max(first, second)]}


# --- deciding by the middles of the clusters


PAIRS_OF_FOUR = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def heard_of(who: list[set[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What networks would say that knew it all: counts, vectors and heard of frames in which these speak."""
    frames = len(who)
    counts = np.full((frames, 3), -6.0, np.float32)
    vectors, heard = np.zeros((frames, 32), np.float32), np.zeros((frames, 33), np.float32)
    for frame, speakers in enumerate(who):
        counts[frame, len(speakers)] = -0.01
        vectors[frame, min(speakers, default=31)] = 1
        heard[frame, :4] = [8.0 if speaker in speakers else -8.0 for speaker in range(4)]
    return counts, vectors, heard


def sets_of(decided: np.ndarray) -> list[frozenset[int]]:
    sets = [frozenset[int](), *(frozenset([speaker]) for speaker in range(4)), *map(frozenset, PAIRS_OF_FOUR)]
    return [sets[place] for place in decided.argmax(1)]


def test_four_voices_and_whoever_speaks_at_once_are_told_by_their_middles(tiny: ModuleType) -> None:
    """Also where the pair is neither who spoke before nor who speaks after."""
    who: list[set[int]] = [{0}] * 20 + [{1}] * 20 + [{2}] * 20 + [{3}] * 20 + [set()] * 10 + [{0, 2}] * 10 + [{3}] * 10
    decided = tiny.decide_by_centers(*heard_of(who), threshold=0.5, min_frames=6, speakers=4)
    assert decided.shape == (110, 11)
    assert np.allclose(np.exp(decided).sum(1), 1, atol=1e-3)
    found = sets_of(decided)
    names = {speaker: found[20 * speaker + 5] for speaker in range(4)}
    assert sorted(len(name) for name in names.values()) == [1, 1, 1, 1]
    assert len(set(names.values())) == 4
    assert found == [frozenset().union(*(names[speaker] for speaker in speakers)) for speakers in who]


@pytest.mark.parametrize("who", [[set()] * 30, [{0}] * 30, [{0, 1}] * 30, [{0}] + [set()] * 29])
def test_chunks_with_hardly_anybody_are_decided_too(tiny: ModuleType, who: list[set[int]]) -> None:
    decided = tiny.decide_by_centers(*heard_of(who), threshold=0.5, min_frames=6, speakers=4)
    assert np.isfinite(decided).all()
    assert [bool(found) for found in sets_of(decided)] == [bool(speakers) for speakers in who]
