"""The batch runner as people start it, against a gateway in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts.batch.client import SENT_AT_ONCE_BYTES
from tests.batch import SCRIPT, Batch, ended
from tests.fakes.gateway import FakeGateway, after_doing, answers, drops, says
from tests.ports import free_port


@pytest.fixture
async def gateway() -> AsyncIterator[FakeGateway]:
    async with FakeGateway().serving() as fake:
        yield fake


@pytest.fixture
def batch(tmp_path: Path, gateway: FakeGateway) -> Batch:
    folder = tmp_path / "recordings"
    folder.mkdir()
    return Batch(folder, gateway.url)


async def test_every_recording_becomes_transcripts_and_the_state_says_so(batch: Batch, gateway: FakeGateway) -> None:
    batch.record("a.mp3", "b.WAV", "b.mp3", ".hidden.mp3", "notes.txt")
    result = await batch.run("--remote", "--diarization", "--model", "demo", "--formats", "txt,vtt", "--language", "en")
    assert result.status == 0, result.out + result.err
    assert "3 complete, 0 failed, 0 canceled, 0 skipped" in result.out
    assert "real-time factor" in result.out
    assert sorted(path.name for path in (batch.folder / "transcripts").iterdir()) == [
        "a.mp3.txt", "a.mp3.vtt", "b.WAV.txt", "b.WAV.vtt", "b.mp3.txt", "b.mp3.vtt",
    ]  # fmt: skip
    state = batch.state
    assert set(state) == {"files", "session", "csrfToken", "controller"}
    assert set(state["files"]) == {"a.mp3", "b.WAV", "b.mp3"}
    assert state["files"]["a.mp3"].items() >= {
        "uploadId": "u1", "jobId": "j1", "status": "complete", "executionMode": "remote",
    }.items()  # fmt: skip
    assert gateway.known.get(state["session"]) == gateway.key
    assert stat.S_IMODE(batch.state_file.stat().st_mode) == 0o600
    assert gateway.uploads["u1"].content == b"sounda.mp3"
    assert gateway.jobs["j1"].options == {
        "model": "demo", "useRemoteWorker": True, "diarizationEnabled": True, "language": "en",
    }  # fmt: skip


async def test_what_a_complete_job_says_of_its_transcript_is_told(batch: Batch, gateway: FakeGateway) -> None:
    batch.record("a.mp3", "b.mp3")
    gateway.notes["a.mp3"] = "Each side speaks into a channel of its own."
    result = await batch.run()
    assert "a.mp3: Each side speaks into a channel of its own." in result.out
    assert "a.mp3: complete" in result.out
    assert batch.state["files"]["a.mp3"]["status"] == "complete"


async def test_a_transcript_that_is_not_this_batchs_is_kept(batch: Batch, gateway: FakeGateway, tmp_path: Path) -> None:
    """As of another folder with the same names, or somebody's own notes."""
    batch.record("a.mp3", "b.mp3")
    output = tmp_path / "both"
    output.mkdir()
    (output / "a.mp3.txt").write_text("of another folder")
    first = await batch.run("--output", str(output), "--formats", "txt")
    assert f"is kept as {output / 'a.mp3.txt.1.kept'}" in first.out
    assert (output / "a.mp3.txt.1.kept").read_text() == "of another folder"
    made = (output / "a.mp3.txt").read_text()
    assert made not in ("", "of another folder")
    batch.state_file.unlink()
    again = await batch.run("--output", str(output), "--formats", "txt")
    assert "kept" not in again.out
    assert sorted(path.name for path in output.iterdir()) == ["a.mp3.txt", "a.mp3.txt.1.kept", "b.mp3.txt"]


async def test_secrets_and_control_codes_are_never_printed(batch: Batch) -> None:
    batch.record("a.mp3", "evil\x1b[31m\n.mp3")
    result = await batch.run()
    assert result.status == 0
    assert "\x1b" not in result.out
    assert batch.state["session"] not in result.out + result.err
    assert batch.state["csrfToken"] not in result.out + result.err


