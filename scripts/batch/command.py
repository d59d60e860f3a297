"""One run of the batch runner: from the arguments to the exit status."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from scripts.batch.arguments import EXIT_WRONG_USE, PROGRAM, Arguments, WrongUse, parse_arguments
from scripts.batch.client import Gateway, Refused, shown_url
from scripts.batch.outages import Faulty, Outages
from scripts.batch.plan import Plan, make_plan
from scripts.batch.progress import Display, display
from scripts.batch.recordings import look_into
from scripts.batch.runner import Runner
from scripts.batch.sessions import RememberedSessions, gateway_key
from scripts.batch.state import BatchState, Session, StateError, Status, load_state
from scripts.batch.storage import Locked, StorageError, locked, make_folder
from scripts.batch.summary import Summary

EXIT_COMPLETE = 0
EXIT_FAILED = 1
EXIT_SIGNAL = 128
SAME_STOP_SECONDS = 2.0
"""Signals so close together are one: supervisors signal the process and then its group."""
SHOW_CURSOR = "\x1b[?25h"


@dataclass(slots=True)
class Interruption:
    """The signal that ended the run, and when on the loop's clock; none yet."""

    number: int | None = None
    at_seconds: float = 0.0


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit status; every error is a line on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a name must not end the batch
    given = parse_arguments(arguments, environment)
    interruption = Interruption()
    try:
        return asyncio.run(_batch(given, interruption))
    except (WrongUse, StateError) as error:
        return _complain(str(error), EXIT_WRONG_USE)
    except StorageError as error:
        return _complain(f"{error}. Make room or choose another place, and run the same command again.", EXIT_FAILED)
    except asyncio.CancelledError:
        return EXIT_SIGNAL + (interruption.number or signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the exit tries to flush, and says so
        return EXIT_FAILED


def _complain(message: str, status: int) -> int:
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    return status


async def _batch(given: Arguments, interruption: Interruption) -> int:
    _listen_to_signals(interruption)
    state_file = _state_file(given)
    try:
        with contextlib.ExitStack() as stack:
            _lock(stack, state_file)
            return await _locked_batch(given, state_file)
    except BaseExceptionGroup as group:
        known, rest = group.split((StorageError, BrokenPipeError))
        if known is None or rest is not None:
            raise
        raise _first(known) from None


async def _locked_batch(given: Arguments, state_file: Path) -> int:
    state = load_state(state_file)
    plan = _plan(given, state)
    began = time.monotonic()
    try:
        with display(len(plan.pending)) as shown:
            await _work(given, state, plan, shown)
    except asyncio.CancelledError:
        print(_stopped(state, plan), flush=True)
        raise
    entries = {recording.name: state.entries[recording.name] for recording in plan.all}
    skipped = frozenset(recording.name for recording in plan.skipped)
    continued = frozenset(
        recording.name for recording in plan.pending if plan.entries[recording.name].job_id is not None
    )
    summary = Summary(entries, skipped, time.monotonic() - began, continued)
    for line in summary.lines():
        print(line, flush=True)
    return EXIT_COMPLETE if summary.all_complete else EXIT_FAILED


async def _work(given: Arguments, state: BatchState, plan: Plan, shown: Display) -> None:
    for note in plan.notes:
        shown.tell(note)
    if not plan.pending and not plan.incomplete:
        return
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as http:
        remembered, key = RememberedSessions(given.remembered), gateway_key(given.controller)
        earlier = remembered.known(key)
        had = set(earlier)

        def renewed(session: Session) -> None:
            before = gateway.session
            if before is not None and before.cookie != session.cookie:
                shown.tell(_renewal(session.cookie in had))
                had.add(before.cookie)
            state.put_session(session, key)
            remembered.remember(key, session.cookie)

        used = _session(given, state.session_with(key), earlier)
        gateway = Gateway(http, given.controller, used, renewed, Outages(shown.tell), earlier)
        try:
            await gateway.connect()
        except (Refused, Faulty) as error:
            raise WrongUse(f"{shown_url(given.controller)} is no gateway that can be used: {error}") from None
        assert gateway.session is not None
        state.put_session(gateway.session, key)
        remembered.remember(key, gateway.session.cookie)
        runner = Runner(gateway, state, given, shown)
        async with state.kept():
            for recording in plan.incomplete:
                await runner.restore_transcripts(recording)
            await runner.run(plan.pending)


def _session(given: Arguments, reached: Session | None, remembered: Sequence[str]) -> Session | None:
    """The one to go on with: given, in the state, or used last; its CSRF token is asked for where it is not known."""
    if given.session is not None and (reached is None or reached.cookie != given.session):
        return Session(given.session, "")
    return reached or next((Session(cookie, "") for cookie in remembered), None)


def _renewal(had_before: bool) -> str:
    if had_before:
        return "The gateway does not know this session any more, but an earlier one, which is gone on with."
    return "The gateway does not know this session any more; what is not complete begins anew."


def _plan(given: Arguments, state: BatchState) -> Plan:
    """Also makes sure that the state and the transcripts can be written."""
    try:
        recordings, others = look_into(given.input)
    except OSError as error:
        raise WrongUse(f"cannot read the folder {str(given.input)!r}: {error.strerror or error}") from error
    plan = make_plan(recordings, state.entries, given, others)
    if not plan.all:
        raise WrongUse(f"there are no recordings in {str(given.input)!r} (files as .mp3, .wav, .m4a or .mp4)")
    try:
        make_folder(given.output)
        state.put_all(plan.entries)
    except StorageError as error:
        raise WrongUse(str(error)) from error
    return plan


def _lock(stack: contextlib.ExitStack, state_file: Path) -> None:
    """Keeps other runs away from the state until the stack closes."""
    try:
        stack.enter_context(locked(state_file.with_name(f".{state_file.name}.lock")))
    except Locked:
        raise WrongUse(f"another run works on {str(state_file)!r}; wait for it, or stop it") from None
    except StorageError as error:
        raise WrongUse(str(error)) from error


def _state_file(given: Arguments) -> Path:
    """The file itself where a link was given, so that it is replaced and not the link."""
    try:
        path = given.state.resolve()
        is_folder, has_folder = path.is_dir(), path.parent.is_dir()
    except (OSError, RuntimeError) as error:  # too long a name, a loop of links
        raise WrongUse(f"the state file {str(given.state)!r} cannot be used: {error}") from error
    if is_folder:
        raise WrongUse(f"the state file {str(given.state)!r} is a folder")
    if not has_folder:
        raise WrongUse(f"there is no folder {str(path.parent)!r} for the state file")
    return path


def _stopped(state: BatchState, plan: Plan) -> str:
    complete = sum(state.entries[recording.name].status is Status.COMPLETE for recording in plan.all)
    return (
        f"Stopped: {complete} of {len(plan.all)} are complete. Jobs that were submitted go on at the server; "
        "run the same command again to go on."
    )


def _listen_to_signals(interruption: Interruption) -> None:
    """The first signal ends the run in order, the second at once; the state is whole at any time."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if interruption.number is not None:
            if loop.time() - interruption.at_seconds < SAME_STOP_SECONDS:
                return
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), SHOW_CURSOR.encode())
            os._exit(EXIT_SIGNAL + number)
        interruption.number, interruption.at_seconds = number, loop.time()
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
