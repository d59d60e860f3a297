"""The command line: what it may say, and one line for what it may not."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from scripts.batch.sessions import is_cookie, sessions_file

LONGEST_SECONDS = 7 * 24 * 3600
"""Of a stretch to diarize at once: what the gateway takes."""

MOST_SPEAKERS = 100
"""As many as the gateway takes."""

PROGRAM = "run_batch.sh"
EXIT_WRONG_USE = 2

FORMATS = ("json", "txt", "srt", "vtt", "md", "tsv")
DEFAULT_FORMATS = ("txt", "json", "srt")
SESSION_VARIABLE = "BULKSCRIBE_SESSION"
STATE_NAME = "batch_state.json"
OUTPUT_NAME = "transcripts"

_DESCRIPTION = """\
Transcribes every recording in a folder. What was reached is kept in the state file after every change: run the same
command again after any interruption and it goes on; nothing is uploaded, submitted or transcribed twice. That holds
without the state file, too, as long as the session is the same: it is remembered for each gateway.

What is complete stays as it is, whatever options are given. To have it transcribed a second time, add --again NAME;
add another --state and another --output to keep the first. Without --again those do so for other options only, and for
the same ones fetch the same transcripts."""

_EPILOG = """\
exit status: 0 all are complete; 1 some failed or were canceled; 2 wrong use; 130 ended by Ctrl-C (143 by SIGTERM)"""


class WrongUse(Exception):
    """The command cannot be carried out as it was given; the message is for people."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """``parallel`` is in recordings, ``diarization_max_duration`` in seconds; ``session`` is the cookie to go on
    with, and ``remembered`` the file of sessions, both None where there is none."""

    input: Path
    controller: str
    remote: bool
    diarization: bool
    model: str
    state: Path
    parallel: int
    diarization_max_duration: float | None
    fast_switching: bool
    speaker_per_channel: bool
    min_speakers: int | None
    max_speakers: int | None
    language: str | None
    output: Path
    formats: tuple[str, ...]
    retry_failed: bool
    again: str | None = None
    session: str | None = None
    remembered: Path | None = None

    def job_options(self) -> dict[str, object]:
        """The `options` of POST /api/jobs; what was not asked for is left to the server's defaults."""
        options: dict[str, object] = {
            "model": self.model,
            "useRemoteWorker": self.remote,
            "diarizationEnabled": self.diarization,
        }
        if self.diarization_max_duration is not None:
            options["diarizationMaxDurationSeconds"] = self.diarization_max_duration
        if self.fast_switching:
            options["diarizationFastSwitching"] = True
        if self.speaker_per_channel:
            options["speakerPerChannel"] = True
        if self.min_speakers is not None:
            options["minSpeakers"] = self.min_speakers
        if self.max_speakers is not None:
            options["maxSpeakers"] = self.max_speakers
        if self.language is not None:
            options["language"] = self.language
        return options

    @property
    def execution_mode(self) -> str:
        """What is asked for; the server's answer says what it is."""
        return "remote" if self.remote else "local"


def _only_with_diarization(given: argparse.Namespace) -> str:
    """The first option that was given and does nothing without --diarization, or ""."""
    asked = {
        "--diarization-max-duration": given.diarization_max_duration,
        "--fast-switching": given.fast_switching or None,
        "--speaker-per-channel": given.speaker_per_channel or None,
        "--min-speakers": given.min_speakers,
        "--max-speakers": given.max_speakers,
    }
    return next((name for name, value in asked.items() if value is not None), "")


