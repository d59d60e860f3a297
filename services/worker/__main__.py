"""Starts the worker's front: `python -m services.worker`. No model library is imported in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import ssl
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path

import structlog
from aiohttp import web

from services.contract.limits import MEGABYTE, VERSION
from services.runtime.folder import owned_folder
from services.runtime.lifecycle import RootTasks, StartupError, root_tasks, run_process
from services.runtime.listener import Listener
from services.runtime.logs import configure_logs
from services.runtime.server import Server, unix_address
from services.runtime.settings import read_settings, settings_parser
from services.worker.api import WorkerApi, registration
from services.worker.attempts import Attempts, JournalFullError
from services.worker.audio import AudioLimits, AudioStore
from services.worker.capacity import Gpu, auto_slots, slots_with_room
from services.worker.engine.catalog import DEMO, HUB_PIPELINE
from services.worker.engine.fleet import Fleet
from services.worker.engine.memory import DIARIZATION_BYTES, model_bytes
from services.worker.engine.protocol import Engine, EngineSettings
from services.worker.engine.supervisor import Supervisor
from services.worker.gpus import find_gpus
from services.worker.http import http_app
from services.worker.journal import SqliteJournal
from services.worker.metrics import Metrics
from services.worker.settings import WorkerSettings
from services.worker.status import Offer, WorkerStatus

log = structlog.get_logger()

BUNDLED = Path(__file__).parents[2] / "models"

ACKNOWLEDGE_SECONDS = 5.0
"""How long a draining worker waits for controllers to hear what it hands back."""

STOPPING = "The worker is shutting down; the job goes on from what was finished."

GRACE_SECONDS = 0.5
"""How long calls may go on after that; heartbeats never end by themselves."""

HOUSEKEEPING_SECONDS = 60.0

MakeEngine = Callable[[EngineSettings], Engine]


def main(arguments: Sequence[str] | None = None, make_engine: MakeEngine = Supervisor) -> int:
    parser = settings_parser(
        WorkerSettings, "python -m services.worker", "A worker: runs attempts for controllers, one engine behind it."
    )
    parser.add_argument(
        "--socket",
        type=Path,
        metavar="PATH",
        help="serve one controller of this machine: gRPC on this Unix socket, no port, no token;"
        " ends when its standard input does",
    )
    socket: Path | None = parser.parse_args(arguments).socket
    given = {"worker_token": "of no use on a socket"} if socket else {}
    settings = read_settings(WorkerSettings, **given)
    secrets = [] if socket else [settings.worker_token.get_secret_value()]
    try:
        configure_logs("worker", settings.log_dir, [*secrets, settings.hf_token.get_secret_value()])
    except OSError as error:
        print(f"LOG_DIR={str(settings.log_dir)!r} cannot be written: {error.strerror}", file=sys.stderr)  # noqa: T201 - there is no log
        return 1
    return run_process("worker", lambda stopping: _serve(settings, socket, make_engine, stopping))


def _check_parent() -> None:
    """A file or /dev/null has no end that tells anything. Raises StartupError."""
    kind = os.fstat(sys.stdin.fileno()).st_mode if sys.stdin else 0
    if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or (sys.stdin and sys.stdin.isatty())):
        raise StartupError("--socket needs a pipe as standard input, which the parent holds open.")


async def _serve(
    settings: WorkerSettings, socket: Path | None, make_engine: MakeEngine, stopping: asyncio.Event
) -> None:
    tls = _tls(settings)
    if socket:
        _check_parent()
    # A local worker may share its controller's environment with a worker that serves a port.
    folder = settings.worker_data_dir / "local" if socket else settings.worker_data_dir
    with owned_folder(folder, "WORKER_DATA_DIR", "worker"):
        gpus = await find_gpus(settings.worker_device, settings.cuda_visible_devices)
        berths = _berths(settings, gpus)
        slots = sum(berths)
        engine = _engine(settings, folder, gpus, berths, make_engine)
        offer = Offer(settings.worker_model, settings.worker_max_file_mb * MEGABYTE)
        status = WorkerStatus(offer, slots, engine.state)
        metrics = Metrics(status)
        audio = AudioStore(folder / "audio", _audio_limits(settings), metrics)
        async with _journal(folder, settings) as journal, root_tasks(stopping) as roots:
            attempts = Attempts(engine, status, metrics, journal, roots.spawn)
            await attempts.restore()
            token = None if socket else settings.worker_token.get_secret_value()
            server = Server([registration(WorkerApi(status, attempts, audio, metrics))], token)
            serving = _on_socket(socket, server) if socket else _on_port(settings, tls, server, status, metrics, roots)
            async with serving as address, _running(engine):
                roots.start("engine state", status.follow(engine))
                roots.start("attempt journal", attempts.write())
                roots.start("housekeeping", _housekeeping(attempts, audio))
                if socket:
                    roots.start("standard input", _stop_with_parent(stopping))
                log.info("worker_started", address=address, version=VERSION, slots=slots, model=settings.worker_model)
                await stopping.wait()
                await _drain(status, server, attempts, settings.worker_drain_seconds)


@contextlib.asynccontextmanager
async def _journal(folder: Path, settings: WorkerSettings) -> AsyncIterator[SqliteJournal]:
    journal = SqliteJournal(folder / "attempts.db", settings.worker_journal_quota_mb * MEGABYTE)
    await journal.open()
    try:
        yield journal
    finally:
        await journal.close()


async def _drain(status: WorkerStatus, server: Server, attempts: Attempts, seconds: float) -> None:
    """Says so, lets the windows finish that are being decoded, and hands the rest back. What nobody hears of in time
    waits in the journal for the next start."""
    status.drain()
    await server.set_serving(False)
    attempts.stop_all(STOPPING)
    try:
        async with asyncio.timeout(seconds):
            await attempts.wait_stopped()
    except TimeoutError:
        log.warning("remote_windows_unfinished", seconds=seconds)
    attempts.hand_back_all(STOPPING)
    try:
        async with asyncio.timeout(ACKNOWLEDGE_SECONDS):
            await attempts.wait_acknowledged()
    except TimeoutError:
        log.warning("remote_outcomes_unacknowledged", attempts=[str(key) for key in attempts.held()])


async def _housekeeping(attempts: Attempts, audio: AudioStore) -> None:
    while True:
        for work in (attempts.forget_old, partial(audio.sweep, attempts.recordings_in_use)):
            try:
                await work()
            except JournalFullError as error:
                log.warning("remote_journal_full", error=str(error))
            except Exception:  # a disk that fails: there is a next time
                log.exception("housekeeping_failed")
        await asyncio.sleep(HOUSEKEEPING_SECONDS)


async def _stop_with_parent(stopping: asyncio.Event) -> None:
    """The controller holds the other end of our standard input: its end is the controller's."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.read(1024):
        pass
    log.info("parent_gone")
    stopping.set()


