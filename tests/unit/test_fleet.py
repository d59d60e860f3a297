"""Several engines are as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.worker.__main__ import _berths, _engine
from services.worker.capacity import Gpu
from services.worker.engine.fleet import Fleet, merged
from services.worker.engine.protocol import EngineSettings
from services.worker.settings import WorkerSettings
from services.worker.status import Offer, WorkerStatus
from services.worker.work import (
    AttemptKey,
    Canceled,
    Completed,
    EngineState,
    Failed,
    ModelState,
    Options,
    Report,
    StageChanged,
    Work,
)
from tests.fakes.engine import STATE, FakeEngine, whole_run
from tests.worker import eventually

STARTING = StageChanged("loading", "the engine is starting")
DOWN = EngineState(models=(ModelState("demo", "available"),))
DEADLINE = 10.0


def work(job: str, sound: str = "sound", **options: object) -> Work:
    return Work(AttemptKey(job, 1), Path(sound), Options(**options))  # type: ignore[arg-type]


async def finish(reports: AsyncIterator[Report]) -> list[Report]:
    async with asyncio.timeout(DEADLINE):
        return [report async for report in reports]


class Made:
    """A fleet of two, and its members; jobs wait until they are let go on."""

    def __init__(self, *states: EngineState, slots: int = 2) -> None:
        self.members = [FakeEngine(state) for state in states]
        self.fleet = Fleet([(member, slots) for member in self.members])

    def begin(self, job: str, sound: str = "sound", **options: object) -> AsyncIterator[Report]:
        for member in self.members:
            member.hold(job, [Completed(1.0, 1.0)])
        return self.fleet.run(work(job, sound, **options))

    def end(self, job: str) -> None:
        for member in self.members:
            member.let_all(job)

    def jobs(self) -> list[list[str]]:
        return [[given.key.job_id for given in member.works] for member in self.members]


@pytest.fixture
async def two() -> AsyncIterator[Made]:
    made = Made(STATE, STATE)
    await made.fleet.start()
    yield made
    await made.fleet.stop()


async def test_a_run_goes_to_the_engine_that_has_the_fewest(two: Made) -> None:
    reports = {job: two.begin(job) for job in "abc"}
    assert two.jobs() == [["a", "c"], ["b"]]
    for job in "ac":
        two.end(job)
        assert await finish(reports[job]) == [Completed(1.0, 1.0)]
    reports["d"] = two.begin("d")
    assert two.jobs() == [["a", "c", "d"], ["b"]]
    for job in "bd":
        two.end(job)
        await finish(reports[job])


async def test_a_recording_is_foreseen_by_the_engine_that_its_run_goes_to() -> None:
    made = Made(STATE, STATE, DOWN, slots=1)
    await made.fleet.start()
    running = {name: made.begin(name, sound=name) for name in "ab"}
    ended = "a"
    for coming in "cdef":
        made.fleet.foresee(Path(coming))
        made.fleet.foresee(Path(coming))
        made.end(ended)
        await finish(running.pop(ended))
        running[coming] = made.begin(coming, sound=coming)
        (ended, *_) = running
    assert [member.foreseen for member in made.members] == [[Path("c"), Path("e")], [Path("d"), Path("f")], []]
    assert made.jobs() == [["a", "c", "e"], ["b", "d", "f"], []]
    for job in running:
        made.end(job)
        await finish(running[job])
    await made.fleet.stop()


async def test_a_run_goes_to_the_engine_that_foresaw_its_recording_where_both_are_idle(two: Made) -> None:
    first = two.begin("a")
    two.fleet.foresee(Path("b"))
    two.end("a")
    await finish(first)
    second = two.begin("b", sound="b")
    assert two.jobs() == [["a"], ["b"]]
    two.end("b")
    await finish(second)


async def test_an_engine_that_starts_anew_has_foreseen_nothing(two: Made) -> None:
    for _ in range(2):
        two.fleet.foresee(Path("a"))
    assert [member.foreseen for member in two.members] == [[Path("a")], []]
    for ready in (False, True):
        two.members[0].change(ready=ready)
        await asyncio.sleep(0)
    two.fleet.foresee(Path("a"))
    assert [member.foreseen for member in two.members] == [[Path("a")] * 2, []]


async def test_no_engine_has_more_runs_than_slots(two: Made) -> None:
    async with asyncio.TaskGroup() as group:
        runs = {job: group.create_task(finish(two.begin(job))) for job in "abcde"}
        await asyncio.sleep(0)
        assert two.jobs() == [["a", "c"], ["b", "d"]]
        two.end("b")
        await eventually(lambda: two.jobs() == [["a", "c"], ["b", "d", "e"]])
        for job in "acde":
            two.end(job)
    assert runs["e"].result() == [STARTING, Completed(1.0, 1.0)]


async def test_an_engine_that_is_not_up_gets_no_run_and_one_that_comes_up_does() -> None:
    made = Made(DOWN, STATE, slots=1)
    await made.fleet.start()
    async with asyncio.TaskGroup() as group:
        for job in "ab":
            group.create_task(finish(made.begin(job)))
        await asyncio.sleep(0)
        assert made.jobs() == [[], ["a"]]
        made.members[0].change(ready=True)
        await eventually(lambda: made.jobs() == [["b"], ["a"]])
        for job in "ab":
            made.end(job)
    await made.fleet.stop()


async def test_a_run_that_waits_can_be_canceled_and_ends_with_the_fleet() -> None:
    made = Made(DOWN, DOWN)
    await made.fleet.start()
    async with asyncio.TaskGroup() as group:
        canceled, stopped = (group.create_task(finish(made.begin(job))) for job in "ab")
        await asyncio.sleep(0)
        made.fleet.cancel(AttemptKey("a", 1))
        await eventually(canceled.done)
        assert not stopped.done()
        await made.fleet.stop()
    assert canceled.result() == [STARTING, Canceled()]
    ending = stopped.result()[-1]
    assert isinstance(ending, Failed)
    assert ending.reason == "ENGINE_CRASHED"
    assert made.jobs() == [[], []]


async def test_a_cancel_reaches_the_engine_that_has_the_run(two: Made) -> None:
    reports = two.begin("a"), two.begin("b")
    two.fleet.cancel(AttemptKey("b", 1))
    two.fleet.cancel(AttemptKey("unknown", 1))
    assert await finish(reports[1]) == [Canceled()]
    assert [member.canceled for member in two.members] == [[], [AttemptKey("b", 1)]]
    two.end("a")
    await finish(reports[0])


async def test_a_run_that_its_reader_left_frees_its_place(two: Made) -> None:
    for _ in range(5):
        reports = two.fleet.run(work("a"))
        assert await anext(reports) == whole_run()[0]
        with pytest.raises(ValueError, match="is running"):
            two.fleet.run(work("a"))
        await reports.aclose()  # type: ignore[attr-defined]
    assert two.jobs() == [["a"] * 5, []]


async def test_a_run_goes_where_its_model_and_its_pipeline_are() -> None:
    failed = (ModelState("large", "failed", "why"),)
    made = Made(
        replace(STATE, models=failed, diarization="", diarization_error="why"),
        replace(STATE, models=(ModelState("large", "available"),)),
    )
    await made.fleet.start()
    for job, options in (("a", {"model": "large"}), ("b", {"diarization": True})):
        reports = made.begin(job, **options)
        made.end(job)
        await finish(reports)
    assert made.jobs() == [[], ["a", "b"]]
    await made.fleet.stop()


async def test_every_change_of_a_member_is_one_of_the_fleet(two: Made) -> None:
    seen = two.fleet.state
    async with asyncio.TaskGroup() as group:
        changed = group.create_task(two.fleet.changed(seen))
        await asyncio.sleep(0)
        two.members[1].change(device_name="a GPU")
    assert changed.result().device_name == "a GPU"


async def test_slots_of_a_member_in_trouble_are_none_that_the_worker_offers(two: Made) -> None:
    status = WorkerStatus(Offer("demo", 1), 4, two.fleet.state)
    async with asyncio.TaskGroup() as group:
        following = group.create_task(status.follow(two.fleet))
        two.members[1].change(trouble="no memory")
        await eventually(lambda: status.slots.free == 2)
        assert not status.slots.paused
        two.members[1].change(trouble="")
        await eventually(lambda: status.slots.free == 4)
        following.cancel()


# --- what they are together


def test_all_are_as_ready_as_one_and_in_trouble_only_together() -> None:
    up, down = EngineState(ready=True), EngineState(trouble="no memory")
    assert merged([down, up]) == up
    assert merged([down, down]) == down
    assert not merged([EngineState(), down]).trouble


def test_devices_are_counted() -> None:
    gpu, other = EngineState(True, "cuda", "NVIDIA H100"), EngineState(True, "cuda", "NVIDIA A40")
    assert merged([gpu, gpu]).device_name == "2 × NVIDIA H100"  # noqa: RUF001
    assert merged([gpu, EngineState()]).device_name == "NVIDIA H100"
    assert merged([EngineState(), other, gpu]).device_name == "NVIDIA A40, NVIDIA H100"
    assert merged([EngineState(), gpu]).device == "cuda"


def test_a_model_is_in_its_best_state() -> None:
    names = ("loaded", "loading", "available", "failed")
    states = [EngineState(models=(ModelState("a", name),)) for name in names]
    for better, state in enumerate(states):
        for worse in states[better:]:
            assert merged([worse, state]).models == merged([state, worse]).models == state.models


def test_diarization_is_there_where_one_has_it_and_away_where_all_know_why() -> None:
    has, has_not, unknown = EngineState(diarization="demo"), EngineState(diarization_error="why"), EngineState()
    assert merged([has_not, has]).diarization == "demo"
    assert not merged([has_not, has]).diarization_error
    assert not merged([has_not, unknown]).diarization_error
    assert merged([has_not, has_not]).diarization_error == "why"


# --- how many there are

H100 = Gpu("NVIDIA H100 80GB HBM3", 81559, "GPU-1")
RTX = Gpu("NVIDIA GeForce RTX 3090", 24576, "GPU-2")


@pytest.mark.parametrize(
    ("jobs", "gpus", "expected"),
    [
        ("1", [], [1]),
        ("5", [], [5]),
        ("auto", [], [1]),
        ("1", [H100, RTX], [1]),
        ("5", [H100, RTX], [3, 2]),
        ("auto", [RTX], [2]),
        ("auto", [H100, RTX], [9, 2]),
    ],
)
def test_slots_are_shared_out_among_the_gpus(jobs: str, gpus: list[Gpu], expected: list[int]) -> None:
    settings = WorkerSettings(
        worker_token="a-token",
        worker_max_concurrent_jobs=jobs,
        worker_diarization_model="none",  # type: ignore[arg-type]
    )
    assert _berths(settings, gpus) == expected


@pytest.mark.parametrize(("diarization", "jobs", "warned"), [("none", "2", 0), ("demo", "2", 1), ("demo", "1", 0)])
def test_what_was_asked_for_is_taken_and_short_memory_is_warned_of(diarization: str, jobs: str, warned: int) -> None:
    settings = WorkerSettings(
        worker_token="a-token",
        worker_max_concurrent_jobs=jobs,  # type: ignore[arg-type]
        worker_diarization_model=diarization,
    )
    with capture_logs() as logs:
        assert _berths(settings, [RTX]) == [int(jobs)]
    short = [entry for entry in logs if entry["event"] == "worker_memory_short"]
    assert [(entry["slots"], entry["fitting"]) for entry in short] == [(2, 1)] * warned


@pytest.mark.parametrize(
    ("found", "model", "token", "slots"),
    [
        ("", "large-v3", "", 2),
        ("", "large-v3", "hf_x", 1),
        ("", "demo", "", 1),
        ("token", "large-v3", "", 1),
        ("hub/models--pyannote--speaker-diarization-community-1/refs", "large-v3", "", 1),
    ],
)
def test_no_memory_is_kept_for_a_pipeline_that_nothing_will_give(
    found: str, model: str, token: str, slots: int, tmp_path: Path
) -> None:
    if found:
        (tmp_path / found).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / found).write_text("hf_y")
    settings = WorkerSettings(
        worker_token="a-token",
        worker_max_concurrent_jobs="auto",  # type: ignore[arg-type]
        worker_model=model,
        hf_home=tmp_path,
        hf_token=token,  # type: ignore[arg-type]
    )
    assert _berths(settings, [RTX]) == [slots]


def test_each_gpu_gets_an_engine_that_is_told_which_it_is(tmp_path: Path) -> None:
    told: list[EngineSettings] = []

    def make(settings: EngineSettings) -> FakeEngine:
        told.append(settings)
        return FakeEngine()

    settings = WorkerSettings(worker_token="a-token")  # type: ignore[arg-type]
    assert isinstance(_engine(settings, tmp_path, [H100, RTX], [3, 2], make), Fleet)
    assert [(one.gpu, one.slots) for one in told] == [("GPU-1", 3), ("GPU-2", 2)]
    assert len({one.spool_dir for one in told}) == 2
    assert isinstance(_engine(settings, tmp_path, [H100], [3], make), FakeEngine)
    assert isinstance(_engine(settings, tmp_path, [], [1], make), FakeEngine)
    assert told[-1].gpu == ""
