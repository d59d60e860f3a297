"""The models' recipe, in pieces: what a recognizer is to predict, the losses, and trainings that were cut.

Here, and not among the unit tests: torch takes seconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.train import training
from models.train.diarization.embedding import angular_loss
from models.train.diarization.plda import centered, write_plda
from models.train.diarization.segmentation import assigning_loss, telling_loss
from models.train.diarization.tune import middle_of_the_best
from models.train.recognizer import losses
from models.train.recognizer.convert import convert
from models.train.recognizer.mixing import Mix, PlacedWord, Segment, Window, join, mix_window
from models.train.recognizer.network import Recognizer, Size
from models.train.recognizer.phrases import BAND_HERTZ, BANDS, Phrases
from models.train.recognizer.targets import IGNORED, NOWHERE, TextOptions, draw_prompt, pad, text_of
from models.train.recognizer.vocabulary import (
    END_OF_TEXT,
    FIRST_TIMESTAMP,
    NO_SPEECH,
    NO_TIMESTAMPS,
    PREVIOUS,
    SIZE,
    START,
    UNKNOWN,
    timestamp,
    tokens,
)
from models.train.training import AdamW, mixed_precision, seeded

BUNDLED = Path(__file__).parents[2] / "models"
EXACT = TextOptions(with_timestamps=True, jitter=0.0, leaves_cut=False)
PLAIN = TextOptions(with_timestamps=False, jitter=0.0, leaves_cut=False)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)


def numbers() -> np.random.Generator:
    return np.random.default_rng(1)


def window(*segments: Segment) -> Window:
    return Window(np.zeros((80, 1000), np.float32), segments, np.full(500, UNKNOWN), 10.0)


FIRST = Segment(0.5, 1.5, (PlacedWord(3, 0.5, 1.0), PlacedWord(4, 1.0, 1.5)))
SECOND = Segment(3.0, 3.5, (PlacedWord(5, 3.0, 3.5),))


# --- what the recognizer is to predict


def test_a_text_with_timestamps_is_whispers() -> None:
    text = text_of(window(FIRST, SECOND), EXACT, numbers())
    assert text.wanted == [
        *(timestamp(0.5), 3, 4, timestamp(1.5)),
        *(timestamp(3.0), 5, timestamp(3.5), END_OF_TEXT),
    ]
    assert text.given == [START, *text.wanted[:-1]]


def test_a_text_without_them_is_its_words() -> None:
    text = text_of(window(FIRST, SECOND), PLAIN, numbers())
    assert text.wanted == [NO_TIMESTAMPS, 3, 4, 5, END_OF_TEXT]
    assert text.given == [START, NO_TIMESTAMPS, 3, 4, 5]


@pytest.mark.parametrize("options", [EXACT, PLAIN])
def test_nothing_said_is_no_speech(options: TextOptions) -> None:
    assert text_of(window(), options, numbers()).wanted == [NO_SPEECH, END_OF_TEXT]


def test_every_place_says_where_its_token_is_heard() -> None:
    text = text_of(window(FIRST, SECOND), EXACT, numbers())
    place = text.wanted.index(4)
    assert text.next_heard[place] == (50, 75, 150), "the pause up to the next word belongs to the last word before it"
    assert text.heard[place + 1] == (50, 75, 150)
    assert text.next_heard[text.wanted.index(3)] == (25, 50, 50), "and between words there is none"
    assert text.heard[0] == text.next_heard[-1] == NOWHERE


@pytest.mark.parametrize("seed", range(20))
def test_timestamps_that_are_given_are_off_and_never_fall_while_those_wanted_are_true(seed: int) -> None:
    exact = text_of(window(FIRST, SECOND), EXACT, numbers())
    shaken = text_of(window(FIRST, SECOND), TextOptions(True, 3.0, False), np.random.default_rng(seed))
    assert shaken.wanted == exact.wanted
    times = [token for token in shaken.given if token >= FIRST_TIMESTAMP]
    assert times == sorted(times)
    assert len(times) == 4
    assert [token for token in shaken.given if token < FIRST_TIMESTAMP] == [START, 3, 4, 5]


def test_a_cut_segment_is_left_to_the_next_window_only_where_it_is_not_the_first() -> None:
    cut = Segment(3.0, 10.0, SECOND.words, is_cut=True)
    leaves = TextOptions(True, 0.0, leaves_cut=True)
    assert text_of(window(FIRST, cut), leaves, numbers()).wanted[-2:] == [timestamp(3.0), END_OF_TEXT]
    assert 5 in text_of(window(cut), leaves, numbers()).wanted
    assert 5 in text_of(window(FIRST, cut), EXACT, numbers()).wanted


def test_phrases_with_hardly_a_pause_between_are_one_segment() -> None:
    placed = [(0.0, 1.0, (PlacedWord(1, 0.0, 1.0),), False), (1.2, 2.0, (PlacedWord(2, 1.2, 2.0),), False)]
    assert [len(segment.words) for segment in join(placed, 10.0, gap=0.35)] == [2]
    assert [len(segment.words) for segment in join(placed, 10.0, gap=0.1)] == [1, 1]


def phrases_of(folder: Path, words: list[tuple[int, ...]], frames: int = 60) -> Phrases:
    """So many hundredths of a second each, equally loud in all bands."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "power.npy", np.full((len(words) * frames, BANDS), -1.0, np.float16))
    np.savez(
        folder / "phrases.npz",
        frames=np.full(len(words), frames),
        counts=[len(some) for some in words],
        words=np.concatenate(words),
        starts=np.concatenate([np.arange(len(some)) * 0.1 for some in words]),
        seconds=np.full(len(words), frames / 100),
    )
    return Phrases(folder)


