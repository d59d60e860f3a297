"""Which diarization pipeline a worker has, and how it is loaded; and why there is none, in words that say what to do."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import constants, get_token, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from services.worker.engine import catalog
from services.worker.engine.memory import is_out_of_memory
from services.worker.engine.model_files import short_error
from services.worker.engine.protocol import EngineSettings

HUB_PIPELINE = catalog.HUB_PIPELINE
DEMO = catalog.DEMO
_DEMO_FOLDER = "diarization-demo"

_TOKENS = "https://huggingface.co/settings/tokens"

_NONE = (
    "This worker has no diarization model: HF_TOKEN is not set. Accept the terms on "
    f"https://huggingface.co/{HUB_PIPELINE}, make a token on {_TOKENS}, and set HF_TOKEN on the worker; or set "
    "WORKER_DIARIZATION_MODEL to a folder."
)


_OTHERWISE = "point HF_HOME to a cache that holds it, or set WORKER_DIARIZATION_MODEL to a folder"


class NotGivenOutError(Exception):
    """The hub knows the pipeline and does not give it out."""


def choose(settings: EngineSettings) -> tuple[str, str]:
    """(name, error): exactly one of them is set."""
    wanted = settings.diarization_model
    if wanted == "none":
        return (
            "",
            "Diarization is switched off on this worker: WORKER_DIARIZATION_MODEL is 'none'. Set it to another, or leave it out.",
        )
    if wanted != "auto":
        return wanted, ""
    if settings.default_model == catalog.DEMO:
        return DEMO, ""
    if _cached(HUB_PIPELINE) is not None:
        return HUB_PIPELINE, ""
    if not has_token(settings):
        return "", _NONE
    return ("", _forbidden(HUB_PIPELINE)) if constants.HF_HUB_OFFLINE else (HUB_PIPELINE, "")


def has_token(settings: EngineSettings) -> bool:
    """Whether there is one, set or saved on this host."""
    return bool(settings.hf_token or get_token())


def revision(name: str, settings: EngineSettings) -> str:
    """Of a folder's content, for models may be replaced under one name; of a pipeline of the hub its commit, once it is here."""
    folder = _folder(name, settings)
    if not name or not folder.is_dir():
        cached = _cached(name)
        return name if cached is None else f"{name} {cached.parent.name[:16]}"
    digest = hashlib.sha256()
    try:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(folder)} {path.stat().st_size} ".encode("utf-8", "surrogateescape"))
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError:  # to load it will fail as well, and say why
        return name
    return f"{shown(name)} {digest.hexdigest()[:16]}"


def is_here(name: str, settings: EngineSettings) -> bool:
    """Whether nothing has to be downloaded, as far as can be seen without loading it."""
    return bool(name) and (_folder(name, settings).is_dir() or _cached(name) is not None)


def _folder(name: str, settings: EngineSettings) -> Path:
    """Of a pipeline that is one, whether or not it exists."""
    return settings.bundled_dir / _DEMO_FOLDER if name == DEMO else Path(name)


def _cached(name: str) -> Path | None:
    """The configuration of a pipeline of the hub, in the cache's folder of its newest commit that is there."""
    try:
        found = try_to_load_from_cache(name, "config.yaml")
    except HFValidationError:  # it is no name of the hub
        return None
    return Path(found) if isinstance(found, str) else None


def shown(name: str) -> str:
    """A folder's path is this host's own business."""
    return Path(name).name if Path(name).is_absolute() or name.startswith(".") else name


def failure(name: str, error: Exception, *, token: bool) -> str:
    """Why the pipeline is not there and what to do about it."""
    error = _said_by_the_hub(error)
    if _is_full(error):
        return (
            f"The diarization model {shown(name)!r} cannot be loaded for now: the device has no room for it ({short_error(error)}). It is "
            "tried again every few minutes. Free its memory, or lower WORKER_BATCH_SIZE or WORKER_MAX_CONCURRENT_JOBS."
        )
    if is_passing(error):
        return (
            f"The diarization model {shown(name)!r} cannot be loaded for now: the hub does not answer ({type(error).__name__}: "
            f"{short_error(error)}). It is tried again every few minutes. Give this host network, {_OTHERWISE}."
        )
    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
        return _forbidden(name)
    refused = isinstance(error, NotGivenOutError) or (
        isinstance(error, HfHubHTTPError) and (isinstance(error, GatedRepoError) or _status(error) in (401, 403))
    )
    if not refused:
        return (
            f"The diarization model {shown(name)!r} cannot be loaded ({type(error).__name__}: {short_error(error)}). "
            "Correct WORKER_DIARIZATION_MODEL: a name of the hub, or a folder with a config.yaml."
        )
    repository = _repository(error) or name
    page = f"https://huggingface.co/{repository}"
    said = f"The diarization model {shown(name)!r} cannot be loaded: the hub does not give out {repository}. "
    if not token:
        return f"{said}HF_TOKEN is not set. Accept the terms on {page}, make a token on {_TOKENS}, and set HF_TOKEN on the worker."
    if isinstance(error, GatedRepoError) or (isinstance(error, HfHubHTTPError) and _status(error) == 403):
        return (
            f"{said}Accept the terms on {page} with the account that HF_TOKEN belongs to; a fine-grained token must be allowed to "
            "read gated repositories. It is tried again every few minutes."
        )
    return f"{said}It refuses HF_TOKEN: make a new token on {_TOKENS}, set HF_TOKEN on the worker, and accept the terms on {page}."


