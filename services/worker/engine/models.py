"""Whisper models in the engine child: found, checked, loaded when they are wanted, unloaded when they are not.

Invariant: a model that is in use is never unloaded.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import ctranslate2
import numpy as np
import structlog
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import _LANGUAGE_CODES

from services.worker.engine import cuda, heap, host_memory
from services.worker.engine.catalog import ModelSource, initial_states, resolve
from services.worker.engine.memory import ModelShape, is_echo, is_out_of_memory
from services.worker.engine.model_files import (
    ModelFault,
    content_hash,
    fetched,
    require_files,
    shape_of,
    short_error,
    weights_of,
)
from services.worker.engine.protocol import EngineSettings
from services.worker.pipeline.faults import WorkCanceled, WorkError
from services.worker.work import ModelState

log = structlog.get_logger()

IDLE_SECONDS = 600.0
"""How long a model stays loaded that nobody uses; the default model stays for good."""

FAIR_SECONDS = 60.0
"""How long a load waits for models in use to make room, before nobody begins to use those anew."""

ROOM_BYTES = 512 * 1024**2
"""Assumed for what loading takes besides the weights: a context, workspaces, a first small batch."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """``revision`` names the weights: the hub's commit, or a hash of ``model.bin``. ``device`` as torch names it. ``shape``
    is None where the file does not tell it; ``weights_bytes`` is what one copy takes; ``lanes`` may decode at once;
    ``times_words``: whether its conversion kept what words are aligned by."""

    name: str
    revision: str
    compute_type: str
    languages: tuple[str, ...]
    device: str
    whisper: WhisperModel
    shape: ModelShape | None = None
    weights_bytes: int = 0
    lanes: int = 1
    times_words: bool = True

    @property
    def chunk_seconds(self) -> float:
        """The longest window the model was made for (``chunk_length`` of its preprocessor_config.json)."""
        return float(self.whisper.feature_extractor.chunk_length)


@dataclass(slots=True)
class _Holding:
    """A loaded model. ``names`` are those it was asked for by, ``leases`` its users."""

    model: LoadedModel
    used: float
    names: set[str] = field(default_factory=set)
    leases: int = 0


def _go_on() -> None:
    """Nobody gives up."""


class Models:
    """All models of this process; may be asked from several threads.

    ``threads``: CPU threads of one lane; ``lanes``: decodings at once of one model. ``free_bytes`` tells what is free on
    the device, ``device_bytes`` what it has in all, None where that is not known; ``clock`` counts seconds.
    """

    def __init__(
        self,
        settings: EngineSettings,
        device: str,
        threads: int,
        changed: Callable[[], None],
        *,
        lanes: int = 1,
        free_bytes: Callable[[], int | None] | None = None,
        device_bytes: Callable[[], int | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._device = device
        self._threads = threads
        self._lanes = lanes
        self._changed = changed
        self.free_bytes = free_bytes or (lambda: _free_bytes(device, settings.gpu))
        self.device_bytes = device_bytes or (lambda: _device_bytes(device, settings.gpu))
        self._clock = clock
        self._states = {state.name: state for state in initial_states(settings)}
        self._languages: dict[str, tuple[str, ...]] = {}
        self._held: dict[ModelSource, _Holding] = {}
        self._given_back = 0
        self._wait_for_room: dict[ModelSource, float] = {}
        self._arrived: set[ModelSource] = set()  # on the device, and not yet among those held
        # Guards what is above, for moments, and tells of every lease that ends. A source's own lock is held while it is
        # loaded, and is taken before.
        self._guard = threading.Condition()
        self._loading: dict[ModelSource, threading.Lock] = {}
        # One is put on the device at a time, so that each sees what the others left free.
        self._placing = threading.Lock()

    def states(self) -> tuple[ModelState, ...]:
        with self._guard:
            return tuple(self._states.values())

    def languages(self) -> dict[str, tuple[str, ...]]:
        """Of all models that were loaded at some time."""
        with self._guard:
            return dict(self._languages)

    def is_at_hand(self, name: str) -> bool:
        """Whether it is loaded, and no other is to go before it."""
        with self._guard:
            sources = [source for source, holding in self._held.items() if name in holding.names]
        return any(not self._others_wait(source) for source in sources)

    def weights_beside(self, model: LoadedModel) -> int:
        """Bytes of all others that are loaded."""
        with self._guard:
            return sum(holding.model.weights_bytes for holding in self._held.values() if holding.model is not model)

    @contextmanager
    def use(self, name: str, check: Callable[[], None] = _go_on) -> Iterator[LoadedModel]:
        """The model for as long as the block runs, loading it first where needed; one that failed before is tried again.

        Where others that are in use leave no room it waits for them, however long, and they for it: who waits for more than
        FAIR_SECONDS comes before those who want what is loaded. ``check`` is called every second of waiting, also
        for one that another loads, and may raise to give up. Nothing may keep the model beyond the block. Raises
        WorkError MODEL_UNAVAILABLE with what to do.
        """
        holding = self._lease(name, check)
        try:
            yield holding.model
        finally:
            with self._guard:
                holding.leases -= 1
                holding.used = self._clock()
                self._given_back += 1
                self._guard.notify_all()

    def unload_unused(self) -> None:
        """Unloads what nobody has used for IDLE_SECONDS, but for the default model. To be called now and then."""
        since = self._clock() - IDLE_SECONDS
        self._unload_all(
            lambda holding: holding.used <= since and self._settings.default_model not in holding.names, "unused"
        )

    def release_idle(self) -> tuple[str, ...]:
        """Memory ran out: unloads all that are not in use, also the default model. Returns their names."""
        return self._unload_all(lambda _: True, "out of memory")

    # --- loading

    def _lease(self, name: str, check: Callable[[], None]) -> _Holding:
        if name not in self._states:
            known = ", ".join(self._states)
            raise WorkError("MODEL_UNAVAILABLE", f"This worker does not offer the model {name!r}. It offers: {known}.")
        try:
            return self._leased(name, check)
        except ModelFault as fault:
            self._set(name, "failed", str(fault))
            log.error("model_failed", model=name, error=str(fault))  # noqa: TRY400 - the message says all
            raise WorkError("MODEL_UNAVAILABLE", str(fault)) from fault

    def _leased(self, name: str, check: Callable[[], None]) -> _Holding:
        source = resolve(name, self._settings)
        if source is None:
            raise ModelFault(
                f"The model {name!r} is unknown: set WORKER_MODEL or WORKER_MODELS to a name of faster-whisper, to 'demo', "
                "or to a folder in WORKER_MODEL_DIR that holds model.bin."
            )
        with self._guard:
            lock = self._loading.setdefault(source, threading.Lock())
        with _locked(lock, check):
            self._let_others_in(source, check)
            holding = self._taken(source) or self._loaded(name, source, check)
        self._note_loaded(name, holding)
        return holding

    def _let_others_in(self, source: ModelSource, check: Callable[[], None]) -> None:
        while self._others_wait(source):
            check()
            with self._guard:
                self._guard.wait(1.0)

    def _others_wait(self, source: ModelSource) -> bool:
        with self._guard:
            since = [began for other, began in self._wait_for_room.items() if other != source]
        return any(self._clock() - began > FAIR_SECONDS for began in since)

    def _taken(self, source: ModelSource) -> _Holding | None:
        """What is loaded, with a lease on it."""
        with self._guard:
            holding = self._held.get(source)
            if holding is not None:
                holding.leases += 1
            return holding

    def _loaded(self, name: str, source: ModelSource, check: Callable[[], None]) -> _Holding:
        self._set(name, "loading")
        try:
            model = self._build(name, source, check)
            log.info("model_loaded", model=name, device=self._device, compute_type=model.compute_type)
            with self._guard:
                holding = self._held[source] = _Holding(model, self._clock(), leases=1)
        except ModelFault:
            raise
        except BaseException:  # given up
            self._set(name, "available")
            raise
        finally:
            with self._guard:
                self._arrived.discard(source)
                self._given_back += 1  # if only what it took on the way
                self._wait_for_room.pop(source, None)
                self._guard.notify_all()
        return holding

    def _note_loaded(self, name: str, holding: _Holding) -> None:
        with self._guard:
            is_new = name not in holding.names
            holding.names.add(name)
            self._languages[name] = holding.model.languages
            self._states[name] = replace(self._states[name], state="loaded", error="")
        if is_new:
            self._changed()

    def _build(self, name: str, source: ModelSource, check: Callable[[], None]) -> LoadedModel:
        folder = source.folder or fetched(name, source.repository, self._settings.hf_token)
        require_files(name, folder)
        file = folder / "model.bin"
        shape = shape_of(file)
        weights = weights_of(file, shape, self._settings.compute_type)
        whisper = self._placed(name, source, folder, weights, check)
        revision = folder.name if source.repository else content_hash(file)
        compute_type, languages = whisper.model.compute_type, _languages(whisper)
        return LoadedModel(
            name,
            revision,
            compute_type,
            languages,
            self._device,
            whisper,
            shape,
            weights,
            self._lanes,
            times_words=_times_words(folder),
        )

    def _placed(
        self, name: str, source: ModelSource, folder: Path, weights: int, check: Callable[[], None]
    ) -> WhisperModel:
        """On the device, waiting for room where others have it that will go."""
        while True:
            given_back = self._given_back
            try:
                with _locked(self._placing, check):
                    whisper = self._fitted(folder, weights)
                    self._arrived.add(source)
                    return whisper
            except WorkCanceled:
                raise
            except Exception as error:  # the libraries raise plain ones for files that are damaged
                came = self._given_back != given_back  # while it was tried
                if not (is_out_of_memory(error) and (came or self._room_may_come())):
                    raise ModelFault(_load_failure(name, self._device, error)) from error
                if source not in self._wait_for_room:
                    log.info("model_waits_for_room", model=name, error=short_error(error))
                with self._guard:
                    self._wait_for_room.setdefault(source, self._clock())
                self._set(name, "available")  # while any loads the front counts no cancel, and this may take a day
            self._wait_for_lease_to_end(given_back, check)
            self._set(name, "loading")

    def _fitted(self, folder: Path, weights: int) -> WhisperModel:
        self._make_room(weights + ROOM_BYTES)
        while True:
            try:
                return self._constructed(folder)
            except Exception as error:
                if not (is_out_of_memory(error) and self.release_idle()):
                    raise

    def _room_may_come(self) -> bool:
        with self._guard:
            return bool(self._arrived) or any(holding.leases for holding in self._held.values())

    def _wait_for_lease_to_end(self, given_back: int, check: Callable[[], None]) -> None:
        while True:
            check()
            with self._guard:
                if self._given_back != given_back or self._guard.wait(1.0):
                    return

    def _constructed(self, folder: Path) -> WhisperModel:
        if self._device == "cuda":
            cuda.require()
        whisper = WhisperModel(
            str(folder),
            device=self._device,
            compute_type=self._settings.compute_type or "default",
            cpu_threads=self._threads,
            num_workers=self._lanes,
        )
        if self._device == "cuda":  # better now than in a job
            warm_up(whisper, times_words=_times_words(folder))
        return whisper

    # --- unloading

    def _make_room(self, wanted: int) -> None:
        """Unloads those not in use, the least recently used first and the default one last, until so much is free."""
        while (free := self.free_bytes()) is not None and free < wanted:
            source = self._least_wanted()
            if source is None:
                return
            self._unload(source, "room for another")

    def _least_wanted(self) -> ModelSource | None:
        with self._guard:
            idle = [source for source, holding in self._held.items() if not holding.leases]
            return min(idle, key=self._worth, default=None)

    def _worth(self, source: ModelSource) -> tuple[bool, float]:
        holding = self._held[source]
        return self._settings.default_model in holding.names, holding.used

    def _unload_all(self, which: Callable[[_Holding], bool], why: str) -> tuple[str, ...]:
        with self._guard:
            sources = [source for source, holding in self._held.items() if which(holding)]
        return tuple(name for source in sources for name in self._unload(source, why))

    def _unload(self, source: ModelSource, why: str) -> tuple[str, ...]:
        """Its names; none where it is in use again, or gone already."""
        with self._guard:
            holding = self._held.get(source)
            if holding is None or holding.leases:
                return ()
            del self._held[source]
            names = tuple(sorted(holding.names))
            for name in names:
                self._states[name] = replace(self._states[name], state="available")
        holding.model.whisper.model.unload_model()
        del holding
        heap.give_back()
        log.info("model_unloaded", models=names, why=why)
        self._changed()
        return names

    def _set(self, name: str, state: str, error: str = "") -> None:
        with self._guard:
            self._states[name] = replace(self._states[name], state=state, error=error)
        self._changed()


@contextmanager
def _locked(lock: threading.Lock, check: Callable[[], None]) -> Iterator[None]:
    """Who waits for it can give up."""
    while not lock.acquire(timeout=1.0):
        check()
    try:
        yield
    finally:
        lock.release()


def warm_up(whisper: WhisperModel, *, times_words: bool) -> None:
    """Encodes, searches and aligns once, as a job does: on a GPU libraries are looked up and kernels compiled at their first use,
    which may take a minute, and memory for their workspaces is taken."""
    encoded = whisper.encode(np.zeros((1, whisper.feature_extractor.mel_filters.shape[0], 3000), np.float32))
    start = [whisper.hf_tokenizer.token_to_id("<|startoftranscript|>")]
    whisper.model.generate(encoded, [start], beam_size=5, max_length=4, no_repeat_ngram_size=2, return_scores=True)
    whisper.model.generate(encoded, [start], beam_size=1, max_length=4, repetition_penalty=1.1, return_scores=True)
    if times_words:
        try:
            whisper.model.align(encoded, start, [start], 100)
        except RuntimeError as error:  # some drivers never align; jobs do without
            if not is_echo(error):
                raise
            log.warning("words_cannot_be_aligned", error=str(error))


def _times_words(folder: Path) -> bool:
    return '"alignment_heads"' in (folder / "config.json").read_text(encoding="utf-8")


def _load_failure(name: str, device: str, error: Exception) -> str:
    advice = "correct WORKER_MODEL or WORKER_MODEL_DIR, or replace its files"
    if "compute type" in str(error):
        advice = "leave WORKER_COMPUTE_TYPE unset, or choose one that the device supports"
    elif device == "cuda":
        advice = (
            "see that the GPU's driver is new enough, that cuBLAS 12 is installed (make setup EXTRAS=worker,cuda) and memory is "
            "free, or set WORKER_DEVICE=cpu"
        )
    return f"The model {name!r} cannot be loaded on {device} ({short_error(error)}): {advice}."


def _languages(whisper: WhisperModel) -> tuple[str, ...]:
    if not whisper.model.is_multilingual:
        return ("en",)
    return tuple(code for code in _LANGUAGE_CODES if whisper.hf_tokenizer.token_to_id(f"<|{code}|>") is not None)


def choose_device(wanted: str) -> str:
    """ "cpu" or "cuda"; what was asked for by name is taken even where it will fail, and then says so."""
    if wanted != "auto":
        return wanted
    return "cuda" if ctranslate2.get_cuda_device_count() else "cpu"


def device_name(device: str, gpu: str = "") -> str:
    """The GPU's name as its driver tells it, "" where there is none. ``gpu`` is its UUID, "" for the first one."""
    return _driver_says("name", gpu) if device == "cuda" else ""


def _free_bytes(device: str, gpu: str) -> int | None:
    """What is free on the GPU, or what this machine can give a process; None where the driver does not tell."""
    if device == "cpu":
        return host_memory.available_bytes()
    cuda.give_back()  # what torch keeps is not counted as free
    said = _driver_says("memory.free", gpu)
    return int(said) * 1024**2 if said.isdecimal() else None


def _device_bytes(device: str, gpu: str) -> int | None:
    """What the GPU or this machine has in all; None where the driver does not tell."""
    if device == "cpu":
        return host_memory.total_bytes()
    said = _driver_says("memory.total", gpu)
    return int(said) * 1024**2 if said.isdecimal() else None


def _driver_says(what: str, gpu: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits", f"--id={gpu or 0}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603 - fixed words
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()
