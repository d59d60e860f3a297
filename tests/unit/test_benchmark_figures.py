"""What benchmarks make of their measurements: medians and percentiles, bounds, a card's roofline, what was missing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.accuracy_sets import figures as accuracy_figures
from benchmarks.corpus import Spoken, write_recording
from benchmarks.degraded import silence
from benchmarks.engine.arms import Done
from benchmarks.engine.beside import figures as beside_figures
from benchmarks.engine.compare import (
    ALONE,
    BATCHED,
    IN_THREADS,
    SEQUENTIAL,
    SYSTEM,
    Model,
    Results,
    differing,
    figures,
    rounds,
)
from benchmarks.engine.process_tree import Peaks, Process, cpu_by_label, cpu_seconds, descendants, label
from benchmarks.engine.sets import Set
from benchmarks.gpu import more_files
from benchmarks.gpu.device import Busy
from benchmarks.gpu.measure import Watched
from benchmarks.gpu.measure import figures as gpu_figures
from benchmarks.gpu.roofline import CARDS, card_of, peak_speed
from benchmarks.gpu.speakers import together_figures
from benchmarks.random_model import SHAPES
from benchmarks.report import Figure, NotMeasured
from benchmarks.scoring import ErrorRate
from benchmarks.spread import Spread, percentile, ratios, spread


def test_a_spread_has_the_median_and_both_ends() -> None:
    assert spread([5.0, 1.0, 3.0]) == Spread(3.0, 1.0, 5.0)
    assert spread([4.0, 2.0]) == Spread(3.0, 2.0, 4.0)
    with pytest.raises(ValueError, match="nothing was measured"):
        spread([])


def test_ratios_are_of_the_same_round() -> None:
    assert ratios([2.0, 40.0, 3.0], [4.0, 20.0, 3.0]) == Spread(1.0, 0.5, 2.0)
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 10), (0.95, 19), (0.951, 20), (1.0, 20)])
def test_a_percentile_is_a_value_that_was_measured(share: float, expected: int) -> None:
    assert percentile(range(20, 0, -1), share) == expected


def test_a_figure_may_have_two_bounds() -> None:
    held = Figure("wall time", 1.05, "ratio", at_most=1.1, at_least=1.0)
    assert held.reached
    assert held.bound == "at least 1, at most 1.1"
    assert not Figure("wall time", 0.99, "ratio", at_most=1.1, at_least=1.0).reached
    assert Figure("wall time", 2.0, "s", least=1.5, most=2.5).shown == "2.000 (1.500 to 2.500)"


def test_the_roofline_of_large_v3_on_an_h200_is_about_3100_times_real_time() -> None:
    assert peak_speed(SHAPES["large-v3"], CARDS["H200"], tokens=120, beams=5) == pytest.approx(3100, rel=0.05)
    assert card_of("NVIDIA H200") is CARDS["H200"]
    assert card_of("NVIDIA H100 80GB HBM3") is CARDS["H100"]
    assert card_of("GeForce") is None


def test_a_model_with_fewer_decoder_layers_has_a_higher_roof() -> None:
    speeds = [peak_speed(SHAPES[name], CARDS["H200"], 120, 5) for name in ("large-v3", "turbo", "tiny")]
    assert speeds == sorted(speeds)


def test_lines_of_the_driver_that_are_none_are_passed_over() -> None:
    busy = Busy()
    busy.add(["97, 20480\n", "3, 100", "[N/A], 5", "12", ""])
    assert busy.mean == 50.0
    assert busy.memory == [20480.0, 100.0]
    assert Busy().mean is None


class Named:
    """An arm that only has a name: what it did is given."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def warm_up(self, files: Sequence[Path]) -> None:
        pass

    async def run(self, recordings: Set) -> Done:
        return Done(0.0, {})


