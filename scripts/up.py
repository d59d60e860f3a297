"""`make up`: worker, controller and gateway in the foreground, on this machine.

Tokens and the key of the sessions are made once and kept in `data/up.env`, which a shell can read
(`. data/up.env`); what the environment sets wins over both.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from scripts.processes import ROOT, LaunchError, cancel_on_signals, launched
from scripts.system import page, services

ENV_NAME = "up.env"
SECRETS = ("WORKER_TOKEN", "REMOTE_WORKER_TOKEN", "CONTROLLER_TOKEN", "GATEWAY_SECRET_KEY")


def main() -> int:
    given = dict(os.environ)  # noqa: TID251 - a launcher hands the environment on to what it starts
    data = ROOT / (given.get("DATA_DIR") or "data")
    env_file = data / ENV_NAME
    try:
        settings = completed(given, read_env(env_file))
        data.mkdir(parents=True, exist_ok=True)
        write_env(env_file, settings)
    except (OSError, ValueError) as error:
        print(f"{env_file} cannot be used: {error}; remove it, or set DATA_DIR to another folder", file=sys.stderr)
        return 1
    try:
        return asyncio.run(serve(given | settings, env_file))
    except LaunchError as error:
        print(f"Stopped: {error}. Its lines above say why.", file=sys.stderr)
        return 1


async def serve(environment: Mapping[str, str], env_file: Path) -> int:
    """Until a signal (0), or until one of the three ends by itself (LaunchError)."""
    cancel_on_signals(lambda _number: print("Stopping ...", flush=True))
    try:
        async with launched(services(environment)) as launch:
            for line in welcome(environment, env_file):
                print(line, flush=True)
            await launch.watch()
    except asyncio.CancelledError:
        print("Stopped.", flush=True)
    return 0


def completed(given: Mapping[str, str], kept: Mapping[str, str]) -> dict[str, str]:
    """What the three need to work together: the environment's own settings, else kept secrets, else defaults.

    An empty setting of the environment is one, too: the process it is for says what is wrong with it.
    """
    token = given.get("WORKER_TOKEN", given.get("REMOTE_WORKER_TOKEN", kept.get("WORKER_TOKEN", _secret())))
    port = given.get("WORKER_PORT", "8477")
    listen = given.get("CONTROLLER_LISTEN", "127.0.0.1:8475")
    defaults = {
        "WORKER_TOKEN": token,
        "REMOTE_WORKER_TOKEN": token,
        "CONTROLLER_TOKEN": kept.get("CONTROLLER_TOKEN", _secret()),
        "GATEWAY_SECRET_KEY": kept.get("GATEWAY_SECRET_KEY", _secret()),
        "WORKER_HOST": "127.0.0.1",
        "WORKER_PORT": port,
        "WORKER_MODEL": "demo",
        "REMOTE_WORKER_URL": f"http://127.0.0.1:{port}",
        "REMOTE_WORKER_MODE": "optional",
        "CONTROLLER_LISTEN": listen,
        "CONTROLLER_ADDRESS": listen,
        "GATEWAY_HOST": "127.0.0.1",
        "GATEWAY_PORT": "8476",
    }
    return {name: given.get(name, default) for name, default in defaults.items()}


def read_env(path: Path) -> dict[str, str]:
    """The settings of an env file; none where there is none. Raises OSError or ValueError."""
    if not path.exists():
        return {}
    words = shlex.split(path.read_text(), comments=True)
    return dict(word.split("=", 1) for word in words if "=" in word)


def write_env(path: Path, settings: Mapping[str, str]) -> None:
    """For its owner only: it holds the secrets."""
    lines = [
        "# Made by `make up`, for shells: `. data/up.env`. Remove it to have new secrets made.",
        *(f"export {name}={shlex.quote(settings[name])}" for name in SECRETS),
    ]
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write("\n".join(lines) + "\n")


def welcome(environment: Mapping[str, str], env_file: Path) -> Iterable[str]:
    yield ""
    yield f"  The page:  {page(environment)}"
    if environment["WORKER_MODEL"] == "demo":
        yield "  The model is the bundled demo, which knows synthetic speech only; set WORKER_MODEL for another."
    yield f"  Tokens:    . {shlex.quote(os.path.relpath(env_file))}"
    yield "  Ctrl-C stops all three."
    yield ""


def _secret() -> str:
    return secrets.token_urlsafe(32)


if __name__ == "__main__":
    sys.exit(main())
