"""The batch runner's values: the state file, names, events, waiting, the summary."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import multiprocessing
import os
import signal
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn

from gateway.requests import JobOptions
from gateway.wire import options_answer, options_message
from scripts.batch.answers import Job, Made, Report, read_job, read_made, read_report
from scripts.batch.arguments import parse_arguments
from scripts.batch.content import Content
from scripts.batch.events import Event, EventDecoder
from scripts.batch.outages import Away, Faulty, Outages, persistently
from scripts.batch.plan import make_plan
from scripts.batch.progress import Bars, doing, time_left
from scripts.batch.recordings import Fingerprint, find_recordings, look_into, shown, transcript_name
from scripts.batch.runner import ended_entry
from scripts.batch.sessions import KEPT, RememberedSessions, gateway_key, sessions_file
from scripts.batch.state import BatchState, Entry, Session, StateError, Status, load_state
from scripts.batch.storage import Locked, StorageError, locked, replacing, scratch_path
from scripts.batch.summary import Summary, clock

FULL = Entry(
    Status.FAILED, "remote", "u", "j", "r", "j0", Fingerprint(5, 7), "ab", 1.5, "REMOTE_FAILED", "it broke",
    {"model": "demo"}, "2",
)  # fmt: skip


def test_the_state_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state = BatchState(path, {}, None)
    state.put("ä🎙️.mp3", FULL)
    state.put("bad\udce9.mp3", Entry(Status.QUEUED, "local"))
    state.put_session(Session("cookie", "csrf"), "http://localhost:8476")
    again = load_state(path)
    assert again.entries == state.entries
    assert again.session == again.session_with("http://localhost:8476") == Session("cookie", "csrf")
    assert again.session_with("http://gateway:8476") is None
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_guides_own_example_is_a_state(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    entry = {"uploadId": "abc123", "jobId": "xyz789", "status": "complete", "executionMode": "remote"}
    path.write_text(json.dumps({"files": {"interview-001.mp3": entry}, "session": "...", "csrfToken": "..."}))
    assert load_state(path).entries == {"interview-001.mp3": Entry(Status.COMPLETE, "remote", "abc123", "xyz789")}
    assert load_state(path).session_with("http://any:80") == Session("...", "...")


def test_a_state_that_cannot_be_written_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "there" / "state.json"
    path.parent.mkdir()
    state = BatchState(path, {}, None)
    state.put("a.mp3", FULL)
    before = path.read_bytes()
    path.parent.rename(tmp_path / "away")
    with pytest.raises(StorageError, match="cannot write"):
        state.put("b.mp3", FULL)
    assert (tmp_path / "away" / "state.json").read_bytes() == before


async def test_changes_that_come_fast_are_written_together_and_all_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state = BatchState(path, {}, None)
    seen = set()
    async with state.kept():
        for number in range(3000):
            state.put(f"{number}.mp3", FULL)
            seen.add(path.stat().st_ino)
        with pytest.raises(AssertionError):
            assert load_state(path).entries == state.entries
    assert load_state(path).entries == state.entries
    assert 1 <= len(seen) < 500


async def test_the_last_change_is_written_soon_though_none_comes_after_it(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state = BatchState(path, {f"{number}.mp3": FULL for number in range(1000)}, None)
    async with state.kept():
        state.put("a.mp3", FULL)
        state.put("b.mp3", FULL)
        async with asyncio.timeout(10):
            while "b.mp3" not in load_state(path).entries:  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.01)


async def test_who_has_to_know_waits_until_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state = BatchState(path, {f"{number}.mp3": FULL for number in range(1000)}, None)
    async with state.kept(), asyncio.timeout(10):
        for name in ("a.mp3", "b.mp3", "c.mp3"):
            state.put(name, FULL)
            await state.saved()
            assert name in load_state(path).entries
        await state.saved()


async def test_a_state_that_cannot_be_written_any_more_ends_the_work(tmp_path: Path) -> None:
    path = tmp_path / "there" / "state.json"
    path.parent.mkdir()
    state = BatchState(path, {}, None)

    async def work() -> None:
        async with state.kept(), asyncio.timeout(10):
            state.put("a.mp3", FULL)
            path.parent.rename(tmp_path / "away")
            state.put("b.mp3", FULL)
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as caught:
        await work()
    assert caught.group_contains(StorageError, match="cannot write")


def test_a_folder_is_no_state(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot read"):
        load_state(tmp_path)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(bytes(1 // 0))
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_what_a_kill_left_of_a_write_is_overwritten_by_the_next_and_nobody_else_reads_it(tmp_path: Path) -> None:
    for name in ("state.json", "l" * 250 + ".txt"):
        path = tmp_path / name
        process = multiprocessing.get_context("fork").Process(target=_die_in_a_write, args=(path,))
        process.start()
        process.join()
        (left,) = tmp_path.iterdir()
        assert left == scratch_path(path)
        left.chmod(0o644)
        with replacing(path) as file:
            assert stat.S_IMODE(left.stat().st_mode) == 0o600
            file.write(b"new")
        assert path.read_bytes() == b"new"
        assert list(tmp_path.iterdir()) == [path]
        path.unlink()


def _die_in_a_write(path: Path) -> None:
    with replacing(path) as file:
        file.write(b"a much longer content")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def test_two_who_write_the_same_at_once_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replacing(path) as first:
        first.write(b"first")
        with replacing(path) as second:
            second.write(b"the second")
        assert path.read_bytes() == b"the second"
        first.write(b", too")
    assert path.read_bytes() == b"first, too"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_in_the_place_of_the_scratch_file_is_not_followed(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "a.txt", tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    scratch_path(path).symlink_to(elsewhere)
    with replacing(path) as file:
        file.write(b"new")
    assert (path.read_text(), elsewhere.read_text()) == ("new", "mine")


def test_a_lock_is_held_once_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path), pytest.raises(Locked), locked(path):
        pass
    with locked(path):
        pass
    assert not path.exists()


CONTENT = Content(Fingerprint(1, 1), "ab" * 32)
OPTIONS = {"model": "demo", "useRemoteWorker": True}


def test_a_request_is_named_by_what_it_is_of() -> None:
    entry = Entry(Status.QUEUED, "local").hashed(CONTENT).uploaded("u1")
    named = entry.submitting("a.mp3", OPTIONS).request_id
    elsewhere = Entry(Status.QUEUED, "remote").hashed(CONTENT).uploaded("u2")
    assert elsewhere.submitting("a.mp3", dict(reversed(OPTIONS.items()))).request_id == named
    others = [
        entry.submitting("b.mp3", OPTIONS),
        entry.submitting("a.mp3", OPTIONS | {"language": "de"}),
        entry.hashed(replace(CONTENT, sha256="cd" * 32)).submitting("a.mp3", OPTIONS),
        replace(entry, replaces="j1").submitting("a.mp3", OPTIONS),
        entry.submitting("\udce9.mp3", OPTIONS),
    ]
    assert len({named, *(other.request_id for other in others)}) == 6


def test_a_request_that_may_have_been_sent_stays_whatever_is_asked_for_now() -> None:
    entry = Entry(Status.QUEUED, "local").hashed(CONTENT).submitting("a.mp3", OPTIONS)
    assert entry.submitting("a.mp3", {}) == entry
    assert entry.has_other({})
    assert not entry.has_other(OPTIONS)
    assert not replace(entry, options=None).has_other({})
    assert not entry.anew(upload=False).has_other({})


def test_a_job_that_was_lost_is_the_same_again_and_one_that_failed_another() -> None:
    entry = Entry(Status.QUEUED, "local").hashed(CONTENT).uploaded("u1").submitting("a.mp3", OPTIONS)
    lost = entry.submitted("j1").anew(upload=False)
    assert (lost.upload_id, lost.job_id) == ("u1", None)
    assert lost.submitting("a.mp3", OPTIONS).request_id == entry.request_id
    retried = entry.submitted("j1").retried(upload=False)
    assert retried.replaces == "j1"
    assert retried.submitting("a.mp3", OPTIONS).request_id != entry.request_id
    assert retried.retried(upload=True).replaces == "j1"  # which never became a job
    assert retried.anew(upload=True).upload_id is None
    times = [retried.once_more(name, upload=False).submitting("a.mp3", OPTIONS) for name in ("2", "3", "2")]
    assert times[0] == times[2]
    assert len({entry.request_id, times[0].request_id, times[1].request_id}) == 3


def test_sessions_are_remembered_for_each_gateway(tmp_path: Path) -> None:
    path = sessions_file({"XDG_STATE_HOME": str(tmp_path / "state"), "HOME": "/nowhere"})
    assert path == tmp_path / "state" / "bulkscribe" / "sessions.json"
    a, b, c = (gateway_key(f"http://{name}") for name in "abc")
    for key, cookie in ((a, "one"), (b, "two"), (a, "three"), (a, "one"), (a, "one")):
        RememberedSessions(path).remember(key, cookie)
    assert [RememberedSessions(path).known(key) for key in (a, b, c)] == [["one", "three"], ["two"], []]
    for number in range(2 * KEPT):
        RememberedSessions(path).remember(a, f"number{number}")
    assert RememberedSessions(path).known(a) == [f"number{number}" for number in range(2 * KEPT - 1, KEPT - 1, -1)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["sessions.json"]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"http://a": 3}', b'{"http://a": "x; y"}', b'{"http://a:x": "y"}', b"\xff"]
)
def test_sessions_that_cannot_be_read_are_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sessions.json"
    path.write_bytes(content)
    remembered = RememberedSessions(path)
    assert remembered.known("http://a:80") == []
    remembered.remember("http://a:80", "one")
    assert remembered.known("http://a:80") == ["one"]


def test_sessions_are_read_as_they_were_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "sessions.json"
    path.write_text(json.dumps({"http://localhost:8476": "one", "http://127.0.0.1:8476": "two", "https://a": "three"}))
    remembered = RememberedSessions(path)
    assert remembered.known("http://localhost:8476") == ["one", "two"]
    remembered.remember("http://localhost:8476", "two")
    assert remembered.known("http://localhost:8476") == ["two", "one"]
    assert remembered.known("https://a:443") == ["three"]


def test_a_gateway_has_one_key_by_all_its_local_names() -> None:
    local = {
        gateway_key(f"http://{host}:8476")
        for host in ("localhost", "LOCALHOST", "127.0.0.1", "[::1]", "me:x@localhost")
    }
    assert local == {"http://localhost:8476"}
    others = ("http://localhost:8477", "https://localhost:8476", "http://[2001:db8::1]:8476", "http://localhost:8476/a")
    assert len({*local, *map(gateway_key, others)}) == 5
    assert gateway_key("http://[2001:db8::1]:8476") == "http://[2001:db8::1]:8476"


def test_sessions_that_cannot_be_written_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "bulkscribe" / "sessions.json", None):
        RememberedSessions(path).remember("http://a:80", "one")
        assert RememberedSessions(path).known("http://a:80") == []
    assert sessions_file({}) is None
    assert sessions_file({"XDG_STATE_HOME": "relative", "HOME": "/h"}) == Path(
        "/h/.local/state/bulkscribe/sessions.json"
    )


def test_the_sessions_option_goes_before_its_variable(tmp_path: Path) -> None:
    given, variable = ["--input", str(tmp_path)], {"BULKSCRIBE_SESSION": "from.outside"}
    assert parse_arguments(given, variable).session == "from.outside"
    assert parse_arguments([*given, "--session", " a.cookie "], variable).session == "a.cookie"
    assert parse_arguments(given, {"BULKSCRIBE_SESSION": ""}).session is None


@pytest.mark.parametrize("value", ["a b", "a;b", "ä", "a\nb"])
def test_a_session_that_is_no_cookie_is_wrong_use_and_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    for arguments, environment in ((["--session", value], {}), ([], {"BULKSCRIBE_SESSION": value})):
        with pytest.raises(SystemExit) as ended:
            parse_arguments(["--input", str(tmp_path), *arguments], environment)
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        assert value not in said


def test_an_ended_job_says_why_unless_it_is_complete() -> None:
    job = Job("j", Status.FAILED, "remote", error_code="REMOTE_FAILED", error="it\x1bbroke", duration_seconds=3.0)
    entry = ended_entry(Entry(Status.RUNNING, "local"), job)
    assert (entry.status, entry.error, entry.duration_seconds) == (Status.FAILED, "it\\x1bbroke", 3.0)
    complete = ended_entry(FULL, replace(job, status=Status.COMPLETE))
    assert (complete.error_code, complete.error) == (None, None)


def test_recordings_are_told_by_their_names(tmp_path: Path) -> None:
    for name in ("b.mp3", "a.M4A", ".c.mp3", "d.txt", "mp3", "e.mp3.part", "._f.mp3"):
        (tmp_path / name).touch()
    (tmp_path / "folder.mp3").mkdir()
    (tmp_path / "broken.mp3").symlink_to(tmp_path / "nothing")
    (tmp_path / "link.mp3").symlink_to(tmp_path / "d.txt")
    (tmp_path / "loop.mp3").symlink_to(tmp_path / "loop.mp3")
    recordings, others = look_into(tmp_path)
    assert [recording.name for recording in recordings] == ["a.M4A", "b.mp3", "link.mp3"]
    assert others == ["broken.mp3", "d.txt", "e.mp3.part", "folder.mp3", "loop.mp3", "mp3"]


def test_what_is_moved_aside_fits_however_long_its_name(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".txt")
    moved: list[Path] = []
    for content in (b"theirs", b"ours", b"ours", b"other"):
        with replacing(path, moved.append) as file:
            file.write(content)
    assert [each.read_bytes() for each in moved] == [b"theirs", b"ours"]
    assert path.read_bytes() == b"other"


def test_what_is_passed_over_is_named_but_not_what_a_run_made_itself(tmp_path: Path) -> None:
    for name in ("a.mp3", "a.mp3.txt", "b.mp3.txt", "batch_state.json", "notes.doc", "tape.xyz", "x.1", "x.2"):
        (tmp_path / name).touch()
    (tmp_path / "transcripts").mkdir()
    arguments = parse_arguments(["--input", str(tmp_path)])
    recordings, others = look_into(tmp_path)
    (note,) = make_plan(recordings, {}, arguments, others).notes
    assert note.startswith("Passed over, for they are folders, or no recordings by their endings: 5 names (b.mp3.txt, ")
    assert note.endswith(" and 2 more).")
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.mp3").touch()
    assert make_plan(*look_into(tmp_path / "only")[:1], {}, arguments, look_into(tmp_path / "only")[1]).notes == ()


@pytest.mark.parametrize("content", [b"the same", b"another!"])
def test_a_file_of_the_same_size_is_looked_into(tmp_path: Path, content: bytes) -> None:
    """Recorders that fill their files up make all of one size, under names that come again."""
    path = tmp_path / "REC001.wav"
    path.write_bytes(content)
    digest = hashlib.sha256(b"the same").hexdigest()
    entry = Entry(Status.COMPLETE, "local", "u", "j", content=Fingerprint(8, 1), sha256=digest)
    plan = make_plan(find_recordings(tmp_path), {path.name: entry}, parse_arguments(["--input", str(tmp_path)]))
    assert [recording.name for recording in plan.skipped] == [path.name]
    assert any("has changed since" in note for note in plan.notes) == (content != b"the same")


def test_transcripts_of_long_names_fit_and_differ() -> None:
    names = [transcript_name("🎙" * 62 + end + ".mp3", "json") for end in ("a", "b")]
    assert all(len(os.fsencode(name)) <= 255 for name in names)
    assert len(set(names)) == 2
    assert all(name.endswith(".json") for name in names)
    assert transcript_name("a.mp3", "txt") == "a.mp3.txt"


def test_names_are_shown_without_what_moves_the_cursor() -> None:
    assert shown("a\x1b[2J\nb\u202e\udce9 👩‍👩‍👧 ☎️") == "a\\x1b[2J\\nb\\u202e\\xe9 👩‍👩‍👧 ☎️"


def test_events_come_out_of_any_pieces() -> None:
    stream = b': c\n\nid: 1\r\nevent: status\r\ndata: {"a":\r\ndata: 1}\r\n\r\nid: 2\ndata:\xc3\xa4\n\nid: 3\ndata: cut'
    whole = EventDecoder().feed(stream)
    decoder = EventDecoder()
    assert [event for byte in stream for event in decoder.feed(bytes([byte]))] == whole
    assert whole == [Event("1", "status", '{"a":\n1}'), Event("2", "message", "ä")]


def test_answers_are_read_or_faulty() -> None:
    assert read_job({"jobId": "j", "status": "queued", "executionMode": "local"}) == Job("j", Status.QUEUED, "local")
    assert read_report({"segment": {}}) is None
    assert read_report({"status": "odd"}) is None
    for wrong in ({}, [], {"jobId": "j", "status": "odd", "executionMode": "local"}):
        with pytest.raises(Faulty):
            read_job(wrong)


@pytest.mark.parametrize(
    "given",
    [
        ["--remote"],
        ["--diarization", "--fast-switching", "--diarization-max-duration", "0.1"],
        ["--diarization", "--speaker-per-channel"],
        ["--diarization", "--min-speakers", "2", "--max-speakers", "4"],
        ["--language", "EN", "--model", "demo"],
        ["--language", "auto"],
    ],
)
def test_a_job_is_known_by_its_options_as_the_gateway_tells_them(tmp_path: Path, given: list[str]) -> None:
    asked = parse_arguments(["--input", str(tmp_path), *given]).job_options()
    told = options_answer(options_message(JobOptions.model_validate(asked)))
    job = {"jobId": "j1", "uploadId": "u1", "status": "running", "options": told}
    (made,), token = read_made({"jobs": [job], "nextPageToken": None})
    assert (made, token) == (Made("j1", "u1", Status.RUNNING, dict(told)), "")
    assert made.has_options(asked)
    assert not made.has_options(asked | {"language": "de"})
    assert not made.has_options(asked | {"useRemoteWorker": not asked["useRemoteWorker"]})
    assert not replace(made, options=told | {"wordTimestamps": True}).has_options(asked)
    assert not replace(made, options=told | {"vad": False}).has_options(asked)
    for wrong in ({}, [], {"jobs": [{}]}, {"jobs": [job | {"options": None}]}):
        with pytest.raises(Faulty):
            read_made(wrong)


async def test_faulty_answers_end_the_trying_and_outages_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.batch.outages.FIRST_WAIT_SECONDS", 1e-6)
    said: list[str] = []
    outages = Outages(said.append)
    errors: list[Exception] = [Away("it is away")] * 12

    async def call() -> str:
        if errors:
            raise errors.pop()
        return "done"

    assert await persistently(outages, "job", call) == "done"
    assert len(said) == 2
    errors += [Faulty("no JSON")] * 20
    with pytest.raises(Faulty):
        await persistently(outages, "job", call)
    assert len(errors) == 12


def test_an_outage_is_told_once_and_again_after_a_while() -> None:
    said: list[str] = []
    now = [0.0]
    outages = Outages(said.append, lambda: now[0])
    for second in range(1000):
        now[0] = float(second)
        outages.failed("job", "it is away")
        outages.failed("upload", "it is away")
    outages.succeeded("job")
    outages.succeeded("upload")
    outages.succeeded("upload")
    assert [line[:8] for line in said] == ["Waiting:", "Waiting:", "The gate"]


def test_what_a_job_is_at() -> None:
    assert doing(Report(Status.QUEUED_REMOTE, "", 0, "Waiting for worker capacity")) == "Waiting for worker capacity"
    assert doing(Report(Status.QUEUED_REMOTE, "", 0, "")) == "queued remote"
    assert doing(Report(Status.RUNNING, "diarizing", 70, "")) == "diarizing"
    assert doing(Report(Status.RUNNING, "loading", 0, "loading model demo")) == "loading model demo"


def test_the_time_left_is_read_where_the_gateway_tells_it() -> None:
    progress = {"stage": "transcribing", "percent": 40.0, "secondsLeft": 181.2}
    job = {"jobId": "j", "executionMode": "local", "status": "running", "progress": progress, "message": ""}
    assert (read_job(job).seconds_left, read_report(job)) == (
        181.2,
        Report(Status.RUNNING, "transcribing", 40.0, "", 181.2),
    )
    for unknown in ({"stage": "", "percent": 0}, progress | {"secondsLeft": None}):
        report = read_report(job | {"progress": unknown})
        assert report is not None
        assert read_job(job | {"progress": unknown}).seconds_left is report.seconds_left is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (0.0, "less than a minute left"),
        (29.0, "less than a minute left"),
        (31.0, "about 1 min left"),
        (181.2, "about 3 min left"),
        (3569.0, "about 59 min left"),
        (3571.0, "about 1 h 0 min left"),
        (9000.0, "about 2 h 30 min left"),
    ],
)
def test_the_time_left_in_words(seconds: float | None, words: str) -> None:
    assert time_left(seconds) == words


def test_a_bar_tells_the_time_left() -> None:
    with Progress(TextColumn("{task.fields[doing]}"), console=Console(file=io.StringIO())) as progress:
        bars = Bars(progress, 1)
        bars.begin("a.mp3")
        bars.report("a.mp3", Report(Status.RUNNING, "transcribing", 40.0, "", 181.2))
        assert progress.tasks[-1].fields["doing"] == "transcribing · about 3 min left"
        bars.report("a.mp3", Report(Status.RUNNING, "finishing", 99.0, ""))
        assert progress.tasks[-1].fields["doing"] == "finishing"


def test_the_summary_puts_failures_last_and_tells_the_speed() -> None:
    entries = {
        "a.mp3": FULL,
        "b.mp3": Entry(Status.COMPLETE, "remote", duration_seconds=7200.0),
        "c.mp3": Entry(Status.COMPLETE, "remote", duration_seconds=60.0),
    }
    summary = Summary(entries, frozenset({"c.mp3"}), 72.0)
    assert not summary.all_complete
    assert list(summary.lines())[:5] == [
        "Summary",
        "  skipped   c.mp3 (1:00)",
        "  complete  b.mp3 (2:00:00)",
        "  failed    a.mp3: REMOTE_FAILED: it broke",
        "1 complete, 1 failed, 0 canceled, 1 skipped",
    ]
    assert "2:00:00 of audio in 1:12: real-time factor 0.0100 (100.0 times" in list(summary.lines())[5]
    assert len(list(replace(summary, continued=frozenset({"b.mp3"})).lines())) == len(list(summary.lines())) - 1
    assert clock(5.04) == "5.0 s"


def test_a_plan_follows_jobs_whose_files_are_gone_and_notes_changed_files(tmp_path: Path) -> None:
    (tmp_path / "done.mp3").write_bytes(b"longer")
    (tmp_path / "new.mp3").write_bytes(b"x")
    arguments = parse_arguments(["--input", str(tmp_path)])
    entries = {
        "done.mp3": Entry(Status.COMPLETE, "local", "u1", "j1", content=Fingerprint(1, 1)),
        "gone.mp3": Entry(Status.RUNNING, "local", "u2", "j2"),
        "past.mp3": Entry(Status.QUEUED, "local", "u3"),
    }
    plan = make_plan(find_recordings(tmp_path), entries, arguments)
    assert [recording.name for recording in plan.pending] == ["new.mp3", "gone.mp3"]
    assert [recording.name for recording in plan.incomplete] == ["done.mp3"]
    assert len(plan.notes) == 1


def test_a_plan_notes_what_does_not_get_the_options_that_are_asked_for(tmp_path: Path) -> None:
    names = [f"{letter}.mp3" for letter in "abcdefg"]
    for name in names:
        (tmp_path / name).touch()
    arguments = parse_arguments(["--input", str(tmp_path), "--diarization"])
    plain = parse_arguments(["--input", str(tmp_path)]).job_options()
    entries = {name: Entry(Status.COMPLETE, "local", "u", "j", options=plain) for name in names[:4]}
    entries["e.mp3"] = Entry(Status.RUNNING, "local", "u", "j", options=plain)
    entries["f.mp3"] = Entry(Status.COMPLETE, "local", "u", "j", options=arguments.job_options())
    entries["g.mp3"] = Entry(Status.COMPLETE, "local", "u", "j")
    done, begun = make_plan(find_recordings(tmp_path), entries, arguments).notes
    assert "left as they are: 4 of the recordings (a.mp3, b.mp3, c.mp3 and 1 more)" in done
    assert "going on with those: 1 of the recordings (e.mp3)" in begun


def test_a_file_that_was_mended_is_uploaded_again_for_another_try(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(b"mended")
    entries = {"a.mp3": replace(FULL, content=Fingerprint(1, 1))}
    recordings = find_recordings(tmp_path)
    left = make_plan(recordings, entries, parse_arguments(["--input", str(tmp_path)]))
    assert [recording.name for recording in left.left] == ["a.mp3"]
    tried = make_plan(recordings, entries, parse_arguments(["--input", str(tmp_path), "--retry-failed"]))
    assert tried.entries["a.mp3"].upload_id is None


def test_defaults_are_the_promised_ones(tmp_path: Path) -> None:
    given = parse_arguments(["--input", str(tmp_path)])
    assert (given.controller, given.model, given.parallel) == ("http://localhost:8476", "large-v3", 1)
    assert (given.state, given.output) == (tmp_path / "batch_state.json", tmp_path / "transcripts")
    assert given.job_options() == {"model": "large-v3", "useRemoteWorker": False, "diarizationEnabled": False}


def test_one_speaker_a_channel_is_said_only_where_it_is_asked_for(tmp_path: Path) -> None:
    plain, asked = (
        parse_arguments(["--input", str(tmp_path), "--diarization", *more]).job_options()
        for more in ([], ["--speaker-per-channel"])
    )
    assert "speakerPerChannel" not in plain
    assert asked == plain | {"speakerPerChannel": True}
