"""A whole system as `make up` starts it: three real processes with the bundled models."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.processes import ROOT, free_ports
from scripts.system import foreign_environment

UP_SECONDS = 60.0
MAX_UPLOAD_MB = 8


@dataclass(frozen=True)
class System:
    """Addresses and secrets of the running system; ``folder`` holds its data and logs."""

    url: str
    worker_url: str
    controller_address: str
    secrets: dict[str, str]
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "logs" / "app.log"

    @property
    def output(self) -> str:
        """What the three processes printed."""
        return (self.folder / "up.out").read_text()


@contextmanager
def running_system(folder: Path) -> Iterator[System]:
    worker, controller, gateway = free_ports(3)
    settings = {
        "DATA_DIR": str(folder / "data"),
        "WORKER_DATA_DIR": str(folder / "worker"),
        "LOG_DIR": str(folder / "logs"),
        "WORKER_PORT": str(worker),
        "CONTROLLER_LISTEN": f"127.0.0.1:{controller}",
        "GATEWAY_DATA_DIR": str(folder / "gateway"),
        "GATEWAY_PORT": str(gateway),
        "GATEWAY_MAX_UPLOAD_MB": str(MAX_UPLOAD_MB),
        "HF_HUB_OFFLINE": "1",
    }
    with (folder / "up.out").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "scripts.up"],
            cwd=ROOT,
            env=foreign_environment() | {"WORKER_DEVICE": "cpu"} | settings,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_up(process, folder / "up.out")
            yield System(
                f"http://127.0.0.1:{gateway}",
                f"http://127.0.0.1:{worker}",
                f"127.0.0.1:{controller}",
                _secrets(folder / "data" / "up.env"),
                folder,
            )
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0, (folder / "up.out").read_text()


def _wait_up(process: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + UP_SECONDS
    while "Ctrl-C stops all three" not in output.read_text():
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.05)


def _secrets(path: Path) -> dict[str, str]:
    words = shlex.split(path.read_text(), comments=True)
    return dict(word.split("=", 1) for word in words if "=" in word)
