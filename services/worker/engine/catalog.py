"""Names of models that a worker may load, and where each Whisper model comes from. Reads folder names only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.worker.engine.protocol import EngineSettings
from services.worker.work import ModelState

DEMO = "demo"
HUB_PIPELINE = "pyannote/speaker-diarization-community-1"
_DEMO_FOLDER = "whisper-demo"
DEMO_NOTE = "Bundled for demo and tests: knows 50 English words of synthetic speech, and no person's voice."

# Name to hub repository, as in faster_whisper.utils of faster-whisper 1.2.1, which the front does not import.
HUB_MODELS = {
    "tiny.en": "Systran/faster-whisper-tiny.en",
    "tiny": "Systran/faster-whisper-tiny",
    "base.en": "Systran/faster-whisper-base.en",
    "base": "Systran/faster-whisper-base",
    "small.en": "Systran/faster-whisper-small.en",
    "small": "Systran/faster-whisper-small",
    "medium.en": "Systran/faster-whisper-medium.en",
    "medium": "Systran/faster-whisper-medium",
    "large-v1": "Systran/faster-whisper-large-v1",
    "large-v2": "Systran/faster-whisper-large-v2",
    "large-v3": "Systran/faster-whisper-large-v3",
    "large": "Systran/faster-whisper-large-v3",
    "distil-large-v2": "Systran/faster-distil-whisper-large-v2",
    "distil-medium.en": "Systran/faster-distil-whisper-medium.en",
    "distil-small.en": "Systran/faster-distil-whisper-small.en",
    "distil-large-v3": "Systran/faster-distil-whisper-large-v3",
    "distil-large-v3.5": "distil-whisper/distil-large-v3.5-ct2",
    "large-v3-turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
    "turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
}


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Exactly one of ``folder`` and ``repository`` is set; equal sources are the same model under two names."""

    folder: Path | None = None
    repository: str = ""


def offered(settings: EngineSettings) -> tuple[str, ...]:
    """The default model first, then all others that jobs may ask for."""
    names = settings.models or (*_folder_names(settings.model_dir), DEMO, *HUB_MODELS)
    return tuple(dict.fromkeys((settings.default_model, *names)))


def resolve(name: str, settings: EngineSettings) -> ModelSource | None:
    """Where ``name`` comes from; None where it is neither bundled, nor a folder, nor a name of the hub.

    A folder of ``model_dir`` goes before the hub's model of that name, so that a host without network can bring one.
    """
    if name in _folder_names(settings.model_dir) and settings.model_dir is not None:
        return ModelSource(folder=settings.model_dir / name)
    if name == DEMO:
        return ModelSource(folder=settings.bundled_dir / _DEMO_FOLDER)
    if name in HUB_MODELS:
        return ModelSource(repository=HUB_MODELS[name])
    return ModelSource(repository=name) if name.count("/") == 1 and all(name.split("/")) else None


def initial_states(settings: EngineSettings) -> tuple[ModelState, ...]:
    """All that are offered, none loaded."""
    return tuple(ModelState(name, "available", note=_note(name, settings)) for name in offered(settings))


def english_only(settings: EngineSettings) -> dict[str, tuple[str, ...]]:
    """The languages of the models that are known to have one before they are loaded, by name: Whisper's and those made of them."""
    named = (name for name in offered(settings) if name == DEMO or name.endswith(".en"))
    return {name: ("en",) for name in named if (source := resolve(name, settings)) and not _is_own(source, settings)}


def _is_own(source: ModelSource, settings: EngineSettings) -> bool:
    """Whether it is a folder of the user's, whatever its name."""
    return source.folder is not None and source.folder.parent != settings.bundled_dir


def _note(name: str, settings: EngineSettings) -> str:
    source = resolve(name, settings)
    bundled = source is not None and source.folder is not None and source.folder.parent == settings.bundled_dir
    return DEMO_NOTE if bundled else ""


def _folder_names(model_dir: Path | None) -> tuple[str, ...]:
    if model_dir is None or not model_dir.is_dir():
        return ()
    return tuple(sorted(entry.name for entry in model_dir.iterdir() if (entry / "model.bin").is_file()))
