"""Sessions without a server: signatures and what they protect."""

from __future__ import annotations

import pytest

from gateway.sessions import Sessions


def test_a_cookie_is_known_again() -> None:
    sessions = Sessions()
    session = sessions.new()
    assert sessions.known(session.cookie) == session


def test_sessions_differ() -> None:
    first, second = Sessions("key").new(), Sessions("key").new()
    assert len({first.cookie, second.cookie}) == len({first.csrf_token, second.csrf_token}) == 2
    assert first.owner != second.owner


def test_the_same_key_knows_the_same_sessions() -> None:
    session = Sessions("any string").new()
    assert Sessions("any string").known(session.cookie) == session
    assert Sessions("another").known(session.cookie) is None
    assert Sessions().known(session.cookie) is None


@pytest.mark.parametrize("cookie", [None, "", "x", "x.y", ".", "\ud800", "é.é"])
def test_what_is_no_cookie(cookie: str | None) -> None:
    assert Sessions("key").known(cookie) is None


def test_a_changed_cookie_is_not_known() -> None:
    sessions = Sessions("key")
    cookie = sessions.new().cookie
    assert sessions.known("A" + cookie[1:] if cookie[0] != "A" else "B" + cookie[1:]) is None


def test_the_csrf_token_does_not_tell_the_cookie() -> None:
    session = Sessions("key").new()
    signed_id, _, signature = session.cookie.rpartition(".")
    assert session.csrf_token != signature
    assert signed_id not in session.csrf_token
    assert signed_id not in session.owner