async def test_one_after_another_unless_asked_for_more(batch: Batch, gateway: FakeGateway) -> None:
    batch.record("a.mp3", "b.mp3", "c.mp3", "d.mp3")
    await batch.run()
    assert gateway.most_in_flight == 1


async def test_parallel_recordings_are_in_flight_at_once(batch: Batch, gateway: FakeGateway) -> None:
    names = [f"{letter}.mp3" for letter in "abcdef"]
    batch.record(*names)
    gateway.held.update(names)
    process = await batch.start("--parallel", "3")
    await gateway.until(lambda: gateway.in_flight == 3)
    for name in names:
        await gateway.until(
            lambda name=name: bool(gateway.jobs_of(name)) and gateway.jobs_of(name)[0].status == "running"
        )
        await gateway.release(name)
    assert (await ended(process)).status == 0
    assert gateway.most_in_flight == 3


async def test_a_second_run_does_nothing_again(batch: Batch, gateway: FakeGateway) -> None:
    batch.record("a.mp3", "b.mp3")
    await batch.run()
    before = batch.state_file.read_bytes()
    result = await batch.run()
    assert result.status == 0
    assert "0 complete, 0 failed, 0 canceled, 2 skipped" in result.out
    assert (gateway.calls["upload"], gateway.calls["submit"]) == (2, 2)
    assert batch.state_file.read_bytes() == before


async def test_missing_transcripts_are_fetched_again(batch: Batch, gateway: FakeGateway) -> None:
    batch.record("a.mp3")
    await batch.run("--formats", "txt")
    result = await batch.run("--formats", "txt,srt")
    assert result.status == 0
    assert batch.transcript("a.mp3.srt") == "srt of a.mp3 by j1"
    assert gateway.calls["transcript"] == 2
    assert gateway.calls["submit"] == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_leaves_the_jobs_running_and_the_next_run_goes_on(
    batch: Batch, gateway: FakeGateway, number: int, status: int
) -> None:
    batch.record("a.mp3", "b.mp3")
    gateway.held.add("b.mp3")
    process = await batch.start()
    await gateway.until(lambda: batch.state_file.exists() and batch.state["files"]["b.mp3"]["status"] == "running")
    process.send_signal(number)
    result = await ended(process)
    assert result.status == status
    assert "1 of 2 are complete" in result.out
    assert "run the same command again" in result.out
    await gateway.release("b.mp3")
    result = await batch.run()
    assert result.status == 0
    assert (gateway.calls["upload"], gateway.calls["submit"]) == (2, 2)
    assert batch.transcript("b.mp3.txt") == "txt of b.mp3 by j2"


async def test_killed_between_submission_and_answer_it_does_not_submit_twice(
    batch: Batch, gateway: FakeGateway
) -> None:
    batch.record("a.mp3")
    gateway.held.add("a.mp3")
    carry_out = gateway._submit

    async def and_kill(request: Any) -> Any:
        await carry_out(request)
        process.kill()
        await asyncio.Event().wait()

    gateway.fault("submit", and_kill)
    process = await batch.start()
    assert (await ended(process)).status == -signal.SIGKILL
    assert batch.state["files"]["a.mp3"]["jobId"] is None
    process = await batch.start()
    await gateway.until(lambda: batch.state["files"]["a.mp3"]["jobId"] == "j1")
    await gateway.release("a.mp3")
    assert (await ended(process)).status == 0
    assert len(gateway.jobs) == 1
    assert gateway.calls["upload"] == 1


async def test_a_submission_whose_answer_is_lost_is_repeated_as_the_same(batch: Batch, gateway: FakeGateway) -> None:
    batch.record("a.mp3")
    gateway.fault("submit", after_doing(gateway, "submit"))
    assert (await batch.run()).status == 0
    assert gateway.calls["submit"] == 2
    assert len(gateway.jobs) == 1


