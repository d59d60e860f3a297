"""`make demo`: transcribes `examples/` through worker, controller and gateway, offline, and scores the transcripts.

Ports are free ones and all data is in a folder that goes away, so that a running system is never met; transcripts and
logs stay in `.build/demo`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.scoring import NONE, speaker_errors, word_errors
from scripts.batch.recordings import Recording, find_recordings, transcript_name
from scripts.batch.summary import clock
from scripts.processes import ROOT, LaunchError, cancel_on_signals, launched
from scripts.system import foreign_environment, scratch_system

EXAMPLES = ROOT / "examples"
REFERENCE = "reference.json"
RESULTS = ROOT / ".build" / "demo"
MOST_ERRORS = 0.05
"""The bundled models make none to 3 % on voices such as these; more means that something is broken."""
SHOWN_TRANSCRIPTS = 2
SHOWN_LINES = 12


class DemoError(Exception):
    """What came out is not what must; the message says what."""


def main() -> int:
    began = time.monotonic()
    try:
        asyncio.run(_demo())
    except (LaunchError, DemoError, OSError) as error:
        print(f"The demo failed: {error}. The processes' output is in {_relative(RESULTS / 'logs')}/.", file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        print("Stopped.", file=sys.stderr)
        return 130
    print(f"The demo took {clock(time.monotonic() - began)}. Everything that it started has stopped.")
    return 0


async def _demo() -> None:
    cancel_on_signals(lambda _number: print("Stopping ...", file=sys.stderr, flush=True))
    shutil.rmtree(RESULTS, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="bulkscribe-demo-") as scratch:
        recordings = copy_recordings(EXAMPLES, Path(scratch, "recordings"))
        system = scratch_system(Path(scratch), RESULTS / "logs")
        print(f"Starting worker, controller and gateway; the page is at {system.url} while it runs ...", flush=True)
        async with launched(system.services, RESULTS / "logs") as launch, asyncio.TaskGroup() as group:
            watching = group.create_task(launch.watch(), name="watch")
            await _run_batch(Path(scratch, "recordings"), system.url)
            watching.cancel()
    show(recordings)


def copy_recordings(source: Path, folder: Path) -> list[Recording]:
    """So that no state file is left beside the examples."""
    recordings = find_recordings(source)
    if not recordings:
        raise DemoError(f"there are no recordings in {_relative(source)}")
    folder.mkdir()
    for recording in recordings:
        shutil.copy(recording.path, folder)
    return recordings


async def _run_batch(folder: Path, url: str) -> None:
    """Raises DemoError unless all became complete. The script ends with this task."""
    process = await asyncio.create_subprocess_exec(
        ROOT / "scripts" / "run_batch.sh",
        *("--input", folder, "--controller", url, "--remote", "--diarization"),
        *("--model", "demo", "--parallel", "2", "--output", RESULTS / "transcripts"),
        env=foreign_environment() | {"XDG_STATE_HOME": str(folder.parent / "state")},
    )
    try:
        status = await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if status != 0:
        raise DemoError(f"scripts/run_batch.sh ended with status {status}")


def show(recordings: list[Recording]) -> None:
    """Prints transcripts and the score. Raises DemoError when one is missing or too much of it is wrong."""
    references = json.loads((EXAMPLES / REFERENCE).read_text())
    transcripts = {recording.name: read_transcript(recording) for recording in recordings}
    for line in _shown(transcripts):
        print(line)
    print("\nErrors, against examples/reference.json (of words, and of seconds of speech given to the wrong speaker)")
    words, speech = NONE, NONE
    for name, transcript in transcripts.items():
        said = word_errors(references[name]["text"], str(transcript["text"]))
        heard = speaker_errors(references[name]["turns"], transcript["turns"])
        words, speech = words + said, speech + heard
        print(f"  {said.rate:6.1%} of {said.total:4.0f} words, {heard.rate:6.1%} of {heard.total:4.0f} s   {name}")
    print(
        f"  {words.rate:6.1%} of {words.total:4.0f} words, {speech.rate:6.1%} of {speech.total:4.0f} s   all together"
    )
    print(f"\nThe transcripts are in {_relative(RESULTS / 'transcripts')}/")
    for what, errors in (("words", words), ("speech", speech)):
        if errors.rate > MOST_ERRORS:
            raise DemoError(
                f"{errors.rate:.1%} of the {what} came out wrong, and {MOST_ERRORS:.0%} is the most that may"
            )


def read_transcript(recording: Recording) -> Mapping[str, Any]:
    path = RESULTS / "transcripts" / transcript_name(recording.name, "json")
    if not path.exists():
        raise DemoError(f"there is no transcript of {recording.name}")
    document: Mapping[str, Any] = json.loads(path.read_text())
    return document


def _shown(transcripts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Those first in which most people speak."""
    most = sorted(transcripts, key=lambda name: (-len(transcripts[name]["speakers"]), name))
    for name in most[:SHOWN_TRANSCRIPTS]:
        segments = transcripts[name]["segments"]
        yield f"\n{name}"
        for segment in segments[:SHOWN_LINES]:
            speaker = f"{segment['speaker']}: " if segment["speaker"] else ""
            yield f"  {segment['start']:6.1f} s  {speaker}{segment['text'].strip()}"
        if len(segments) > SHOWN_LINES:
            yield f"  ... and {len(segments) - SHOWN_LINES} segments more"


def _relative(path: Path) -> str:
    return os.path.relpath(path, ROOT)


if __name__ == "__main__":
    sys.exit(main())
