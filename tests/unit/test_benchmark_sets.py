"""The recordings and the random models that benchmarks are made with are what they say, and the same each time."""

from __future__ import annotations

import wave
from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks.corpus import RATE, Samples, Spoken, decoded, write_recording
from benchmarks.degraded import between, silence, telephone, tones, with_noise
from benchmarks.engine.sets import Kind, Set, first, renew
from benchmarks.gpu.cublas import NEWER, WANTED, link
from benchmarks.gpu.measure import Options, lengths_of
from benchmarks.gpu.recordings import LONG, RAGGED, make_set, repeated
from benchmarks.random_model import SHAPES, vocabulary


def sine(hertz: float, seconds: float = 1.0, level: int = 8000) -> Samples:
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.int16)


def level(samples: Samples) -> float:
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))


@pytest.mark.parametrize("decibels", [20.0, 10.0])
def test_noise_has_the_ratio_that_was_asked_for(decibels: float) -> None:
    sound = sine(440, 4.0)
    noise = with_noise(sound, decibels, np.random.default_rng(1)).astype(int) - sound
    assert 20 * np.log10(level(sound) / level(noise.astype(np.int16))) == pytest.approx(decibels, abs=0.2)
    assert np.array_equal(
        with_noise(sound, decibels, np.random.default_rng(1)), with_noise(sound, decibels, np.random.default_rng(1))
    )


def test_a_telephone_lets_the_middle_pass_and_nothing_else() -> None:
    assert level(telephone(sine(1000))) == pytest.approx(level(sine(1000)), rel=0.1)
    assert level(telephone(sine(100))) < 0.5 * level(sine(100))
    assert level(telephone(sine(5000))) < 1
    assert len(np.unique(telephone(sine(1000)))) < 256


def test_tones_are_as_loud_as_they_are_to_be() -> None:
    sound = tones(8.0, 0.05, np.random.default_rng(1))
    assert len(sound) == 8 * RATE
    assert level(sound) / 32767 == pytest.approx(0.05, rel=0.01)


def test_something_lies_behind_every_turn() -> None:
    joined = between([sine(440), sine(550)], [silence(2.0), silence(3.0)])
    assert len(joined) == 7 * RATE
    assert not joined[RATE : 3 * RATE].any()


@pytest.mark.parametrize("ending", ["wav", "mp3"])
def test_a_renewed_file_has_other_bytes_and_the_same_sound(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"one.{ending}"
    write(path, sine(440))
    recordings = Set("one", tmp_path, (Spoken(path.name, 1.0, ""),))
    contents, sounds = [path.read_bytes()], [decoded(path)]
    for number in (1, 2):
        renew(recordings, number)
        contents.append(path.read_bytes())
        sounds.append(decoded(path))
    assert len(set(contents)) == 3
    assert len(contents[1]) == len(contents[2])
    assert all(np.array_equal(sound, sounds[0]) for sound in sounds)


def write(path: Path, samples: Samples) -> None:
    if path.suffix == ".wav":
        write_recording(path, samples, "")
        return
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libmp3lame", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16p", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])


def test_what_cannot_be_renewed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.ogg").write_bytes(b"OggS")
    with pytest.raises(ValueError, match=r"one\.ogg cannot be renewed"):
        renew(Set("one", tmp_path, (Spoken("one.ogg", 1.0, ""),)), 1)


def test_a_set_is_as_large_and_long_as_its_kind(tmp_path: Path) -> None:
    made = Kind("some", 3, 2.0, 8.0, quick=2).make(tmp_path / "all", quick=False)
    assert len(made.recordings) == 3
    for spoken in made.recordings:
        with wave.open(str(made.folder / spoken.name)) as file:
            assert file.getnframes() / RATE == spoken.seconds
    assert min(spoken.seconds for spoken in made.recordings) >= 2.0
    assert len(Kind("some", 3, 2.0, 8.0, quick=2).make(tmp_path / "quick", quick=True).recordings) == 2


def test_the_first_of_a_set_are_as_long_as_asked_for_and_at_least_one(tmp_path: Path) -> None:
    three = Set("three", tmp_path, tuple(Spoken(f"{name}.wav", 10.0, "") for name in "abc"))
    assert [len(first(three, seconds).recordings) for seconds in (0, 10, 10.1, 1000)] == [1, 1, 2, 3]


@pytest.mark.parametrize(("name", "languages"), [("tiny", 99), ("large-v3", 100), ("turbo", 100)])
def test_a_random_models_vocabulary_has_the_order_of_the_real_one(name: str, languages: int) -> None:
    tokens = vocabulary(SHAPES[name])
    assert len(tokens) == len(set(tokens)) == SHAPES[name].vocabulary
    assert tokens[50_256:50_259] == ["", "<|endoftext|>", "<|startoftranscript|>"]
    assert tokens.index("<|translate|>") == 50_259 + languages
    assert tokens[-1501:] == [f"<|{number * 0.02:.2f}|>" for number in range(1501)]
    assert tokens[-1502] == "<|notimestamps|>"


def test_newer_libraries_are_linked_under_the_older_names(tmp_path: Path) -> None:
    for target in NEWER.values():
        (tmp_path / target).write_bytes(b"library")
    for _ in range(2):  # again over what is there
        link(tmp_path / "private", tmp_path)
    assert (tmp_path / "private" / WANTED).read_bytes() == b"library"


def test_the_sets_for_a_gpu_are_of_both_kinds_of_file(tmp_path: Path) -> None:
    options = Options(files=2, audio_minutes=0.05, ragged_files=2, shortest_seconds=1.0, longest_seconds=3.0)
    for name in (LONG, RAGGED):
        made = make_set(tmp_path, name, lengths_of(name, options))
        assert sorted(path.suffix for path in made.paths) == [".mp3", ".wav"]
        renew(made, 1)
        for path, spoken in zip(made.paths, made.recordings, strict=True):
            assert len(decoded(path)) / RATE == pytest.approx(spoken.seconds, abs=0.2)


def test_repeated_recordings_have_contents_of_their_own(tmp_path: Path) -> None:
    few = make_set(tmp_path, LONG, [1.0, 1.5])
    renew(few, 1)
    many = repeated(few, tmp_path / "many", 5)
    assert many.seconds == pytest.approx(3 * few.recordings[0].seconds + 2 * few.recordings[1].seconds)
    assert len({path.read_bytes() for path in (*many.paths, *few.paths)}) == 7
    assert np.array_equal(decoded(many.paths[4]), decoded(few.paths[0]))
