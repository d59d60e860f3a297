"""Transcript formats: what each shows, and that no text of a speaker breaks one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import pysubs2
import pytest

from gateway.transcripts import CONTENT_TYPES, Format, Segment, Stretch, Transcript, Turn, Word, render

HOSTILE = "a <b>bold</b> & {\\an8} claim \\N 1 --> 2\n\n3\t# *x* \\h"


def transcript(*segments: tuple[str, str], filename: str = "talk.mp3") -> Transcript:
    made = tuple(
        Segment(number, number * 2.0, number * 2.0 + 1.25, text, speaker, (Word(text, 0.0, 1.0, 0.5, speaker),))
        for number, (text, speaker) in enumerate(segments)
    )
    speakers = tuple(dict.fromkeys(speaker for _, speaker in segments if speaker))
    return Transcript("en", 3723.5, speakers, filename, made, tuple(Turn(0.0, 1.5, speaker) for speaker in speakers))


def text_of(given: Transcript, form: Format) -> str:
    return "".join(render(given, form))


TALK = transcript((" Hello there.", "SPEAKER_00"), (" ", ""), (" Hi!", "SPEAKER_01"))


def test_every_format_has_a_content_type() -> None:
    assert set(CONTENT_TYPES) == set(get_args(Format))


@pytest.mark.parametrize("form", get_args(Format))
def test_every_format_shows_speakers(form: Format) -> None:
    assert "SPEAKER_00" in text_of(TALK, form)
    assert "SPEAKER" not in text_of(transcript((" Hello", "")), form)


@pytest.mark.parametrize("form", get_args(Format))
def test_an_empty_transcript_is_no_fault(form: Format) -> None:
    text_of(transcript(), form)


def test_json() -> None:
    answer = json.loads(text_of(TALK, "json"))
    assert list(answer) == ["language", "duration", "text", "segments", "speakers", "turns", "silentStretches"]
    assert answer["silentStretches"] == []
    assert answer["turns"][0] == {"start": 0.0, "end": 1.5, "speaker": "SPEAKER_00"}
    assert answer["text"] == "Hello there. Hi!"
    assert [segment["id"] for segment in answer["segments"]] == [0, 1, 2]
    assert answer["segments"][1]["speaker"] is None
    assert answer["segments"][0]["words"][0]["speaker"] == "SPEAKER_00"


def test_where_voice_gave_no_words_is_in_the_json_alone() -> None:
    quiet = replace(TALK, silent_stretches=(Stretch(30.0, 58.25), Stretch(90.5, 119.0)))
    answer = json.loads(text_of(quiet, "json"))
    assert answer["silentStretches"] == [{"start": 30.0, "end": 58.25}, {"start": 90.5, "end": 119.0}]
    for form in get_args(Format):
        assert (text_of(quiet, form) == text_of(TALK, form)) is (form != "json")


def test_txt() -> None:
    assert text_of(TALK, "txt") == "SPEAKER_00: Hello there.\nSPEAKER_01: Hi!\n"


def test_srt() -> None:
    assert text_of(TALK, "srt") == (
        "1\n00:00:00,000 --> 00:00:01,250\nSPEAKER_00: Hello there.\n\n"
        "2\n00:00:04,000 --> 00:00:05,250\nSPEAKER_01: Hi!\n\n"
    )


def test_vtt() -> None:
    assert text_of(TALK, "vtt").startswith("WEBVTT\n\n1\n00:00:00.000 --> 00:00:01.250\n<v SPEAKER_00>Hello there.\n")


def test_tsv() -> None:
    assert text_of(TALK, "tsv").splitlines() == [
        "start\tend\tspeaker\ttext",
        "0.000\t1.250\tSPEAKER_00\tHello there.",
        "4.000\t5.250\tSPEAKER_01\tHi!",
    ]


def test_md() -> None:
    text = text_of(TALK, "md")
    assert text.startswith("# talk.mp3\n\n- Language: en\n- Duration: 01:02:03\n")
    assert "`00:00:04` **SPEAKER_01:** Hi!" in text


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_no_text_breaks_subtitles(form: Format) -> None:
    text = text_of(transcript((HOSTILE, "A>B")), form)
    cues = [line for line in text.splitlines() if " --> " in line and line.startswith("00:")]
    assert len(cues) == 1
    assert len(pysubs2.SSAFile.from_string(text, format_=form)) == 1
    assert "{\\" in text
    if form == "vtt":
        assert "a &lt;b&gt;bold&lt;/b&gt; &amp; {" in text
        assert "<v A&gt;B>" in text


def test_only_what_markdown_would_read_is_escaped() -> None:
    text = text_of(transcript((" __bold__ _so_ snake_case *x*", "SPEAKER_00")), "md")
    assert "\\_\\_bold\\_\\_ \\_so\\_ snake_case \\*x\\*" in text


def test_no_text_breaks_lines() -> None:
    assert len(text_of(transcript((HOSTILE, "")), "txt").splitlines()) == 1
    assert [line.count("\t") for line in text_of(transcript((HOSTILE, "")), "tsv").splitlines()] == [3, 3]


def test_hours_in_subtitles() -> None:
    long = Transcript("en", 40_000, (), "x", (Segment(0, 36_000.5, 36_001.0, "late", "", ()),))
    assert "10:00:00,500 --> 10:00:01,000" in text_of(long, "srt")


@pytest.mark.parametrize("end", [1.0, 2.0])
def test_what_takes_no_time_can_be_read_all_the_same(end: float) -> None:
    odd = Transcript("en", 40, (), "x", (Segment(0, 2.0, end, "odd", "", ()),))
    assert "00:00:02,000 --> 00:00:02,300" in text_of(odd, "srt")