async def test_outages_anywhere_are_waited_for_with_few_lines(batch: Batch, gateway: FakeGateway) -> None:
    batch.record("a.mp3")
    for kind in ("session", "upload", "submit", "job", "events", "transcript"):
        gateway.fault(kind, answers(503), drops, answers(507, "The disk is full"))
    gateway.fault("offset", answers(503), drops)
    gateway.fault("send", answers(507, "The disk is full"), drops)
    result = await batch.run()
    assert result.status == 0, result.out
    assert "Waiting: not now (503)" in result.out
    assert result.out.count("Waiting:") <= 9
    assert batch.transcript("a.mp3.json") == "json of a.mp3 by j1"


async def test_a_gateway_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    port = free_port()
    batch = Batch(folder, f"http://127.0.0.1:{port}")
    batch.record("a.mp3")
    process = await batch.start()
    assert process.stdout is not None
    assert b"Waiting" in await process.stdout.readline()
    async with FakeGateway().serving(port):
        assert (await ended(process)).status == 0


async def test_a_gateway_that_restarts_in_the_middle_is_come_back_to(batch: Batch, gateway: FakeGateway) -> None:
    port = free_port()
    again = FakeGateway()
    batch.url = f"http://127.0.0.1:{port}"
    batch.record("a.mp3")
    again.held.add("a.mp3")
    async with again.serving(port):
        process = await batch.start()
        assert process.stdout is not None
        while b"transcribing" not in await process.stdout.readline():  # which only the events say
            assert process.returncode is None
    async with again.serving(port):
        await again.until(lambda: len(again.last_event_ids) >= 2)
        await again.release("a.mp3")
        assert (await ended(process)).status == 0
    assert len(again.jobs) == 1
    assert again.last_event_ids[0] == ""
    assert int(again.last_event_ids[1]) > 0


async def test_a_gateway_with_another_key_begins_anew_what_is_not_complete(batch: Batch, gateway: FakeGateway) -> None:
    batch.record("a.mp3", "b.mp3")
    gateway.held.add("b.mp3")
    process = await batch.start()
    await gateway.until(lambda: batch.state_file.exists() and batch.state["files"]["b.mp3"]["status"] == "running")
    process.send_signal(signal.SIGINT)
    await ended(process)
    old = batch.state["session"]
    gateway.forget_sessions()
    gateway.held.clear()
    result = await batch.run()
    assert result.status == 0
    assert "does not know this session any more" in result.out
    assert len(gateway.jobs_of("a.mp3")) == 1
    assert len(gateway.jobs_of("b.mp3")) == 2
    assert batch.state["session"] != old


async def interrupted(batch: Batch, gateway: FakeGateway, name: str, *options: str) -> None:
    """A run that ends while the recording's job is running."""
    gateway.held.add(name)
    before = len(gateway.jobs_of(name))
    process = await batch.start(*options)

    def followed() -> bool:
        jobs = gateway.jobs_of(name)[before:]
        return bool(jobs) and jobs[-1].status == "running" and batch.state["files"][name]["jobId"] == jobs[-1].job_id

    await gateway.until(followed)
    process.send_signal(signal.SIGINT)
    await ended(process)


async def test_a_session_is_used_at_its_own_gateway_only_and_found_there_again(
    batch: Batch, gateway: FakeGateway
) -> None:
    batch.record("a.mp3")
    await interrupted(batch, gateway, "a.mp3")
    first, cookie = batch.url, batch.state["session"]
    async with FakeGateway().serving() as other:
        seen: list[str] = []

        async def look(request: Any) -> None:
            seen.append(request.headers.get("Cookie", ""))

        other.fault("session", look)
        batch.url = other.url
        await interrupted(batch, other, "a.mp3")
        assert seen == [""]
        assert len(other.jobs) == 1
    await gateway.release("a.mp3")
    batch.url = first.replace("127.0.0.1", "localhost")
    result = await batch.run()
    assert result.status == 0, result.out
    assert (len(gateway.jobs), gateway.begun, batch.state["session"]) == (1, 1, cookie)
    assert batch.state["controller"] == batch.url


