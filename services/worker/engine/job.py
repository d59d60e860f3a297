"""One job in the engine child, from its file to its outcome. Runs in a thread of its own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent import futures
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass

import ctranslate2
import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from services.worker.engine.decoding import (
    SEARCHES,
    Request,
    Voice,
    detect_language,
    settle_language,
)
from services.worker.engine.diarization import Diarizer, Watch
from services.worker.engine.lanes import JobLine, Lanes, Memory
from services.worker.engine.memory import is_out_of_memory, needs_new_process
from services.worker.engine.models import LoadedModel, Models
from services.worker.engine.preparation import Preparation, is_small
from services.worker.pipeline.assemble import assign_speakers, without_words
from services.worker.pipeline.channels import decide
from services.worker.pipeline.faults import WorkCanceled, WorkError
from services.worker.pipeline.progress import SpeechProgress
from services.worker.pipeline.quality import has_dropout
from services.worker.pipeline.recording import PreparedRecording, Samples
from services.worker.pipeline.sentences import segments_of
from services.worker.pipeline.windows import SpeechWindow, fingerprint, halves, to_recording_time
from services.worker.work import (
    AttemptKey,
    Canceled,
    ChunkSpeakers,
    Completed,
    Failed,
    Outcome,
    Planned,
    Report,
    Segment,
    SpeakerChunkFound,
    Speakers,
    SpeakersFound,
    SpeakerTurn,
    StageChanged,
    WindowFinished,
    WindowPlan,
    Work,
)

log = structlog.get_logger()

_NO_WORD_TIMES = (
    "The model {name!r} cannot time words: its config.json has no alignment_heads. Convert it with a current CTranslate2,"
    " choose another model, or leave wordTimestamps out."
)

_NO_SPEECH = "No speech was found in the recording."

_LOOK_SECONDS = 0.1
"""How often a job that waits for the device looks whether it was canceled."""

IN_HAND_SECONDS = 60.0
"""How long a job that ends early waits for its windows that are on the device."""

_RETRY_SECONDS, _MOST_TRIES = 0.5, 5
"""Of hearing a language while memory is short; the wait doubles."""

# The language is heard from one chunk of speech; two neighbors always hold that much, or they would be one window.
_HEARD_WINDOWS = 2


@dataclass(frozen=True, slots=True)
class Tools:
    """What all jobs of the process share."""

    models: Models
    diarizer: Diarizer
    preparation: Preparation
    lanes: Lanes
    memory: Memory
    default_model: str


def run_job(work: Work, tools: Tools, report: Callable[[Report], None], is_canceled: Callable[[], bool]) -> None:
    """Reports everything about ``work``, at last exactly one outcome, or none where the process is to be replaced; raises
    nothing."""
    with structlog.contextvars.bound_contextvars(job_id=work.key.job_id, attempt=work.key.attempt):
        outcome = _outcome(_Job(work, tools, report, is_canceled), tools.memory)
        if outcome is not None:
            report(outcome)


def _outcome(job: _Job, memory: Memory) -> Outcome | None:
    """None where the process is to be replaced: the job goes on in the next one."""
    try:
        return job.run()
    except WorkCanceled:
        return Canceled()
    except WorkError as error:
        log.warning("job_failed", reason=error.reason, message=error.message)
        return Failed(error.reason, error.message)
    except Exception as error:
        if needs_new_process(error) or is_out_of_memory(error):
            memory.replace_process(str(error), 0)
            return None
        # A fault in one job must not take the others down; the log has the whole of it.
        log.exception("job_failed", reason="ENGINE_FAILED")
        return Failed("ENGINE_FAILED", f"The engine met an unexpected {type(error).__name__}. Check the worker's log.")


class _Job:
    def __init__(
        self, work: Work, tools: Tools, report: Callable[[Report], None], is_canceled: Callable[[], bool]
    ) -> None:
        self._work = work
        self._options = work.options
        self._tools = tools
        self._report = report
        self._is_canceled = is_canceled
        self._notes: list[str] = []

    def run(self) -> Outcome:
        started = time.monotonic()
        name = self._options.model or self._tools.default_model
        if self._options.diarization and not self._options.speaker_per_channel:
            self._tools.diarizer.require()
        self._check()
        if not self._tools.models.is_loaded(name):
            self._report(StageChanged("loading", f"loading model {name}"))
        with self._tools.models.use(name, self._check) as model:
            duration = self._work_through(model, settle_language(model, self._options.language))
        return Completed(duration, time.monotonic() - started, " ".join(filter(None, self._notes)))

    def _work_through(self, model: LoadedModel, language: str) -> float:
        """Returns the recording's length, in seconds."""
        self._check()
        if self._options.word_timestamps and not model.times_words:
            raise WorkError("MODEL_UNAVAILABLE", _NO_WORD_TIMES.format(name=model.name))
        self._report(StageChanged("preparing"))
        with ExitStack() as held:
            with self._tools.lanes.queue.coming() if is_small(self._work.audio_path) else nullcontext():
                recording = held.enter_context(self._prepared(model))
            self._notes += [recording.note, "" if recording.windows else _NO_SPEECH]
            plan = self._plan(model, language, recording)
            self._report(Planned(plan))
            turns = self._turns(recording, plan)
            self._report(StageChanged("transcribing"))
            self._transcribe(model, plan.language, recording, self._finished(plan), turns)
        return plan.duration

    def _prepared(self, model: LoadedModel) -> AbstractContextManager[PreparedRecording]:
        return self._tools.preparation.prepared(
            self._work.audio_path,
            vad=self._options.vad,
            max_seconds=model.chunk_seconds,
            channels=self._options.diarization,
            check=self._check,
            note=lambda text: self._report(StageChanged("preparing", text)),
        )

    def _check(self) -> None:
        if self._is_canceled():
            raise WorkCanceled

    def _plan(self, model: LoadedModel, language: str, recording: PreparedRecording) -> WindowPlan:
        windows = recording.windows
        digest = fingerprint(windows, self._decisive(model))
        probability = 1.0
        earlier = self._work.finished
        if not language and earlier is not None and earlier.plan.fingerprint == digest:
            language, probability = earlier.plan.language, earlier.plan.language_probability
        elif not language:
            language, probability = self._detected(
                model, [recording.cut_out(window) for window in windows[:_HEARD_WINDOWS]]
            )
        stretches = tuple(window.stretch() for window in windows)
        return WindowPlan(digest, language, probability, recording.seconds, stretches)

    def _detected(self, model: LoadedModel, audio: Sequence[Samples]) -> tuple[str, float]:
        """Not in line with the windows: where their batches have all memory for a moment, it is tried again."""
        patience = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, Exception) and is_out_of_memory(error)),
            wait=wait_exponential(_RETRY_SECONDS),
            stop=stop_after_attempt(_MOST_TRIES),
            after=self._release,
            reraise=True,
        )
        found: tuple[str, float] = patience(detect_language, model, audio)
        return found

    def _release(self, _tried: RetryCallState) -> None:
        self._tools.memory.release()

    def _decisive(self, model: LoadedModel) -> dict[str, object]:
        """Everything besides the plan that text, times and speakers depend on."""
        options = self._options
        decisive: dict[str, object] = {
            "model": model.revision,
            "compute_type": model.compute_type,
            "device": model.device,
            "ctranslate2": ctranslate2.__version__,
            "vad": options.vad,
            "searches": [asdict(search) for search in SEARCHES],
            "language": options.language,
            "initial_prompt": options.initial_prompt,
            "hotwords": options.hotwords,
            "word_timestamps": options.word_timestamps,
            "diarization": self._tools.diarizer.revision if options.diarization else "",
            "diarization_max_duration_seconds": options.diarization_max_duration_seconds,
            "diarization_fast_switching": options.diarization_fast_switching,
            "speakers": [options.min_speakers, options.max_speakers],
        }
        if options.speaker_per_channel:  # it came later: jobs without it go on with what an earlier version finished
            decisive["speaker_per_channel"] = True
        return decisive

    def _finished(self, plan: WindowPlan) -> frozenset[int]:
        earlier = self._work.finished
        if earlier is None or earlier.plan.fingerprint != plan.fingerprint:
            return frozenset()
        return earlier.finished_windows

    def _turns(self, recording: PreparedRecording, plan: WindowPlan) -> tuple[SpeakerTurn, ...]:
        """By which words get their speakers: of turns at the same time the one that is heard best."""
        if not self._options.diarization:
            return ()
        decision = decide(recording.levels, self._options)
        self._notes.append(decision.note)
        self._report(StageChanged("diarizing", decision.detail))
        if decision.detail:
            log.info("channels_considered", detail=decision.detail)
        earlier = self._work.finished
        if earlier is not None and earlier.plan.fingerprint != plan.fingerprint:
            earlier = None
        if earlier is not None and earlier.turns is not None:
            found = SpeakersFound(earlier.turns, earlier.exclusive_turns)
        else:
            chunks = earlier.speaker_chunks if earlier is not None else ()
            speakers = decision.speakers
            if speakers is None:
                speakers = self._by_voice(recording, chunks, decision.detail)
            found = SpeakersFound(speakers.turns, speakers.exclusive)
        self._report(found)
        return found.exclusive_turns or found.turns

    def _by_voice(self, recording: PreparedRecording, chunks: Sequence[ChunkSpeakers], detail: str) -> Speakers:
        try:
            return self._tools.diarizer.speakers(recording, self._options, self._watch(detail), chunks)
        except WorkError as error:
            if not self._options.speaker_per_channel:
                raise
            raise WorkError(error.reason, f"Speakers have to be told apart {detail}. {error.message}") from error

    def _watch(self, detail: str) -> Watch:
        """``detail`` stays beside the progress."""
        shown = 0
        said = f" · {detail}" if detail else ""

        def progress(share: float) -> None:
            nonlocal shown
            percent = 10 * int(10 * share)
            if percent > shown:
                shown = percent
                self._report(StageChanged("diarizing", f"{percent} %{said}"))

        return Watch(
            self._check,
            finished=lambda chunk: self._report(SpeakerChunkFound(chunk)),
            progress=progress,
            waiting=lambda what: self._report(StageChanged("diarizing", f"{what}{said}")),
        )

    def _transcribe(
        self,
        model: LoadedModel,
        language: str,
        recording: PreparedRecording,
        finished: frozenset[int],
        turns: Sequence[SpeakerTurn],
    ) -> None:
        windows = recording.windows
        progress = SpeechProgress(windows, finished, time.monotonic)
        missing = deque(window for window in windows if window.index not in finished)
        with ExitStack() as held:
            line = held.enter_context(self._tools.lanes.line(model, sum(window.seconds for window in missing)))
            decoding = _Decoding(
                self._work.key, Voice(model, language, self._options), line, recording, self._is_canceled
            )
            held.callback(decoding.leave)
            waiting: deque[tuple[SpeechWindow, Request]] = deque()
            while missing or waiting:
                while missing and not self._is_canceled() and len(waiting) < self._tools.lanes.ahead(model):
                    line.expect(min(len(missing), self._tools.lanes.ahead(model) - len(waiting)))
                    window = missing.popleft()
                    waiting.append((window, decoding.begin(window)))
                line.expect(0)
                if not waiting:
                    raise WorkCanceled
                window, request = waiting.popleft()
                segments = decoding.finish(window, request, again=True)
                silent = not segments and recording.voiced(window)(window.seconds) > 0
                self._report(WindowFinished(window.index, self._assembled(segments, turns), silent))
                if (now := progress.add(window)) is not None:
                    self._report(now)

    def _assembled(self, segments: Sequence[Segment], turns: Sequence[SpeakerTurn]) -> tuple[Segment, ...]:
        placed = assign_speakers(segments, turns)
        return placed if self._options.word_timestamps else without_words(placed)


