"""The recordings of `examples/` are what `reference.json` and the script say, in words that the bundled model knows."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest

from examples import make
from examples.scenes import SCENES
from scripts.batch.recordings import Recording, find_recordings

ROOT = Path(__file__).parents[2]
RECORDINGS = find_recordings(ROOT / "examples")
REFERENCE: dict[str, Any] = json.loads((ROOT / "examples" / "reference.json").read_text(encoding="utf-8"))
VOCABULARY = ROOT / "models" / "whisper-demo" / "vocabulary.json"

each_recording = pytest.mark.parametrize("recording", RECORDINGS, ids=[recording.name for recording in RECORDINGS])
each_reference = pytest.mark.parametrize("reference", REFERENCE.values(), ids=REFERENCE)


def test_every_recording_has_a_reference_and_every_reference_a_recording() -> None:
    assert {recording.name for recording in RECORDINGS} == set(REFERENCE)


def test_there_is_something_of_everything() -> None:
    speakers = [reference["speakers"] for reference in REFERENCE.values()]
    assert len({recording.path.suffix for recording in RECORDINGS}) >= 5
    assert speakers.count(1) >= 1
    assert speakers.count(2) >= 3
    assert any(" " in recording.name for recording in RECORDINGS)
    assert not all(recording.name.isascii() for recording in RECORDINGS)


def test_a_clone_stays_small() -> None:
    assert sum(recording.path.stat().st_size for recording in RECORDINGS) < 4_000_000


@each_recording
def test_the_recording_is_as_long_as_it_says(recording: Recording) -> None:
    with av.open(str(recording.path)) as container:
        assert container.streams.audio
        assert container.duration is not None
        seconds = container.duration / av.time_base
    assert seconds == pytest.approx(REFERENCE[recording.name]["duration"], abs=0.1)


def test_one_recording_is_a_video() -> None:
    with av.open(str(ROOT / "examples" / "budget review 🎧.mp4")) as container:
        picture = next(container.decode(video=0))
    assert (picture.width, picture.height) == (320, 180)


@each_reference
def test_the_turns_lie_in_the_recording_one_after_the_other(reference: dict[str, Any]) -> None:
    turns = reference["turns"]
    assert turns[0]["start"] > 0
    assert all(turn["start"] < turn["end"] for turn in turns)
    assert all(before["end"] < after["start"] for before, after in pairwise(turns))
    assert turns[-1]["end"] < reference["duration"]


@each_reference
def test_the_text_is_that_of_the_turns_in_words_of_the_bundled_model(reference: dict[str, Any]) -> None:
    tokens = json.loads(VOCABULARY.read_text(encoding="utf-8"))
    words = {token.removeprefix("Ġ") for token in tokens if token.startswith("Ġ")}
    assert reference["text"] == " ".join(turn["text"] for turn in reference["turns"])
    assert set(reference["text"].split(" ")) <= words
    assert reference["speakers"] == len({turn["speaker"] for turn in reference["turns"]})


def test_the_reference_is_of_the_present_script() -> None:
    said = {name: [(turn["speaker"], turn["text"]) for turn in entry["turns"]] for name, entry in REFERENCE.items()}
    assert said == {scene.name: [(line.speaker, line.text) for line in scene.lines] for scene in SCENES}


def test_without_espeak_the_script_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["make", "--output", str(tmp_path / "recordings")])
    assert make.main() == 1
    assert "install the package espeak-ng" in capsys.readouterr().err
    assert not (tmp_path / "recordings").exists()