def test_what_a_gpu_is_to_reach_is_told_by_speeds_not_by_times(tmp_path: Path) -> None:
    recordings = Set("long", tmp_path, (Spoken("a.wav", 600.0, "one"), Spoken("b.wav", 600.0, "two")))
    half, whole = {"a.wav": "one"}, {"a.wav": "one", "b.wav": "two"}
    results = Results(
        {
            "stock batched, 8": [Done(10.0, half)],  # 60 times real time
            "stock batched, 16": [Done(6.0, half)],  # 100
            IN_THREADS: [Done(1.0, half)],
            SYSTEM: [Done(2.0, whole, windows=40)],  # 600
            ALONE: [Done(0.5, half, windows=15)],  # 1,200, and 900 of windows
        }
    )
    arms = [Watched(Named(name), None, None) for name in results.rounds]
    found = {of.name: of for of in gpu_figures("here", results, arms, recordings, SHAPES["large-v3"], "NVIDIA H200")}
    over_stock = found["here, system over the best stock batched"]
    over_alone = found["here, system over engine alone"]
    over_roofline = found["here, engine alone over the roofline"]
    assert (over_stock.value, over_stock.reached) == (6.0, True)
    assert (over_alone.value, over_alone.reached) == (0.5, False)
    assert over_roofline.value == 900 / found["here, roofline at these tokens a window"].value


def test_many_files_are_to_be_as_fast_as_few(tmp_path: Path) -> None:
    few, many = (
        Set("long", tmp_path, tuple(Spoken(f"{n}.wav", 1200.0, "") for n in range(count))) for count in (2, 20)
    )
    for seconds, reached in ((105.0, True), (106.0, False)):
        left = more_files.figures("here", few, [9.0, 11.25], many, seconds)[-1]
        assert left.value == pytest.approx(100.0 / seconds)
        assert left.reached == reached


@pytest.mark.parametrize(
    ("files", "card", "reached"), [(48, "NVIDIA H200", False), (48, "NVIDIA L4", True), (47, "NVIDIA H200", True)]
)
def test_the_goal_for_words_and_speakers_is_for_its_card_and_batch(
    tmp_path: Path, files: int, card: str, reached: bool
) -> None:
    recordings = Set("long", tmp_path, tuple(Spoken(f"{n}.wav", 1200.0, "") for n in range(files)))
    times = {"words": [50.0, 60.0], "words and speakers": [125.0, 126.0]}
    made = {figure.name: figure for figure in together_figures("here", times, recordings, card)}
    assert made["here, words and speakers"].reached == reached
    assert made["here, words and speakers over words"].value == (2.5 + 2.1) / 2


def test_processes_are_told_apart_by_what_they_run() -> None:
    assert (
        label([b"/venv/bin/python", b"-m", b"services.worker.engine", b"--fd", b"5", b""]) == "services.worker.engine"
    )
    assert label([b"python", b"-c", b"from multiprocessing.spawn import spawn_main"]) == "multiprocessing"
    assert label([b"/usr/bin/sleep", b"5"]) == "sleep"


def test_peaks_are_the_highest_of_each_label_and_of_all_at_one_time() -> None:
    first = Process(1, 0, "worker", 10.0, 30.0)
    second, third = Process(2, 1, "prep", 20.0, 20.0), Process(3, 2, "prep", 5.0, 50.0)
    assert {one.pid for one in descendants(1, {one.pid: one for one in (first, second, third)})} == {1, 2, 3}
    peaks = Peaks()
    peaks.add({"worker": [first], "prep": [second, third]})
    peaks.add({"worker": [first]})
    assert peaks.by_label == {"worker": 30.0, "prep": 50.0}
    assert peaks.together == 35.0


def test_cpu_time_is_told_of_each_process(recordings: Set) -> None:
    before = cpu_by_label({"tests": os.getpid()})
    while cpu_seconds(os.getpid()) < before["tests"] + 0.05:
        sum(range(10_000))
    assert cpu_by_label({"tests": os.getpid()})["tests"] > before["tests"] > 0
    done = [Done(1.0, {"one.wav": "good morning"}, cpu={"engine": seconds}) for seconds in (3.0, 1.0, 2.0)]
    made = {
        figure.name: figure
        for figure in figures(Results({SYSTEM: done}), recordings, Model("demo", Path(), True), None)
    }
    spent = made[f"{SYSTEM}, CPU time of engine"]
    assert (spent.value, spent.least, spent.most, spent.unit) == (2.0, 1.0, 3.0, "s")


