"""Word and diarization errors of the examples through the whole system."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.corpus import EXAMPLES
from benchmarks.report import Figure, Report
from benchmarks.running import run_batch, running
from benchmarks.scoring import NONE, speaker_errors, word_errors
from scripts.batch.recordings import find_recordings, transcript_name

MOST_WORD_ERRORS_PERCENT = 5.0
MOST_SPEAKER_ERRORS_PERCENT = 5.0


async def measure() -> Report:
    references: dict[str, Any] = json.loads((EXAMPLES / "reference.json").read_text())
    async with running() as up:
        folder = up.folder / "recordings"
        folder.mkdir()
        for recording in find_recordings(EXAMPLES):
            shutil.copy(recording.path, folder)
        output = up.folder / "transcripts"
        await run_batch(folder, up.system.url, output, "--diarization", "--parallel", "2", "--formats", "json")
        found = {name: _transcript(output, name) for name in references}
    words = sum((word_errors(references[name]["text"], found[name]["text"]) for name in references), NONE)
    conversations = [name for name, reference in references.items() if reference["speakers"] > 1]
    speakers = sum((speaker_errors(references[name]["turns"], found[name]["turns"]) for name in conversations), NONE)
    right = sum(len(found[name]["speakers"]) == references[name]["speakers"] for name in conversations)
    return Report(
        "accuracy",
        (
            Figure("word error rate, pooled", 100 * words.rate, "%", at_most=MOST_WORD_ERRORS_PERCENT),
            Figure("words", words.total, ""),
            Figure(
                "diarization error rate of conversations, pooled",
                100 * speakers.rate,
                "%",
                at_most=MOST_SPEAKER_ERRORS_PERCENT,
            ),
            Figure("conversations", len(conversations), ""),
            Figure("conversations with the right number of speakers", right, "", at_least=len(conversations)),
        ),
    )


def _transcript(output: Path, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((output / transcript_name(name, "json")).read_text())
    return document