def parse_arguments(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Arguments:
    """Ends the program after `--help` (0) and, with one line, on wrong use (2)."""
    environment = environment or {}
    parser = _parser()
    given = parser.parse_args(arguments)
    session: str | None = given.session
    if session is None and environment.get(SESSION_VARIABLE):
        session = _session_variable(parser, environment[SESSION_VARIABLE])
    if None not in (given.min_speakers, given.max_speakers) and given.min_speakers > given.max_speakers:
        parser.error("--min-speakers must be at most --max-speakers")
    if not given.diarization and (idle := _only_with_diarization(given)):
        parser.error(f"{idle} says how speakers are told apart: add --diarization, or leave it out")
    folder: Path = given.input
    return Arguments(
        input=folder,
        controller=given.controller,
        remote=given.remote,
        diarization=given.diarization,
        model=given.model,
        state=given.state or folder / STATE_NAME,
        parallel=given.parallel,
        diarization_max_duration=given.diarization_max_duration,
        fast_switching=given.fast_switching,
        speaker_per_channel=given.speaker_per_channel,
        min_speakers=given.min_speakers,
        max_speakers=given.max_speakers,
        language=given.language,
        output=given.output or folder / OUTPUT_NAME,
        formats=given.formats,
        retry_failed=given.retry_failed,
        again=given.again,
        session=session,
        remembered=sessions_file(environment),
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse would print the whole usage above it."""
        line = " ".join(message.split())
        self.exit(EXIT_WRONG_USE, f"{PROGRAM}: {line} (see {PROGRAM} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--input", type=_folder, required=True, metavar="DIR", help="folder of the recordings (required)")
    add("--controller", type=_url, default="http://localhost:8476", metavar="URL", help="the gateway (%(default)s)")
    add("--remote", action="store_true", help="ask for a remote GPU worker")
    add("--diarization", action="store_true", help="tell the speakers apart")
    add("--model", type=_name, default="large-v3", help="Whisper model (%(default)s)")
    add("--state", type=_path, metavar="FILE", help=f"state file (DIR/{STATE_NAME})")
    add("--parallel", type=_count, default=1, metavar="N", help="recordings in flight at once (%(default)s)")
    add(
        "--diarization-max-duration",
        type=_seconds,
        metavar="S",
        help="longest stretch to diarize at once, in seconds (120 to 3600; 1800)",
    )
    add("--fast-switching", action="store_true", help="diarize shorter chunks with more overlap: finer turns, slower")
    add(
        "--speaker-per-channel",
        action="store_true",
        help="where each of two channels holds one speaker: tell them apart by channel, exactly; others by voice",
    )
    add(
        "--min-speakers", type=_speakers, metavar="N", help="at least so many in every recording (told by their voices)"
    )
    add("--max-speakers", type=_speakers, metavar="N", help="at most so many; the same N for both where it is known")
    add("--language", type=_name, metavar="CODE", help="spoken language, as en or de (detected)")
    add("--output", type=_path, metavar="DIR", help=f"where the transcripts go (DIR/{OUTPUT_NAME})")
    add(
        "--formats",
        type=_formats,
        default=DEFAULT_FORMATS,
        metavar="LIST",
        help=f"of {','.join(FORMATS)} ({','.join(DEFAULT_FORMATS)})",
    )
    add("--retry-failed", action="store_true", help="try recordings again that failed or were canceled before")
    add(
        "--again",
        type=_name,
        metavar="NAME",
        help="transcribe all once more, in the place of what is complete; any NAME, as 2, tells this time from others, "
        "so that the same command goes on with it after an interruption",
    )
    add(
        "--session",
        type=_session,
        metavar="VALUE",
        help=f"value of the session cookie to go on with (${SESSION_VARIABLE}, the state file's, the last one there)",
    )
    return parser


def _session(text: str) -> str:
    value = text.strip()
    if not is_cookie(value):
        raise argparse.ArgumentTypeError("that is no value of a session cookie")  # and may be a secret all the same
    return value


def _session_variable(parser: argparse.ArgumentParser, value: str) -> str:
    try:
        return _session(value)
    except argparse.ArgumentTypeError as error:
        parser.error(f"{SESSION_VARIABLE}: {error}")


def _folder(text: str) -> Path:
    path = _path(text)
    try:
        exists = path.exists()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a path: {error.strerror}") from None
    if not exists:
        raise argparse.ArgumentTypeError(f"there is no folder {text!r}")
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder")
    return path


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a path")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # no such user
        raise argparse.ArgumentTypeError(f"{text!r} is not a path: {error}") from None


def _url(text: str) -> str:
    try:
        parts = urlsplit(text.strip())
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not text.isprintable() or " " in text.strip() or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an address; it must be http://host:port or https://host:port"
        )
    return text.strip().rstrip("/")


def _name(text: str) -> str:
    name = text.strip()
    if not name or not name.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is no name")
    return name


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _speakers(text: str) -> int:
    count = _count(text)
    if count > MOST_SPEAKERS:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {MOST_SPEAKERS} speakers")
    return count


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds above 0, {LONGEST_SECONDS} (a week) at most"
        )
    return seconds


def _formats(text: str) -> tuple[str, ...]:
    names = [name.strip().lower() for name in text.split(",")]
    for name in names:
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(f"{name!r} is no format; known are {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(names))
