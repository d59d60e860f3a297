"""`make models`, or `python -m models.train`: makes the bundled models from nothing, and compares them with those in `models/`.

Everything is written to `.build/models`. What is there already is kept, and a training that was cut goes on where it was:
run the same command again. The bundled models are replaced only with --install.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from models.train import report
from models.train.making import DIARIZATION, WHISPER, diarization_figures, recognizer_figures
from models.train.recipe import FULL, QUICK
from models.train.speech import SpeechError
from models.train.stages import Stage, run

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "models"
HALVES: Mapping[str, tuple[Callable[..., Stage], str]] = {
    "recognizer": (recognizer_figures, WHISPER),
    "diarization": (diarization_figures, DIARIZATION),
}

# Each half has one core. Threads that spin take the other half's; pyannote tells nobody what is done here.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYANNOTE_METRICS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all is made, 1 when something went wrong, 130 when it was stopped."""
    given = _parsed(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = (given.output or ROOT / ".build" / ("models-quick" if given.quick else "models")).resolve()
    try:
        if given.half and given.child:
            _make(given.half, given.quick, folder)
            return 0
        return _make_all([given.half] if given.half else list(HALVES), given, folder)
    except SpeechError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"The models cannot be made: {error}. What was made is kept.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if not given.child:
            print("Stopped. The same command goes on from here.", file=sys.stderr)
        return 130


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m models.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("half", nargs="?", choices=list(HALVES), help="only this one (both, one beside the other)")
    parser.add_argument(
        "--quick", action="store_true", help="a little of everything: whether the recipe works, no models"
    )
    parser.add_argument("--install", action="store_true", help="replaces the bundled models by the new ones in the end")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to (default: .build/models, models-quick)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.quick and given.install:
        parser.error("models of --quick know nothing and cannot be installed")
    return given


def _make_all(halves: Sequence[str], given: argparse.Namespace, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--child", "--output", str(folder), *(["--quick"] if given.quick else [])]
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "models.train", half, *options], cwd=ROOT, env=os.environ | _ENVIRONMENT
        )
        for half in halves
    ]
    try:
        codes = [child.wait() for child in children]
    except BaseException:
        for child in children:
            child.terminate()
            child.wait()
        raise
    if any(codes):
        failed = ", ".join(half for half, code in zip(halves, codes, strict=True) if code)
        print(f"Not made: {failed}. What was made is kept in {folder}.", file=sys.stderr)
        return 1
    figures = [figure for half in halves for figure in report.read(folder / f"{half}.json")]
    report.write(figures, folder / "comparison.json")
    report.show(figures)
    print(f"The models are in {folder}, their figures in {folder / 'comparison.json'}.")
    if given.install:
        for half in halves:
            _install(folder / HALVES[half][1])
    return 0


def _make(half: str, quick: bool, folder: Path) -> None:
    began = time.monotonic()

    def say(text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - began), 60)
        print(f"{minutes:3d}:{seconds:02d} {half}: {text}", flush=True)

    figures, name = HALVES[half]
    run(figures(QUICK if quick else FULL, folder, BUNDLED, _hash(BUNDLED / name), say), say)


def _hash(folder: Path) -> str:
    content = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        content.update(path.name.encode() + path.read_bytes())
    return content.hexdigest()


def _install(made: Path) -> None:
    place = BUNDLED / made.name
    shutil.rmtree(place)
    shutil.copytree(made, place)
    print(f"{place} is the new one.")


if __name__ == "__main__":
    sys.exit(main())
