"""Protobuf to and from the worker's own values: the only place that knows both."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from bulkscribe.worker.v1 import worker_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from services.contract.limits import VERSION
from services.worker.attempt import Event, HandedBack
from services.worker.audio import Recording
from services.worker.status import WorkerStatus
from services.worker.work import (
    AttemptKey,
    Canceled,
    ChunkSpeakers,
    Completed,
    Failed,
    FinishedWork,
    ModelState,
    Options,
    Planned,
    Progress,
    Report,
    Segment,
    SpeakerChunkFound,
    SpeakersFound,
    SpeakerTurn,
    StageChanged,
    Voice,
    VoiceTurn,
    Window,
    WindowDecoded,
    WindowFinished,
    WindowPlan,
    Word,
    Work,
)

MODEL_STATES = {
    "available": worker_pb2.MODEL_STATE_AVAILABLE,
    "loading": worker_pb2.MODEL_STATE_LOADING,
    "loaded": worker_pb2.MODEL_STATE_LOADED,
    "failed": worker_pb2.MODEL_STATE_FAILED,
}


def duration(seconds: float) -> Duration:
    """To the microsecond."""
    message = Duration()
    message.FromMicroseconds(round(seconds * 1e6))
    return message


def seconds(message: Duration) -> float:
    return message.ToMicroseconds() / 1e6


def timestamp(moment: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment)
    return message


# --- what the controller says


def attempt_key(ref: worker_pb2.AttemptRef) -> AttemptKey:
    return AttemptKey(ref.job_id, ref.attempt)


def attempt_ref(key: AttemptKey) -> worker_pb2.AttemptRef:
    return worker_pb2.AttemptRef(job_id=key.job_id, attempt=key.attempt)


def recording(message: worker_pb2.Audio) -> Recording:
    return Recording(message.sha256, message.size_bytes)


def work(dispatch: worker_pb2.Dispatch, audio_path: Path) -> Work:
    finished = finished_work(dispatch.finished) if dispatch.finished.HasField("plan") else None
    return Work(attempt_key(dispatch.attempt), audio_path, options(dispatch.options), finished)


def options(message: worker_pb2.TranscriptionOptions) -> Options:
    longest = message.diarization_max_duration
    return Options(
        model=message.model,
        language=message.language,
        diarization=message.diarization,
        diarization_max_duration_seconds=seconds(longest) if message.HasField("diarization_max_duration") else None,
        diarization_fast_switching=message.diarization_fast_switching,
        speaker_per_channel=message.speaker_per_channel,
        min_speakers=message.min_speakers if message.HasField("min_speakers") else None,
        max_speakers=message.max_speakers if message.HasField("max_speakers") else None,
        word_timestamps=message.word_timestamps,
        initial_prompt=message.initial_prompt,
        hotwords=message.hotwords,
        vad=not message.vad_disabled,
    )


def options_message(values: Options) -> worker_pb2.TranscriptionOptions:
    longest = values.diarization_max_duration_seconds
    return worker_pb2.TranscriptionOptions(
        model=values.model,
        language=values.language,
        diarization=values.diarization,
        diarization_max_duration=duration(longest) if longest is not None else None,
        diarization_fast_switching=values.diarization_fast_switching,
        speaker_per_channel=values.speaker_per_channel,
        min_speakers=values.min_speakers,
        max_speakers=values.max_speakers,
        word_timestamps=values.word_timestamps,
        initial_prompt=values.initial_prompt,
        hotwords=values.hotwords,
        vad_disabled=not values.vad,
    )


def finished_work(message: worker_pb2.FinishedWork) -> FinishedWork:
    return FinishedWork(
        window_plan(message.plan),
        frozenset(message.windows),
        speaker_turns(message.turns.turns) if message.HasField("turns") else None,
        speaker_turns(message.turns.exclusive),
        tuple(speaker_chunk(chunk) for chunk in message.speaker_chunks),
        tuple(_decoded(window) for window in message.decoded_windows),
    )


def finished_work_message(values: FinishedWork) -> worker_pb2.FinishedWork:
    return worker_pb2.FinishedWork(
        plan=window_plan_message(values.plan),
        windows=sorted(values.finished_windows),
        turns=speaker_turns_message(values.turns, values.exclusive_turns) if values.turns is not None else None,
        speaker_chunks=[speaker_chunk_message(chunk) for chunk in values.speaker_chunks],
        decoded_windows=[window_message(window) for window in values.decoded_windows],
    )


# --- what goes both ways


def window_plan(message: worker_pb2.WindowPlan) -> WindowPlan:
    windows = tuple(Window(window.index, seconds(window.start), seconds(window.end)) for window in message.windows)
    return WindowPlan(
        message.fingerprint, message.language, message.language_probability, seconds(message.duration), windows
    )


def window_plan_message(plan: WindowPlan) -> worker_pb2.WindowPlan:
    return worker_pb2.WindowPlan(
        fingerprint=plan.fingerprint,
        language=plan.language,
        language_probability=plan.language_probability,
        duration=duration(plan.duration),
        windows=[
            worker_pb2.Window(index=window.index, start=duration(window.start), end=duration(window.end))
            for window in plan.windows
        ],
    )


def speaker_turns(messages: Iterable[worker_pb2.SpeakerTurn]) -> tuple[SpeakerTurn, ...]:
    return tuple(SpeakerTurn(seconds(turn.start), seconds(turn.end), turn.speaker) for turn in messages)


def speaker_turns_message(
    turns: Iterable[SpeakerTurn], exclusive: Iterable[SpeakerTurn] = ()
) -> worker_pb2.SpeakerTurns:
    def messages(of: Iterable[SpeakerTurn]) -> list[worker_pb2.SpeakerTurn]:
        return [
            worker_pb2.SpeakerTurn(start=duration(turn.start), end=duration(turn.end), speaker=turn.speaker)
            for turn in of
        ]

    return worker_pb2.SpeakerTurns(turns=messages(turns), exclusive=messages(exclusive))


def speaker_chunk(message: worker_pb2.SpeakerChunk) -> ChunkSpeakers:
    def voice_turns(messages: Iterable[worker_pb2.VoiceTurn]) -> tuple[VoiceTurn, ...]:
        return tuple(VoiceTurn(seconds(turn.start), seconds(turn.end), turn.voice) for turn in messages)

    return ChunkSpeakers(
        message.index,
        seconds(message.start),
        seconds(message.end),
        tuple(Voice(tuple(voice.embedding), seconds(voice.spoken)) for voice in message.voices),
        voice_turns(message.turns),
        voice_turns(message.exclusive),
    )


def speaker_chunk_message(chunk: ChunkSpeakers) -> worker_pb2.SpeakerChunk:
    def messages(turns: Iterable[VoiceTurn]) -> list[worker_pb2.VoiceTurn]:
        return [
            worker_pb2.VoiceTurn(start=duration(turn.start), end=duration(turn.end), voice=turn.voice) for turn in turns
        ]

    return worker_pb2.SpeakerChunk(
        index=chunk.index,
        start=duration(chunk.start),
        end=duration(chunk.end),
        voices=[worker_pb2.Voice(embedding=voice.embedding, spoken=duration(voice.seconds)) for voice in chunk.voices],
        turns=messages(chunk.turns),
        exclusive=messages(chunk.exclusive),
    )


# --- what the worker says


def event_message(event: Event) -> worker_pb2.Event:
    message = worker_pb2.Event(number=event.number, occurred_at=timestamp(event.occurred_at))
    match event.report:
        case StageChanged(stage, detail):
            message.stage_changed.CopyFrom(worker_pb2.StageChanged(stage=stage, detail=detail))
        case Progress(percent, seconds_left):
            remaining = duration(seconds_left) if seconds_left is not None else None
            message.progress.CopyFrom(worker_pb2.Progress(percent=percent, remaining=remaining))
        case Planned(plan):
            message.planned.CopyFrom(window_plan_message(plan))
        case SpeakerChunkFound(chunk):
            message.speaker_chunk_found.CopyFrom(speaker_chunk_message(chunk))
        case SpeakersFound(turns, exclusive):
            message.speakers_found.CopyFrom(speaker_turns_message(turns, exclusive))
        case WindowDecoded():
            message.window_decoded.CopyFrom(window_message(event.report))
        case WindowFinished():
            message.window_finished.CopyFrom(window_message(event.report))
        case outcome:
            message.outcome.CopyFrom(outcome_message(outcome))
    return message


def event_bytes(event: Event) -> bytes:
    """As the journal keeps it."""
    return event_message(event).SerializeToString()


def event_of(content: bytes) -> Event:
    """What `event_bytes` made."""
    message = worker_pb2.Event.FromString(content)
    return Event(message.number, message.occurred_at.ToDatetime(UTC), report(message))


def outcome_message(outcome: Completed | Failed | Canceled | HandedBack) -> worker_pb2.Outcome:
    match outcome:
        case Completed(audio_seconds, processing_seconds, note):
            completed = worker_pb2.Completed(
                audio_duration=duration(audio_seconds), processing_duration=duration(processing_seconds), note=note
            )
            return worker_pb2.Outcome(completed=completed)
        case Failed(reason, text):
            return worker_pb2.Outcome(failed=worker_pb2.Failed(reason=reason, message=text))
        case Canceled():
            return worker_pb2.Outcome(canceled=worker_pb2.Canceled())
        case HandedBack(text):
            return worker_pb2.Outcome(handed_back=worker_pb2.HandedBack(message=text))


def window_message(window: WindowDecoded | WindowFinished) -> worker_pb2.WindowFinished:
    segments = [segment_message(segment) for segment in window.segments]
    return worker_pb2.WindowFinished(index=window.index, segments=segments, silent=window.silent)


def segment_message(segment: Segment) -> worker_pb2.Segment:
    return worker_pb2.Segment(
        start=duration(segment.start),
        end=duration(segment.end),
        text=segment.text,
        speaker=segment.speaker,
        words=[word_message(word) for word in segment.words],
    )


def word_message(word: Word) -> worker_pb2.Word:
    return worker_pb2.Word(
        text=word.text,
        start=duration(word.start),
        end=duration(word.end),
        probability=word.probability,
        speaker=word.speaker,
    )


def report(message: worker_pb2.Event) -> Report | HandedBack:
    """An event's content back: what a client of the worker reads."""
    match message.WhichOneof("kind"):
        case "stage_changed":
            return StageChanged(message.stage_changed.stage, message.stage_changed.detail)
        case "progress":
            known = message.progress.HasField("remaining")
            return Progress(message.progress.percent, seconds(message.progress.remaining) if known else None)
        case "planned":
            return Planned(window_plan(message.planned))
        case "speakers_found":
            found = message.speakers_found
            return SpeakersFound(speaker_turns(found.turns), speaker_turns(found.exclusive))
        case "speaker_chunk_found":
            return SpeakerChunkFound(speaker_chunk(message.speaker_chunk_found))
        case "window_decoded":
            return _decoded(message.window_decoded)
        case "window_finished":
            return WindowFinished(*_window(message.window_finished))
        case _:
            return _outcome(message.outcome)


