"""Run and Watch over a real server and a fake engine."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from bulkscribe.worker.v1 import worker_pb2 as pb

from services.contract.errors import Reason
from services.contract.limits import VERSION
from services.worker import wire
from services.worker.work import AttemptKey, Failed, FinishedWork, SpeakerTurn
from tests.fakes.engine import STATE, FakeEngine, plan, whole_run
from tests.worker import CANCEL, Rig, acknowledge, attach, audio_of, dispatch, eventually, rig, running_worker

__all__ = ["rig"]


async def test_a_run_from_dispatch_to_acknowledged_outcome(rig: Rig) -> None:
    await rig.put()
    async with rig.run(dispatch("job")) as run:
        accepted = await run.accepted()
        assert accepted.worker_job_id.startswith("wk_")
        assert (accepted.capacity.free, accepted.capacity.total) == (0, 1)
        await run.until("outcome")
        assert [wire.report(event) for event in run.events] == whole_run()
        assert [event.number for event in run.events] == list(range(1, len(run.events) + 1))
        assert await rig.held() == [("job", 1)]
        await run.say(acknowledge(run.events[-1].number))
        await run.ended()
    assert await rig.held() == []
    assert (await rig.capacity()).free == 1


async def test_options_and_finished_work_reach_the_engine(rig: Rig) -> None:
    await rig.put()
    request = dispatch("job", language="de", diarization=True, min_speakers=2, vad_disabled=True)
    finished = FinishedWork(plan(3), frozenset({0, 2}), (SpeakerTurn(0.0, 1.5, "SPEAKER_00"),))
    request.dispatch.finished.CopyFrom(wire.finished_work_message(finished))
    async with rig.run(request) as run:
        await run.accepted()
    (work,) = rig.engine.works
    assert work.finished == finished
    assert (work.options.language, work.options.min_speakers, work.options.max_speakers) == ("de", 2, None)
    assert not work.options.vad
    assert work.audio_path == rig.stored()


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (acknowledge(1), Reason.INVALID_REQUEST),
        (CANCEL, Reason.INVALID_REQUEST),
        (pb.RunRequest(), Reason.INVALID_REQUEST),
        (dispatch("bad id!"), Reason.INVALID_REQUEST),
        (attach("unknown"), Reason.ATTEMPT_UNKNOWN),
        (dispatch("of-another-process", last_event=3), Reason.ATTEMPT_UNKNOWN),
        (dispatch("job", content=b"never uploaded"), Reason.AUDIO_MISSING),
        (dispatch("job", model="nobody-has-it"), Reason.MODEL_UNKNOWN),
        (dispatch("job", model="broken"), Reason.MODEL_UNAVAILABLE),
        (dispatch("job", language="fr"), Reason.LANGUAGE_UNSUPPORTED),
    ],
)
async def test_what_cannot_start_is_refused_and_takes_no_slot(
    rig: Rig, request_: pb.RunRequest, reason: Reason
) -> None:
    await rig.put()
    async with rig.run(request_) as run:
        assert await run.refusal() is reason
    assert (await rig.capacity()).free == 1
    assert await rig.held() == []


async def test_diarization_is_refused_only_once_it_is_known_that_there_is_none(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.change(diarization="", diarization_error="")
    async with running_worker(tmp_path, engine, worker_max_concurrent_jobs=2) as rig:
        await rig.put()
        async with rig.run(dispatch("early", diarization=True)) as run:
            await run.accepted()
        engine.change(diarization_error="set HF_TOKEN")
        async with rig.run(dispatch("late", diarization=True)) as run:
            await eventually(lambda: bool(rig.engine.state.diarization_error))
            assert await run.refusal() is Reason.DIARIZATION_UNAVAILABLE
        async with rig.run(dispatch("by-channel", diarization=True, speaker_per_channel=True)) as run:
            await run.accepted()


async def test_a_full_worker_refuses_and_the_same_attempt_may_come_again(rig: Rig) -> None:
    await rig.put()
    rig.engine.hold("one")
    async with rig.run(dispatch("one")) as one:
        await one.accepted()
        async with rig.run(dispatch("two")) as two:
            assert await two.refusal() is Reason.WORKER_FULL
        rig.engine.let_all("one")
        await one.until("outcome")
        async with rig.run(dispatch("two")) as two:
            await two.accepted()


async def test_the_slot_is_free_when_the_outcome_is_told_though_not_acknowledged(rig: Rig) -> None:
    await rig.put()
    watch = rig.watch(interval=60)
    assert (await watch.read()).WhichOneof("report") == "held"
    revisions = [(await watch.read()).capacity]
    async with rig.run(dispatch("job")) as run:
        await run.accepted()
        await run.until("outcome")
        while revisions[-1].free == 0 or len(revisions) < 2:
            revisions.append((await watch.read()).capacity)
    assert [capacity.free for capacity in revisions][-1] == 1
    assert [capacity.revision for capacity in revisions] == sorted({capacity.revision for capacity in revisions})
    watch.cancel()


async def test_the_heartbeat_comes_at_its_interval_and_tells_of_models(rig: Rig) -> None:
    watch = rig.watch(interval=0.1)
    assert (await watch.read()).WhichOneof("report") == "held"
    first, second = (await watch.read()).capacity, (await watch.read()).capacity
    assert first.revision == second.revision
    assert first.reported_at.ToNanoseconds() < second.reported_at.ToNanoseconds()
    assert [(model.name, model.state) for model in first.models] == [
        ("demo", pb.MODEL_STATE_LOADED),
        ("broken", pb.MODEL_STATE_FAILED),
    ]
    assert first.diarization == "demo"
    rig.engine.change(models=STATE.models[:1])
    while len((changed := (await watch.read()).capacity).models) != 1:
        pass
    assert changed.revision > first.revision
    watch.cancel()


async def test_a_lost_stream_is_no_failure_and_attach_goes_on_without_gap_or_repeat(rig: Rig) -> None:
    await rig.put()
    rig.engine.hold("job")
    async with rig.run(dispatch("job")) as run:
        await run.accepted()
        rig.engine.let("job", 4)
        while len(run.events) < 4:
            await run.event()
        await run.say(acknowledge(2))
    rig.engine.let_all("job")
    async with rig.run(attach("job", last_event=3)) as again:
        await again.accepted()
        await again.until("outcome")
        assert [event.number for event in again.events] == list(range(4, len(whole_run()) + 1))
    assert await rig.held() == [("job", 1)], "the outcome was not acknowledged"
    async with rig.run(attach("job", last_event=len(whole_run()))) as last:
        await last.accepted()
        await last.ended()
    assert await rig.held() == []


async def test_a_client_that_half_closes_hears_the_end_and_the_outcome_is_kept(rig: Rig) -> None:
    await rig.put()
    async with rig.run(dispatch("job")) as run:
        await run.call.done_writing()
        await run.accepted()
        await run.until("outcome")
        await run.ended()
    assert await rig.held() == [("job", 1)]


async def test_the_same_dispatch_twice_is_one_run_and_the_newer_stream_takes_over(rig: Rig) -> None:
    await rig.put()
    rig.engine.hold("job")
    async with rig.run(dispatch("job")) as old:
        first = await old.accepted()
        rig.engine.let("job", 2)
        await old.event()
        async with rig.run(dispatch("job", last_event=1)) as new:
            second = await new.accepted()
            assert await old.refusal() is Reason.STREAM_TAKEN_OVER
            assert first.worker_job_id == second.worker_job_id
            rig.engine.let_all("job")
            await new.until("outcome")
            assert [event.number for event in new.events] == list(range(2, len(whole_run()) + 1))
    assert len(rig.engine.works) == 1


async def test_a_higher_attempt_ends_the_lower_one_which_is_stale_from_then_on(tmp_path: Path) -> None:
    async with running_worker(tmp_path, worker_max_concurrent_jobs=2) as rig:
        await rig.put()
        rig.engine.hold("job")
        async with rig.run(dispatch("job", 1)) as lower:
            await lower.accepted()
            async with rig.run(dispatch("job", 2)) as higher:
                await higher.accepted()
                assert await lower.refusal() is Reason.ATTEMPT_STALE
                assert rig.engine.canceled == [AttemptKey("job", 1)]
                assert await rig.held() == [("job", 2)]
                async with rig.run(dispatch("job", 1)) as late:
                    assert await late.refusal() is Reason.ATTEMPT_STALE
                async with rig.run(attach("job", 1)) as late:
                    assert await late.refusal() is Reason.ATTEMPT_STALE
                assert (await rig.capacity()).free == 1, "the lower one's slot is free"


async def test_an_attempt_whose_outcome_was_acknowledged_is_not_run_again(rig: Rig) -> None:
    await rig.put()
    async with rig.run(dispatch("job")) as run:
        await run.accepted()
        await run.say(acknowledge((await run.until("outcome")).number))
        await run.ended()
    async with rig.run(dispatch("job")) as run:
        assert await run.refusal() is Reason.ATTEMPT_STALE
    async with rig.run(attach("job")) as run:
        assert await run.refusal() is Reason.ATTEMPT_UNKNOWN


async def test_cancel_ends_in_the_outcome_canceled(rig: Rig) -> None:
    await rig.put()
    rig.engine.hold("job")
    async with rig.run(dispatch("job"), CANCEL) as run:
        await run.accepted()
        outcome = await run.until("outcome")
        assert outcome.outcome.WhichOneof("result") == "canceled"
        await run.say(acknowledge(outcome.number))
        await run.ended()
    assert (await rig.capacity()).free == 1


async def test_a_cancel_that_comes_too_late_changes_nothing(rig: Rig) -> None:
    await rig.put()
    async with rig.run(dispatch("job")) as run:
        await run.accepted()
        outcome = await run.until("outcome")
        await run.say(CANCEL, acknowledge(outcome.number))
        await run.ended()
        assert outcome.outcome.WhichOneof("result") == "completed"
    assert rig.engine.canceled == []


async def test_failed_work_is_an_outcome_and_so_is_a_broken_engine(rig: Rig) -> None:
    await rig.put()
    rig.engine.hold("bad", [Failed("AUDIO_INVALID", "no audio in it")])
    rig.engine.let_all("bad")
    rig.engine.hold("bug", []).fault = RuntimeError("a bug")
    for job, reason in (("bad", "AUDIO_INVALID"), ("bug", "ENGINE_FAILED")):
        async with rig.run(dispatch(job)) as run:
            await run.accepted()
            assert (await run.until("outcome")).outcome.failed.reason == reason
    assert (await rig.capacity()).free == 1


async def test_acknowledging_what_did_not_happen_is_refused_and_the_run_goes_on(rig: Rig) -> None:
    await rig.put()
    rig.engine.hold("job")
    async with rig.run(dispatch("job"), acknowledge(99)) as run:
        assert await run.refusal() is Reason.INVALID_REQUEST
    assert await rig.held() == [("job", 1)]


async def test_events_that_were_acknowledged_are_gone(rig: Rig) -> None:
    await rig.put()
    rig.engine.hold("job")
    async with rig.run(dispatch("job")) as run:
        await run.accepted()
        rig.engine.let("job", 3)
        for _ in range(3):
            await run.event()
        await run.say(acknowledge(3))
        rig.engine.let("job", 1)
        await run.event()
    async with rig.run(attach("job", last_event=1)) as run:
        assert await run.refusal() is Reason.ATTEMPT_UNKNOWN


async def test_draining_lets_the_window_finish_that_is_being_decoded(rig: Rig) -> None:
    await rig.put()
    rig.engine.hold("job")
    async with rig.run(dispatch("job")) as run:
        await run.accepted()
        rig.engine.obedient = False
        rig.stopping.set()
        while not (await rig.capacity()).draining:
            pass
        rig.engine.let("job", 4)
        await run.until("window_finished")
        rig.engine.obedient = True
        rig.engine.let("job", 0)
        outcome = await run.until("outcome")
        assert [wire.report(event) for event in run.events[:4]] == whole_run()[:4]
        assert outcome.outcome.WhichOneof("result") == "handed_back"
        await run.say(acknowledge(outcome.number))
        await run.ended()


async def test_what_nobody_fetched_waits_for_the_next_start(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as rig:
        await rig.put()
        async with rig.run(dispatch("done")) as run:
            await run.until_accepted_and("outcome")
            await run.say(acknowledge(2))
        rig.engine.hold("cut")
        async with rig.run(dispatch("cut")) as run:
            await run.accepted()
            rig.engine.let("cut", 2)
            await run.event()
    async with running_worker(tmp_path) as rig:
        assert sorted(await rig.held()) == [("cut", 1), ("done", 1)]
        assert (await rig.capacity()).free == 1
        async with rig.run(attach("done", last_event=2)) as run:
            await run.until_accepted_and("outcome")
            assert [event.number for event in run.events] == list(range(3, len(whole_run()) + 1))
            await run.say(acknowledge(run.events[-1].number))
            await run.ended()
        async with rig.run(attach("cut", last_event=1)) as run:
            outcome = await run.until_accepted_and("outcome")
            assert outcome.outcome.WhichOneof("result") == "handed_back"
        assert rig.engine.works == []


async def test_the_heartbeat_names_again_what_nobody_listens_to(rig: Rig) -> None:
    await rig.put()
    rig.engine.hold("job")
    rig.engine.hold("followed")
    watch = rig.watch(interval=0.1)
    assert list((await watch.read()).held.attempts) == []
    async with rig.run(dispatch("job")) as run:
        await run.accepted()
        for _ in range(5):
            assert (await watch.read()).WhichOneof("report") == "capacity", "somebody listens"
    while (answer := await watch.read()).WhichOneof("report") == "capacity":
        pass
    assert [(held.job_id, held.attempt) for held in answer.held.attempts] == [("job", 1)]
    watch.cancel()


@pytest.mark.parametrize(("version", "works"), [("", True), ("0.0.9", True), ("0.99.0", True), ("1.0.0", False)])
async def test_a_controller_of_another_major_version_is_refused_and_told_both(
    rig: Rig, version: str, works: bool
) -> None:
    request = pb.WatchRequest(interval=wire.duration(0.5), controller_version=version)
    watch = rig.stub.Watch(request, metadata=rig.metadata)
    if works:
        assert (await watch.read()).WhichOneof("report") == "held"
    else:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await watch.read()
        assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert version in (refusal.value.details() or "")
        assert VERSION in (refusal.value.details() or "")
    watch.cancel()


async def test_draining_hands_back_what_does_not_finish_in_time_and_takes_nothing_new(tmp_path: Path) -> None:
    async with running_worker(tmp_path, worker_drain_seconds=1) as rig:
        await rig.put()
        rig.engine.obedient = False
        rig.engine.hold("job")
        watch = rig.watch(interval=60)
        await watch.read()
        async with rig.run(dispatch("job")) as run:
            await run.accepted()
            rig.stopping.set()
            while not (await rig.capacity()).draining:
                pass
            async with rig.run(dispatch("late")) as late:
                assert await late.refusal() is Reason.WORKER_DRAINING
            outcome = await run.until("outcome")
            assert outcome.outcome.WhichOneof("result") == "handed_back"
            while not (capacity := (await watch.read()).capacity).draining:
                pass
            assert capacity.free == 0
            await run.say(acknowledge(outcome.number))
            await run.ended()


async def test_two_watchers_and_one_that_went_are_served(rig: Rig) -> None:
    watches = [rig.watch(interval=60) for _ in range(3)]
    for watch in watches:
        await watch.read()
        await watch.read()
    watches[0].cancel()
    await rig.put()
    async with rig.run(dispatch("job")) as run:
        await run.accepted()
        for watch in watches[1:]:
            assert (await watch.read()).capacity.free == 0
    for watch in watches[1:]:
        watch.cancel()


async def test_an_audio_of_another_size_is_refused(rig: Rig) -> None:
    await rig.put()
    request = dispatch("job")
    request.dispatch.audio.CopyFrom(pb.Audio(sha256=audio_of().sha256, size_bytes=7))
    async with rig.run(request) as run:
        assert await run.refusal() is Reason.INVALID_REQUEST
