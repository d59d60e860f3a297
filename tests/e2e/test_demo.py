"""`make demo`: all three processes and the batch runner, with the bundled models, over the examples."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from scripts.batch.recordings import find_recordings
from scripts.demo import EXAMPLES, RESULTS
from tests.e2e.launchers import Launcher, read_until, rest


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    made = Launcher()
    yield made
    made.kill_all()


async def test_the_examples_come_out_right_and_nothing_stays(launcher: Launcher) -> None:
    before = sorted(path.name for path in EXAMPLES.iterdir())
    process = await launcher.start("scripts.demo")
    status, out = await rest(process, deadline=110)
    assert status == 0, out
    assert "all together" in out
    assert "0 failed, 0 canceled" in out
    assert launcher.processes() == []
    assert sorted(path.name for path in EXAMPLES.iterdir()) == before
    for recording in find_recordings(EXAMPLES):
        transcript = json.loads((RESULTS / "transcripts" / f"{recording.name}.json").read_text())
        assert transcript["segments"]
        assert (RESULTS / "transcripts" / f"{recording.name}.txt").read_text().strip()
    interview = json.loads((RESULTS / "transcripts" / "interview-001.mp3.json").read_text())
    assert interview["speakers"] == ["SPEAKER_00", "SPEAKER_01"]


async def test_ctrl_c_stops_everything(launcher: Launcher) -> None:
    process = await launcher.start("scripts.demo")
    await read_until(process, "uploading")
    process.send_signal(signal.SIGINT)
    status, out = await rest(process)
    assert status == 130, out
    assert "Traceback" not in out
    assert launcher.processes() == []
