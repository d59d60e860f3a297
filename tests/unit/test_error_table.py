"""The table of errors is whole, says what to do, and goes over the wire and back."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from services.contract.errors import ERROR_DOMAIN, ERRORS, Reason, ServiceError
from services.contract.metadata import ERROR_DETAILS
from services.runtime.errors import service_error, status_of

NO_METADATA = grpc.aio.Metadata()


def test_every_reason_is_in_the_table_and_named_by_its_value() -> None:
    assert set(ERRORS) == set(Reason)
    assert all(reason.name == reason.value for reason in Reason)


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.value)
def test_every_entry_says_what_it_means_and_what_to_do(reason: Reason) -> None:
    entry = ERRORS[reason]
    assert entry.code is not grpc.StatusCode.OK
    for said in (entry.meaning, entry.action):
        assert said == said.strip()
        assert said[0].isupper()
        assert said[-1] not in ".!"


@pytest.mark.parametrize(
    ("code", "meaning", "action"),
    [
        ("REMOTE_WORKER_UNAUTHORIZED", "Token mismatch", "Check `REMOTE_WORKER_TOKEN` matches"),
        (
            "REMOTE_WORKER_UNREACHABLE",
            "Worker temporarily unreachable",
            "Job stays queued; wait for recovery or cancel",
        ),
        ("REMOTE_WORKER_TIMEOUT", "", "or check worker health"),
        ("REMOTE_WORKER_CAPACITY", "Timed out waiting for capacity", "Reduce batch size"),
        ("REMOTE_DISPATCH_FAILED", "Failed to create job on worker", "Check worker logs"),
        ("REMOTE_FAILED", "Worker reported job failure", "Check worker logs for details"),
        ("USER_CANCELED", "User canceled the job", "No action needed"),
    ],
)
def test_the_codes_of_the_operations_guide_have_its_words(code: str, meaning: str, action: str) -> None:
    entry = ERRORS[Reason(code)]
    assert meaning in ("", entry.meaning)
    assert action in entry.action


@pytest.mark.parametrize(
    ("code", "variable"),
    [
        ("REMOTE_WORKER_TIMEOUT", "REMOTE_WORKER_TIMEOUT_SECONDS"),
        ("REMOTE_WORKER_CAPACITY", "REMOTE_WORKER_CAPACITY_TIMEOUT_SECONDS"),
    ],
)
def test_the_two_timeouts_name_the_variable_that_each_of_them_is_set_by(code: str, variable: str) -> None:
    assert f"`{variable}`" in ERRORS[Reason(code)].action


def test_what_waits_for_a_worker_may_be_tried_again_and_what_a_user_must_change_may_not() -> None:
    again = {reason for reason in Reason if ERRORS[reason].retryable}
    assert {Reason.REMOTE_WORKER_UNREACHABLE, Reason.WORKER_FULL, Reason.WORKER_DRAINING, Reason.UPLOAD_BUSY} <= again
    final = {Reason.MODEL_UNKNOWN, Reason.AUDIO_INVALID, Reason.JOB_ENDED, Reason.USER_CANCELED, Reason.INVALID_REQUEST}
    assert not final & again


def test_an_error_without_a_message_says_what_the_table_says() -> None:
    error = ServiceError(Reason.STORAGE_FULL)
    assert error.message == str(error) == "The disk is full. Free some room; nothing was lost."
    assert (error.code, error.retryable) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
    assert ServiceError(Reason.STORAGE_FULL, "Only this.").message == "Only this."


# --- over the wire: what a failed call carries, without a server in between


def call_error(status: status_pb2.Status) -> grpc.aio.AioRpcError:
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    trailing = grpc.aio.Metadata((ERROR_DETAILS, status.SerializeToString()))
    return grpc.aio.AioRpcError(code, NO_METADATA, trailing, status.message)


def bare_error(code: grpc.StatusCode, details: str | None = "said") -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, NO_METADATA, NO_METADATA, details)


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.value)
def test_every_reason_comes_back_with_its_message(reason: Reason) -> None:
    sent = ServiceError(reason, "Was ist los? 🎧")
    status = status_of(sent)
    assert status.code == ERRORS[reason].code.value[0]
    received = service_error(call_error(status), Reason.REMOTE_WORKER_UNREACHABLE)
    assert (received.reason, received.message) == (reason, sent.message)


def with_info(reason: str, domain: str) -> grpc.aio.AioRpcError:
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain))
    return call_error(status_pb2.Status(code=grpc.StatusCode.ABORTED.value[0], message="said", details=[detail]))


@pytest.mark.parametrize(
    ("reason", "domain"), [("NOT_FOUND", "googleapis.com"), ("OF_A_NEWER_VERSION", ERROR_DOMAIN), ("", ERROR_DOMAIN)]
)
def test_somebody_elses_reason_and_one_that_is_not_known_are_not_taken_for_ours(reason: str, domain: str) -> None:
    received = service_error(with_info(reason, domain), Reason.CONTROLLER_UNREACHABLE)
    assert received.reason is Reason.CONTROLLER_UNREACHABLE


def test_our_reason_is_found_behind_other_details() -> None:
    status = status_of(ServiceError(Reason.ATTEMPT_STALE, "said"))
    other = any_pb2.Any()
    other.Pack(error_details_pb2.RetryInfo())
    status.details.insert(0, other)
    assert service_error(call_error(status), Reason.INTERNAL).reason is Reason.ATTEMPT_STALE


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, Reason.UNAUTHENTICATED),
        (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_REQUEST),
        (grpc.StatusCode.UNAVAILABLE, Reason.CONTROLLER_UNREACHABLE),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Reason.CONTROLLER_UNREACHABLE),
        (grpc.StatusCode.INTERNAL, Reason.CONTROLLER_UNREACHABLE),
        (grpc.StatusCode.UNKNOWN, Reason.CONTROLLER_UNREACHABLE),
    ],
)
def test_without_details_the_code_tells(code: grpc.StatusCode, reason: Reason) -> None:
    assert service_error(bare_error(code), Reason.CONTROLLER_UNREACHABLE).reason is reason


def test_a_peer_that_cannot_be_talked_to_is_described_by_the_table_and_not_by_grpc() -> None:
    error = bare_error(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; ipv4:127.0.0.1:9")
    assert service_error(error, Reason.CONTROLLER_UNREACHABLE).message.startswith("The controller does not answer.")


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT])
def test_a_refusal_without_words_still_has_some(code: grpc.StatusCode) -> None:
    assert service_error(bare_error(code, None), Reason.INTERNAL).message
    assert service_error(bare_error(code, "said"), Reason.INTERNAL).message == "said"
