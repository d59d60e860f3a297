"""Starts the controller: `python -m services.controller`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from bulkscribe.jobs.v1 import jobs_pb2, jobs_pb2_grpc, uploads_pb2, uploads_pb2_grpc

from services.contract.errors import Reason, ServiceError
from services.contract.limits import MEGABYTE, VERSION
from services.controller.api_jobs import Fleet, JobApi
from services.controller.api_uploads import UploadApi
from services.controller.attempt import Stores
from services.controller.dispatch import Dispatcher, DispatchSettings
from services.controller.jobs import ExecutionMode
from services.controller.journal import JobJournal
from services.controller.local_worker import LocalWorker
from services.controller.prober import AudioProber
from services.controller.recordings import Recordings
from services.controller.settings import ControllerSettings
from services.controller.store.protocol import StoreError, StoreFullError
from services.controller.store.sql import SqlStore
from services.controller.wait_clock import WaitClock
from services.controller.watchers import Watchers
from services.controller.workers import LinkSettings, WorkerLink
from services.runtime.blobs import BlobFolder
from services.runtime.folder import owned_folder
from services.runtime.lifecycle import StartupError, root_tasks, run_process
from services.runtime.logs import configure_logs
from services.runtime.server import Server
from services.runtime.settings import load_settings

log = structlog.get_logger()

HOUSEKEEPING_SECONDS = 3600.0

GRACE_SECONDS = 3.0
"""How long calls may go on after a stop was asked for; streams end then, and their clients come back."""


def main() -> int:
    settings = load_settings(
        ControllerSettings, "python -m services.controller", "The controller: owns every job and drives the workers."
    )
    secrets = (settings.controller_token.get_secret_value(), settings.remote_worker_token.get_secret_value())
    try:
        configure_logs("controller", settings.log_dir, secrets)
    except OSError as error:
        print(f"LOG_DIR={str(settings.log_dir)!r} cannot be written: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 1
    return run_process("controller", lambda stopping: _serve(settings, stopping))


async def _serve(settings: ControllerSettings, stopping: asyncio.Event) -> None:
    with owned_folder(settings.data_dir, "DATA_DIR", "controller"):
        async with _store(settings) as store, _prober() as prober:
            clock = WaitClock(asyncio.get_running_loop().time, await store.read_wait_clock())
            watchers = Watchers()
            stores = Stores(JobJournal(store, watchers), BlobFolder(settings.data_dir / "blobs"), clock)
            recordings = Recordings(store, stores.blobs, prober, settings.controller_max_upload_mb * MEGABYTE)
            try:
                await _run(settings, stopping, stores, watchers, recordings)
            finally:
                await recordings.close()
            await store.write_wait_clock(clock.read())


async def _run(
    settings: ControllerSettings, stopping: asyncio.Event, stores: Stores, watchers: Watchers, recordings: Recordings
) -> None:
    local = LocalWorker(settings.data_dir / "local-worker", settings.log_dir, settings.remote_worker_poll_seconds)
    links: list[WorkerLink] = []
    dispatcher = Dispatcher(stores, links, _dispatch_settings(settings), local.want)
    links += [
        WorkerLink(link, dispatcher.wake, dispatcher.worker_holds) for link in _link_settings(settings, local.url)
    ]
    fleet = Fleet(settings.remote_worker_mode, links, links[0], local, bool(settings.worker_urls))
    server = Server(
        [
            (
                jobs_pb2.DESCRIPTOR.services_by_name["JobService"],
                jobs_pb2_grpc.add_JobServiceServicer_to_server,
                JobApi(stores.journal, watchers, dispatcher, fleet, recordings),
            ),
            (
                uploads_pb2.DESCRIPTOR.services_by_name["UploadService"],
                uploads_pb2_grpc.add_UploadServiceServicer_to_server,
                UploadApi(recordings),
            ),
        ],
        settings.controller_token.get_secret_value() or None,
        lambda error: ServiceError(Reason.STORAGE_FULL) if isinstance(error, StoreFullError) else None,
    )
    port = await _listen(server, settings.controller_listen)
    log.info("controller_started", version=VERSION, mode=settings.remote_worker_mode, port=port)
    try:
        async with root_tasks(stopping) as roots:
            roots.start("dispatcher", dispatcher.run())
            roots.start("local worker", local.run())
            roots.start("local link", _link_local(local, links[0]))
            roots.start("housekeeping", _housekeeping(recordings))
            for link in links[1:]:
                roots.start(f"link {link.url}", link.run())
            if settings.remote_worker_mode == "off":
                local.want()
            await stopping.wait()
            await server.stop(GRACE_SECONDS)
    finally:
        await server.stop(0)
        for link in links:
            await link.close()
        local.close()


def _dispatch_settings(settings: ControllerSettings) -> DispatchSettings:
    return DispatchSettings(
        settings.remote_worker_timeout_seconds,
        settings.remote_worker_capacity_timeout_seconds,
        settings.remote_worker_lease_seconds,
        settings.remote_worker_poll_seconds,
    )


def _link_settings(settings: ControllerSettings, local_url: str) -> Iterator[LinkSettings]:
    """The local worker's first."""
    interval = settings.remote_worker_poll_seconds
    yield LinkSettings(local_url, ExecutionMode.LOCAL, "", interval)
    if settings.remote_worker_mode == "off":
        return
    authority = _read_certificate(settings.remote_worker_ca)
    for url in settings.worker_urls:
        token = settings.remote_worker_token.get_secret_value()
        yield LinkSettings(url, ExecutionMode.REMOTE, token, interval, authority)


def _read_certificate(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartupError(f"REMOTE_WORKER_CA={str(path)!r} cannot be read: {error.strerror}") from error


async def _listen(server: Server, address: str) -> int:
    try:
        return await server.start(address)
    except OSError as error:
        raise StartupError(f"CONTROLLER_LISTEN={address!r}: {error}") from error


async def _housekeeping(recordings: Recordings) -> None:
    while True:
        try:
            await recordings.sweep(time.time())
        except Exception:  # a full disk, a locked database: there is a next time
            log.exception("housekeeping_failed")
        await asyncio.sleep(HOUSEKEEPING_SECONDS)


async def _link_local(local: LocalWorker, link: WorkerLink) -> None:
    """There is nobody to listen to before a job asked for the local worker."""
    await local.wait_wanted()
    await link.run()


@asynccontextmanager
async def _store(settings: ControllerSettings) -> AsyncIterator[SqlStore]:
    try:
        store = SqlStore(settings.store_url)
        await store.open()
    except StoreError as error:
        raise StartupError(str(error)) from error
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def _prober() -> AsyncIterator[AudioProber]:
    prober = AudioProber()
    try:
        await prober.start()
        yield prober
    finally:
        await prober.close()


if __name__ == "__main__":
    sys.exit(main())