async def test_other_options_are_for_what_was_not_submitted_yet(batch: Batch, gateway: FakeGateway) -> None:
    batch.record("a.mp3", "b.mp3", "c.mp3")
    await interrupted(batch, gateway, "b.mp3", "--model", "demo")
    await gateway.release("b.mp3")
    result = await batch.run("--model", "demo", "--diarization")
    assert result.status == 0, result.out
    assert "left as they are: 1 of the recordings (a.mp3)" in result.out
    assert "going on with those: 1 of the recordings (b.mp3)" in result.out
    told = {name: [job.options["diarizationEnabled"] for job in gateway.jobs_of(name)] for name in batch.state["files"]}
    assert told == {"a.mp3": [False], "b.mp3": [False], "c.mp3": [True]}
    assert batch.state["files"]["a.mp3"]["options"] == gateway.jobs["j1"].options
    elsewhere = ("--state", str(batch.folder / "other.json"), "--output", str(batch.folder / "other"))
    result = await batch.run("--model", "demo", "--diarization", *elsewhere)  # as the note says
    assert result.status == 0, result.out
    assert "other options" not in result.out
    assert [job.options["diarizationEnabled"] for job in gateway.jobs_of("a.mp3")] == [False, True]
    assert gateway.begun == 3
    assert len(gateway.jobs_of("c.mp3")) == 1


async def test_a_second_time_is_named_and_made_once_however_it_is_cut(batch: Batch, gateway: FakeGateway) -> None:
    batch.record("a.mp3", "b.mp3")
    assert (await batch.run()).status == 0
    await interrupted(batch, gateway, "b.mp3", "--again", "2")
    await gateway.release("b.mp3")
    for options in (("--again", "2"), (), ("--again", "2")):
        result = await batch.run(*options)
        assert result.status == 0, result.out
    assert [len(gateway.jobs_of(name)) for name in ("a.mp3", "b.mp3")] == [2, 2]
    batch.state_file.unlink()
    assert (await batch.run("--again", "2")).status == 0
    assert (len(gateway.jobs), gateway.begun) == (4, 2)
    batch.record("b.mp3", content=b"other sound")
    result = await batch.run("--again", "3", "--language", "de")
    assert result.status == 0
    assert [job.options.get("language") for job in gateway.jobs.values()] == [None] * 4 + ["de"] * 2
    assert [len(gateway.uploaded(name)) for name in ("a.mp3", "b.mp3")] == [1, 2]
    assert batch.transcript("b.mp3.txt") == "txt of b.mp3 by j6"


async def test_another_state_alone_fetches_the_same_again(batch: Batch, gateway: FakeGateway) -> None:
    batch.record("a.mp3")
    await batch.run()
    other = batch.folder / "other"
    result = await batch.run("--state", str(batch.folder / "other.json"), "--output", str(other))
    assert result.status == 0, result.out
    assert (other / "a.mp3.txt").read_text() == "txt of a.mp3 by j1"
    assert len(gateway.jobs) == 1


@pytest.mark.parametrize("deleted", [False, True])
async def test_without_the_state_the_job_in_place_of_another_is_found(
    batch: Batch, gateway: FakeGateway, deleted: bool
) -> None:
    names = [f"{letter}.mp3" for letter in "abcde"]
    batch.record(*names)
    gateway.canceled.update(names)
    assert (await batch.run()).status == 1
    gateway.canceled.clear()
    assert (await batch.run("--retry-failed")).status == 0
    await batch.run("--language", "de", "--state", str(batch.folder / "other.json"))  # newer ones, with other options
    assert len(gateway.jobs) == 15
    if deleted:
        for name in names:
            del gateway.jobs[gateway.jobs_of(name)[0].job_id]
    batch.state_file.unlink()
    gateway.jobs_per_page, gateway.calls["jobs"] = 4, 0
    result = await batch.run("--retry-failed", "--parallel", "3")
    assert result.status == 0, result.out
    assert gateway.created == 15
    assert [batch.state["files"][name]["jobId"] for name in names] == [f"j{number}" for number in range(6, 11)]
    assert gateway.calls["jobs"] == (3 if deleted else 4)  # once for all


