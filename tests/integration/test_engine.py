"""The engine's real child process with the bundled models, on real files."""

from __future__ import annotations

import asyncio
import itertools
import os
import select
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import pytest_asyncio

from services.worker import wire
from services.worker.engine.messages import Configure, RunWork, WorkReported, encode, receive
from services.worker.engine.protocol import EngineSettings
from services.worker.engine.supervisor import Supervisor
from services.worker.pipeline.channels import BY_CHANNEL, NOT_APART, NOT_TWO, OFFERED
from services.worker.work import (
    STAGES,
    AttemptKey,
    Canceled,
    Completed,
    FinishedWork,
    Outcome,
    Planned,
    Progress,
    Report,
    Segment,
    SpeakerChunkFound,
    SpeakersFound,
    StageChanged,
    WindowDecoded,
    WindowFinished,
)
from tests import recordings
from tests.engine import (
    BUNDLED,
    DEADLINE,
    MOST_WORD_ERRORS,
    Long,
    Run,
    finish,
    make_long,
    model,
    ready,
    run,
    started,
    text_of,
    word_errors,
    work,
)
from tests.recordings import RATE, Example, a_speaker_a_channel
from tests.worker import eventually

# One loop for all, in which the engine that they share lives.
pytestmark = pytest.mark.asyncio(loop_scope="module")


def children() -> set[int]:
    """This process's children, those included that ended and were not waited for."""
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No model but the bundled ones, whatever this machine has downloaded, and no way to download one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub")))
        patch.delenv("HF_HUB_CACHE", raising=False)
        patch.delenv("HUGGINGFACE_HUB_CACHE", raising=False)
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(offline: None) -> AsyncIterator[Supervisor]:
    """Two windows in a batch, so that recordings of minutes are several batches."""
    settings = EngineSettings("demo", BUNDLED, device="cpu", slots=2, batch_size=2)
    made = Supervisor(settings)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture(scope="module")
def one_speaker() -> Example:
    return recordings.example(speakers=1)


