"""The engine child process: ``python -m services.worker.engine --fd N``, started by the supervisor only."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import warnings
from typing import BinaryIO, cast

from services.runtime.logs import configure_logs
from services.worker.engine import heap
from services.worker.engine.protocol import EngineSettings

# Switches that libraries read from the environment and nowhere else; what the operator set goes first.
_LIBRARY_SWITCHES = {
    "PYANNOTE_METRICS_ENABLED": "0",  # no telemetry
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_ETAG_TIMEOUT": "10",  # seconds
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # the order of the driver's own tool, by which the front counts GPUs
    "PYTHONWARNINGS": "ignore:resource_tracker",  # which complains of what a killed process could not give back
    "OMP_WAIT_POLICY": "PASSIVE",  # idle threads that spin take the cores from other slots and processes
    "OPENBLAS_NUM_THREADS": "1",  # those spin whatever is said, and NumPy's products here are small
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="services.worker.engine", description="Started by the worker, not by hand.")
    parser.add_argument("--fd", type=int, required=True, help="the inherited socket to the worker's front")
    fd = parser.parse_args().fd
    # Ctrl-C and a service manager's SIGTERM reach the whole group; the front drains first and then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for name, value in _LIBRARY_SWITCHES.items():
        os.environ.setdefault(name, value)  # noqa: TID251 - for libraries, not a setting of ours
    heap.keep()

    from services.worker.engine.child import serve  # the libraries read those switches when they are imported

    with socket.socket(fileno=fd) as pipe:
        serve(cast("BinaryIO", pipe.makefile("rwb")), _configure)
    # Threads in the middle of a batch would keep the process alive.
    os._exit(0)


def _configure(settings: EngineSettings) -> None:
    """Before any library looks for a GPU: this process sees its own one only."""
    if settings.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = settings.gpu  # noqa: TID251 - for libraries, which read it nowhere else
    configure_logs("engine", settings.log_dir, [settings.hf_token])
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # pyannote warns of decoders it is not asked to use, and of statistics of very short turns
    warnings.filterwarnings("ignore")


if __name__ == "__main__":
    main()