@contextlib.asynccontextmanager
async def _running(engine: Engine) -> AsyncIterator[None]:
    await engine.start()
    try:
        yield
    finally:
        await engine.stop()


@contextlib.asynccontextmanager
async def _on_port(
    settings: WorkerSettings,
    tls: ssl.SSLContext | None,
    server: Server,
    status: WorkerStatus,
    metrics: Metrics,
    roots: RootTasks,
) -> AsyncIterator[str]:
    """gRPC and HTTP on one TCP port; yields its address."""
    app = http_app(status, metrics, settings.worker_token.get_secret_value(), settings.worker_ping_public)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=GRACE_SECONDS)
    await runner.setup()
    assert runner.server is not None
    # A short path of our own: a socket's address holds 107 bytes.
    with tempfile.TemporaryDirectory(prefix="bulkscribe-") as folder:
        inward = Path(folder, "grpc")
        listener = Listener(inward, runner.server, roots.spawn, tls)
        try:
            await _listen_on_socket(server, inward)
            port = await _listen_on_port(listener, settings)
            host = f"[{settings.worker_host}]" if ":" in settings.worker_host else settings.worker_host
            yield f"{'https' if tls else 'http'}://{host}:{port}"
        finally:
            listener.close()
            await server.stop(GRACE_SECONDS)
            await runner.cleanup()


