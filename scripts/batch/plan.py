"""What a run has to do: what is there against what the state says was reached."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from scripts.batch.arguments import FORMATS, Arguments
from scripts.batch.recordings import Fingerprint, Recording, fingerprint, shown, transcript_name
from scripts.batch.runner import missing_transcripts
from scripts.batch.state import Entry, Status
from scripts.batch.storage import KEPT

NAMED = 3
"""Recordings that a note about many names."""


@dataclass(frozen=True, slots=True)
class Plan:
    """``pending`` is worked on; ``skipped`` is complete, of which ``incomplete`` lacks transcripts; ``left`` failed."""

    pending: tuple[Recording, ...]
    skipped: tuple[Recording, ...]
    incomplete: tuple[Recording, ...]
    left: tuple[Recording, ...]
    entries: Mapping[str, Entry]
    notes: tuple[str, ...]

    @property
    def all(self) -> tuple[Recording, ...]:
        return tuple(sorted((*self.pending, *self.skipped, *self.left), key=lambda recording: recording.name))


def make_plan(
    recordings: Sequence[Recording], entries: Mapping[str, Entry], arguments: Arguments, others: Sequence[str] = ()
) -> Plan:
    """``entries`` of the plan are those of all its recordings as the run begins. ``others``: what else is in the folder."""
    present = [*recordings, *_followed(recordings, entries, arguments)]
    begun = {recording.name: _begun(recording, entries, arguments) for recording in present}
    by_status = {recording.name: begun[recording.name].status for recording in present}
    skipped = tuple(recording for recording in present if by_status[recording.name] is Status.COMPLETE)
    left = tuple(recording for recording in present if by_status[recording.name] in (Status.FAILED, Status.CANCELED))
    return Plan(
        pending=tuple(recording for recording in present if not by_status[recording.name].ended),
        skipped=skipped,
        incomplete=tuple(recording for recording in skipped if missing_transcripts(recording, arguments)),
        left=left,
        entries=begun,
        notes=(
            *_passed_over(others, recordings, arguments),
            *_changed(skipped, begun),
            *_with_other_options(begun, arguments),
        ),
    )


def _followed(
    recordings: Sequence[Recording], entries: Mapping[str, Entry], arguments: Arguments
) -> Iterator[Recording]:
    """Recordings that are no longer in the folder, but whose job has not ended: they need no file any more."""
    present = {recording.name for recording in recordings}
    for name, entry in entries.items():
        if name not in present and entry.job_id is not None and not entry.status.ended:
            yield Recording(name, arguments.input / name)


def _begun(recording: Recording, entries: Mapping[str, Entry], arguments: Arguments) -> Entry:
    """The entry that a run begins with."""
    entry = entries.get(recording.name)
    if entry is None:
        return Entry(Status.QUEUED, arguments.execution_mode, again=arguments.again)
    changed = entry.content is not None and _content(recording) not in (None, entry.content)
    settled = entry.status.ended or (entry.job_id is None and entry.request_id is None)
    if settled and arguments.again is not None and arguments.again != entry.again:
        return entry.once_more(arguments.again, upload=changed)
    if entry.status in (Status.FAILED, Status.CANCELED):
        return entry.retried(upload=changed) if arguments.retry_failed else entry
    if not entry.status.ended and entry.job_id is None and changed:
        return entry.anew(upload=True)
    return entry


def _with_other_options(entries: Mapping[str, Entry], arguments: Arguments) -> Iterator[str]:
    """Recordings that do not get the options that are asked for now."""
    options = arguments.job_options()
    other = {name: entry for name, entry in sorted(entries.items()) if entry.has_other(options)}
    done = [name for name, entry in other.items() if entry.status is Status.COMPLETE]
    begun = [name for name, entry in other.items() if not entry.status.ended]
    if done:
        yield (
            f"Transcribed with other options, and left as they are: {_some(done)}. To have them transcribed with these "
            "options, too, name another --state and another --output; in their place, name a time with --again."
        )
    if begun:
        yield f"Submitted with other options before, and going on with those: {_some(begun)}."


def _some(names: Sequence[str], of: str = "of the recordings") -> str:
    named = ", ".join(shown(name) for name in names[:NAMED])
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} {of} ({named}{more})"


def _passed_over(others: Sequence[str], recordings: Sequence[Recording], arguments: Arguments) -> Iterator[str]:
    """What a run makes is not worth a word."""
    made = {transcript_name(recording.name, form) for recording in recordings for form in FORMATS}
    folder = arguments.input.resolve()
    made |= {path.name for path in (arguments.output, arguments.state) if path.resolve().parent == folder}
    left = [name for name in others if name not in made and not name.endswith(KEPT)]
    if left:
        yield f"Passed over, for they are folders, or no recordings by their endings: {_some(left, 'names')}."


def _changed(skipped: Sequence[Recording], entries: Mapping[str, Entry]) -> Iterator[str]:
    for recording in skipped:
        if _is_another(recording, entries[recording.name]):
            yield (
                f"{shown(recording.name)}: skipped as complete, but the file has changed since; to transcribe it "
                "again, remove its entry from the state file"
            )


def _is_another(recording: Recording, entry: Entry) -> bool:
    """A recorder that fills its files up makes all of one size, so one of another time is looked into."""
    before, now = entry.content, _content(recording)
    if before is None or now is None or before == now:
        return False
    return before.size_bytes != now.size_bytes or _digest(recording) not in (None, entry.sha256)


def _digest(recording: Recording) -> str | None:
    try:
        with recording.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _content(recording: Recording) -> Fingerprint | None:
    try:
        return fingerprint(recording.path)
    except OSError:
        return None
