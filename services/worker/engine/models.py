"""Whisper models in the engine child: found, checked, loaded once, kept.

Loading never hangs: what the hub cache holds is taken without any network, and the network is given seconds to answer.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import ctranslate2
import numpy as np
import structlog
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import _LANGUAGE_CODES
from faster_whisper.utils import download_model
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

from services.worker.engine.catalog import ModelSource, initial_states, resolve
from services.worker.engine.protocol import EngineSettings
from services.worker.pipeline.faults import WorkError
from services.worker.work import ModelState

log = structlog.get_logger()

# Seconds that the hub may take to answer at all; downloads have their own limit, per read.
_HUB_PATIENCE_SECONDS = 10.0

_NEEDED = ("model.bin", "config.json", "tokenizer.json", "vocabulary.*")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """``revision`` names the weights: the hub's commit, or a hash of ``model.bin``."""

    name: str
    revision: str
    compute_type: str
    languages: tuple[str, ...]
    device: str
    whisper: WhisperModel

    @property
    def chunk_seconds(self) -> float:
        """The longest window the model was made for (``chunk_length`` of its preprocessor_config.json)."""
        return float(self.whisper.feature_extractor.chunk_length)


class ModelFault(Exception):
    """Why a model cannot be loaded and what to do about it, for people."""