def test_of_the_phrases_in_a_window_some_are_said_again(tmp_path: Path) -> None:
    phrases = phrases_of(tmp_path, [(one, other) for one in range(25) for other in range(25)])

    def repeated(share: float) -> float:
        mix, drawn = Mix(0.0, 0.0, share), numbers()
        windows = [mix_window(phrases, 1500, drawn, mix, True) for _ in range(60)]
        said = [[tuple(word.word for word in segment.words) for segment in window.segments] for window in windows]
        pairs = [pair for some in said for pair in itertools.pairwise(some)]
        return sum(one == other for one, other in pairs) / len(pairs)

    assert repeated(0.0) < 0.02
    assert 0.2 < repeated(0.3) < 0.4


def test_a_phrase_said_again_is_said_by_the_same_voice_or_another(tmp_path: Path) -> None:
    phrases = phrases_of(tmp_path, [(1, 2), (3,), (1, 2), (1, 2)])
    first, *_ = phrases.all
    drawn = numbers()
    again = [phrases.draw_alike(first, drawn) for _ in range(50)]
    assert {one.words for one in again} == {(1, 2)}
    assert any(one is first for one in again)
    assert any(one is not first for one in again)


def test_over_a_telephone_little_is_left_of_the_lows_and_nothing_of_the_highs(tmp_path: Path) -> None:
    phrases, drawn = phrases_of(tmp_path, [(1, 2)], frames=290), numbers()
    narrow = [mix_window(phrases, 300, drawn, Mix(0.0, 1.0, 0.0), True).features for _ in range(20)]
    mean = np.mean([features.max(1) for features in narrow], 0)
    middle = mean[(BAND_HERTZ > 1000) & (BAND_HERTZ < 3000)].mean()
    assert mean[0] < middle - 0.2
    assert mean[BAND_HERTZ > 4600].max() < middle - 0.5


def test_bands_are_those_of_the_features() -> None:
    from faster_whisper.feature_extractor import FeatureExtractor

    filters = FeatureExtractor.get_mel_filters(16_000, 400, BANDS)
    middles = (filters @ np.fft.rfftfreq(400, 1 / 16_000)) / filters.sum(1)
    assert np.abs(middles - BAND_HERTZ).max() < 5


def test_rows_begin_with_their_prompts_which_are_not_predicted() -> None:
    texts = [text_of(window(FIRST, SECOND), PLAIN, numbers()), text_of(window(), PLAIN, numbers())]
    rows = pad(texts, [draw_prompt(4, 500, numbers()) for _ in texts])
    assert rows.given.shape == rows.wanted.shape == (2, 32)
    assert (rows.given[:, 0] == PREVIOUS).all()
    assert (rows.wanted[:, :4] == IGNORED).all()
    assert rows.wanted[1].tolist() == [IGNORED] * 4 + [NO_SPEECH, END_OF_TEXT] + [IGNORED] * 26


def test_the_tokens_are_those_of_the_bundled_model() -> None:
    import json

    assert tokens() == json.loads((BUNDLED / "whisper-demo" / "vocabulary.json").read_text(encoding="utf-8"))
    assert len(tokens()) == SIZE


# --- the network


