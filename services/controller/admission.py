"""Whether a job can be taken: what the workers that are known offer, and what the mode makes of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.contract.errors import Reason, ServiceError
from services.contract.languages import LANGUAGES
from services.contract.limits import MEGABYTE
from services.controller.jobs import ExecutionMode, Options, Recording
from services.controller.settings import Mode
from services.controller.workers import Capacity


def execution_mode(mode: Mode, options: Options) -> ExecutionMode:
    if mode == "required" or (mode == "optional" and options.use_remote_worker):
        return ExecutionMode.REMOTE
    return ExecutionMode.LOCAL


def check_options(options: Options, capacities: Sequence[Capacity | None]) -> None:
    """``capacities`` are of all workers that might run it; None of one that was never heard: wait and see what it has.

    Raises ServiceError (MODEL_UNKNOWN, LANGUAGE_UNSUPPORTED, INVALID_REQUEST).
    """
    if options.min_speakers and options.max_speakers and options.min_speakers > options.max_speakers:
        raise ServiceError(Reason.INVALID_REQUEST, "minSpeakers is larger than maxSpeakers.")
    if options.language and options.language not in LANGUAGES:
        raise ServiceError(
            Reason.LANGUAGE_UNSUPPORTED,
            f"The language {options.language!r} is not known; give a code such as en, or none.",
        )
    heard = [capacity for capacity in capacities if capacity is not None]
    if heard:
        _check_model(options, heard, all_are_heard=len(heard) == len(capacities))


def check_diarization(options: Options, capacities: Sequence[Capacity | None]) -> None:
    """``capacities`` as above; one that was never heard may be able to, as one that only just starts may, and has no error
    yet.

    Raises ServiceError(DIARIZATION_UNAVAILABLE) when nobody can ever tell its speakers apart. Channels need no model.
    """
    able = [each for each in capacities if each is None or not options.model or _offers(each, options.model)]
    errors = [capacity.diarization_error if capacity is not None else "" for capacity in able]
    if options.diarizes_voices and errors and all(errors):
        who = "No worker" if len(able) == len(capacities) else f"No worker with the model {options.model!r}"
        raise ServiceError(
            Reason.DIARIZATION_UNAVAILABLE, f"{who} can tell speakers apart. {' '.join(dict.fromkeys(errors))}"
        )


def check_recording(recording: Recording, capacities: Iterable[Capacity | None]) -> None:
    """``capacities`` as above. Raises ServiceError(FILE_TOO_LARGE) when every worker would refuse it."""
    limits = [capacity.max_file_bytes if capacity is not None else 0 for capacity in capacities]
    largest = max(limits, default=0) if all(limits) else 0
    if largest and recording.size_bytes > largest:
        raise ServiceError(
            Reason.FILE_TOO_LARGE,
            f"{recording.filename!r} has {recording.size_bytes:,} bytes, and a worker takes {largest:,} at most "
            f"({largest // MEGABYTE} MB). Split it, or raise WORKER_MAX_FILE_MB.",
        )


def _offers(capacity: Capacity, model: str) -> bool:
    return any(each.name == model for each in capacity.models)


def _check_model(options: Options, capacities: Sequence[Capacity], all_are_heard: bool) -> None:
    offered = {model.name: model for capacity in capacities for model in capacity.models}
    if options.model and options.model not in offered and all_are_heard:
        raise ServiceError(
            Reason.MODEL_UNKNOWN,
            f"No worker offers the model {options.model!r}. Offered are: {', '.join(sorted(offered)) or 'none'}.",
        )
    for name in [options.model] if options.model else [capacity.default_model for capacity in capacities]:
        known = offered[name].languages if name in offered else ()
        if options.language and known and options.language not in known:
            raise ServiceError(
                Reason.LANGUAGE_UNSUPPORTED,
                f"The model {name!r} does not know the language {options.language!r}, only: {', '.join(known)}.",
            )
