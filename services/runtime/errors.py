"""ServiceError to a gRPC status with google.rpc.ErrorInfo, and back."""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from services.contract.errors import ERROR_DOMAIN, Reason, ServiceError


def status_of(error: ServiceError) -> status_pb2.Status:
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=error.reason.value, domain=ERROR_DOMAIN))
    return status_pb2.Status(code=error.code.value[0], message=error.message, details=[detail])


def service_error(error: grpc.aio.AioRpcError, unreachable: Reason) -> ServiceError:
    """What a failed call means. Without our ErrorInfo it is told by the code.

    ``unreachable`` is the reason to give when the peer could not be talked to: a black-holed peer gives
    DEADLINE_EXCEEDED, a refused connection UNAVAILABLE, a reset stream sometimes INTERNAL or UNKNOWN.
    """
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # has all that is asked of a Call
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == ERROR_DOMAIN and info.reason in Reason.__members__:
            return ServiceError(Reason[info.reason], error.details() or "")
    if error.code() is grpc.StatusCode.UNAUTHENTICATED:
        return ServiceError(Reason.UNAUTHENTICATED, error.details() or "")
    if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
        return ServiceError(Reason.INVALID_REQUEST, error.details() or "")
    return ServiceError(unreachable)
