"""The gateway process: `python -m gateway`."""

from __future__ import annotations

import asyncio
import sys
from functools import partial

import structlog
from aiohttp import web

from gateway.app import make_app, make_runner
from gateway.controller import Controller
from gateway.secret_key import KeptKey, kept_key
from gateway.sessions import Sessions
from gateway.settings import GatewaySettings
from services.contract.limits import VERSION
from services.runtime.channel import open_channel
from services.runtime.lifecycle import StartupError, run_process
from services.runtime.logs import configure_logs
from services.runtime.settings import EXIT_WRONG_SETTING, load_settings

log = structlog.get_logger()


async def serve(settings: GatewaySettings, kept: KeptKey, stopping: asyncio.Event) -> None:
    """Answers until ``stopping``; the controller need not be there."""
    if kept.trouble:
        log.warning(
            "gateway_key_not_kept",
            reason=kept.trouble,
            what_to_do="set GATEWAY_SECRET_KEY, or GATEWAY_DATA_DIR to a folder that can be written and holds no key that "
            "others can read; until then all sessions end with this process",
        )
    async with open_channel(settings.controller_address) as channel:
        controller = Controller(channel, settings.controller_token.get_secret_value())
        sessions = Sessions(kept.key)
        runner = make_runner(make_app(controller, sessions, settings.max_upload_bytes))
        await runner.setup()
        try:
            url = await _listen(runner, settings)
            log.info("gateway_started", url=url, controller=settings.controller_address, version=VERSION)
            print(f"bulkscribe gateway on {url}", flush=True)  # noqa: T201 - for who started it
            await stopping.wait()
        finally:
            await runner.cleanup()


async def _listen(runner: web.AppRunner, settings: GatewaySettings) -> str:
    host = settings.gateway_host
    try:
        await web.TCPSite(runner, host, settings.gateway_port).start()
    except OSError as error:
        raise StartupError(
            f"GATEWAY_HOST={host!r}, GATEWAY_PORT='{settings.gateway_port}': cannot listen there "
            f"({error.strerror or error}); choose a free port and an address of this machine"
        ) from None
    port = runner.addresses[0][1]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def main() -> int:
    settings = load_settings(
        GatewaySettings, "python -m gateway", "The HTTP gateway: sessions, JSON, events, the page."
    )
    given = settings.gateway_secret_key.get_secret_value()
    kept = KeptKey(given) if given else kept_key(settings.gateway_data_dir)
    secrets = (settings.controller_token.get_secret_value(), kept.key)
    try:
        configure_logs("gateway", settings.log_dir, secrets)
    except OSError as error:
        message = f"LOG_DIR={str(settings.log_dir)!r} cannot be written: {error.strerror}; choose another folder"
        print(message, file=sys.stderr)  # noqa: T201 - there is no log yet
        return EXIT_WRONG_SETTING
    return run_process("gateway", partial(serve, settings, kept))


if __name__ == "__main__":
    sys.exit(main())