async def test_without_the_state_a_complete_job_goes_before_a_newer_one_that_is_not(
    batch: Batch, gateway: FakeGateway
) -> None:
    batch.record("a.mp3")
    await batch.run()
    complete = gateway.jobs["j1"]
    gateway.jobs["j2"] = replace(complete, job_id="j2", request_id="by hand", status="canceled")
    batch.state_file.unlink()
    assert (await batch.run()).status == 0
    assert batch.state["files"]["a.mp3"]["jobId"] == "j1"


async def test_a_job_that_was_listed_and_is_gone_is_not_taken_again(batch: Batch, gateway: FakeGateway) -> None:
    batch.record("a.mp3")
    await batch.run()
    batch.state_file.unlink()

    async def forget(_request: Any) -> None:
        gateway.jobs.clear()

    gateway.fault("job", forget)
    result = await batch.run()
    assert result.status == 0, result.out
    assert batch.state["files"]["a.mp3"]["jobId"] == "j2"
    assert gateway.calls["jobs"] == 2


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_submission_that_was_cut_is_repeated_with_its_own_options(
    batch: Batch, gateway: FakeGateway, arrives: bool
) -> None:
    batch.record("a.mp3")

    async def kill(request: Any) -> Any:
        if arrives:
            await gateway._submit(request)
        process.kill()
        await asyncio.Event().wait()

    gateway.fault("submit", kill)
    process = await batch.start("--language", "de")
    await ended(process)
    result = await batch.run("--language", "en")
    assert result.status == 0, result.out
    (job,) = gateway.jobs.values()
    assert job.options["language"] == "de"
    assert "going on with those" in result.out


@pytest.mark.parametrize("state_survives", [True, False])
async def test_a_gateway_that_has_its_old_key_again_knows_the_old_session(
    batch: Batch, gateway: FakeGateway, state_survives: bool
) -> None:
    batch.record("a.mp3")
    await interrupted(batch, gateway, "a.mp3")
    key, cookie = gateway.key, batch.state["session"]
    gateway.forget_sessions()
    await interrupted(batch, gateway, "a.mp3")
    assert len(gateway.jobs) == 2
    gateway.key = key
    await gateway.release("a.mp3")
    if not state_survives:
        batch.state_file.unlink()
    result = await batch.run()
    assert result.status == 0, result.out
    assert "but an earlier one" in result.out
    assert batch.state["session"] == cookie
    assert len(gateway.jobs) == 2


@pytest.mark.parametrize("kind", ["offset", "send", "submit"])
async def test_a_session_that_ends_during_the_run_is_renewed(batch: Batch, gateway: FakeGateway, kind: str) -> None:
    batch.record("a.mp3", "b.mp3", content=bytes(SENT_AT_ONCE_BYTES))
    if kind == "offset":  # which is asked for after a cut only
        gateway.cut_after.append(1)

    async def forget(_request: Any) -> None:
        gateway.forget_sessions()

    gateway.fault(kind, forget)
    result = await batch.run()
    assert result.status == 0, result.out
    assert len(gateway.uploaded("a.mp3")) == 2
    assert len(gateway.uploaded("b.mp3")) == 1


