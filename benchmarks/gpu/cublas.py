"""cuBLAS for CTranslate2, which asks for `libcublas.so.12` by name, where only CUDA 13's is installed.

Its functions are the ones that CTranslate2 calls, so CUDA 13's is offered under the name of 12 in a private folder, to the
processes that get that folder in `LD_LIBRARY_PATH`. Where a `libcublas.so.12` is found, that one is taken.

`python -m benchmarks.gpu.cublas COMMAND ...` runs a command so, as `python -m pytest tests/gpu`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from services.worker.engine.cuda import loads, package_folders

WANTED = "libcublas.so.12"
COMPANION = "libcublasLt.so.12"
NEWER = {WANTED: "libcublas.so.13", COMPANION: "libcublasLt.so.13"}
SYSTEM_FOLDERS = (
    "/usr/local/cuda/lib64",
    "/usr/local/cuda-12/lib64",
    "/usr/local/cuda-13/lib64",
    "/usr/lib/x86_64-linux-gnu",
)


def environment(private: Path, given: Mapping[str, str]) -> dict[str, str]:
    """``given``, with what makes `libcublas.so.12` loadable where that is possible; ``private`` is a folder for links."""
    if loads(WANTED):
        return dict(given)
    folders = [*package_folders(), *(Path(folder) for folder in SYSTEM_FOLDERS)]
    found = next((folder for folder in folders if (folder / WANTED).exists()), None)
    if found is None:
        newer = next((folder for folder in folders if (folder / NEWER[WANTED]).exists()), None)
        if newer is None:
            return dict(given)
        link(private, newer)
        return _before(given, private, newer)
    return _before(given, found)


def link(private: Path, newer: Path) -> None:
    """Links CUDA 13's libraries in ``newer`` under the names of 12's into ``private``."""
    private.mkdir(parents=True, exist_ok=True)
    for name, target in NEWER.items():
        (private / name).unlink(missing_ok=True)
        (private / name).symlink_to(newer / target)


def _before(given: Mapping[str, str], *folders: Path) -> dict[str, str]:
    paths = [*map(str, folders), *filter(None, [given.get("LD_LIBRARY_PATH")])]
    return dict(given) | {"LD_LIBRARY_PATH": os.pathsep.join(paths)}


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m benchmarks.gpu.cublas COMMAND ...")
    with tempfile.TemporaryDirectory(prefix="cublas-") as folder:
        sys.exit(subprocess.run(sys.argv[1:], env=environment(Path(folder), os.environ), check=False).returncode)
