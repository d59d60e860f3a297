"""Who speaks when, on generated conversations: what pyannote's own pipeline says, chunk by chunk, and whatever comes in."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.conversations import Conversation, conversation
from benchmarks.scoring import speaker_errors
from services.worker.engine import speaker_clusters, speaker_models
from services.worker.engine.diarization import Diarizer, Watch
from services.worker.engine.protocol import EngineSettings
from services.worker.engine.speaker_clusters import (
    FAST_STEP,
    Bounds,
    ClusterProcess,
    Found,
    Heard,
    Rules,
    counting_less,
    find_speakers,
)
from services.worker.engine.torchaudio_stub import import_torchaudio
from services.worker.pipeline.faults import WorkError
from services.worker.pipeline.recording import PreparedRecording
from services.worker.pipeline.windows import SAMPLE_RATE
from services.worker.work import ChunkSpeakers, Options, Speakers, SpeakerTurn

MODELS = Path(__file__).parents[2] / "models"
SETTINGS = EngineSettings("demo", MODELS, diarization_model="demo")

pytestmark = pytest.mark.filterwarnings("ignore")  # pyannote's own, of decoders and of statistics of short turns


class InPlace:
    """The clustering without its process, which takes seconds to start."""

    def __init__(self) -> None:
        self.asked: list[tuple[Heard, Rules, Bounds]] = []

    def find(self, heard: Heard, rules: Rules, bounds: Bounds, check: Callable[[], None]) -> Found:
        self.asked.append((heard, rules, bounds))
        return find_speakers(heard, rules, bounds)


@pytest.fixture(scope="module", autouse=True)
def _quiet_pyannote() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYANNOTE_METRICS_ENABLED", "0")  # or it would tell its makers
        import_torchaudio()
        yield


@pytest.fixture(scope="module")
def pipeline(_quiet_pyannote: None) -> Any:
    return speaker_models.load("demo", SETTINGS, "cpu")


@pytest.fixture(scope="module")
def talk() -> Conversation:
    """Three people, a minute."""
    return conversation(60, 3)


def _diarizer(pipeline: Any) -> Diarizer:
    diarizer = Diarizer(SETTINGS, "cpu", lambda: None, InPlace())
    diarizer._use(pipeline)
    diarizer._tried.set()
    return diarizer


@pytest.fixture(scope="module")
def diarizer(pipeline: Any) -> Diarizer:
    return _diarizer(pipeline)


class Followed(list[ChunkSpeakers]):
    """What a job hears of its diarization; ``check`` raises after so many calls."""

    def __init__(self, give_up_after: int | None = None) -> None:
        super().__init__()
        self.shares: list[float] = []
        self.checks = 0
        self._give_up_after = give_up_after

    def watch(self) -> Watch:
        return Watch(self._check, self.append, self.shares.append)

    def _check(self) -> None:
        self.checks += 1
        if self._give_up_after is not None and self.checks > self._give_up_after:
            raise GivenUpError


class GivenUpError(Exception):
    pass


def _recording(folder: Path, samples: NDArray[np.int16]) -> PreparedRecording:
    spool = folder / "spool"
    spool.write_bytes(samples.astype("<i2").tobytes())
    return PreparedRecording(spool, len(samples), ())


def _stock(pipeline: Any, samples: NDArray[np.int16], fast: bool = False, **counts: int | None) -> Speakers:
    import torch

    inference = pipeline._segmentation
    usual, clustering = inference.step, pipeline.clustering
    if fast:  # what is heard twice counts half
        inference.step = pipeline.segmentation_step * inference.duration * FAST_STEP
        pipeline.clustering = counting_less(clustering, FAST_STEP)
    try:
        waveform = torch.from_numpy(samples.astype(np.float32) / 32768)[None]
        output = pipeline({"waveform": waveform, "sample_rate": SAMPLE_RATE, "uri": "talk"}, **counts)
    finally:
        inference.step, pipeline.clustering = usual, clustering
    found = (output.speaker_diarization, output.exclusive_speaker_diarization)
    return _renamed(found, len(samples) / SAMPLE_RATE)


def _renamed(annotations: Iterable[Any], seconds: float) -> Speakers:
    """As in a transcript: named in the order in which they are heard best, and nobody behind the recording's end."""
    said, exclusive = (
        sorted(
            (round(turn.start, 3), round(min(turn.end, seconds), 3), label)
            for turn, _, label in found.itertracks(yield_label=True)
            if turn.start < seconds
        )
        for found in annotations
    )
    names: dict[str, str] = {}
    for _, _, label in (*exclusive, *said):
        names.setdefault(label, f"SPEAKER_{len(names):02d}")
    return Speakers(
        *(tuple(SpeakerTurn(start, end, names[label]) for start, end, label in turns) for turns in (said, exclusive))
    )


