"""Preparation in processes: what happens to one of them, or to the disk, costs one job at most."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from services.worker.engine import preparation
from services.worker.engine.foresight import Manner
from services.worker.engine.preparation import Preparation
from services.worker.pipeline import prepare
from services.worker.pipeline.faults import WorkCanceled, WorkError
from services.worker.pipeline.recording import PreparedRecording
from tests import recordings
from tests.conditions import DEADLINE, until
from tests.disks import fill, make_room, small_disk
from tests.recordings import encode, tone


def nothing(*_: object) -> None:
    pass


def opened(made: Preparation, source: Path, check: Callable[[], None] = nothing, **given: Any) -> Any:
    options: dict[str, Any] = {"vad": True, "max_seconds": 30.0, "channels": False, "check": check, "note": nothing}
    return made.prepared(source, **(options | given))


def prepared_here(source: Path, folder: Path, channels: bool = False) -> PreparedRecording:
    """In this process."""
    spool = folder / "here"
    spool.touch()
    return prepare.prepare(source, spool, vad=True, max_seconds=30.0, channels=channels)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Preparation]:
    one = Preparation(2, tmp_path / "spool")
    yield one
    one.close()


def workers() -> set[int]:
    """The processes that prepare, by their ids."""
    children = {pid for task in Path("/proc/self/task").iterdir() for pid in children_of(task)}
    return {pid for pid in children if b"spawn_main" in cmdline(pid)}


def children_of(task: Path) -> list[int]:
    """Of a thread, which may have ended meanwhile."""
    try:
        return [int(pid) for pid in (task / "children").read_text().split()]
    except OSError:
        return []


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture(scope="module")
def lengthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes seconds to prepare."""
    return encode(tmp_path_factory.mktemp("sounds") / "lengthy.flac", tone(1800), "flac")


def test_it_is_as_in_this_process_and_nothing_is_left(made: Preparation, tmp_path: Path) -> None:
    example = recordings.example(speakers=2)
    here = prepared_here(example.path, tmp_path)
    with opened(made, example.path) as there:
        assert isinstance(there, PreparedRecording)
        assert (there.windows, there.samples) == (here.windows, here.samples)
        assert np.array_equal(there.stretch(0, there.samples), here.stretch(0, here.samples))
        assert list((tmp_path / "spool").iterdir()) == [there.spool]
    assert list((tmp_path / "spool").iterdir()) == []


def test_levels_of_channels_cross_between_the_processes(made: Preparation, tmp_path: Path) -> None:
    sound = np.stack([tone(20), np.zeros(20 * 16_000, np.float32)])
    path = encode(tmp_path / "a.wav", sound, "pcm_s16le", 16_000, 2)
    here = prepared_here(path, tmp_path, channels=True)
    with opened(made, path, channels=True) as there, opened(made, path) as plain:
        assert plain.levels is None
        assert there.levels.shape == (1000, 2)
        assert np.array_equal(there.levels, here.levels)
        assert np.array_equal(there.stretch(0, there.samples), plain.stretch(0, plain.samples))


