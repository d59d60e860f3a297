"""What is refused before it waits: modes, models, languages and sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.contract.errors import Reason, ServiceError
from services.controller.admission import check_diarization, check_options, check_recording, execution_mode
from services.controller.jobs import ExecutionMode, Options, Recording, UploadId
from services.controller.settings import Mode
from services.controller.workers import Capacity, WorkerModel

MB = 1024 * 1024


def capacity(*models: WorkerModel, default: str = "demo", max_mb: int = 10) -> Capacity:
    return Capacity(1, "i", 1, 1, False, "0.1.0", False, "", models, default, "", max_mb * MB)


def lacking(error: str) -> Capacity:
    """A worker without a diarization model."""
    return replace(DEMO, diarization_error=error)


def model(name: str, *languages: str, state: str = "loaded") -> WorkerModel:
    return WorkerModel(name, state, "", languages)


def recording(size_bytes: int) -> Recording:
    return Recording(UploadId("u"), "long talk.mp3", "0" * 64, size_bytes, 60.0)


DEMO = capacity(model("demo", "en"))
LARGE = capacity(model("large-v3"), model("turbo", "de", "en"), default="large-v3", max_mb=2000)


def refused(options: Options, *capacities: Capacity) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        check_options(options, capacities)
    return caught.value


@pytest.mark.parametrize(
    ("mode", "asked", "expected"),
    [
        ("off", False, ExecutionMode.LOCAL),
        ("off", True, ExecutionMode.LOCAL),
        ("optional", False, ExecutionMode.LOCAL),
        ("optional", True, ExecutionMode.REMOTE),
        ("required", False, ExecutionMode.REMOTE),
        ("required", True, ExecutionMode.REMOTE),
    ],
)
def test_the_mode_decides_and_optional_leaves_it_to_the_job(mode: Mode, asked: bool, expected: ExecutionMode) -> None:
    assert execution_mode(mode, Options(use_remote_worker=asked)) is expected


@pytest.mark.parametrize("name", ["", "demo", "large-v3", "turbo"])
def test_a_model_that_some_worker_offers_is_taken(name: str) -> None:
    check_options(Options(model=name), [DEMO, LARGE])


def test_an_unknown_model_is_refused_with_those_that_are_offered() -> None:
    error = refused(Options(model="large-v9"), DEMO, LARGE)
    assert error.reason is Reason.MODEL_UNKNOWN
    assert error.message == "No worker offers the model 'large-v9'. Offered are: demo, large-v3, turbo."


def test_workers_that_offer_no_model_at_all_say_so() -> None:
    error = refused(Options(model="demo"), capacity())
    assert error.reason is Reason.MODEL_UNKNOWN
    assert error.message.endswith("Offered are: none.")


def test_a_model_that_failed_to_load_is_known_still() -> None:
    check_options(Options(model="turbo"), [capacity(model("turbo", state="failed"))])


def test_before_any_worker_was_heard_every_model_and_size_may_be_right() -> None:
    check_options(Options(model="large-v9", language="de"), [])
    check_recording(recording(10**15), [])


def test_what_none_that_was_heard_has_another_may_have_that_was_never_heard() -> None:
    check_options(Options(model="large-v9", language="de"), [DEMO, None])
    check_recording(recording(10**15), [DEMO, None])
    with pytest.raises(ServiceError):
        check_options(Options(model="demo", language="de"), [DEMO, None])  # of what is known something is known


def test_a_language_that_no_model_knows_is_refused_even_then() -> None:
    for language in ("xx", "EN", "english", "de-AT"):
        error = refused(Options(language=language))
        assert error.reason is Reason.LANGUAGE_UNSUPPORTED
        assert repr(language) in error.message


def test_a_language_that_the_model_does_not_know_is_refused_with_those_that_it_does() -> None:
    error = refused(Options(model="turbo", language="fr"), DEMO, LARGE)
    assert error.reason is Reason.LANGUAGE_UNSUPPORTED
    assert error.message == "The model 'turbo' does not know the language 'fr', only: de, en."
    check_options(Options(model="turbo", language="de"), [DEMO, LARGE])


def test_a_job_without_a_model_is_checked_against_the_workers_default() -> None:
    error = refused(Options(language="de"), DEMO)
    assert error.reason is Reason.LANGUAGE_UNSUPPORTED
    assert "'demo'" in error.message
    check_options(Options(language="en"), [DEMO])
    check_options(Options(language="de"), [capacity(model("demo", "en"), default="gone")])


def test_a_model_whose_languages_are_not_known_yet_may_know_any() -> None:
    check_options(Options(model="large-v3", language="yue"), [LARGE])
    check_options(Options(language="haw"), [LARGE])


def test_no_language_means_that_it_is_detected() -> None:
    check_options(Options(model="demo"), [DEMO])


@pytest.mark.parametrize(("low", "high"), [(None, None), (2, None), (None, 1), (2, 2), (1, 4)])
def test_numbers_of_speakers_that_can_be(low: int | None, high: int | None) -> None:
    check_options(Options(min_speakers=low, max_speakers=high), [DEMO])


def test_more_speakers_at_least_than_at_most_cannot_be() -> None:
    error = refused(Options(min_speakers=3, max_speakers=2))
    assert error.reason is Reason.INVALID_REQUEST
    assert "minSpeakers" in error.message
    assert "maxSpeakers" in error.message


def test_a_recording_is_taken_up_to_the_limit_of_the_worker_that_takes_most() -> None:
    check_recording(recording(10 * MB), [DEMO])
    check_recording(recording(2000 * MB), [DEMO, LARGE])
    with pytest.raises(ServiceError) as caught:
        check_recording(recording(2001 * MB), [LARGE, DEMO])
    assert caught.value.reason is Reason.FILE_TOO_LARGE
    assert "'long talk.mp3' has 2,098,200,576 bytes" in caught.value.message
    assert "2,097,152,000 at most (2000 MB)" in caught.value.message
    assert "WORKER_MAX_FILE_MB" in caught.value.message


def test_one_byte_over_the_limit_is_too_much() -> None:
    with pytest.raises(ServiceError) as caught:
        check_recording(recording(10 * MB + 1), [DEMO])
    assert caught.value.reason is Reason.FILE_TOO_LARGE


def test_a_worker_that_states_no_limit_refuses_nothing_here() -> None:
    check_recording(recording(10**15), [capacity(max_mb=0)])


def test_diarization_is_refused_where_every_worker_says_why_it_has_none() -> None:
    with pytest.raises(ServiceError) as caught:
        check_diarization(
            Options(diarization=True), [lacking("It is off."), lacking("No token."), lacking("It is off.")]
        )
    assert caught.value.reason is Reason.DIARIZATION_UNAVAILABLE
    assert caught.value.message == "No worker can tell speakers apart. It is off. No token."


@pytest.mark.parametrize(
    "others", [[], [None], [replace(DEMO, diarization="demo")], [DEMO]], ids=["none", "never heard", "has it", "starts"]
)
def test_diarization_waits_for_a_worker_that_has_it_or_may_have_it_soon(others: list[Capacity | None]) -> None:
    known = [lacking("HF_TOKEN is not set.")] if others else []
    check_diarization(Options(diarization=True), [*known, *others])


def test_diarization_is_refused_where_those_who_have_it_lack_the_model() -> None:
    able, other = replace(DEMO, diarization="demo"), replace(LARGE, diarization_error="It is off.")
    check_diarization(Options(diarization=True, model="demo"), [able, other])
    check_diarization(Options(diarization=True, model="large-v3"), [able, other, None])
    with pytest.raises(ServiceError) as caught:
        check_diarization(Options(diarization=True, model="large-v3"), [able, other])
    assert caught.value.message == "No worker with the model 'large-v3' can tell speakers apart. It is off."


@pytest.mark.parametrize("options", [Options(), Options(diarization=True, speaker_per_channel=True)])
def test_what_may_need_no_diarization_model_is_taken_without(options: Options) -> None:
    check_diarization(options, [lacking("HF_TOKEN is not set.")])