def _sorted(speakers: Speakers) -> list[list[tuple[float, float, str]]]:
    return [
        sorted((turn.start, turn.end, turn.speaker) for turn in turns) for turns in (speakers.turns, speakers.exclusive)
    ]


def _wrong(talk: Conversation, speakers: Speakers) -> float:
    return speaker_errors(_mappings(talk.turns), _mappings(speakers.turns)).rate


def _mappings(turns: tuple[SpeakerTurn, ...]) -> list[dict[str, Any]]:
    return [{"start": turn.start, "end": turn.end, "speaker": turn.speaker} for turn in turns]


def test_a_folder_may_hold_models_of_the_bundled_kind(tmp_path: Path) -> None:
    """As `make models` leaves them: they can be used, and measured, before they are bundled."""
    folder = tmp_path / "new"
    shutil.copytree(MODELS / "diarization-demo", folder)
    described = json.loads((folder / "segmentation.json").read_text())
    described["hyper_parameters"]["threshold"] = 0.33
    (folder / "segmentation.json").write_text(json.dumps(described))
    loaded = speaker_models.load(str(folder), SETTINGS, "cpu")
    assert loaded._segmentation.model.hparams.threshold == 0.33


# --- the same as pyannote


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(("fewest", "most"), [(None, None), (2, 2), (None, 2), (5, None), (1, 1)])
def test_one_chunk_is_what_pyannote_says(
    pipeline: Any,
    diarizer: Diarizer,
    talk: Conversation,
    tmp_path: Path,
    fast: bool,
    fewest: int | None,
    most: int | None,
) -> None:
    options = Options(
        diarization=True,
        min_speakers=fewest,
        max_speakers=most,
        diarization_fast_switching=fast,
        diarization_max_duration_seconds=1200,
    )
    followed = Followed()
    found = diarizer.speakers(_recording(tmp_path, talk.samples), options, followed.watch())
    stock = _stock(pipeline, talk.samples, fast, min_speakers=fewest, max_speakers=most)
    assert _sorted(found) == _sorted(stock)
    assert len(followed) == 1
    assert followed.shares == sorted(followed.shares)
    assert followed.shares[-1] == 1


@pytest.mark.parametrize("seconds", [0.5, 3.0, 10.0, 11.3, 12.0, 31.0])
def test_of_any_length(pipeline: Any, diarizer: Diarizer, talk: Conversation, tmp_path: Path, seconds: float) -> None:
    samples = talk.samples[SAMPLE_RATE : round((1 + seconds) * SAMPLE_RATE)]
    found = diarizer.speakers(_recording(tmp_path, samples), Options(), Followed().watch())
    assert _sorted(found) == _sorted(_stock(pipeline, samples))


def _specified(model: Any, **specifications: Any) -> Any:
    from pyannote.audio.core.task import Problem, Resolution, Specifications

    specifications["problem"] = Problem[specifications["problem"]]
    specifications["resolution"] = Resolution[specifications["resolution"]]
    model.specifications = Specifications(**specifications)
    model.build()
    return model.eval()