def _count_words(segments: Sequence[Segment]) -> int:
    return sum(len(segment.words) or len(segment.text.split()) for segment in segments)


class _Decoding:
    """One job's windows on their way through the device."""

    def __init__(
        self,
        key: AttemptKey,
        voice: Voice,
        line: JobLine,
        recording: PreparedRecording,
        is_canceled: Callable[[], bool],
    ) -> None:
        self._key = key
        self._voice = voice
        self._line = line
        self._recording = recording
        self._is_canceled = is_canceled
        self._begun: set[Request] = set()

    def leave(self) -> None:
        """What waits in line is forgotten; what a lane has in hand uses the model, and is waited for."""
        self._line.close()
        futures.wait([request.done for request in self._begun if not request.done.done()], IN_HAND_SECONDS)

    def begin(self, window: SpeechWindow, part: bool = False, search: int = 0) -> Request:
        features = self._voice.features.of(self._recording.cut_out(window))
        words = self._voice.model.times_words
        request = Request(self._key, window.index, self._voice, features, window.seconds, words, part, search)
        self._begun.add(request)
        self._line.put(request)
        return request

    def finish(self, window: SpeechWindow, request: Request, again: bool) -> tuple[Segment, ...]:
        """The window's segments, in the recording's time. Where words seem to be missing, each half is tried ``again`` by
        itself: beside other sounds the model passes over what it hears alone. What is too short for that is searched in
        another way."""
        found = self._wait(request)
        placed = to_recording_time(found, window.spans)
        if again and has_dropout(found, window.seconds, self._recording.voiced(window)):
            placed = max(placed, self._in_parts(halves(window) or (window,)), key=_count_words)
        return tuple(
            piece for segment in placed for piece in (segments_of(segment.words) if segment.words else (segment,))
        )

    def _in_parts(self, parts: Sequence[SpeechWindow]) -> tuple[Segment, ...]:
        if self._is_canceled():
            raise WorkCanceled
        log.info("window_decoded_in_parts", window=parts[0].index)
        requests = [self.begin(part, part=True, search=int(len(parts) == 1)) for part in parts]
        pairs = zip(parts, requests, strict=True)
        return tuple(segment for part, begun in pairs for segment in self.finish(part, begun, again=False))

    def _wait(self, request: Request) -> tuple[Segment, ...]:
        """Once the job is canceled, what a lane has in hand is waited for, and nothing else: it may be the last window, or
        the next attempt's first."""
        while True:
            try:
                found = request.done.result(_LOOK_SECONDS)
                self._begun.discard(request)
                return found
            except futures.CancelledError as canceled:
                raise WorkCanceled from canceled
            except TimeoutError:
                if self._is_canceled():
                    self._line.close()
