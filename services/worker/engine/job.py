"""One job in the engine child, from its file to its outcome. Runs in a thread of its own."""

from __future__ import annotations

import contextvars
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass

import ctranslate2
import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from services.worker.engine.decoding import (
    SEARCHES,
    Voice,
    detect_language,
    settle_language,
)
from services.worker.engine.diarization import Diarizer, Watch
from services.worker.engine.lanes import Lanes, Memory
from services.worker.engine.memory import is_out_of_memory, needs_new_process
from services.worker.engine.models import LoadedModel, Models
from services.worker.engine.preparation import Preparation, is_small
from services.worker.engine.transcription import Transcription
from services.worker.pipeline.assemble import assign_speakers, without_words
from services.worker.pipeline.channels import decide
from services.worker.pipeline.faults import WorkCanceled, WorkError
from services.worker.pipeline.progress import SpeechProgress
from services.worker.pipeline.recording import PreparedRecording, Samples
from services.worker.pipeline.windows import SpeechWindow, fingerprint
from services.worker.work import (
    Canceled,
    ChunkSpeakers,
    Completed,
    Failed,
    FinishedWork,
    Outcome,
    Planned,
    Progress,
    Report,
    Segment,
    SpeakerChunkFound,
    Speakers,
    SpeakersFound,
    SpeakerTurn,
    StageChanged,
    WindowDecoded,
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
            memory.replace_process(str(error))
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
        self._left = False

    def run(self) -> Outcome:
        started = time.monotonic()
        name = self._options.model or self._tools.default_model
        if self._options.diarization and not self._options.speaker_per_channel:
            self._tools.diarizer.require()
        self._check()
        if not self._tools.models.is_at_hand(name):
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
            earlier = self._earlier(plan)
            progress = self._progress(recording, earlier)
            turns = held.enter_context(self._turns_beside(recording, earlier, progress))
            self._transcribe(model, plan.language, recording, earlier, progress, turns)
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

    def _earlier(self, plan: WindowPlan) -> FinishedWork:
        """What an earlier attempt finished of this plan."""
        earlier = self._work.finished
        if earlier is None or earlier.plan.fingerprint != plan.fingerprint:
            return FinishedWork(plan)
        return earlier

    def _progress(self, recording: PreparedRecording, earlier: FinishedWork) -> SpeechProgress:
        """What is decoded is not finished before it is known who speaks."""
        done = earlier.finished_windows | {window.index for window in earlier.decoded_windows}
        bound = 0.0 if self._options.diarization and earlier.turns is None else 1.0
        return SpeechProgress(recording.windows, done, time.monotonic, bound)

    @contextmanager
    def _turns_beside(
        self, recording: PreparedRecording, earlier: FinishedWork, progress: SpeechProgress
    ) -> Iterator[Future[tuple[SpeakerTurn, ...]]]:
        """Speakers are found in a thread of their own while windows are decoded, so that neither keeps the device waiting."""
        if not self._options.diarization:
            none: Future[tuple[SpeakerTurn, ...]] = Future()
            none.set_result(())
            self._report(StageChanged("transcribing"))
            yield none
            return
        with ThreadPoolExecutor(1, thread_name_prefix="turns") as thread:
            try:
                yield thread.submit(contextvars.copy_context().run, self._turns, recording, earlier, progress)
            finally:
                self._left = True

    def _turns(
        self, recording: PreparedRecording, earlier: FinishedWork, progress: SpeechProgress
    ) -> tuple[SpeakerTurn, ...]:
        """By which words get their speakers: of turns at the same time the one that is heard best."""
        decision = decide(recording.levels, self._options)
        self._notes.append(decision.note)
        self._report(StageChanged("diarizing", decision.detail))
        if decision.detail:
            log.info("channels_considered", detail=decision.detail)
        if earlier.turns is not None:
            found = SpeakersFound(earlier.turns, earlier.exclusive_turns)
        else:
            speakers = decision.speakers
            if speakers is None:
                watch = self._watch(decision.detail, progress)
                speakers = self._by_voice(recording, earlier.speaker_chunks, decision.detail, watch)
            found = SpeakersFound(speakers.turns, speakers.exclusive)
        self._report(found)
        self._tell(progress.bound(1.0))
        self._report(StageChanged("transcribing"))
        return found.exclusive_turns or found.turns

    def _by_voice(
        self, recording: PreparedRecording, chunks: Sequence[ChunkSpeakers], detail: str, watch: Watch
    ) -> Speakers:
        try:
            return self._tools.diarizer.speakers(recording, self._options, watch, chunks)
        except WorkError as error:
            if not self._options.speaker_per_channel:
                raise
            raise WorkError(error.reason, f"Speakers have to be told apart {detail}. {error.message}") from error

    def _watch(self, detail: str, progress: SpeechProgress) -> Watch:
        """``detail`` stays beside what it waits for."""
        said = f" · {detail}" if detail else ""

        def check() -> None:
            self._check()
            if self._left:  # the other half of the job failed
                raise WorkCanceled

        return Watch(
            check,
            finished=lambda chunk: self._report(SpeakerChunkFound(chunk)),
            progress=lambda share: self._tell(progress.bound(share)),
            waiting=lambda what: self._report(StageChanged("diarizing", f"{what}{said}")),
        )

    def _transcribe(
        self,
        model: LoadedModel,
        language: str,
        recording: PreparedRecording,
        earlier: FinishedWork,
        progress: SpeechProgress,
        turns: Future[tuple[SpeakerTurn, ...]],
    ) -> None:
        """Windows that are decoded before it is known who speaks are told of twice, so that nobody decodes them again."""
        decoded = {window.index: window for window in earlier.decoded_windows}
        unfinished = [window for window in recording.windows if window.index not in earlier.finished_windows]
        missing = [window for window in unfinished if window.index not in decoded]
        lanes = self._tools.lanes
        with ExitStack() as held:
            line = held.enter_context(lanes.line(model, sum(window.seconds for window in missing)))
            voice = Voice(model, language, self._options)
            transcription = Transcription(
                self._work.key, voice, line, recording, self._is_canceled, lambda: lanes.ahead(model)
            )
            held.callback(transcription.leave)
            waiting = deque(unfinished)
            for window, segments in transcription.windows(missing, turns):
                silent = not segments and recording.voiced(window)(window.seconds) > 0
                decoded[window.index] = WindowDecoded(window.index, segments, silent)
                if turns.done() and turns.exception() is None:
                    self._finish(waiting, decoded, turns.result())
                else:
                    self._report(decoded[window.index])
                self._tell(progress.add(window))
            self._finish(waiting, decoded, turns.result())

    def _finish(
        self, waiting: deque[SpeechWindow], decoded: dict[int, WindowDecoded], turns: Sequence[SpeakerTurn]
    ) -> None:
        """All that are decoded, in their order."""
        while waiting and waiting[0].index in decoded:
            window = decoded.pop(waiting.popleft().index)
            self._report(WindowFinished(window.index, self._assembled(window.segments, turns), window.silent))

    def _assembled(self, segments: Sequence[Segment], turns: Sequence[SpeakerTurn]) -> tuple[Segment, ...]:
        placed = assign_speakers(segments, turns)
        return placed if self._options.word_timestamps else without_words(placed)

    def _tell(self, progress: Progress | None) -> None:
        if progress is not None:
            self._report(progress)