def _small_resnet() -> Any:
    """WeSpeaker's ResNet as pyannote has it, of a few channels and random weights."""
    import torch
    from pyannote.audio.models.embedding.wespeaker import BaseWeSpeakerResNet
    from pyannote.audio.models.embedding.wespeaker.resnet import BasicBlock, ResNet

    torch.manual_seed(3)
    model = BaseWeSpeakerResNet()
    model.resnet = ResNet(BasicBlock, [1, 1, 1, 1], m_channels=4, feat_dim=80, embed_dim=24, two_emb_layer=False)
    return _specified(model, problem="REPRESENTATION", resolution="CHUNK", duration=5.0)


def _x_vector() -> Any:
    """A model that takes weights and does not compute frames and embedding apart."""
    import torch
    from pyannote.audio.models.embedding import XVectorMFCC

    torch.manual_seed(3)
    return _specified(XVectorMFCC(dimension=24), problem="REPRESENTATION", resolution="CHUNK", duration=5.0)


def _pyannet(powerset: bool) -> Any:
    """pyannote's segmentation, small; random weights that say something else all the time."""
    import torch
    from pyannote.audio.models.segmentation import PyanNet

    torch.manual_seed(8)
    model = _specified(
        PyanNet(lstm={"hidden_size": 16, "num_layers": 2}, linear={"hidden_size": 16, "num_layers": 1}),
        problem="MONO_LABEL_CLASSIFICATION" if powerset else "MULTI_LABEL_CLASSIFICATION",
        resolution="FRAME",
        duration=5.0,
        classes=["a", "b", "c"],
        powerset_max_classes=2 if powerset else None,
        permutation_invariant=True,
    )
    with torch.no_grad():
        model.linear[0].weight *= 30
        model.classifier.weight *= 30
    return model


def _pipeline(demo: Any, segmentation: Any, embedding: Any) -> Any:
    from pyannote.audio.pipelines import SpeakerDiarization

    made = SpeakerDiarization(
        segmentation=segmentation,
        embedding=embedding,
        plda=demo._plda,
        clustering="AgglomerativeClustering",
        segmentation_batch_size=4,
        embedding_batch_size=4,
        embedding_exclude_overlap=True,
    )
    threshold = {} if made._segmentation.model.specifications.powerset else {"threshold": 0.5}
    return made.instantiate(
        {
            "segmentation": {"min_duration_off": 0.2} | threshold,
            "clustering": {"method": "centroid", "min_cluster_size": 3, "threshold": 0.02},
        }
    )


@pytest.mark.parametrize("embedding", [_small_resnet, _x_vector])
@pytest.mark.parametrize("segmentation", ["demo", "powerset", "multilabel"])
def test_models_of_pyannotes_own_classes_say_the_same_as_well(
    pipeline: Any, talk: Conversation, tmp_path: Path, segmentation: str, embedding: Callable[[], Any]
) -> None:
    segments = pipeline.segmentation_model if segmentation == "demo" else _pyannet(segmentation == "powerset")
    other = _pipeline(pipeline, segments, embedding())
    samples = talk.samples[: 20 * SAMPLE_RATE]
    found = _diarizer(other).speakers(_recording(tmp_path, samples), Options(), Followed().watch())
    stock = _stock(other, samples)
    assert len(stock.turns) > 3, "or nothing is compared"
    assert _sorted(found) == _sorted(stock)


# --- chunks


CHUNKED = Options(diarization=True, diarization_max_duration_seconds=100)


@pytest.fixture(scope="module")
def long_talk() -> Conversation:
    return conversation(320, 3, seed=2)


@pytest.fixture(scope="module")
def chunked(
    diarizer: Diarizer, long_talk: Conversation, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PreparedRecording, Followed, Speakers]:
    recording, followed = _recording(tmp_path_factory.mktemp("long"), long_talk.samples), Followed()
    return recording, followed, diarizer.speakers(recording, CHUNKED, followed.watch())