async def test_a_job_that_the_server_lost_is_submitted_again(batch: Batch, gateway: FakeGateway) -> None:
    batch.record("a.mp3")
    gateway.held.add("a.mp3")
    process = await batch.start()
    await gateway.until(lambda: batch.state_file.exists() and batch.state["files"]["a.mp3"]["status"] == "running")
    process.kill()
    await ended(process)
    gateway.jobs["j1"].owner = "nobody"
    gateway.held.clear()
    result = await batch.run()
    assert result.status == 0, result.out
    assert "no longer knows the job" in result.out
    assert gateway.calls["upload"] == 1
    assert batch.state["files"]["a.mp3"]["jobId"] == "j2"


async def test_without_events_the_job_is_looked_at(batch: Batch, gateway: FakeGateway) -> None:
    batch.record("a.mp3")
    gateway.held.add("a.mp3")
    gateway.fault("events", *[answers(404)] * 3)
    process = await batch.start()
    await gateway.until(lambda: gateway.calls["job"] >= 3)
    await gateway.release("a.mp3")
    assert (await ended(process)).status == 0


async def test_failures_are_named_and_do_not_stop_the_others(batch: Batch, gateway: FakeGateway) -> None:
    batch.record("bad.mp3", "broken.mp3", "good.mp3", "stopped.mp3")
    gateway.rejected["bad.mp3"] = ("AUDIO_INVALID", "No audio can be decoded")
    gateway.failing["broken.mp3"] = ("REMOTE_FAILED", "the engine met an error")
    gateway.canceled.add("stopped.mp3")
    result = await batch.run()
    assert result.status == 1
    assert "1 complete, 2 failed, 1 canceled, 0 skipped" in result.out
    assert "failed    bad.mp3: AUDIO_INVALID: No audio can be decoded" in result.out
    assert "failed    broken.mp3: REMOTE_FAILED: the engine met an error" in result.out
    assert "canceled  stopped.mp3" in result.out
    assert batch.state["files"]["bad.mp3"]["status"] == "failed"
    assert batch.state["files"]["stopped.mp3"]["status"] == "canceled"


async def test_failed_ones_are_tried_again_only_when_asked(batch: Batch, gateway: FakeGateway) -> None:
    batch.record("bad.mp3", "broken.mp3", "good.mp3")
    gateway.rejected["bad.mp3"] = ("AUDIO_INVALID", "No audio can be decoded")
    gateway.failing["broken.mp3"] = ("REMOTE_FAILED", "the engine met an error")
    await batch.run()
    calls = gateway.calls.copy()
    assert (await batch.run()).status == 1
    assert (gateway.calls["upload"], gateway.calls["submit"]) == (calls["upload"], calls["submit"])
    gateway.rejected.clear()
    gateway.failing.clear()
    result = await batch.run("--retry-failed")
    assert result.status == 0, result.out
    assert "2 complete, 0 failed, 0 canceled, 1 skipped" in result.out
    assert len(gateway.uploaded("broken.mp3")) == 1
    assert len({job.request_id for job in gateway.jobs_of("broken.mp3")}) == 2


async def test_a_file_that_would_be_refused_for_its_size_is_not_read(batch: Batch, gateway: FakeGateway) -> None:
    batch.record("a.mp3", "c.mp3")
    with (batch.folder / "b.mp3").open("wb") as sparse:
        sparse.truncate(2**38)  # minutes to hash
    gateway.max_bytes = 100 * 1024 * 1024
    result = await batch.run("--parallel", "3")
    assert result.status == 1
    assert "failed    b.mp3: FILE_TOO_LARGE: The file is larger than 100 MB. Split it" in result.out
    assert "2 complete, 1 failed" in result.out
    assert gateway.calls["limit"] == 1


@pytest.mark.parametrize("refused", [True, False])
async def test_a_gateway_that_tells_no_limit_is_asked_by_the_upload(
    batch: Batch, gateway: FakeGateway, refused: bool
) -> None:
    batch.record("a.mp3")
    gateway.max_bytes = None
    gateway.fault("limit", answers(503), drops, *([answers(405)] if refused else []))
    assert (await batch.run()).status == 0


