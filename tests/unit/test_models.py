"""Models come when they are wanted and go when they are not, but never while they are in use."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import psutil
import pytest
import torch

from services.worker.engine import cuda, models
from services.worker.engine.models import FAIR_SECONDS, IDLE_SECONDS, ROOM_BYTES, Models
from services.worker.engine.protocol import EngineSettings
from services.worker.pipeline.faults import WorkCanceled, WorkError
from tests.fakes.whisper_model import FakeDevice, make_folders

SIZES = {"main": 300, "other": 200, "third": 100, "huge": 10_000}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    made = FakeDevice(1000)
    monkeypatch.setattr(models, "WhisperModel", made.load)
    monkeypatch.setattr(cuda, "require", lambda: None)
    return made


MakeModels = Callable[..., Models]


@pytest.fixture
def make(tmp_path: Path, device: FakeDevice, clock: Clock) -> MakeModels:
    """By default with no driver that tells what is free."""
    make_folders(tmp_path, SIZES)

    def made(kind: str = "cpu", free: Callable[[], int | None] = lambda: None, **given: object) -> Models:
        settings = EngineSettings("main", tmp_path, tuple(SIZES), model_dir=tmp_path)
        return Models(settings, kind, 1, lambda: None, free_bytes=free, clock=clock, **given)  # type: ignore[arg-type]

    return made


def use(made: Models, *names: str) -> None:
    for name in names:
        with made.use(name):
            pass


def states(made: Models) -> dict[str, str]:
    return {state.name: state.state for state in made.states()}


def loaded(made: Models) -> set[str]:
    return {name for name, state in states(made).items() if state == "loaded"}


def test_a_model_is_loaded_when_it_is_first_used_and_kept(make: MakeModels, device: FakeDevice) -> None:
    made = make(lanes=2)
    assert states(made)["main"] == "available"
    assert not made.is_at_hand("main")
    with made.use("main") as model:
        assert (model.name, model.languages, model.weights_bytes, model.lanes) == ("main", ("en",), 300, 2)
        assert made.is_at_hand("main")
    use(made, "main")
    assert device.loaded == ["main"]
    (given,) = device.given
    assert given["num_workers"] == 2


def test_one_that_nobody_uses_for_long_goes_and_what_is_known_of_it_stays(
    make: MakeModels, device: FakeDevice, clock: Clock
) -> None:
    made = make()
    use(made, "main", "other")
    clock.now = 1.0
    use(made, "third")
    clock.now = IDLE_SECONDS
    made.unload_unused()
    assert set(device.taken) == {"main", "third"}
    assert states(made)["other"] == "available"
    assert not made.is_at_hand("other")
    assert made.languages()["other"] == ("en",)
    use(made, "other")
    assert device.loaded == ["main", "other", "third", "other"]


def test_idle_time_counts_from_the_end_of_its_use(make: MakeModels, clock: Clock) -> None:
    made = make()
    with made.use("other"):
        clock.now = IDLE_SECONDS
        made.unload_unused()
        assert made.is_at_hand("other")
    made.unload_unused()
    assert made.is_at_hand("other")
    clock.now *= 2
    made.unload_unused()
    assert not made.is_at_hand("other")


def test_the_default_model_is_kept_however_long_nobody_uses_it(make: MakeModels, clock: Clock) -> None:
    made = make()
    use(made, "main")
    clock.now = 10 * IDLE_SECONDS
    made.unload_unused()
    assert made.is_at_hand("main")


def test_what_is_not_in_use_goes_when_memory_ran_out_also_the_default(make: MakeModels, device: FakeDevice) -> None:
    made = make()
    use(made, "main", "other")
    with made.use("third"), made.use("third"):
        assert set(made.release_idle()) == {"main", "other"}
        assert set(device.taken) == {"third"}
    assert made.release_idle() == ("third",)
    assert made.release_idle() == ()


@pytest.mark.parametrize(
    ("built_for", "said"),
    [
        (None, r"PyTorch \S+ is built without CUDA, install one built for it"),
        ("13.0", r"PyTorch \S+ for CUDA 13.0 cannot use the GPU: The NVIDIA driver on your system is too old"),
    ],
)
def test_on_a_gpu_that_pytorch_cannot_use_loading_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built_for: str | None, said: str
) -> None:
    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12020).")

    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(torch.cuda, "init", too_old)
    make_folders(tmp_path, SIZES)
    made = Models(
        EngineSettings("main", tmp_path, model_dir=tmp_path), "cuda", 1, lambda: None, free_bytes=lambda: None
    )
    with pytest.raises(WorkError, match=f"{said}.*: see that the GPU's driver is new enough"):
        use(made, "main")


def test_cublas_is_loaded_from_where_its_package_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that is loaded is found by the name in it, which CTranslate2 asks for."""
    for folder in (tmp_path / "without", tmp_path / "with"):
        folder.mkdir()
    for name in cuda.LIBRARIES:
        (tmp_path / "with" / name).touch()
    asked: list[str] = []
    monkeypatch.setattr(cuda, "package_folders", lambda: iter((tmp_path / "without", tmp_path / "with")))
    monkeypatch.setattr(cuda, "loads", lambda name: asked.append(name) or "/" in name)
    monkeypatch.setattr(torch.version, "cuda", "12.9")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    cuda.require()
    assert asked == ["libcublas.so.12", *(str(tmp_path / "with" / name) for name in cuda.LIBRARIES)]