def test_a_speaker_keeps_his_name_through_all_chunks(
    chunked: tuple[PreparedRecording, Followed, Speakers],
) -> None:
    _, followed, found = chunked
    assert len(followed) >= 4
    assert {turn.speaker for turn in found.turns} == {f"SPEAKER_{n:02d}" for n in range(3)}
    assert followed.shares == sorted(followed.shares)
    assert len(followed.shares) > 2 * len(followed)
    assert followed.shares[-1] == 1


def test_chunks_cost_two_points_of_error_at_most(
    diarizer: Diarizer,
    long_talk: Conversation,
    chunked: tuple[PreparedRecording, Followed, Speakers],
    tmp_path: Path,
) -> None:
    """Over three conversations: a single one may be off by as much for one short turn in each chunk."""
    recording, _, found = chunked
    whole = diarizer.speakers(recording, Options(), Followed().watch())
    more = [_wrong(long_talk, found) - _wrong(long_talk, whole)]
    for seed in (1, 3):
        talk = conversation(320, 3, seed=seed)
        (tmp_path / str(seed)).mkdir()
        recording = _recording(tmp_path / str(seed), talk.samples)
        found, whole = (diarizer.speakers(recording, options, Followed().watch()) for options in (CHUNKED, Options()))
        more.append(_wrong(talk, found) - _wrong(talk, whole))
    assert sum(more) / len(more) <= 0.02


def test_overlapping_speech_is_in_the_turns_and_not_in_the_exclusive_ones(
    chunked: tuple[PreparedRecording, Followed, Speakers],
) -> None:
    _, _, found = chunked
    assert any(one.end > other.start for one, other in zip(found.turns, found.turns[1:], strict=False))
    assert all(one.end <= other.start for one, other in zip(found.exclusive, found.exclusive[1:], strict=False))


def test_finished_chunks_are_taken_as_they_are(
    pipeline: Any, chunked: tuple[PreparedRecording, Followed, Speakers]
) -> None:
    recording, followed, found = chunked
    diarizer, again = _diarizer(pipeline), Followed()
    kept = [chunk for chunk in followed if chunk.index != 2]
    assert diarizer.speakers(recording, CHUNKED, again.watch(), kept) == found
    assert list(again) == [followed[2]]


def test_chunks_that_were_cut_otherwise_are_not_taken(
    pipeline: Any, chunked: tuple[PreparedRecording, Followed, Speakers]
) -> None:
    recording, followed, found = chunked
    diarizer, again = _diarizer(pipeline), Followed()
    others = [followed[0], *(replace(chunk, start=chunk.start + 1) for chunk in followed[1:])]
    assert diarizer.speakers(recording, CHUNKED, again.watch(), others) == found
    assert list(again) == list(followed[1:])


@pytest.mark.parametrize("people", [1, 2])
def test_an_exact_count_holds_for_the_whole_recording(
    diarizer: Diarizer, chunked: tuple[PreparedRecording, Followed, Speakers], people: int
) -> None:
    recording, _, _ = chunked
    options = replace(CHUNKED, min_speakers=people, max_speakers=people)
    found = diarizer.speakers(recording, options, Followed().watch())
    assert len({turn.speaker for turn in found.turns}) == people


def test_fast_switching_splits_no_voice(diarizer: Diarizer, tmp_path: Path) -> None:
    """Windows at half the step, taken as independent of each other, made four of the three."""
    three = conversation(150, 3, seed=4)
    found = diarizer.speakers(_recording(tmp_path, three.samples), Options(diarization_fast_switching=True), Watch())
    assert {turn.speaker for turn in found.turns} == {"SPEAKER_00", "SPEAKER_01", "SPEAKER_02"}
    assert _wrong(three, found) <= 0.02