def _decoded(message: worker_pb2.WindowFinished) -> WindowDecoded:
    return WindowDecoded(*_window(message))


def _window(message: worker_pb2.WindowFinished) -> tuple[int, tuple[Segment, ...], bool]:
    return message.index, tuple(_segment(segment) for segment in message.segments), message.silent


def _segment(message: worker_pb2.Segment) -> Segment:
    words = tuple(
        Word(word.text, seconds(word.start), seconds(word.end), word.probability, word.speaker)
        for word in message.words
    )
    return Segment(seconds(message.start), seconds(message.end), message.text, message.speaker, words)


def _outcome(message: worker_pb2.Outcome) -> Completed | Failed | Canceled | HandedBack:
    match message.WhichOneof("result"):
        case "completed":
            done = message.completed
            return Completed(seconds(done.audio_duration), seconds(done.processing_duration), done.note)
        case "failed":
            return Failed(message.failed.reason, message.failed.message)
        case "canceled":
            return Canceled()
        case _:
            return HandedBack(message.handed_back.message)


def held_message(keys: list[AttemptKey]) -> worker_pb2.HeldAttempts:
    return worker_pb2.HeldAttempts(attempts=[attempt_ref(key) for key in keys])


def capacity_message(status: WorkerStatus, now: datetime) -> worker_pb2.Capacity:
    slots, engine = status.slots, status.engine
    return worker_pb2.Capacity(
        revision=slots.revision,
        total=slots.total,
        free=slots.free,
        draining=slots.draining,
        instance_id=status.offer.instance_id,
        version=VERSION,
        device=worker_pb2.Device(kind=engine.device, name=engine.device_name),
        models=[_model_message(model, engine.languages.get(model.name, ())) for model in engine.models],
        default_model=status.offer.default_model,
        diarization=engine.diarization,
        diarization_error=engine.diarization_error,
        max_file_bytes=status.offer.max_file_bytes,
        reported_at=timestamp(now),
        diarization_note=engine.diarization_note,
    )


def _model_message(model: ModelState, languages: tuple[str, ...]) -> worker_pb2.Model:
    return worker_pb2.Model(
        name=model.name,
        state=MODEL_STATES[model.state],
        error=model.error,
        languages=sorted(languages),
        note=model.note,
    )
