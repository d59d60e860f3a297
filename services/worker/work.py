"""What a worker is asked to do and what it reports while doing it: pure values, no protobuf, no I/O.

Times are seconds from the beginning of the recording. Everything here is frozen, so it can cross
the pipe between the front process and the engine child as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class AttemptKey:
    """One try at one job; two dispatches with the same key are the same run."""

    job_id: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.job_id}/{self.attempt}"


@dataclass(frozen=True, slots=True)
class Options:
    """How a recording is to be transcribed. ``None`` and ``""`` mean: the worker decides."""

    model: str = ""
    language: str = ""
    diarization: bool = False
    diarization_max_duration_seconds: float | None = None
    diarization_fast_switching: bool = False
    speaker_per_channel: bool = False
    min_speakers: int | None = None
    max_speakers: int | None = None
    word_timestamps: bool = False
    initial_prompt: str = ""
    hotwords: str = ""
    vad: bool = True


@dataclass(frozen=True, slots=True)
class Word:
    """One word with its times and the model's probability in [0, 1]; ``text`` keeps its leading space."""

    text: str
    start: float
    end: float
    probability: float
    speaker: str = ""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of one speaker's text inside one window."""

    start: float
    end: float
    text: str
    speaker: str = ""
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class SpeakerTurn:
    """Who speaks from when to when; turns may overlap."""

    start: float
    end: float
    speaker: str


@dataclass(frozen=True, slots=True)
class Voice:
    """A speaker as one chunk of a recording knows him. ``embedding`` is a unit vector, its numbers exact in 32 bits; empty where
    he is never heard well enough. ``seconds``: how long he speaks in the chunk."""

    embedding: tuple[float, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class VoiceTurn:
    """As `SpeakerTurn`; ``voice`` is a place in its chunk's ``voices``."""

    start: float
    end: float
    voice: int


@dataclass(frozen=True, slots=True)
class ChunkSpeakers:
    """Who speaks when in the stretch from ``start`` to ``end``, which was diarized on its own; neighbors overlap.

    All times are the recording's. In ``exclusive`` one voice at most is heard at any time. What all chunks of a recording hold is
    enough to know its speakers: finished chunks can be kept as finished windows are.
    """

    index: int
    start: float
    end: float
    voices: tuple[Voice, ...]
    turns: tuple[VoiceTurn, ...]
    exclusive: tuple[VoiceTurn, ...]


@dataclass(frozen=True, slots=True)
class Speakers:
    """Who speaks when in a whole recording. ``turns`` may overlap, those of ``exclusive`` do not."""

    turns: tuple[SpeakerTurn, ...] = ()
    exclusive: tuple[SpeakerTurn, ...] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of at most the model's chunk length that is decoded on its own."""

    index: int
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """All windows of a recording. ``fingerprint`` hashes model revision, options and planner version:
    finished windows of another attempt may be reused only where it is equal."""

    fingerprint: str
    language: str
    language_probability: float
    duration: float
    windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class FinishedWork:
    """What an earlier attempt of the same job already made durable at the controller."""

    plan: WindowPlan
    finished_windows: frozenset[int] = frozenset()
    turns: tuple[SpeakerTurn, ...] | None = None
    exclusive_turns: tuple[SpeakerTurn, ...] = ()
    speaker_chunks: tuple[ChunkSpeakers, ...] = ()
    decoded_windows: tuple[WindowDecoded, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """One attempt, ready to run: the audio lies at ``audio_path`` on this machine's disk."""

    key: AttemptKey
    audio_path: Path
    options: Options
    finished: FinishedWork | None = None


# --- what the engine reports, in this order: Stage*, Planned, (Progress | SpeakerChunkFound | WindowDecoded)*, SpeakersFound?,
# (Progress | WindowFinished)*, one outcome


@dataclass(frozen=True, slots=True)
class StageChanged:
    """``stage`` is one of STAGES; ``detail`` is for people ("loading model turbo")."""

    stage: str
    detail: str = ""


STAGES = ("loading", "preparing", "diarizing", "transcribing", "finishing")


@dataclass(frozen=True, slots=True)
class Progress:
    """Share of the recording's speech that is finished, 0 to 100, never falling.

    ``seconds_left`` estimates the time that the job still takes: finite, not negative; None while that is unknown.
    """

    percent: float
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    plan: WindowPlan


@dataclass(frozen=True, slots=True)
class SpeakerChunkFound:
    """One chunk of a recording is diarized; chunks finish in their order."""

    chunk: ChunkSpeakers


@dataclass(frozen=True, slots=True)
class SpeakersFound:
    """Of ``exclusive_turns`` no two are at the same time."""

    turns: tuple[SpeakerTurn, ...]
    exclusive_turns: tuple[SpeakerTurn, ...] = ()


@dataclass(frozen=True, slots=True)
class WindowDecoded:
    """As WindowFinished, which follows; the words are known, and it is not known yet who said them."""

    index: int
    segments: tuple[Segment, ...]
    silent: bool = False


@dataclass(frozen=True, slots=True)
class WindowFinished:
    """Windows finish in the order of the plan; ``segments`` is empty where nobody spoke.

    ``silent``: voice was detected in it, it was decoded again, and still gave no words.
    """

    index: int
    segments: tuple[Segment, ...]
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Completed:
    """``note``: what people should know of the transcript."""

    audio_seconds: float
    processing_seconds: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """``reason`` is a Reason's name of ``services.contract.errors`` (AUDIO_INVALID, MODEL_UNAVAILABLE, …)."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Canceled:
    pass


Outcome = Completed | Failed | Canceled
Report = (
    StageChanged
    | Progress
    | Planned
    | SpeakerChunkFound
    | SpeakersFound
    | WindowDecoded
    | WindowFinished
    | Completed
    | Failed
    | Canceled
)


# --- what the engine can do, for capacity reports and ping


@dataclass(frozen=True, slots=True)
class ModelState:
    """``state`` is "available", "loading", "loaded" or "failed"; ``error`` says why and what to do.

    ``note`` is what people should know before they choose it.
    """

    name: str
    state: str
    error: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class EngineState:
    """``device`` is "cpu" or "cuda"; ``diarization`` the pipeline's name or ""; ``diarization_error`` why there is none.

    ``trouble`` says why the engine does not come up and what to do; "" while it is up, or may still come up. ``slots_down``:
    where there are several engines, the slots of those that do not.
    """

    ready: bool = False
    device: str = "cpu"
    device_name: str = ""
    models: tuple[ModelState, ...] = ()
    diarization: str = ""
    diarization_error: str = ""
    languages: dict[str, tuple[str, ...]] = field(default_factory=dict)
    diarization_note: str = ""
    trouble: str = ""
    slots_down: int = 0