def test_who_is_asked_for_and_not_in_every_chunk_is_not_invented(diarizer: Diarizer, tmp_path: Path) -> None:
    """Four people in all, two and two."""
    first, second = conversation(140, 2), conversation(140, 4, seed=5)
    recording = _recording(tmp_path, np.concatenate([first.samples, second.samples]))
    options = Options(diarization_max_duration_seconds=120, min_speakers=4, max_speakers=4)
    found = diarizer.speakers(recording, options, Followed().watch())
    early = {turn.speaker for turn in found.turns if turn.end < 130}
    assert len(early) == 2
    assert len({turn.speaker for turn in found.turns}) == 4


def test_a_canceled_job_ends_after_the_batch(pipeline: Any, long_talk: Conversation, tmp_path: Path) -> None:
    diarizer = _diarizer(pipeline)
    windows, listen = [], diarizer._models.listen

    def counted(sound: Any, check: Callable[[], None]) -> Heard:
        windows.append(len(sound))
        return listen(sound, check)

    diarizer._models.listen = counted  # type: ignore[method-assign]
    with pytest.raises(GivenUpError):
        diarizer.speakers(_recording(tmp_path, long_talk.samples), Options(), Followed(give_up_after=4).watch())
    diarizer._threads.shutdown()
    assert len(windows) <= 5


def test_short_recordings_are_not_behind_long_ones(pipeline: Any, long_talk: Conversation, tmp_path: Path) -> None:
    """The long one's first batch does not end before the short one is done."""
    diarizer = _diarizer(pipeline)
    (tmp_path / "short").mkdir()
    long, short = (
        _recording(tmp_path, long_talk.samples),
        _recording(tmp_path / "short", long_talk.samples[: 5 * SAMPLE_RATE]),
    )
    ended: list[str] = []
    begun = threading.Event()

    def run(recording: PreparedRecording, name: str) -> None:
        def progress(share: float) -> None:
            begun.set()

        diarizer.speakers(recording, Options(), Watch(progress=progress))
        ended.append(name)

    threads = [threading.Thread(target=run, args=(long, "long"))]
    threads[0].start()
    assert begun.wait(30)
    threads.append(threading.Thread(target=run, args=(short, "short")))
    threads[1].start()
    for thread in threads:
        thread.join(60)
    assert ended == ["short", "long"]


def test_less_at_once_where_the_device_has_no_room(pipeline: Any, talk: Conversation, tmp_path: Path) -> None:
    recording = _recording(tmp_path, talk.samples)
    usual = _diarizer(pipeline).speakers(recording, Options(), Followed().watch())
    diarizer = _diarizer(pipeline)
    listen = diarizer._models.listen

    def short_of_memory(sound: Any, check: Callable[[], None]) -> Heard:
        if len(sound) > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return listen(sound, check)

    diarizer._models.listen = short_of_memory  # type: ignore[method-assign]
    assert diarizer.speakers(recording, Options(), Followed().watch()) == usual


# --- the process


def test_the_process_finds_what_would_be_found_here(pipeline: Any, talk: Conversation, tmp_path: Path) -> None:
    here = InPlace()
    diarizer = Diarizer(SETTINGS, "cpu", lambda: None, here)
    diarizer._use(pipeline)
    diarizer._tried.set()
    diarizer.speakers(_recording(tmp_path, talk.samples), Options(), Followed().watch())
    ((heard, rules, bounds),) = here.asked
    process = ClusterProcess()
    try:
        assert process.find(heard, rules, bounds, lambda: None) == find_speakers(heard, rules, bounds)
        hour = Heard(*(np.tile(part, (30, 1, 1)) for part in (heard.scores, heard.active, heard.embeddings)))
        with pytest.raises(GivenUpError):
            process.find(hour, rules, bounds, Followed(give_up_after=0)._check)
    finally:
        process.close()


def _nothing(parent: int) -> None:
    return


def _nobody() -> tuple[Any, Any, Any]:
    return None, None, None


