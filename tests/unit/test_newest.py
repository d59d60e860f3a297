"""What a store remembers of its writes: never anything else than what a query would tell."""

from __future__ import annotations

from services.controller.store.newest import Newest


def known(most: int = 3, **values: int) -> Newest[str, int]:
    newest = Newest[str, int](most)
    for key, value in values.items():
        newest.written(newest.writing(key), value)
    return newest


def test_what_was_written_is_known() -> None:
    newest = known(a=1, b=2)
    assert (newest.get("a"), newest.get("b"), newest.get("c")) == (1, 2, None)


def test_what_is_being_written_is_not_known_until_it_is() -> None:
    newest = known(a=1)
    write = newest.writing("a")
    assert newest.get("a") is None
    newest.written(write, 2)
    assert newest.get("a") == 2


def test_a_write_that_failed_or_a_removal_leaves_nothing() -> None:
    newest = known(a=1)
    newest.writing("a")
    assert newest.get("a") is None


def test_a_write_that_was_overtaken_says_nothing() -> None:
    """It reached the database, but so may have the other one, of which nobody hears when it is canceled."""
    newest = known()
    first = newest.writing("a")
    second = newest.writing("a")
    newest.written(first, 1)
    assert newest.get("a") is None
    newest.written(second, 2)
    assert newest.get("a") == 2
    newest.written(first, 1)
    assert newest.get("a") == 2


def test_what_was_used_last_is_kept() -> None:
    newest = known(3, a=1, b=2, c=3)
    newest.get("a")
    newest.written(newest.writing("d"), 4)
    assert [newest.get(key) for key in "abcd"] == [1, None, 3, 4]


def test_a_write_that_fell_out_is_forgotten() -> None:
    newest = known(1)
    write = newest.writing("a")
    newest.writing("b")
    newest.written(write, 1)
    assert newest.get("a") is None


def test_none_may_be_known() -> None:
    assert known(0, a=1).get("a") is None