def test_what_is_no_recording_says_so_as_it_does_in_this_process(made: Preparation, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("hello")
    with pytest.raises(WorkError, match="No audio can be decoded") as caught, opened(made, tmp_path / "notes"):
        pass
    assert caught.value.reason == "AUDIO_INVALID"
    assert list((tmp_path / "spool").iterdir()) == []


def test_what_a_process_died_of_once_is_tried_again(made: Preparation, lengthy: Path) -> None:
    made.start()
    until(workers)
    killed: list[int] = []

    def check() -> None:
        if not killed and list(made._folder.iterdir()):
            for pid in workers():
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    with opened(made, lengthy, check) as recording:
        assert recording.seconds == pytest.approx(1800, abs=0.1)
    assert killed


def test_a_recording_that_kills_its_process_fails_and_the_others_go_on(
    made: Preparation, lengthy: Path, tmp_path: Path
) -> None:
    busy = encode(tmp_path / "good.wav", tone(20), "pcm_s16le")

    def check() -> None:
        if list(made._folder.iterdir()):
            for pid in workers():
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(WorkError, match="crashed on this recording") as caught, opened(made, lengthy, check):
        pass
    assert caught.value.reason == "AUDIO_INVALID"
    with opened(made, busy) as recording:
        assert recording.seconds == 20
    assert list(made._folder.iterdir()) == []


def test_what_is_canceled_ends_at_once_and_leaves_nothing(made: Preparation, lengthy: Path) -> None:
    began = time.monotonic()

    def check() -> None:
        if list(made._folder.iterdir()):
            raise WorkCanceled

    with pytest.raises(WorkCanceled), opened(made, lengthy, check):
        pass
    assert time.monotonic() - began < DEADLINE
    assert list(made._folder.iterdir()) == []
    with opened(made, recordings.example(speakers=1).path) as recording:  # and the process is replaced
        assert recording.windows


def test_a_short_recording_does_not_wait_behind_long_ones(
    made: Preparation, lengthy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "SMALL_BYTES", lengthy.stat().st_size - 1)
    ended: list[str] = []

    def long() -> None:
        with opened(made, lengthy):
            ended.append("long")

    threads = [threading.Thread(target=long) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: list(made._folder.iterdir()))
    with opened(made, recordings.example(speakers=1).path):
        ended.append("short")
    for thread in threads:
        thread.join(2 * DEADLINE)
    assert ended[0] == "short"
    assert ended.count("long") == 3


def test_a_full_disk_is_waited_for_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "_ROOM_PAUSES", (0.2,))
    path = encode(tmp_path / "a.flac", tone(60), "flac")
    notes: list[str] = []
    with small_disk(tmp_path / "disk", 4) as disk:
        made = Preparation(2, disk / "spool")
        fill(disk)

        def note(text: str) -> None:
            notes.append(text)
            if len(notes) == 2:
                make_room(disk)

        with opened(made, path, note=note) as recording:
            assert recording.samples == 60 * 16_000
        assert len(notes) >= 2
        assert set(notes) == {"waiting for disk space on the worker"}
        made.close()


def test_what_an_earlier_engine_left_behind_is_removed(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "left").write_bytes(bytes(1000))
    Preparation(2, tmp_path / "spool").close()
    assert not (tmp_path / "spool").exists()


def test_no_process_outlives_an_engine_that_was_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from services.worker.engine.preparation import Preparation\n"
        "if __name__ == '__main__':\n"
        "    made = Preparation(2, Path(sys.argv[1])); made.start(); print('up', flush=True); time.sleep(60)\n"
    )
    script = tmp_path / "engine.py"
    script.write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "spool")], stdout=subprocess.PIPE, env=environment
    ) as engine:
        assert engine.stdout is not None
        engine.stdout.readline()
        children: set[int] = set()

        def begun() -> bool:
            tasks = Path(f"/proc/{engine.pid}/task").iterdir()
            children.update(int(pid) for task in tasks for pid in (task / "children").read_text().split())
            return sum(b"spawn_main" in cmdline(pid) for pid in children) == 2

        until(begun)
        engine.kill()
    until(lambda: not any(b"spawn_main" in cmdline(pid) or b"resource_tracker" in cmdline(pid) for pid in children))


@pytest.mark.parametrize(("megabytes", "niceness"), [(1, 0), (9, preparation.NICENESS_OF_LARGE)])
def test_what_takes_long_leaves_the_processor_to_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, megabytes: int, niceness: int
) -> None:
    def priority(*_: object, **__: object) -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    monkeypatch.setattr(prepare, "prepare", priority)
    source, spool = tmp_path / "a.wav", tmp_path / "spool"
    with source.open("wb") as file:
        file.truncate(megabytes * 1024 * 1024)
    spool.touch()
    before = priority()
    found: Any = preparation._prepare(preparation._Task(source, spool, Manner(True, 30.0, False)))
    assert found == min(19, before + niceness)
    assert priority() == before


def test_a_process_that_ends_while_it_starts_another_says_nothing(tmp_path: Path) -> None:
    code = (
        "import os, threading, time\n"
        "from multiprocessing import util\n"
        "from services.worker.engine import child_processes\n"
        "spawn, spawned = util.spawnv_passfds, threading.Event()\n"
        "def slow(path, command, *fds):\n"
        "    pid = spawn(path, command, *fds)\n"
        "    if '--multiprocessing-fork' in command:\n"
        "        print(pid, flush=True); spawned.set(); time.sleep(0.5)\n"
        "    return pid\n"
        "if __name__ == '__main__':\n"
        "    util.spawnv_passfds = slow\n"
        "    pool = child_processes.new_pool(2, child_processes.begin)\n"
        "    threading.Thread(target=pool.schedule, args=(print,), daemon=True).start()\n"
        "    spawned.wait(); child_processes.start_no_more(); os._exit(0)\n"
    )
    program = tmp_path / "program.py"
    program.write_text(code)
    warnings = {"PYTHONWARNINGS": "ignore:resource_tracker"}  # as the engine child sets it
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **warnings}
    ended = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    assert ended.stdout.split(), "nothing was started"
    assert ended.stderr == ""


