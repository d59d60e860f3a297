"""What is prepared before its job comes: taken by it, or gone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.worker.engine.foresight import MOST_KEPT, Foresight, Manner
from services.worker.pipeline.faults import WorkCanceled, WorkError
from services.worker.pipeline.recording import PreparedRecording
from tests.conditions import until

MANNER = Manner(True, 30.0, False)
OTHER = Manner(True, 30.0, True)
FIRST = Path("first")


class Made:
    """A foresight whose preparations end when they are let: each leaves a file in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.begun: list[tuple[str, Manner]] = []
        self.done: list[str] = []
        self.let = threading.Event()
        self.fault: Exception | None = None
        self.taken = False
        self.foresight = Foresight(self._prepare)

    def _prepare(
        self, source: Path, manner: Manner, check: Callable[[], None], is_taken: Callable[[], bool]
    ) -> PreparedRecording:
        self.begun.append((source.name, manner))
        spool = self.folder / source.name
        spool.touch()
        try:
            while not self.let.wait(0.01):
                check()
                self.taken = is_taken()
            if self.fault is not None:
                raise self.fault
        except Exception:
            spool.unlink()
            raise
        self.done.append(source.name)
        return PreparedRecording(spool, 0, ())

    def spools(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    """One whose first job was there already."""
    one = Made(tmp_path)
    assert one.foresight.take(FIRST, MANNER, nothing) is None
    yield one
    one.let.set()
    one.foresight.close()
    assert one.spools() == [], "something is left of what nobody took"


def nothing() -> None:
    pass


def test_a_job_gets_what_was_prepared_for_it(made: Made) -> None:
    made.let.set()
    made.foresight.foresee(Path("a"))
    until(made.spools)
    taken = made.foresight.take(Path("a"), MANNER, nothing)
    assert taken is not None
    assert taken.spool.name == "a"
    assert made.foresight.take(Path("a"), MANNER, nothing) is None, "it is the first job's alone"
    made.foresight.clear()
    assert made.spools() == ["a"]
    taken.close()


def test_a_job_waits_for_what_is_being_prepared(made: Made) -> None:
    made.foresight.foresee(Path("a"))
    until(made.spools)
    assert not made.taken

    def check() -> None:
        if made.taken:
            made.let.set()

    taken = made.foresight.take(Path("a"), MANNER, check)
    assert taken is not None
    assert made.begun == [("a", MANNER)]
    taken.close()


def test_before_the_first_job_nobody_knows_how(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.let.set()
    for name in ("old", "a", "first"):
        made.foresight.foresee(Path(name))
    assert made.begun == []
    assert made.foresight.take(FIRST, OTHER, nothing) is None
    until(made.spools)
    assert made.begun == [("a", OTHER)]
    made.foresight.close()
    assert made.spools() == []


def test_a_job_of_another_manner_prepares_it_itself(made: Made) -> None:
    made.let.set()
    made.foresight.foresee(Path("a"))
    until(made.spools)
    assert made.foresight.take(Path("a"), OTHER, nothing) is None
    until(lambda: not made.spools())
    made.foresight.foresee(Path("b"))
    until(lambda: made.begun[-1] == ("b", OTHER))


def test_what_is_foreseen_twice_is_prepared_once(made: Made) -> None:
    for _ in range(3):
        made.foresight.foresee(Path("a"))
    made.let.set()
    until(made.spools)
    made.foresight.foresee(Path("a"))
    made.foresight.close()
    assert made.begun == [("a", MANNER)]


def test_a_job_that_is_canceled_gives_it_up(made: Made) -> None:
    made.foresight.foresee(Path("a"))
    until(made.spools)

    def canceled() -> None:
        raise WorkCanceled

    with pytest.raises(WorkCanceled):
        made.foresight.take(Path("a"), MANNER, canceled)
    until(lambda: not made.spools())


@pytest.mark.parametrize("fault", [WorkError("AUDIO_INVALID", "No."), TimeoutError(), RuntimeError("oh")])
def test_what_came_to_nothing_is_left_to_the_job(made: Made, fault: Exception) -> None:
    made.fault = fault
    with capture_logs() as logs:
        made.foresight.foresee(Path("a"))
        until(made.spools)
        made.let.set()
        assert made.foresight.take(Path("a"), MANNER, nothing) is None
    assert [line["event"] for line in logs] == ["recording_not_foreseen"]
    made.fault = None
    made.foresight.foresee(Path("a"))
    until(lambda: made.done == ["a"])


def test_a_job_does_not_wait_behind_others_that_may_come(made: Made) -> None:
    made.foresight.foresee(Path("lengthy"))
    until(made.spools)
    made.foresight.foresee(Path("a"))
    assert made.foresight.take(Path("a"), MANNER, nothing) is None
    made.let.set()
    made.foresight.close()
    assert made.begun == [("lengthy", MANNER)]


def test_the_oldest_make_room_for_others(made: Made) -> None:
    made.let.set()
    names = [f"{number}" for number in range(MOST_KEPT + 2)]
    for name in names:
        made.foresight.foresee(Path(name))
        until(lambda: name in made.spools())  # noqa: B023 - called at once
    until(lambda: made.spools() == names[-MOST_KEPT:])


def test_what_is_being_prepared_goes_on_where_many_others_come(made: Made) -> None:
    made.foresight.foresee(Path("begun"))
    until(made.spools)
    for number in range(4):
        made.foresight.foresee(Path(f"{number}"))
    made.let.set()
    until(lambda: made.done == ["begun", "3"])
    until(lambda: made.spools() == ["3", "begun"])


def test_what_is_not_done_gives_way_to_a_job(made: Made) -> None:
    made.let.set()
    made.foresight.foresee(Path("done"))
    until(lambda: made.done == ["done"])
    made.let.clear()
    made.foresight.foresee(Path("begun"))
    until(lambda: "begun" in made.spools())
    made.foresight.give_way(lambda source: source == Path("begun"))
    assert "begun" in made.spools()
    made.foresight.give_way(lambda source: False)
    until(lambda: made.spools() == ["done"])
    made.foresight.clear()
    until(lambda: not made.spools())