def test_what_others_weigh_is_told(make: MakeModels) -> None:
    made = make()
    use(made, "main", "other")
    with made.use("third") as model:
        assert made.weights_beside(model) == 300 + 200


def test_on_a_cpu_what_the_machine_can_give_is_free(tmp_path: Path) -> None:
    free = Models(EngineSettings("main", tmp_path), "cpu", 1, lambda: None).free_bytes()
    assert free == pytest.approx(psutil.virtual_memory().available, rel=0.1)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_room_is_made_by_the_least_recently_used_and_the_default_last(
    make: MakeModels, device: FakeDevice, clock: Clock, kind: str
) -> None:
    made = make(kind, lambda: device.free() + ROOM_BYTES)
    for name in ("main", "other", "third"):
        use(made, name)
        clock.now += 1
    device.size = 600  # nothing is free
    with made.use("other"):
        clock.now += 1
    device.size = 700  # room for one that takes 100, but not for 200
    make_folders(Path(made._settings.model_dir or ""), {"again": 200})
    made._states["again"] = made._states["main"]
    use(made, "again")
    assert set(device.taken) == {"main", "other", "again"}
    device.size = 200
    use(made, "third")
    assert set(device.taken) == {"third"}


def test_a_load_waits_for_what_is_in_use(make: MakeModels, device: FakeDevice) -> None:
    made = make("cuda", lambda: device.free() + ROOM_BYTES)
    device.size = 400
    with ThreadPoolExecutor(1) as threads:
        with made.use("main"):
            waiting = threads.submit(use, made, "other")
            assert device.refused.acquire(timeout=10)
            use(made, "main")  # its end makes no room
            assert device.refused.acquire(timeout=10)
            while states(made)["other"] != "available":  # it waits, and loads nothing just now
                Event().wait(0.01)
            assert states(made)["main"] == "loaded"
        waiting.result(timeout=10)
    assert loaded(made) == {"other"}


def test_a_load_that_waits_for_room_can_be_given_up(make: MakeModels, device: FakeDevice) -> None:
    made = make("cuda")
    device.size = 400

    def check() -> None:
        raise WorkCanceled

    with made.use("main"):
        with pytest.raises(WorkCanceled), made.use("other", check):
            pass
        assert states(made)["other"] == "available"
        assert loaded(made) == {"main"}


def test_who_has_waited_for_room_for_long_comes_before_those_who_want_what_is_loaded(
    make: MakeModels, device: FakeDevice, clock: Clock
) -> None:
    made = make("cuda", lambda: device.free() + ROOM_BYTES)
    device.size = 400
    later = Event()
    with ThreadPoolExecutor(2) as threads:
        with made.use("main"):
            other = threads.submit(use, made, "other")
            assert device.refused.acquire(timeout=10)
            while not made._wait_for_room:
                later.wait(0.01)
            clock.now += FAIR_SECONDS + 1
            again = threads.submit(lambda: (use(made, "main"), later.set()))
            assert not later.wait(1.5), "it would keep the other one out for ever"
        other.result(timeout=10)
        again.result(timeout=10)
    assert device.loaded == ["main", "other", "main"]


def test_a_day_of_waiting_for_room_is_no_failure(make: MakeModels, device: FakeDevice, clock: Clock) -> None:
    made = make("cuda")
    device.size = 400

    def check() -> None:
        clock.now += 3600
        if clock.now > 86400:
            raise WorkCanceled

    with made.use("main"), pytest.raises(WorkCanceled), made.use("other", check):
        pass
    assert states(made)["other"] == "available"


def test_no_load_waits_for_room_that_will_not_come(make: MakeModels, device: FakeDevice) -> None:
    made = make("cuda")
    device.size = 50
    with pytest.raises(WorkError) as failure:
        use(made, "other")
    assert failure.value.reason == "MODEL_UNAVAILABLE"
    assert states(made)["other"] == "failed"
    assert loaded(made) == set()


def test_a_load_that_runs_out_of_memory_is_tried_again_without_what_is_idle(
    make: MakeModels, device: FakeDevice
) -> None:
    made = make("cuda")
    device.size = 400
    use(made, "main", "other")
    assert device.loaded == ["main", "other"]
    assert loaded(made) == {"other"}


def test_a_load_keeps_nobody_from_other_models(make: MakeModels, device: FakeDevice) -> None:
    made = make()
    use(made, "main")
    device.held["other"] = Event()
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(use, made, "other") for _ in range(2)]
        assert device.begun.acquire(timeout=10)
        use(made, "main")
        assert states(made)["other"] == "loading"
        assert not any(load.done() for load in waiting)
        device.held["other"].set()
        for load in waiting:
            load.result(timeout=10)
    assert device.loaded == ["main", "other"]


def test_what_is_not_offered_or_cannot_be_loaded_is_unavailable(make: MakeModels) -> None:
    made = make()
    for name in ("nowhere", "huge"):
        with pytest.raises(WorkError) as failure:
            use(made, name)
        assert failure.value.reason == "MODEL_UNAVAILABLE"
    assert states(made)["huge"] == "failed"


def test_every_change_is_told_once(tmp_path: Path, device: FakeDevice) -> None:
    make_folders(tmp_path, SIZES)
    told: list[str] = []

    def changed() -> None:
        told.append(states(made)["other"])

    made = Models(EngineSettings("main", tmp_path, tuple(SIZES), model_dir=tmp_path), "cpu", 1, changed)
    use(made, "other", "other")
    made.release_idle()
    assert told == ["loading", "loaded", "available"]