# --- what is prepared before its job comes


@pytest.fixture
def known(made: Preparation) -> Preparation:
    """It knows how recordings are prepared, since there was a job."""
    with opened(made, recordings.example(speakers=1).path):
        return made


def spools(made: Preparation) -> list[Path]:
    return list(made._folder.iterdir())


def test_a_recording_that_was_foreseen_is_there_when_its_job_comes(known: Preparation, tmp_path: Path) -> None:
    source = recordings.example(speakers=2).path
    here = prepared_here(source, tmp_path)
    known.foresee(source)
    until(lambda: [path.stat().st_size for path in spools(known)] == [2 * here.samples])
    (early,) = spools(known)
    with opened(known, source) as there:
        assert there.spool == early
        assert (there.windows, there.samples) == (here.windows, here.samples)
        assert early.read_bytes() == here.spool.read_bytes()
    assert spools(known) == []


def test_a_long_recording_does_not_wait_for_one_that_was_foreseen(
    known: Preparation, lengthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "SMALL_BYTES", 0)
    known.foresee(lengthy)
    until(lambda: spools(known))
    (early,) = spools(known)
    with opened(known, recordings.example(speakers=1).path) as recording:
        assert recording.windows
        assert spools(known) == [recording.spool]
        assert not early.exists()


def test_a_foreseen_recording_that_is_damaged_or_dies_costs_its_job_nothing_else(
    known: Preparation, lengthy: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes").write_text("hello")
    known.foresee(tmp_path / "notes")
    with pytest.raises(WorkError, match="No audio can be decoded"), opened(known, tmp_path / "notes"):
        pass
    known.foresee(lengthy)
    until(lambda: any(path.stat().st_size for path in spools(known)))
    for pid in workers():
        os.kill(pid, signal.SIGKILL)
    with opened(known, lengthy) as recording:
        assert recording.seconds == pytest.approx(1800, abs=0.1)


def test_what_was_foreseen_leaves_the_disk_to_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "FORESIGHT_LEAVES_BYTES", 0)
    long, short = (encode(tmp_path / f"{n}.flac", tone(n), "flac") for n in (90, 60))
    with small_disk(tmp_path / "disk", 4) as disk:
        made = Preparation(2, disk / "spool")
        with opened(made, recordings.example(speakers=1).path):
            pass
        made.foresee(long)
        until(lambda: [path.stat().st_size for path in spools(made)] == [2 * 90 * 16_000])
        with opened(made, short) as recording:
            assert recording.samples == 60 * 16_000
            assert spools(made) == [recording.spool]
        made.close()


def test_nothing_is_foreseen_where_the_disk_is_nearly_full(known: Preparation, monkeypatch: pytest.MonkeyPatch) -> None:
    source = recordings.example(speakers=2).path
    known.foresee(source)
    until(lambda: spools(known))
    (early,) = spools(known)
    known.keep_room()
    with opened(known, source) as recording:
        assert recording.spool == early, "there was room"
    known.foresee(source)
    until(lambda: spools(known))
    monkeypatch.setattr(preparation, "FORESIGHT_LEAVES_BYTES", 1 << 60)
    known.keep_room()
    until(lambda: not spools(known))
    with capture_logs() as logs:
        known.foresee(source)
        until(lambda: logs)
    assert [line["error"] for line in logs] == ["waiting for disk space on the worker"]
    with opened(known, source) as recording:
        assert recording.windows


def test_what_is_canceled_before_it_begins_leaves_nothing(tmp_path: Path) -> None:
    source, spool = recordings.example(speakers=1).path, tmp_path / "gone"
    with pytest.raises(WorkError, match="canceled"):
        preparation._prepare(preparation._Task(source, spool, Manner(True, 30.0, False)))
    assert not spool.exists()