def is_passing(error: Exception) -> bool:
    """Whether nothing is wrong but that the hub does not answer now, or that the device is full."""
    error = _said_by_the_hub(error)
    if _is_full(error):
        return True
    if constants.HF_HUB_OFFLINE:
        return False
    if isinstance(error, HfHubHTTPError):
        status = _status(error)
        return status is None or status in (408, 429) or status >= 500
    # the hub's client lets its HTTP library's errors through, whichever it is
    transport = any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
    return transport or isinstance(error, LocalEntryNotFoundError | ConnectionError | TimeoutError)


def _said_by_the_hub(error: Exception) -> Exception:
    """The hub's client makes "no network" of a refusal that it has no name for; what it was is the cause."""
    cause = error.__cause__
    return cause if isinstance(error, LocalEntryNotFoundError) and isinstance(cause, HfHubHTTPError) else error


def _is_full(error: Exception) -> bool:
    """A library that cannot be loaded may speak of memory as well."""
    return is_out_of_memory(error) and not isinstance(error, ImportError)


def _forbidden(name: str) -> str:
    return (
        f"The diarization model {shown(name)!r} is not in the hub cache, and HF_HUB_OFFLINE forbids downloading it: unset it, "
        f"{_OTHERWISE}."
    )


def _status(error: HfHubHTTPError) -> int | None:
    return getattr(error.response, "status_code", None)


def _repository(error: Exception) -> str:
    """Which one it is about: a pipeline may need models of other repositories."""
    found = re.search(r"huggingface\.co/(?:api/models/)?(?!docs/|settings/)([\w.-]+/[\w.-]+)", str(error))
    return found[1] if found else ""


def load(name: str, settings: EngineSettings, device: str) -> Any:
    """pyannote's `SpeakerDiarization` on the device. Raises whatever a pipeline's code raises."""
    from services.worker.engine.torchaudio_stub import import_torchaudio

    import_torchaudio()
    import torch

    # More threads than one made it slower beside a decoding job, and hardly faster alone.
    torch.set_num_threads(1)
    folder = _folder(name, settings)
    if name == DEMO or (folder / "segmentation.safetensors").is_file():  # what `make models` makes
        pipeline = demo_pipeline(folder)
    else:
        from pyannote.audio import Pipeline

        pipeline = Pipeline.from_pretrained(name, token=settings.hf_token or None)
        if pipeline is None:
            raise NotGivenOutError("the hub does not give it out")
    if pipeline._expects_num_speakers:
        raise ValueError(f"its clustering, {pipeline.klustering}, cannot tell how many speakers there are")
    if pipeline.embedding_exclude_overlap:
        # Found by trying shorter and shorter sounds until one raises, and kept: on a device short of memory any of them would.
        _ = pipeline._embedding.min_num_samples
    return pipeline.to(torch.device(device))


def demo_pipeline(folder: Path) -> Any:
    """pyannote's own pipeline around the bundled models; no pickle is loaded."""
    from pyannote.audio.core.plda import PLDA
    from pyannote.audio.pipelines import SpeakerDiarization

    from services.worker.engine.tiny_diarization import TinyEmbedding, TinySegmentation

    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    given = dict(config["pipeline"]["params"])
    given["segmentation"] = _demo_model(TinySegmentation, folder / "segmentation")
    given["embedding"] = _demo_model(TinyEmbedding, folder / "embedding")
    given["plda"] = PLDA.from_pretrained(folder)
    return SpeakerDiarization(**given).instantiate(config["params"])


def _demo_model(kind: Any, stem: Path) -> Any:
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from safetensors.torch import load_file

    described = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    specifications = described["specifications"]
    model = kind(**described["hyper_parameters"])
    model.specifications = Specifications(
        problem=Problem[specifications.pop("problem")],
        resolution=Resolution[specifications.pop("resolution")],
        **specifications,
    )
    model.build()
    model.load_state_dict(load_file(stem.with_suffix(".safetensors")))
    return model.eval()