@pytest.fixture(scope="module")
def two_speakers() -> Example:
    return recordings.example(speakers=2)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Long:
    return make_long(tmp_path_factory.mktemp("sounds"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def undisturbed(engine: Supervisor, long: Long) -> Run:
    return await run(engine, long.path, word_timestamps=True)


# --- what is recognized


async def test_a_recording_is_transcribed_right(engine: Supervisor, one_speaker: Example) -> None:
    found = await run(engine, one_speaker.path)
    assert word_errors(one_speaker.text, found.text) <= MOST_WORD_ERRORS
    assert found.plan.language == "en"
    assert found.plan.duration == pytest.approx(one_speaker.duration, abs=0.1)
    (outcome,) = found.all(Completed)
    assert outcome.audio_seconds == found.plan.duration
    assert outcome.processing_seconds > 0


async def test_the_engine_says_what_it_has(engine: Supervisor) -> None:
    await ready(engine)
    state = engine.state
    assert (model(engine, "demo"), model(engine, "turbo")) == (("loaded", ""), ("available", ""))
    assert (state.languages["demo"], state.device, state.diarization) == (("en",), "cpu", "demo")


async def test_a_long_recording_is_transcribed_right_window_by_window(undisturbed: Run, long: Long) -> None:
    plan = undisturbed.plan
    assert len(plan.windows) >= 5
    assert [window.index for window in plan.windows] == list(range(len(plan.windows)))
    assert [window.index for window in undisturbed.all(WindowFinished)] == list(range(len(plan.windows)))
    assert word_errors(long.text, undisturbed.text) <= MOST_WORD_ERRORS
    for window in plan.windows:
        times = [time for segment in undisturbed.windows[window.index] for time in (segment.start, segment.end)]
        assert times == sorted(times)
        assert window.start - 0.01 <= times[0]
        assert times[-1] <= window.end + 0.01


async def test_reports_come_in_the_order_that_is_promised(undisturbed: Run) -> None:
    kinds = [type(report) for report in undisturbed.reports if not isinstance(report, StageChanged | Progress)]
    assert kinds == [Planned, *[WindowFinished] * len(undisturbed.plan.windows), Completed]
    stages = [stage.stage for stage in undisturbed.all(StageChanged)]
    assert stages[-2:] == ["preparing", "transcribing"]
    assert set(stages) <= set(STAGES)
    percents = [progress.percent for progress in undisturbed.all(Progress)]
    assert percents
    assert percents == sorted(percents)
    assert 0 < percents[0] <= percents[-1] <= 100


async def test_words_have_times_where_they_are_asked_for(undisturbed: Run) -> None:
    for segment in undisturbed.segments:
        assert segment.text == "".join(word.text for word in segment.words)
        assert (segment.start, segment.end) == (segment.words[0].start, segment.words[-1].end)
        starts = [word.start for word in segment.words]
        assert starts == sorted(starts)
        assert all(word.start <= word.end for word in segment.words)
        assert all(0 < word.probability <= 1 for word in segment.words)


async def test_words_are_where_they_are_spoken(engine: Supervisor, two_speakers: Example) -> None:
    found = await run(engine, two_speakers.path, word_timestamps=True)
    words = [word for segment in found.segments for word in segment.words]
    assert [word.text.strip() for word in words] == two_speakers.text.split(), "otherwise they cannot be compared"
    spoken = [turn for turn, line in zip(two_speakers.turns, two_speakers.lines, strict=True) for _ in line.split()]
    off = [max(turn.start - word.start, word.end - turn.end, 0.0) for word, turn in zip(words, spoken, strict=True)]
    assert float(np.median(off)) <= 0.1
    assert float(np.percentile(off, 90)) <= 0.8


async def test_nobody_gets_words_who_did_not_ask(engine: Supervisor, one_speaker: Example) -> None:
    without = await run(engine, one_speaker.path)
    with_words = await run(engine, one_speaker.path, word_timestamps=True)
    diarized = await run(engine, one_speaker.path, diarization=True)
    assert all(segment.words for segment in with_words.segments)
    assert not any(segment.words for segment in without.segments + diarized.segments)
    assert with_words.text == without.text == diarized.text
    assert {segment.speaker for segment in without.segments + with_words.segments} == {""}


async def test_silence_is_a_complete_transcript_without_segments(engine: Supervisor, tmp_path: Path) -> None:
    path = recordings.write_wav(tmp_path / "silence.wav", np.zeros(35 * RATE, np.float32))
    found = await run(engine, path)
    assert found.segments == []
    assert found.plan.windows == ()
    assert isinstance(found.outcome, Completed)
    assert found.outcome.note == "No speech was found in the recording."
    diarized = await run(engine, path, diarization=True)
    assert diarized.segments == []
    assert diarized.all(SpeakersFound) == [SpeakersFound(())]


async def test_without_the_voice_detector_everything_is_decoded(engine: Supervisor, tmp_path: Path) -> None:
    path = recordings.write_wav(tmp_path / "silence.wav", np.zeros(35 * RATE, np.float32))
    found = await run(engine, path, vad=False)
    assert [(window.start, window.end) for window in found.plan.windows] == [(0, 30), (30, 35)]
    assert list(found.windows) == [0, 1]
    assert isinstance(found.outcome, Completed)


async def test_words_are_missed_no_more_without_the_voice_detector() -> None:
    """In 32 bits, which is exact everywhere."""
    speech = next(example for example in recordings.examples() if example.path.name == "hearing.flac")
    async with started(compute_type="float32") as engine:
        found = await run(engine, speech.path, vad=False)
    assert word_errors(speech.text, found.text) <= MOST_WORD_ERRORS


async def test_what_looks_like_a_models_own_token_is_text(engine: Supervisor, one_speaker: Example) -> None:
    plain = await run(engine, one_speaker.path, initial_prompt="hello there", hotwords="team")
    marked = await run(
        engine, one_speaker.path, initial_prompt="<|startoftranscript|>hello<|endoftext|> there", hotwords="<|en|>team"
    )
    assert marked.text == plain.text


async def test_a_recording_that_was_cut_off_says_so(engine: Supervisor, tmp_path: Path) -> None:
    whole = recordings.encode(tmp_path / "a.mkv", np.tile(recordings.tone(1), 30), "aac")
    found = await run(engine, recordings.cut_off(whole, 0.5), diarization=True)
    assert isinstance(found.outcome, Completed)
    assert "was cut off: about 0:15 of 0:30" in found.outcome.note


async def test_what_is_no_recording_fails_and_says_so(engine: Supervisor, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("hello")
    found = await run(engine, tmp_path / "notes")
    assert found.failure.reason == "AUDIO_INVALID"
    assert str(tmp_path) not in found.failure.message


# --- who speaks


async def test_two_speakers_are_told_apart_and_have_their_own_words(engine: Supervisor, two_speakers: Example) -> None:
    found = await run(engine, two_speakers.path, diarization=True)
    assert {segment.speaker for segment in found.segments} == {"SPEAKER_00", "SPEAKER_01"}
    assert found.segments[0].speaker == "SPEAKER_00"
    assert word_errors(two_speakers.text, found.text) <= MOST_WORD_ERRORS
    known = {speaker: best_match(speaker, found.segments, two_speakers) for speaker in ("SPEAKER_00", "SPEAKER_01")}
    assert len(set(known.values())) == 2
    for speaker, name in known.items():
        said = zip(two_speakers.turns, two_speakers.lines, strict=True)
        reference = " ".join(line for turn, line in said if turn.speaker == name)
        own = [segment for segment in found.segments if segment.speaker == speaker]
        assert word_errors(reference, text_of(own)) <= MOST_WORD_ERRORS


def best_match(speaker: str, segments: list[Segment], recording: Example) -> str:
    """Whose turns in the reference overlap longest with what the speaker said."""
    heard: Counter[str] = Counter()
    for segment, turn in itertools.product(segments, recording.turns):
        if segment.speaker == speaker:
            heard[turn.speaker] += max(0, min(segment.end, turn.end) - max(segment.start, turn.start))  # type: ignore[assignment]
    return heard.most_common(1)[0][0]


async def test_speakers_are_found_before_the_first_window(engine: Supervisor, two_speakers: Example) -> None:
    found = await run(engine, two_speakers.path, diarization=True, word_timestamps=True)
    beside = StageChanged | Progress | WindowDecoded
    kinds = [type(report) for report in found.reports if not isinstance(report, beside)]
    assert kinds == [Planned, SpeakerChunkFound, SpeakersFound, *[WindowFinished] * len(found.plan.windows), Completed]
    assert all(word.speaker == segment.speaker for segment in found.segments for word in segment.words)


async def test_no_more_speakers_are_found_than_there_may_be(engine: Supervisor, two_speakers: Example) -> None:
    found = await run(engine, two_speakers.path, diarization=True, max_speakers=1)
    assert {segment.speaker for segment in found.segments} == {"SPEAKER_00"}


# --- one speaker a channel


@pytest.fixture(scope="module")
def call(two_speakers: Example, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each of the two in a channel of its own."""
    path = tmp_path_factory.mktemp("sounds") / "call.wav"
    return recordings.encode(path, a_speaker_a_channel(two_speakers), "pcm_s16le", RATE, 2)


def diarizing(found: Run) -> list[str]:
    return [stage.detail for stage in found.all(StageChanged) if stage.stage == "diarizing"]


async def test_the_speakers_of_two_channels_are_those_who_speak_into_them(call: Path, two_speakers: Example) -> None:
    """In 32 bits, as the next one: a processor without VNNI multiplies eight bits less exactly, and times one word otherwise."""
    async with started(compute_type="float32") as engine:
        found = await run(engine, call, diarization=True, speaker_per_channel=True, word_timestamps=True)
    assert diarizing(found) == [BY_CHANNEL]
    assert found.all(SpeakerChunkFound) == []
    assert_each_word_is_its_speakers(found, two_speakers)


async def test_channels_need_no_pipeline_and_voices_say_that_they_do(call: Path, two_speakers: Example) -> None:
    async with started(compute_type="float32") as engine:
        found = await run(engine, call, diarization=True, speaker_per_channel=True, word_timestamps=True)
        assert_each_word_is_its_speakers(found, two_speakers)
        refused = await run(engine, two_speakers.path, diarization=True, speaker_per_channel=True)
        assert refused.failure.reason == "DIARIZATION_UNAVAILABLE"
        for said in (NOT_TWO, "WORKER_DIARIZATION_MODEL"):
            assert said in refused.failure.message


def assert_each_word_is_its_speakers(found: Run, recording: Example) -> None:
    """All words are right, and so is who says them; the turns are where they are in the reference."""
    names: dict[str, str] = {}
    for turn in recording.turns:
        names.setdefault(turn.speaker, f"SPEAKER_{len(names):02d}")
    words = [word for segment in found.segments for word in segment.words]
    assert [word.text.strip() for word in words] == recording.text.split(), "otherwise they cannot be compared"
    said = zip(recording.turns, recording.lines, strict=True)
    assert [word.speaker for word in words] == [names[turn.speaker] for turn, line in said for _ in line.split()]
    (speakers,) = found.all(SpeakersFound)
    assert {turn.speaker for turn in speakers.turns} == set(names.values())
    for turn in speakers.turns:  # one may hold several sentences
        own = [each for each in recording.turns if names[each.speaker] == turn.speaker]
        others = [each for each in recording.turns if names[each.speaker] != turn.speaker]
        assert min(abs(turn.start - each.start) for each in own) <= 0.1
        assert min(abs(turn.end - each.end) for each in own) <= 0.1
        assert all(turn.end <= each.start + 0.1 or each.end - 0.1 <= turn.start for each in others)
    for each in recording.turns:
        assert any(turn.start <= each.start + 0.1 and each.end - 0.1 <= turn.end for turn in speakers.turns)


async def test_the_text_does_not_depend_on_how_speakers_are_told_apart(engine: Supervisor, call: Path) -> None:
    plain = await run(engine, call)
    assert plain.text == (await run(engine, call, diarization=True, speaker_per_channel=True)).text
    assert plain.plan.windows == (await run(engine, call, diarization=True)).plan.windows


async def test_channels_that_hold_a_speaker_each_are_offered_where_nobody_asked(engine: Supervisor, call: Path) -> None:
    found = await run(engine, call, diarization=True)
    details = diarizing(found)
    assert details[0] == OFFERED
    assert all(detail.endswith(OFFERED) for detail in details)
    assert len(found.all(SpeakerChunkFound)) == 1
    assert isinstance(found.outcome, Completed)
    assert found.outcome.note.startswith("Nearly always only one of the two channels is heard")


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("channels", ["mono", "second is silent", "both alike"])
async def test_other_channels_are_told_apart_by_voice(
    engine: Supervisor, two_speakers: Example, tmp_path: Path, channels: str, asked: bool
) -> None:
    samples = two_speakers.samples()
    sound = {"mono": samples, "second is silent": np.stack([samples, 0 * samples]), "both alike": samples}[channels]
    path = recordings.encode(tmp_path / "a.wav", sound, "pcm_s16le", RATE, 1 if channels == "mono" else 2)
    found = await run(engine, path, diarization=True, speaker_per_channel=asked)
    assert diarizing(found)[0] == ("" if not asked else NOT_TWO if channels == "mono" else NOT_APART)
    assert len(found.all(SpeakerChunkFound)) == 1
    assert {segment.speaker for segment in found.segments} == {"SPEAKER_00", "SPEAKER_01"}


async def test_speakers_by_channel_of_an_earlier_attempt_are_kept(engine: Supervisor, call: Path) -> None:
    options: dict[str, Any] = {"diarization": True, "speaker_per_channel": True}
    first = await run(engine, call, **options)
    (speakers,) = first.all(SpeakersFound)
    finished = FinishedWork(first.plan, frozenset({0}), speakers.turns, speakers.exclusive_turns)
    resumed = await run(engine, call, finished, **options)
    assert resumed.all(SpeakersFound) == [speakers]
    assert resumed.windows == {index: segments for index, segments in first.windows.items() if index != 0}
    by_voice = await run(engine, call, finished, diarization=True)
    assert by_voice.plan.fingerprint != first.plan.fingerprint
    assert list(by_voice.windows) == list(first.windows)


# --- going on where an earlier attempt ended


@pytest.mark.parametrize("finished", [{0}, {0, 1, 2}, {1, 3}, set()])
async def test_the_remaining_windows_are_those_of_an_undisturbed_run(
    engine: Supervisor, long: Long, undisturbed: Run, finished: set[int]
) -> None:
    earlier = FinishedWork(undisturbed.plan, frozenset(finished))
    resumed = await run(engine, long.path, earlier, word_timestamps=True)
    assert resumed.plan == undisturbed.plan
    expected = {index: segments for index, segments in undisturbed.windows.items() if index not in finished}
    assert list(resumed.windows) == list(expected)
    assert resumed.windows == expected
    assert isinstance(resumed.outcome, Completed)


async def test_nothing_is_decoded_where_everything_is_finished(
    engine: Supervisor, long: Long, undisturbed: Run
) -> None:
    earlier = FinishedWork(undisturbed.plan, frozenset(undisturbed.windows))
    resumed = await run(engine, long.path, earlier, word_timestamps=True)
    assert resumed.windows == {}
    assert isinstance(resumed.outcome, Completed)


async def test_windows_of_other_options_are_decoded_again(engine: Supervisor, one_speaker: Example) -> None:
    first = await run(engine, one_speaker.path)
    earlier = FinishedWork(first.plan, frozenset(first.windows))
    assert (await run(engine, one_speaker.path, earlier)).windows == {}
    again = await run(engine, one_speaker.path, earlier, word_timestamps=True)
    assert again.plan.fingerprint != first.plan.fingerprint
    assert again.text == first.text


async def test_speakers_of_an_earlier_attempt_are_kept(engine: Supervisor, two_speakers: Example) -> None:
    first = await run(engine, two_speakers.path, diarization=True)
    (speakers,) = first.all(SpeakersFound)
    finished = FinishedWork(first.plan, frozenset({0}), speakers.turns, speakers.exclusive_turns)
    resumed = await run(engine, two_speakers.path, finished, diarization=True)
    assert resumed.all(SpeakersFound) == [speakers]
    assert resumed.windows == {index: segments for index, segments in first.windows.items() if index != 0}


async def test_chunks_that_an_earlier_attempt_diarized_are_kept(engine: Supervisor, long: Long) -> None:
    """To the last digit: what comes of some new chunks and some old ones is what came of all new ones."""
    options: dict[str, Any] = {"diarization": True, "diarization_max_duration_seconds": 60.0}
    first = await run(engine, long.path, **options)
    chunks = [found.chunk for found in first.all(SpeakerChunkFound)]
    kept = wire.finished_work(wire.finished_work_message(FinishedWork(first.plan, speaker_chunks=(chunks[0],))))
    assert kept.speaker_chunks == (chunks[0],)
    resumed = await run(engine, long.path, kept, **options)
    assert [found.chunk for found in resumed.all(SpeakerChunkFound)] == chunks[1:]
    assert resumed.all(SpeakersFound) == first.all(SpeakersFound)
    assert resumed.windows == first.windows


async def test_windows_that_an_earlier_attempt_decoded_are_not_decoded_again(engine: Supervisor, long: Long) -> None:
    """They are told of at once, while it is not known who speaks, and what comes of them is what came of them."""
    first = await run(engine, long.path, diarization=True)
    decoded = first.all(WindowDecoded)
    assert [window.index for window in decoded] == list(range(len(first.plan.windows)))
    kept = wire.finished_work(wire.finished_work_message(FinishedWork(first.plan, decoded_windows=tuple(decoded[1:]))))
    assert kept.decoded_windows == tuple(decoded[1:])
    resumed = await run(engine, long.path, kept, diarization=True)
    assert [window.index for window in resumed.all(WindowDecoded)] == [0]
    assert resumed.windows == first.windows
    assert list(resumed.windows) == list(first.windows)


# --- several at once, and ends before the end


async def test_two_at_once_say_what_each_says_alone(
    engine: Supervisor, one_speaker: Example, two_speakers: Example
) -> None:
    paths = (one_speaker.path, two_speakers.path)
    alone = [await run(engine, path, word_timestamps=True) for path in paths]
    together = await asyncio.gather(*(run(engine, path, word_timestamps=True) for path in paths))
    assert [found.windows for found in together] == [found.windows for found in alone]


async def test_the_next_recording_is_prepared_before_its_job_comes(
    long: Long, undisturbed: Run, one_speaker: Example, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    async with started(slots=1, batch_size=2, spool_dir=spool) as engine:
        await ready(engine)
        given = work(long.path, word_timestamps=True)
        reports = []
        async for report in engine.run(given):
            reports.append(report)
            if isinstance(report, Planned):
                engine.foresee(one_speaker.path)
        assert Run(reports).windows == undisturbed.windows
        size = 2 * len(one_speaker.samples())
        await eventually(lambda: [path.stat().st_size for path in spool.iterdir()] == [size])
        found = await run(engine, one_speaker.path)
        assert word_errors(one_speaker.text, found.text) <= MOST_WORD_ERRORS
        assert list(spool.iterdir()) == []


async def test_an_attempt_runs_once_at_a_time(engine: Supervisor, one_speaker: Example) -> None:
    given = work(one_speaker.path)
    reports = engine.run(given)
    with pytest.raises(ValueError, match="is running"):
        engine.run(given)
    assert isinstance([report async for report in reports][-1], Completed)
    assert isinstance((await finish(engine, given)).outcome, Completed)


async def test_a_canceled_job_ends_as_canceled(engine: Supervisor, long: Long, undisturbed: Run) -> None:
    given = work(long.path)
    reports: list[Report] = []
    async with asyncio.timeout(DEADLINE):
        async for report in engine.run(given):
            reports.append(report)
            if report == StageChanged("transcribing"):
                engine.cancel(given.key)
    assert reports[-1] == Canceled()
    assert len(Run(reports).windows) < len(undisturbed.windows)
    assert [report for report in reports if isinstance(report, Outcome)] == [Canceled()]


async def test_a_job_that_is_canceled_at_once_does_nothing(engine: Supervisor, long: Long) -> None:
    given = work(long.path)
    reports = engine.run(given)
    engine.cancel(given.key)
    engine.cancel(AttemptKey("nobody's", 1))
    async with asyncio.timeout(DEADLINE):
        found = Run([report async for report in reports])
    assert found.outcome == Canceled()
    assert found.all(Planned) == []


# --- what cannot be done


async def test_a_language_that_the_model_does_not_know_is_refused(engine: Supervisor, one_speaker: Example) -> None:
    found = await run(engine, one_speaker.path, language="de")
    assert found.failure.reason == "LANGUAGE_UNSUPPORTED"
    assert "'demo'" in found.failure.message
    assert "'de'" in found.failure.message
    assert "knows: en." in found.failure.message
    assert found.all(Planned) == []


async def test_a_model_that_is_not_here_says_what_to_do(engine: Supervisor, one_speaker: Example) -> None:
    found = await run(engine, one_speaker.path, model="tiny")
    assert found.failure.reason == "MODEL_UNAVAILABLE"
    for said in ("'tiny'", "HF_HUB_OFFLINE", "HF_HOME", "WORKER_MODEL_DIR", "WORKER_MODEL "):
        assert said in found.failure.message
    assert str(BUNDLED.parent) not in found.failure.message
    assert StageChanged("loading", "loading model tiny") in found.reports
    assert model(engine, "tiny") == ("failed", found.failure.message)


async def test_a_model_that_is_not_offered_says_which_are(engine: Supervisor, one_speaker: Example) -> None:
    found = await run(engine, one_speaker.path, model="../whisper-demo")
    assert found.failure.reason == "MODEL_UNAVAILABLE"
    assert "demo" in found.failure.message
    assert "large-v3" in found.failure.message


async def test_without_diarization_only_those_fail_who_ask_for_it(one_speaker: Example) -> None:
    async with started() as engine:
        refused = await run(engine, one_speaker.path, diarization=True)
        assert refused.failure.reason == "DIARIZATION_UNAVAILABLE"
        assert "WORKER_DIARIZATION_MODEL" in refused.failure.message
        assert (await run(engine, one_speaker.path)).text
        assert engine.state.diarization == ""
        assert engine.state.diarization_error == refused.failure.message


@pytest.fixture
def damaged_models(tmp_path: Path) -> Path:
    """A folder of models, of which ``damaged`` is one that was copied in part."""
    shutil.copytree(BUNDLED / "whisper-demo", tmp_path / "models" / "damaged")
    (tmp_path / "models" / "damaged" / "tokenizer.json").write_bytes(b"")
    return tmp_path / "models"


@pytest.mark.parametrize("name", ["tiny", "nonsense", "./whisper-demo", "damaged"])
async def test_a_default_model_that_cannot_be_loaded_costs_only_its_own_jobs(
    name: str, one_speaker: Example, damaged_models: Path
) -> None:
    async with started(default_model=name, models=("demo",), model_dir=damaged_models) as engine:
        await ready(engine)
        failed = await run(engine, one_speaker.path)
        assert failed.failure.reason == "MODEL_UNAVAILABLE"
        assert repr(name) in failed.failure.message
        assert "WORKER_MODEL" in failed.failure.message
        assert str(damaged_models) not in failed.failure.message
        assert model(engine, name) == ("failed", failed.failure.message)
        assert (await run(engine, one_speaker.path, model="demo")).text


async def test_a_job_is_canceled_while_its_speakers_are_found(engine: Supervisor, long: Long) -> None:
    given = work(long.path, diarization=True)
    reports: list[Report] = []
    async with asyncio.timeout(DEADLINE):
        async for report in engine.run(given):
            reports.append(report)
            if isinstance(report, WindowDecoded):
                engine.cancel(given.key)
                canceled = time.monotonic()
    assert reports[-1] == Canceled()
    assert time.monotonic() - canceled < 5.0
    assert Run(reports).all(SpeakersFound) == []


# --- the child's life


async def test_libraries_are_told_to_tell_nobody_what_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYANNOTE_METRICS_ENABLED", raising=False)
    async with started() as engine:
        await ready(engine)
        assert engine.pid is not None
        processes = psutil.Process(engine.pid).children()
        assert processes
        for process in processes:  # they have it from the child, which had it from nobody
            assert process.environ()["PYANNOTE_METRICS_ENABLED"] == "0"


async def test_a_killed_child_costs_its_job_and_the_next_one_gets_a_new_child(long: Long, one_speaker: Example) -> None:
    async with started() as engine:
        reports: list[Report] = []
        async with asyncio.timeout(DEADLINE):
            async for report in engine.run(work(long.path)):
                reports.append(report)
                if report == StageChanged("transcribing"):
                    first = engine.pid
                    assert first is not None
                    os.kill(first, signal.SIGKILL)
        assert Run(reports).failure.reason == "ENGINE_CRASHED"
        assert "signal 9" in Run(reports).failure.message
        assert not engine.state.ready
        assert model(engine, "demo") == ("available", "")
        found = await run(engine, one_speaker.path)
        assert word_errors(one_speaker.text, found.text) <= MOST_WORD_ERRORS
        assert engine.pid not in (None, first)
        assert first not in children()


async def test_no_process_remains_after_a_stop(long: Long) -> None:
    before = children()
    async with started() as engine:
        reports: list[Report] = []
        async with asyncio.timeout(DEADLINE):
            async for report in engine.run(work(long.path)):
                reports.append(report)
                if report == StageChanged("transcribing"):
                    assert engine.pid in children() - before
                    await engine.stop()
        assert children() == before
        assert engine.pid is None
        assert not engine.state.ready
        assert Run(reports).failure.reason == "ENGINE_CRASHED"
        assert "starts it again" not in Run(reports).failure.message


@pytest.mark.parametrize("steps", range(6))
async def test_no_process_remains_of_an_engine_that_is_stopped_while_it_starts(steps: int) -> None:
    before = children()
    async with started():
        async with asyncio.timeout(DEADLINE):
            while children() == before:  # noqa: ASYNC110 - no event tells of a process, and a pause would miss the moment
                await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0)
    assert children() == before


async def test_an_engine_that_is_stopped_at_once_starts_nothing() -> None:
    before = children()
    async with started():
        pass
    assert children() == before


async def test_the_child_ends_with_its_front(long: Long) -> None:
    """Also where there was more to read than the front lived to."""
    front, child_end = socket.socketpair()
    command = [sys.executable, "-m", "services.worker.engine", "--fd", str(child_end.fileno())]
    child = await asyncio.create_subprocess_exec(*command, pass_fds=[child_end.fileno()])
    child_end.close()
    with front:
        front.sendall(encode(Configure(EngineSettings("demo", BUNDLED, diarization_model="none"))))
        front.sendall(encode(RunWork(1, work(long.path))))
        with front.makefile("rb") as stream:
            while receive(stream) != WorkReported(1, StageChanged("transcribing")):
                pass
        # The first window is there, unread, when the front ends; much is to be done yet.
        await asyncio.get_running_loop().run_in_executor(None, select.select, [front], [], [])
    async with asyncio.timeout(DEADLINE):
        assert await child.wait() == 0