@contextlib.asynccontextmanager
async def _on_socket(path: Path, server: Server) -> AsyncIterator[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.parent.chmod(0o700)
    except OSError as error:
        raise StartupError(f"--socket={str(path)!r}: its folder cannot be made private: {error.strerror}") from error
    await _listen_on_socket(server, path)
    try:
        yield unix_address(path)
    finally:
        await server.stop(GRACE_SECONDS)


async def _listen_on_socket(server: Server, path: Path) -> None:
    try:
        await server.start(unix_address(path))
    except OSError as error:
        raise StartupError(f"The socket {str(path)!r} cannot be had: {error}") from error


async def _listen_on_port(listener: Listener, settings: WorkerSettings) -> int:
    host, port = settings.worker_host, settings.worker_port
    try:
        return await listener.start(host, port)
    except OSError as error:
        raise StartupError(
            f"WORKER_PORT={port} cannot be had on WORKER_HOST={host!r}: {error.strerror}. Stop what uses it, or choose"
            " another."
        ) from error


def _tls(settings: WorkerSettings) -> ssl.SSLContext | None:
    if settings.worker_tls_cert is None or settings.worker_tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.worker_tls_cert, settings.worker_tls_key)
    except (OSError, ssl.SSLError) as error:
        raise StartupError(
            f"WORKER_TLS_CERT={str(settings.worker_tls_cert)!r} and WORKER_TLS_KEY={str(settings.worker_tls_key)!r}"
            f" must be a PEM certificate and its key: {error}"
        ) from error
    return context


def _audio_limits(settings: WorkerSettings) -> AudioLimits:
    return AudioLimits(
        settings.worker_max_file_mb * MEGABYTE,
        settings.worker_audio_quota_mb * MEGABYTE,
        settings.worker_audio_max_age_hours * 3600,
    )


def _berths(settings: WorkerSettings, gpus: Sequence[Gpu]) -> list[int]:
    """Slots by engine: one for each GPU that gets a slot, or one for them all. What was asked for is taken as it stands."""
    weights = model_bytes(settings.worker_model, settings.worker_compute_type)
    diarization = DIARIZATION_BYTES if _will_diarize(settings) else 0
    wanted = settings.worker_max_concurrent_jobs
    if not wanted:
        return [auto_slots(gpu, diarization, weights) for gpu in gpus] or [auto_slots(None, diarization, weights)]
    engines = max(1, min(len(gpus), wanted))
    berths = [wanted // engines + (number < wanted % engines) for number in range(engines)]
    for gpu, slots in zip(gpus, berths, strict=False):
        if slots > (fit := slots_with_room(gpu, diarization, weights)):
            log.warning(
                "worker_memory_short", gpu=gpu.name, memory_mib=gpu.memory_mib, slots=slots, fitting=fit,
                reason="jobs may wait for memory; set WORKER_MAX_CONCURRENT_JOBS to auto, or to less",
            )  # fmt: skip
    return berths


def _will_diarize(settings: WorkerSettings) -> bool:
    """Whether a pipeline is to be expected, for which memory is kept: one that is set, or that a token will give, or that
    the hub's client, which is not imported here, has fetched."""
    if settings.worker_diarization_model != "auto":
        return settings.worker_diarization_model != "none"
    if settings.worker_model == DEMO or settings.hf_token.get_secret_value():
        return True
    home = settings.hf_home.expanduser()
    return (home / "token").is_file() or (home / "hub" / f"models--{HUB_PIPELINE.replace('/', '--')}").is_dir()


def _engine(
    settings: WorkerSettings, folder: Path, gpus: Sequence[Gpu], berths: Sequence[int], make_engine: MakeEngine
) -> Engine:
    spools = folder / "spool"
    shutil.rmtree(spools, ignore_errors=True)  # of engines that there are no longer, too
    engines = [
        make_engine(
            _engine_settings(settings, len(berths), slots, gpus[number].uuid if gpus else "", spools / str(number))
        )
        for number, slots in enumerate(berths)
    ]
    return engines[0] if len(engines) == 1 else Fleet(list(zip(engines, berths, strict=True)))


def _engine_settings(settings: WorkerSettings, engines: int, slots: int, gpu: str, spool_dir: Path) -> EngineSettings:
    return EngineSettings(
        default_model=settings.worker_model,
        bundled_dir=BUNDLED,
        models=settings.worker_models,
        model_dir=settings.worker_model_dir,
        device=settings.worker_device,
        compute_type=settings.worker_compute_type,
        batch_size=settings.worker_batch_size,
        engines=engines,
        slots=slots,
        diarization_model=settings.worker_diarization_model,
        hf_token=settings.hf_token.get_secret_value(),
        spool_dir=spool_dir,
        log_dir=settings.log_dir,
        gpu=gpu,
    )


if __name__ == "__main__":
    sys.exit(main())