class Models:
    """All models of this process; may be asked from several threads."""

    def __init__(
        self, settings: EngineSettings, device: str, threads: int, lanes: int, changed: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._device = device
        self._threads = threads
        self._lanes = lanes
        self._changed = changed
        self._states = {state.name: state for state in initial_states(settings)}
        self._loaded: dict[ModelSource, LoadedModel] = {}
        self._locks: dict[str, threading.Lock] = {name: threading.Lock() for name in self._states}
        self._languages: dict[str, tuple[str, ...]] = {}

    def states(self) -> tuple[ModelState, ...]:
        return tuple(self._states.values())

    def languages(self) -> dict[str, tuple[str, ...]]:
        return dict(self._languages)

    def is_loaded(self, name: str) -> bool:
        return name in self._languages

    def get(self, name: str) -> LoadedModel:
        """The model, loading it first where needed; a model that failed before is tried again.

        Raises WorkError MODEL_UNAVAILABLE with what to do.
        """
        lock = self._locks.get(name)
        if lock is None:
            known = ", ".join(self._states)
            raise WorkError("MODEL_UNAVAILABLE", f"This worker does not offer the model {name!r}. It offers: {known}.")
        with lock:
            try:
                return self._load(name)
            except ModelFault as fault:
                self._set(name, "failed", str(fault))
                log.error("model_failed", model=name, error=str(fault))  # noqa: TRY400 - the message says all
                raise WorkError("MODEL_UNAVAILABLE", str(fault)) from fault

    def _load(self, name: str) -> LoadedModel:
        source = resolve(name, self._settings)
        if source is None:
            raise ModelFault(
                f"The model {name!r} is unknown: set WORKER_MODEL or WORKER_MODELS to a name of faster-whisper, to 'demo', "
                "or to a folder in WORKER_MODEL_DIR that holds model.bin."
            )
        model = self._loaded.get(source)
        if model is None:
            self._set(name, "loading")
            model = self._build(name, source)
            self._loaded[source] = model
            log.info("model_loaded", model=name, device=self._device, compute_type=model.compute_type)
        if name not in self._languages:
            self._languages[name] = model.languages
            self._set(name, "loaded")
        return model

    def _build(self, name: str, source: ModelSource) -> LoadedModel:
        folder = source.folder or self._fetched(name, source.repository)
        _require_files(name, folder)
        try:
            whisper = WhisperModel(
                str(folder),
                device=self._device,
                compute_type=self._settings.compute_type or "default",
                cpu_threads=self._threads,
                num_workers=self._lanes,
            )
            if (
                self._device == "cuda"
            ):  # cuBLAS and the kernels are looked up at the first use: better now than in a job
                whisper.encode(np.zeros((1, whisper.feature_extractor.mel_filters.shape[0], 3000), np.float32))
        except Exception as error:  # the libraries raise plain ones for files that are damaged
            raise ModelFault(_load_failure(name, self._device, error)) from error
        revision = folder.name if source.repository else _content_hash(folder / "model.bin")
        return LoadedModel(name, revision, whisper.model.compute_type, _languages(whisper), self._device, whisper)

    def _fetched(self, name: str, repository: str) -> Path:
        """The snapshot in the hub cache, downloaded where it is not there."""
        try:
            folder = Path(download_model(repository, local_files_only=True))
            if (folder / "model.bin").is_file():
                return folder
        except HFValidationError as error:
            raise ModelFault(
                f"The model {name!r} is no name of the hub: correct WORKER_MODEL or WORKER_MODELS, or point "
                "WORKER_MODEL_DIR to the folder that holds the model's."
            ) from error
        except OSError:
            log.info("model_not_in_cache", model=name, repository=repository)
        return _downloaded(name, repository, self._settings.hf_token)

    def _set(self, name: str, state: str, error: str = "") -> None:
        self._states[name] = replace(self._states[name], state=state, error=error)
        self._changed()


def _downloaded(name: str, repository: str, token: str) -> Path:
    if constants.HF_HUB_OFFLINE:
        raise ModelFault(
            f"The model {name!r} is not in the hub cache, and HF_HUB_OFFLINE forbids downloading {repository}: unset it, point "
            "HF_HOME to a cache that holds the model, put its folder into WORKER_MODEL_DIR, or set WORKER_MODEL to another."
        )
    try:
        HfApi().model_info(repository, timeout=_HUB_PATIENCE_SECONDS, token=token or None)
        return Path(download_model(repository, use_auth_token=token or None))
    except RepositoryNotFoundError as error:
        raise ModelFault(
            f"The hub has no model {repository} (or it needs an HF_TOKEN): correct WORKER_MODEL or WORKER_MODELS."
        ) from error
    except Exception as error:  # the hub's client lets its HTTP library's errors through, whichever it is
        raise ModelFault(
            f"The model {name!r} is not in the hub cache, and {repository} cannot be downloaded ({short_error(error)}): give this host "
            "network, point HF_HOME to a cache that holds the model, put its folder into WORKER_MODEL_DIR, or set WORKER_MODEL "
            "to another."
        ) from error


def _require_files(name: str, folder: Path) -> None:
    for pattern in _NEEDED:
        if not any(folder.glob(pattern)):
            raise ModelFault(
                f"The model {name!r} is incomplete: its folder has no {pattern}. Convert it to CTranslate2's format with "
                "tokenizer.json beside it, or correct WORKER_MODEL_DIR or WORKER_MODEL."
            )


def _load_failure(name: str, device: str, error: Exception) -> str:
    advice = "correct WORKER_MODEL or WORKER_MODEL_DIR, or replace its files"
    if "compute type" in str(error):
        advice = "leave WORKER_COMPUTE_TYPE unset, or choose one that the device supports"
    elif device == "cuda":
        advice = (
            "see that the GPU's driver and cuBLAS 12 are installed and its memory is free, or set WORKER_DEVICE=cpu"
        )
    return f"The model {name!r} cannot be loaded on {device} ({short_error(error)}): {advice}."


def short_error(error: Exception) -> str:
    """The error's first line, without this host's paths."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"(?<![\w:/])/[^\s'\"]+", "…", line)[:200]


def _languages(whisper: WhisperModel) -> tuple[str, ...]:
    if not whisper.model.is_multilingual:
        return ("en",)
    return tuple(code for code in _LANGUAGE_CODES if whisper.hf_tokenizer.token_to_id(f"<|{code}|>") is not None)


def _content_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def choose_device(wanted: str) -> str:
    """ "cpu" or "cuda"; what was asked for by name is taken even where it will fail, and then says so."""
    if wanted != "auto":
        return wanted
    return "cuda" if ctranslate2.get_cuda_device_count() else "cpu"


def device_name(device: str) -> str:
    """The GPU's name as its driver tells it, "" where there is none."""
    if device != "cuda":
        return ""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "--id=0"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603 - fixed words
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()