def test_padding_that_is_stood_for_gives_what_the_whole_window_gives() -> None:
    network = Recognizer(Size(32, 2, 2, 2)).eval()
    features = torch.randn(1, 80, 2800)
    whole = torch.nn.functional.pad(features, (0, 200))
    given = torch.tensor([[START, NO_TIMESTAMPS, 1, 2]])
    with torch.inference_mode():
        expected, _ = network.decoder(given, *network.encoder(whole))
        found, _ = network.decoder(given, *network.encoder(features))
    assert torch.allclose(found, expected, atol=0.02 * float(expected.abs().max()))


def test_what_is_converted_computes_what_was_trained(tmp_path: Path) -> None:
    """Within what eight bits allow. Computed in 32, for processors differ in how well they multiply eight."""
    import ctranslate2

    network = Recognizer(Size(32, 2, 2, 2)).eval()
    nn.init.normal_(network.decoder.positions, std=3.0)  # or it would say the same for ever
    convert(network, tmp_path / "converted")
    converted = ctranslate2.models.Whisper(
        str(tmp_path / "converted"), device="cpu", intra_threads=1, compute_type="float32"
    )
    features = 0.5 * torch.randn(1, 80, 3000)
    text = [START, NO_TIMESTAMPS]
    with torch.inference_mode():
        encoded, bias = network.encoder(features)
        for _ in range(6):
            logits, _ = network.decoder(torch.tensor([text]), encoded, bias)
            text.append(int(logits[0, -1].argmax()))
    heard = converted.encode(ctranslate2.StorageView.from_array(features.numpy()))
    assert np.corrcoef(np.asarray(heard).ravel(), encoded.numpy().ravel())[0, 1] > 0.999
    found = converted.generate(heard, [text[:2]], beam_size=1, max_length=20, suppress_blank=False)
    assert len(set(text)) > 3, "or they are the same by chance"
    assert found[0].sequences_ids[0][:6] == text[2:]


def test_looking_evenly_over_the_word_and_a_little_over_the_pause_costs_nothing() -> None:
    spans = torch.tensor([[[2, 4, 6]]])
    perfect = torch.tensor([[[0, 0, 0.45, 0.45, 0.05, 0.05, 0, 0]]]).clamp(min=1e-9).log()
    beside = perfect.roll(2, -1)
    assert losses.looks_evenly(perfect, spans, 0.1) == pytest.approx(0.0, abs=1e-5)
    assert losses.looks_evenly(beside, spans, 0.1) > 1
    assert losses.looks_evenly(perfect, torch.tensor([[NOWHERE]]), 0.1) == 0


# --- the losses of the speaker models


def test_the_margin_makes_the_right_class_harder() -> None:
    cosines, target = torch.tensor([[0.9, 0.1]]), torch.tensor([0])
    assert angular_loss(cosines, target, 0.3, 10.0) > angular_loss(cosines, target, 0.0, 10.0)


ACTIVITY = torch.tensor([[1, 0], [1, 1], [0, 1], [0, 0]]).bool().repeat_interleave(8, 0)[None]
VOICES = nn.functional.one_hot(torch.tensor([0, 2, 1, 3]).repeat_interleave(8), 32).float()[None]
SCALE = torch.tensor([20.0, 10.0])


def test_vectors_that_tell_speakers_apart_cost_little() -> None:
    good, right = telling_loss(VOICES, SCALE, ACTIVITY)
    alike, _ = telling_loss(VOICES[:, :1].expand_as(VOICES), SCALE, ACTIVITY)
    assert good < 0.01 < alike
    assert right == 1.0


def test_each_speaker_is_to_be_heard_where_he_speaks_also_with_another() -> None:
    heard = torch.full((1, 32, 33), 0.0)
    heard[..., 0] = torch.where(ACTIVITY[..., 0], 10.0, -10.0)
    heard[..., 1] = torch.where(ACTIVITY[..., 1], 10.0, -10.0)
    assert assigning_loss(VOICES, heard, ACTIVITY) < 0.01
    heard[0, 8:16, 0] = -10.0  # the first one is missed where both speak
    assert assigning_loss(VOICES, heard, ACTIVITY) > 1


def test_of_parameters_that_are_about_as_good_the_middle_one_is_chosen() -> None:
    rates = {(threshold, scale): 0.2 for threshold in (0.1, 0.2, 0.3, 0.4) for scale in (1.0, 2.0, 4.0)}
    plateau = {(0.1, 4.0): 0.101, (0.2, 4.0): 0.102, (0.3, 4.0): 0.1, (0.2, 2.0): 0.103, (0.4, 1.0): 0.0999}
    rates |= plateau
    assert middle_of_the_best(rates, 0.004) == (0.2, 4.0)
    assert middle_of_the_best(rates, 0.0) == (0.4, 1.0)


