"""The files of Whisper models: in the hub cache or brought there, whole or not, how large and which they are.

Looking for them never hangs: what the hub cache holds is taken without any network, and the network is given seconds to
answer.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import structlog
from faster_whisper.utils import download_model
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

from services.worker.engine.memory import ModelShape, read_shape, weight_bytes

log = structlog.get_logger()

# Seconds that the hub may take to answer at all; downloads have their own limit, per read.
_HUB_PATIENCE_SECONDS = 10.0

_NEEDED = ("model.bin", "config.json", "tokenizer.json", "vocabulary.*")


class ModelFault(Exception):
    """Why a model cannot be loaded and what to do about it, for people."""


def fetched(name: str, repository: str, token: str) -> Path:
    """The snapshot in the hub cache, downloaded where it is not there. Raises ModelFault."""
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
    return _downloaded(name, repository, token)


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


def require_files(name: str, folder: Path) -> None:
    """Raises ModelFault."""
    for pattern in _NEEDED:
        if not any(folder.glob(pattern)):
            raise ModelFault(
                f"The model {name!r} is incomplete: its folder has no {pattern}. Convert it to CTranslate2's format with "
                "tokenizer.json beside it, or correct WORKER_MODEL_DIR or WORKER_MODEL."
            )


def shape_of(model: Path) -> ModelShape | None:
    """None for a file that does not tell it: whether it can be used is the library's to say."""
    try:
        with model.open("rb") as file:
            return read_shape(file)
    except (OSError, ValueError) as error:
        log.warning("model_shape_unknown", error=short_error(error))
        return None


def weights_of(model: Path, shape: ModelShape | None, compute_type: str) -> int:
    """Bytes on the device; a compute type of the model's own choice is that of the file."""
    if shape is None or compute_type in ("", "default"):
        return model.stat().st_size
    return weight_bytes(shape, compute_type)


def content_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short_error(error: Exception) -> str:
    """The error's first line, without this host's paths."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"(?<![\w:/])/[^\s'\"]+", "…", line)[:200]
