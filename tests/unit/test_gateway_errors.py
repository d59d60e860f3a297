"""The table of HTTP statuses is total, and answers are made of it."""

from __future__ import annotations

import json

import pytest
from aiohttp import web

from gateway.errors import HTTP_STATUS, error_response, refusal_response
from services.contract.errors import Reason, ServiceError


def test_every_reason_has_a_status() -> None:
    assert set(HTTP_STATUS) == set(Reason)
    assert all(400 <= status < 600 for status in HTTP_STATUS.values())


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_answered(reason: Reason) -> None:
    response = error_response(ServiceError(reason))
    assert response.status == HTTP_STATUS[reason]
    answer = json.loads(response.text or "")
    assert answer["code"] == reason.value
    assert answer["error"]


def test_promised_statuses() -> None:
    promised = {"NOT_FOUND": 404, "CSRF_INVALID": 403, "UNAUTHENTICATED": 401, "CONTROLLER_UNREACHABLE": 503}
    conflicts = dict.fromkeys(("JOB_ENDED", "JOB_NOT_ENDED", "TRANSCRIPT_NOT_READY", "UPLOAD_IN_USE"), 409)
    for code, status in (promised | conflicts).items():
        assert HTTP_STATUS[Reason[code]] == status


def test_a_wrong_method_names_the_right_ones() -> None:
    response = refusal_response(web.HTTPMethodNotAllowed("PUT", ["GET", "POST"]), "PUT")
    assert (response.status, response.headers["Allow"]) == (405, "GET,POST")
    assert "GET, POST" in json.loads(response.text or "")["error"]