@pytest.mark.filterwarnings("ignore:\\s*torchcodec is not installed correctly:UserWarning")
def test_pyannote_reads_the_plda_and_it_separates_speakers(tmp_path: Path) -> None:
    from services.worker.engine.torchaudio_stub import import_torchaudio

    import_torchaudio()
    from pyannote.audio.core.plda import PLDA

    rng = numbers()
    owners = np.repeat(np.arange(30), 6)
    vectors = rng.normal(size=(30, 96))[owners] + 0.3 * rng.normal(size=(180, 96))
    write_plda(centered(vectors)[0], owners, 16, tmp_path)
    plda = PLDA.from_pretrained(tmp_path)
    found = plda(vectors.astype(np.float32))
    means = np.stack([found[owners == owner].mean(0) for owner in range(30)])
    distances = np.linalg.norm(found[:, None] - means[None], axis=2)
    assert (distances.argmin(1) == owners).mean() > 0.98
    assert (np.diff(plda.phi) <= 1e-6).all()


# --- trainings that were cut


class Line:
    """Fits a line to points that each step draws."""

    def __init__(self, steps: int, dies_at: int = -1) -> None:
        torch.manual_seed(3)
        self.line = nn.Linear(1, 1)
        self._optimizer = AdamW([{"params": list(self.line.parameters())}], clip=1.0)
        self._steps, self._dies_at = steps, dies_at

    @property
    def steps(self) -> int:
        return self._steps

    def step(self, number: int) -> Mapping[str, float]:
        if number == self._dies_at:
            raise KeyboardInterrupt
        x = torch.from_numpy(seeded(7, number).normal(size=(8, 1)).astype(np.float32)) + torch.randn(8, 1)
        loss = (self.line(x) - 2 * x).square().mean()
        self._optimizer.step(loss, 0.05)
        return {"loss": loss.item()}

    def state(self) -> dict[str, Any]:
        return {"line": self.line.state_dict(), "optimizer": self._optimizer.state()}

    def restore(self, state: dict[str, Any]) -> None:
        self.line.load_state_dict(state["line"])
        self._optimizer.restore(state["optimizer"])


def trained(line: Line, checkpoint: Path, fingerprint: str = "one") -> list[str]:
    told: list[str] = []
    training.train(line, checkpoint, fingerprint, told.append)
    return told


@pytest.fixture
def saves_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)


@pytest.mark.usefixtures("saves_always")
def test_a_training_that_was_cut_goes_on_and_ends_in_the_same_weights(tmp_path: Path) -> None:
    whole = Line(steps=9)
    trained(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(Line(steps=9, dies_at=5), tmp_path / "cut")
    resumed = Line(steps=9)
    assert trained(resumed, tmp_path / "cut")[0] == "going on at step 5 of 9"
    assert torch.equal(resumed.line.weight, whole.line.weight)
    assert torch.equal(resumed.line.bias, whole.line.bias)


@pytest.mark.usefixtures("saves_always")
def test_a_checkpoint_of_another_recipe_does_not_count(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(Line(steps=9, dies_at=5), tmp_path / "cut")
    assert not any("going on" in text for text in trained(Line(steps=9), tmp_path / "cut", "another"))


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    line = nn.Linear(1, 1)
    before = line.weight.clone()
    AdamW([{"params": list(line.parameters())}], clip=1.0).step(line(torch.tensor([[float("nan")]])).sum(), 0.1)
    assert torch.equal(line.weight, before)


def test_parts_of_a_step_are_the_step() -> None:
    torch.manual_seed(5)
    whole, halved = nn.Linear(3, 1), nn.Linear(3, 1)
    halved.load_state_dict(whole.state_dict())
    optimizers = [AdamW([{"params": list(line.parameters())}], clip=1e6) for line in (whole, halved)]
    parts = [lambda: halved(x[::2]).square().mean(), lambda: halved(x[1::2]).square().mean()]
    for _ in range(3):
        x = torch.randn(8, 3)
        optimizers[0].step(whole(x).square().mean(), 0.1)
        optimizers[1].step_in_parts(parts, 0.1)
        for one, other in zip(whole.parameters(), halved.parameters(), strict=True):
            assert one.grad is not None
            assert other.grad is not None
            assert torch.allclose(one.grad, other.grad, atol=1e-6)  # a first step knows only its sign
            assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("known", "is_enabled"), [({"avx512_bf16": True}, True), ({"amx_bf16": False, "avx2": True}, False)]
)
def test_numbers_are_short_only_where_the_processor_knows_them(
    known: dict[str, bool], is_enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    with mixed_precision():
        assert torch.is_autocast_enabled("cpu") is is_enabled