async def test_a_refused_submission_fails_its_recording(batch: Batch) -> None:
    batch.record("a.mp3")
    result = await batch.run("--model", "unknown")
    assert result.status == 1
    assert "MODEL_UNKNOWN: no worker offers the model unknown" in result.out


async def test_a_file_that_cannot_be_read_fails_alone(batch: Batch) -> None:
    batch.record("good.mp3", "gone.mp3")
    (batch.folder / "gone.mp3").unlink()
    batch.state_file.write_text(
        json.dumps(
            {"files": {"gone.mp3": {"uploadId": "u9", "jobId": "j9", "status": "running", "executionMode": "local"}}}
        )
    )
    result = await batch.run()
    assert result.status == 1
    assert "gone.mp3: UNREADABLE_FILE" in result.out
    assert "1 complete, 1 failed" in result.out


async def test_names_of_all_kinds_survive(batch: Batch, gateway: FakeGateway) -> None:
    long = "l" * 251 + ".mp3"
    names = ["🎙️ Änne's talk.mp3", 'quo"te;semi;colon.mp3', "back\\slash.mp3", "tab\tline\nend.mp3", "a%22b.mp3", long]
    batch.record(*names, "latin\udce9.mp3")
    result = await batch.run("--formats", "txt")
    assert result.status == 0, result.out
    assert set(batch.state["files"]) == {*names, "latin\udce9.mp3"}
    assert {upload.filename for upload in gateway.uploads.values()} == {*names, "latin\ufffd.mp3"}
    transcripts = {path.name for path in (batch.folder / "transcripts").iterdir()}
    assert {f"{name}.txt" for name in names[:-1]} | {"latin\udce9.mp3.txt"} < transcripts
    assert len(transcripts) == 7
    again = await batch.run("--formats", "txt")
    assert "7 skipped" in again.out
    assert gateway.calls["transcript"] == 7


