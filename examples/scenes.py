"""What is said in the recordings, by whom, and how each is encoded. All words are ones that the bundled model knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Voice:
    """How espeak-ng speaks.

    ``name`` is a voice and its variant, ``rate`` words a minute, ``pitch`` 0 to 99; ``pan`` is where the speaker sits in
    a recording with two channels, from -1 (left) to 1 (right).
    """

    name: str
    rate: int
    pitch: int
    pan: float = 0.0


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence of one speaker, after ``silence`` seconds more than the usual pause."""

    speaker: str
    text: str
    silence: float = 0.0


@dataclass(frozen=True, slots=True)
class Encoding:
    """``codec`` is FFmpeg's name for it, ``sample_rate`` in Hz, ``bit_rate`` in bits a second, 0 for codecs without loss.

    With ``picture`` the recording is a video.
    """

    codec: str
    sample_rate: int
    channels: int = 1
    bit_rate: int = 0
    picture: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """One recording. The ending of ``name`` says the container; ``seed`` decides pauses, pitch and speed of each line."""

    name: str
    seed: int
    encoding: Encoding
    voices: Mapping[str, Voice]
    lines: tuple[Line, ...]


def _lines(script: str) -> tuple[Line, ...]:
    return tuple(_parse(script))


def _parse(script: str) -> Iterator[Line]:
    """A line of the script is ``SPEAKER words``, or ``... SECONDS`` for a silence before the next."""
    silence = 0.0
    for line in script.strip().splitlines():
        speaker, text = line.strip().split(maxsplit=1)
        if speaker == "...":
            silence = float(text)
            continue
        yield Line(speaker, text, silence)
        silence = 0.0


INTERVIEW = Scene(
    "interview-001.mp3",
    1,
    Encoding("libmp3lame", 44_100, bit_rate=64_000),
    {"A": Voice("en-us+f2", 165, 55), "B": Voice("en-us+m3", 160, 40)},
    _lines("""
        A hello good morning please begin
        A interview one date today
        B hello good morning thanks
        B name speaker two project budget team
        A question one good work today
        B answer yes good work because no meeting today
        A question two new budget tomorrow
        B answer no new budget because no report
        B report time tomorrow evening six three zero
        A next question please
        A team start time please
        B team start time nine zero
        B stop time five three zero
        A speaker two open question left today
        B budget question open because budget down
        B next project three four eight tomorrow
        A good answer thanks speaker two
        A interview end please stop record
        B thanks good evening
    """),
)

HEARING = Scene(
    "hearing.flac",
    4,
    Encoding("flac", 16_000),
    {"A": Voice("en-gb+m7", 160, 35), "B": Voice("en-us+f2", 165, 55)},
    _lines("""
        A good morning please open record seven two
        A date today time nine one five
        A speaker four please begin
        B hello good morning speaker four
        B project zero six start date five eight
        B report open because no budget
        A question one budget report please
        B budget report tomorrow morning
        B good team good time right
        A question two team work today
        B project work left because no time today
        A please pause record back nine four zero
        ... 4
        A hello please start record
        A question three next project please
        B project seven two new team tomorrow
        B start date eight five
        A speaker four thanks end record
    """),
)

CALL = Scene(
    "phone-call.wav",
    5,
    Encoding("pcm_s16le", 8_000),
    {"A": Voice("en-us+f3", 165, 70), "B": Voice("en-us+rob", 160, 30)},
    _lines("""
        A hello good evening project team
        A speaker five budget team
        B hello good evening speaker five
        B right time no meeting today
        A question one new report today
        B report tomorrow because team work left today
        B report time seven four five
        A report tomorrow seven four five thanks
        A question two project six budget
        B project six budget up two today
        B please record six two up
        A record six two up
        A meeting time tomorrow evening please
        B meeting tomorrow eight one five
        A tomorrow eight one five thanks
        A good evening please close report
    """),
)

STAND_UP = Scene(
    "stand-up.m4a",
    5,
    Encoding("aac", 48_000, channels=2, bit_rate=96_000),
    {
        "A": Voice("en-us+f3", 165, 60),
        "B": Voice("en-us+m1", 160, 40, pan=-0.5),
        "C": Voice("en-gb+steph", 165, 45, pan=0.5),
    },
    _lines("""
        A good morning team meeting start
        A speaker one please begin today
        B hello good morning project two work
        B report open because no answer
        B new report end tomorrow morning
        A speaker two please begin
        C hello team project nine new
        C budget good time right up
        C one question left please
        A question open please
        C project nine start today tomorrow
        A project nine start tomorrow because meeting today
        C answer right thanks
        A speaker one new question please
        B question no thanks good work
        A meeting end next meeting tomorrow morning
        A time nine three zero please
        C tomorrow nine three zero
        B tomorrow nine three zero thanks team
    """),
)

REVIEW = Scene(
    "budget review 🎧.mp4",
    12,
    Encoding("aac", 44_100, bit_rate=64_000, picture=True),
    {"A": Voice("en-us+m1", 165, 45), "B": Voice("en-us+f4", 165, 55)},
    _lines("""
        A good evening team please open budget
        A project four budget report begin
        B hello good evening speaker one
        B new budget three eight zero
        B budget up because new project work
        A question please project four team
        B project four team six new today
        B next report tomorrow evening seven
        A speaker two question two open
        A answer one right please record
        B question two open because no time today
        B tomorrow good time good work
        A project five stop end budget
        B project five right close today
        A meeting end thanks team
        A please close budget report
        B speaker one thanks good evening
    """),
)

MEMO = Scene(
    "voice memo.ogg",
    6,
    Encoding("libopus", 48_000, bit_rate=32_000),
    {"A": Voice("en-us+f1", 165, 50)},
    _lines("""
        A good morning record new date
        A today work project eight two
        A report open please answer tomorrow
        ... 6
        A hello back evening record
        A project eight two good because team right
        A meeting tomorrow time four one five
        A end record good evening
    """),
)

DICTATION = Scene(
    "dictation.wav",
    7,
    Encoding("pcm_s16le", 16_000),
    {"A": Voice("en-gb+rob", 150, 45)},
    _lines("""
        A begin report seven three nine
        A date tomorrow time two five zero
        A zero one two three four
        A five six seven eight nine
        A next left right up down
        A close report end thanks
    """),
)

PLAYER_TEST = Scene(
    "player-test.webm",
    9,
    Encoding("libopus", 48_000, bit_rate=48_000),
    {"A": Voice("en-us+michel", 160, 50)},
    _lines("""
        A hello please open new record
        A start play pause play stop
        A next back next record
        A question one play left right
        A question two play up down
        A yes good answer thanks
        A stop record close project
    """),
)

SCENES = (INTERVIEW, HEARING, CALL, STAND_UP, REVIEW, MEMO, DICTATION, PLAYER_TEST)