def _die(*_: object) -> Found:
    os._exit(9)


def _no_memory(*_: object) -> Found:
    raise MemoryError


def test_a_chunk_that_memory_is_too_short_for_is_the_jobs_end_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaker_clusters, "find_speakers", _no_memory)
    monkeypatch.setattr(speaker_clusters, "_begin", _nothing)
    process = ClusterProcess()
    try:
        with pytest.raises(WorkError, match="diarizationMaxDurationSeconds"):
            process.find(*_nobody(), lambda: None)
    finally:
        process.close()


def test_who_waits_for_his_turn_can_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaker_clusters, "_begin", _nothing)
    process = ClusterProcess()
    try:
        with process._turn, pytest.raises(GivenUpError):
            process.find(*_nobody(), Followed(give_up_after=0)._check)
    finally:
        process.close()


def test_a_process_that_died_with_nothing_to_do_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaker_clusters, "find_speakers", _somebody)
    monkeypatch.setattr(speaker_clusters, "_begin", _nothing)
    others = set(multiprocessing.active_children())
    process = ClusterProcess()
    try:
        for _ in range(3):
            assert process.find(*_nobody(), lambda: None) == Found()
            for child in set(multiprocessing.active_children()) - others:
                child.kill()
    finally:
        process.close()


def _somebody(*_: object) -> Found:
    return Found()


def test_a_process_that_dies_again_and_again_is_the_jobs_end_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaker_clusters, "find_speakers", _die)
    monkeypatch.setattr(speaker_clusters, "_begin", _nothing)  # which takes seconds
    process = ClusterProcess()
    try:
        with pytest.raises(WorkError, match="diarizationMaxDurationSeconds"):
            process.find(*_nobody(), lambda: None)
    finally:
        process.close()


# --- what comes in


def test_silence_is_nobody_and_embeds_nothing(pipeline: Any, tmp_path: Path) -> None:
    diarizer = _diarizer(pipeline)
    embedded: list[int] = []
    diarizer._models._pooled = lambda sound, masks: embedded.append(len(sound))  # type: ignore[method-assign, assignment, return-value]
    silence = np.zeros(30 * SAMPLE_RATE, np.int16)
    assert diarizer.speakers(_recording(tmp_path, silence), Options(), Followed().watch()) == Speakers()
    assert not embedded


@pytest.mark.parametrize("samples", [0, 1, SAMPLE_RATE // 2 - 1])
def test_less_than_half_a_second_is_nobody(diarizer: Diarizer, tmp_path: Path, samples: int) -> None:
    recording = _recording(tmp_path, np.ones(samples, np.int16))
    assert diarizer.speakers(recording, Options(), Followed().watch()) == Speakers()


def test_one_speaker_is_one(diarizer: Diarizer, tmp_path: Path) -> None:
    alone = conversation(60, 1)
    found = diarizer.speakers(_recording(tmp_path, alone.samples), Options(), Followed().watch())
    assert {turn.speaker for turn in found.turns} == {"SPEAKER_00"}


def test_more_speakers_than_asked_for_are_as_many_as_asked_for(diarizer: Diarizer, tmp_path: Path) -> None:
    four = conversation(100, 4)
    found = diarizer.speakers(_recording(tmp_path, four.samples), Options(max_speakers=3), Followed().watch())
    assert len({turn.speaker for turn in found.turns}) == 3


@pytest.mark.parametrize("fewest", [2, 20, 1000])
def test_more_speakers_asked_for_than_can_be_is_no_fault(
    diarizer: Diarizer, talk: Conversation, tmp_path: Path, fewest: int
) -> None:
    """pyannote itself fails here."""
    samples = talk.samples[: 8 * SAMPLE_RATE]
    options = Options(min_speakers=fewest, max_speakers=fewest)
    assert diarizer.speakers(_recording(tmp_path, samples), options, Followed().watch()).turns