def test_small_jobs_are_held_to_twice_their_latency_and_to_have_had_company() -> None:
    by_name = {figure.name: figure for figure in beside_figures([1.0] * 20, [1.5] * 19 + [9.0], fewest=3, enough=3)}
    assert by_name["95th percentile, beside over alone"].value == 1.5
    assert all(figure.reached for figure in by_name.values())
    late = beside_figures([1.0] * 20, [1.5] * 18 + [9.0] * 2, fewest=2, enough=3)
    assert [figure.name for figure in late if not figure.reached] == [
        "95th percentile, beside over alone",
        "huge jobs still at their side, fewest",
    ]


class FakeArm:
    """Takes the given seconds, round by round; says what it was asked for in ``asked``."""

    def __init__(self, name: str, seconds: Sequence[float], asked: list[str], texts: Sequence[str] = ()) -> None:
        self.name = name
        self._seconds = iter(seconds)
        self._texts = iter(texts)
        self._asked = asked

    async def warm_up(self, files: Sequence[Path]) -> None:
        self._asked.append(f"warm {self.name}")

    async def run(self, recordings: Set) -> Done:
        self._asked.append(self.name)
        return Done(next(self._seconds), {"one.wav": next(self._texts, "good morning")}, windows=1)


class MissingArm(FakeArm):
    async def warm_up(self, files: Sequence[Path]) -> None:
        raise NotMeasured("there is none")


@pytest.fixture
def recordings(tmp_path: Path) -> Set:
    return Set("one", tmp_path, (write_recording(tmp_path / "one.wav", silence(1.0), "good morning"),))


async def test_arms_take_turns_and_each_round_begins_with_another(recordings: Set) -> None:
    asked: list[str] = []
    arms = [FakeArm(name, [1.0] * 3, asked) for name in ("a", "b")]
    await rounds([*arms, MissingArm("c", [], asked)], recordings, 3)
    assert asked == ["warm a", "warm b", "a", "b", "b", "a", "a", "b"]


async def test_what_is_missing_is_named_and_not_compared(recordings: Set) -> None:
    asked: list[str] = []
    arms = [
        FakeArm(BATCHED, [10.0, 10.0], asked),
        FakeArm(SYSTEM, [7.0, 9.0], asked, ["good morning", "good evening"]),
        MissingArm(ALONE, [], asked),
    ]
    results = await rounds(arms, recordings, 2)
    assert results.missing == {ALONE: "there is none"}
    made = {figure.name: figure for figure in figures(results, recordings, Model("demo", Path(), True), 0.8)}
    ratio = made[f"wall time, {SYSTEM} over {BATCHED}"]
    assert (ratio.value, ratio.least, ratio.most, ratio.reached) == (0.8, 0.7, 0.9, True)
    assert not any(ALONE in name for name in made)
    assert made[f"{SYSTEM}, word error rate"].value == 50.0
    assert not made[f"{SYSTEM}, texts that differ between rounds"].reached


def test_texts_differ_by_their_words_only() -> None:
    assert differing({"a": "good  morning\n", "b": "yes"}, {"a": "good morning", "b": "no"}) == 1
    assert differing({"a": "good"}, {}) == 1
    assert differing(Results().missing, {}) == 0


def test_spoken_seconds_of_a_set_are_added(tmp_path: Path) -> None:
    assert Set("two", tmp_path, (Spoken("a.wav", 1.5, ""), Spoken("b.wav", 2.0, ""))).seconds == 3.5


def test_the_systems_words_are_held_to_the_better_of_the_stock_ones() -> None:
    rates = {SEQUENTIAL: ErrorRate(9, 400), BATCHED: ErrorRate(6, 400), SYSTEM: ErrorRate(7, 400)}
    made = {figure.name: figure for figure in accuracy_figures("noise", rates)}
    assert made["noise, wrong words, stock sequential"].value == 9
    assert made["noise, words"].value == 400
    bound = made["noise, word error rate, system"]
    assert (round(bound.value, 3), bound.at_most, bound.reached) == (1.75, 1.5, False)
    assert all(figure.reached for name, figure in made.items() if name != bound.name)