async def test_a_second_runner_on_the_same_state_is_refused(batch: Batch, gateway: FakeGateway) -> None:
    batch.record("a.mp3")
    gateway.held.add("a.mp3")
    process = await batch.start()
    await gateway.until(lambda: gateway.in_flight == 1)
    second = await batch.run()
    assert second.status == 2
    assert "another run works on" in second.err
    await gateway.release("a.mp3")
    assert (await ended(process)).status == 0
    assert sorted(path.name for path in batch.folder.iterdir()) == ["a.mp3", "batch_state.json", "transcripts"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": []}', '{"files": {"a.mp3": {"status": "odd"}}}'])
async def test_a_state_that_cannot_be_read_is_left_alone(batch: Batch, content: str) -> None:
    batch.record("a.mp3")
    batch.state_file.write_text(content)
    result = await batch.run()
    assert result.status == 2
    assert "is no batch state" in result.err
    assert len(result.err.splitlines()) == 1
    assert batch.state_file.read_text() == content


@pytest.mark.parametrize(
    ("options", "says_what"),
    [
        (["--parallel", "0"], "--parallel"),
        (["--min-speakers", "0"], "--min-speakers"),
        (["--max-speakers", "101"], "more than 100 speakers"),
        (["--min-speakers", "3", "--max-speakers", "2"], "--min-speakers must be at most --max-speakers"),
        (["--formats", "txt,docx"], "docx"),
        (["--controller", "localhost:8476"], "not an address"),
        (["--controller", "http://localhost:99999"], "not an address"),
        (["--diarization-max-duration", "-1"], "seconds"),
        (["--diarization-max-duration", "600"], "--diarization-max-duration says how speakers are told apart: add"),
        (["--fast-switching"], "add --diarization"),
        (["--speaker-per-channel"], "add --diarization"),
        (["--max-speakers", "2"], "--max-speakers says how speakers are told apart: add --diarization"),
        (["--input", "/nowhere/at/all"], "no folder"),
        (["--state", "/nowhere/at/all.json"], "no folder"),
        (["--state", "/proc/state.json"], "cannot lock"),
        (["--output", "/proc/transcripts"], "cannot write into"),
        (["--remotely"], "--remotely"),
    ],
)
async def test_wrong_use_is_one_line(batch: Batch, options: list[str], says_what: str) -> None:
    batch.record("a.mp3")
    result = await batch.run(*options)
    assert result.status == 2
    assert len(result.err.splitlines()) == 1
    assert says_what in result.err


async def test_a_folder_without_recordings_is_wrong_use(batch: Batch) -> None:
    (batch.folder / "notes.txt").write_text("nothing to hear")
    result = await batch.run()
    assert result.status == 2
    assert "no recordings" in result.err


async def test_what_is_no_gateway_is_wrong_use(batch: Batch, gateway: FakeGateway) -> None:
    batch.record("a.mp3")
    gateway.fault("session", *[answers(404)] * 3)
    result = await batch.run()
    assert result.status == 2
    assert "is no gateway" in result.err


async def test_senseless_answers_are_asked_for_again(batch: Batch, gateway: FakeGateway) -> None:
    batch.record("a.mp3")
    gateway.fault("submit", *[says("<html>")] * 3)
    assert (await batch.run()).status == 0


async def test_the_folder_may_be_relative_and_hold_a_folder_named_scripts(batch: Batch) -> None:
    (batch.folder / "scripts").mkdir()
    (batch.folder / "scripts" / "__init__.py").write_text("raise SystemExit(9)")
    batch.record("a.mp3")
    result = await batch.run("--input", ".", cwd=batch.folder)
    assert result.status == 0, result.err


async def test_bars_are_drawn_on_a_terminal_and_ctrl_c_gives_its_cursor_back(
    batch: Batch, gateway: FakeGateway
) -> None:
    batch.record("a[bold].mp3")
    gateway.held.add("a[bold].mp3")
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        SCRIPT, "--input", str(batch.folder), "--controller", batch.url,
        stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(theirs)
    await gateway.until(lambda: gateway.in_flight == 1)
    seen = b""
    while b"transcribing" not in seen:
        seen += await asyncio.to_thread(os.read, ours, 65536)
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 130
    with contextlib.suppress(OSError):  # that is how a terminal ends
        while piece := await asyncio.to_thread(os.read, ours, 65536):
            seen += piece
    os.close(ours)
    assert b"a[bold].mp3" in seen
    assert seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l") > -1
    assert b"Traceback" not in seen


async def test_a_pipe_that_closes_ends_the_run_quietly(batch: Batch) -> None:
    batch.record("a.mp3", "b.mp3")
    process = await batch.start()
    assert process.stdout is not None
    process.stdout._transport.close()  # type: ignore[attr-defined]
    assert process.stderr is not None
    assert await process.stderr.read() == b""
    assert await process.wait() == 1


async def test_a_full_disk_ends_the_run_and_keeps_what_was_reached(batch: Batch, gateway: FakeGateway) -> None:
    names = [f"{letter}.mp3" for letter in "abcdef"]
    batch.record(*names)
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", 'ulimit -f 1; exec "$@"', "bash",
        SCRIPT, "--input", str(batch.folder), "--controller", batch.url, "--formats", "txt",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    result = await ended(process)
    assert result.status == 1
    assert "cannot write" in result.err
    assert "run the same command again" in result.err
    result = await batch.run("--formats", "txt")
    assert result.status == 0
    assert {name: len(gateway.jobs_of(name)) for name in names} == dict.fromkeys(names, 1)


async def test_a_recording_that_grows_while_it_is_uploaded_fails(batch: Batch, gateway: FakeGateway) -> None:
    batch.record("a.mp3")

    async def grow(_request: Any) -> None:
        batch.record("a.mp3", content=b"more sound")

    gateway.fault("upload", grow)
    result = await batch.run()
    assert result.status == 1
    assert "changed while it was uploaded" in result.out
    assert (await batch.run("--retry-failed")).status == 0
