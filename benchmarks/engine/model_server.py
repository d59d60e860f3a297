"""A process that keeps one Whisper model loaded and transcribes files with stock faster-whisper as it is told.

`python -m benchmarks.engine.model_server --model FOLDER ...`: one JSON object a line on standard input, one JSON object a
line back. ``{"arm": ..., "files": [...], "batch_size": N}`` with the arms

- ``sequential``: `WhisperModel.transcribe`, file by file
- ``batched``: `BatchedInferencePipeline.transcribe`, file by file
- ``threads``: the same in as many threads as the model has workers, which share one list of files
- ``alone``: this project's engine on windows that were made ready before the clock starts (`alone`)
- ``steps``: no files; one batch of ``batch_size`` windows of noise, encoding and generating timed apart

is answered by ``{"seconds", "texts", "windows", "batches", "tokens"}``, or by ``{"error"}``. Loading is not counted.
What the model was asked for is counted on its way to CTranslate2 (`Counted`); the libraries are unmodified.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from benchmarks.engine.alone import Alone, Ready, load

BEAM_SIZE = 5
LANGUAGE = "en"


class Counted:
    """CTranslate2's model, and how many windows, batches and tokens it was asked to generate."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._lock = threading.Lock()
        self.windows = self.batches = self.tokens = 0

    def reset(self) -> None:
        with self._lock:
            self.windows = self.batches = self.tokens = 0

    def generate(self, features: Any, prompts: Sequence[Any], **options: Any) -> Any:
        results = self._model.generate(features, prompts, **options)
        with self._lock:
            self.windows += len(prompts)
            self.batches += 1
            self.tokens += sum(len(result.sequences_ids[0]) for result in results)
        return results

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


@dataclass(frozen=True, slots=True)
class Loading:
    """How the model is loaded, as faster-whisper's `WhisperModel` takes it."""

    model: Path
    device: str
    compute_type: str
    threads: int
    workers: int


class Server:
    def __init__(self, loading: Loading) -> None:
        from faster_whisper import WhisperModel

        self._loading = loading
        self._whisper = WhisperModel(
            str(loading.model),
            device=loading.device,
            compute_type=loading.compute_type,
            cpu_threads=loading.threads,
            num_workers=loading.workers,
        )
        self._counted = Counted(self._whisper.model)
        self._whisper.model = self._counted
        self._engine: Alone | None = None
        self._known: dict[Path, list[Ready]] = {}
        self._arms: dict[str, Callable[[list[Path], int], dict[str, str]]] = {
            "sequential": self._sequential,
            "batched": self._batched,
            "threads": self._threads,
        }

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        files, batch_size = [Path(file) for file in request["files"]], int(request["batch_size"])
        self._counted.reset()
        try:
            if request["arm"] == "alone":
                return self._alone(files, batch_size)
            if request["arm"] == "steps":
                return self._steps(batch_size)
            began = time.monotonic()
            texts = self._arms[request["arm"]](files, batch_size)
            seconds = time.monotonic() - began
        except RuntimeError as error:  # CTranslate2's, as when the device's memory is too small for the batch
            return {"error": str(error)}
        return {"seconds": seconds, "texts": texts} | self._counts()

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    def _counts(self) -> dict[str, int]:
        counted = self._counted
        return {"windows": counted.windows, "batches": counted.batches, "tokens": counted.tokens}

    def _sequential(self, files: list[Path], _batch_size: int) -> dict[str, str]:
        return {file.name: self._text_of(self._whisper, file) for file in files}

    def _text_of(self, whisper: Any, file: Path) -> str:
        segments, _ = whisper.transcribe(
            str(file),
            language=LANGUAGE,
            beam_size=BEAM_SIZE,
            vad_filter=True,
            without_timestamps=True,
            condition_on_previous_text=False,
        )
        return "".join(segment.text for segment in segments)

    def _batched(self, files: list[Path], batch_size: int) -> dict[str, str]:
        from faster_whisper import BatchedInferencePipeline

        pipeline = BatchedInferencePipeline(self._whisper)
        texts = {}
        for file in files:
            segments, _ = pipeline.transcribe(str(file), language=LANGUAGE, beam_size=BEAM_SIZE, batch_size=batch_size)
            texts[file.name] = "".join(segment.text for segment in segments)
        return texts

    def _threads(self, files: list[Path], batch_size: int) -> dict[str, str]:
        with ThreadPoolExecutor(self._loading.workers) as pool:
            parts = pool.map(lambda file: self._batched([file], batch_size), files)
            return {name: text for part in parts for name, text in part.items()}

    def _alone(self, files: list[Path], batch_size: int) -> dict[str, Any]:
        loading = self._loading
        if self._engine is None:  # it is loaded once
            self._engine = load(loading.model, loading.device, loading.compute_type, batch_size)
        for file in files:
            if file not in self._known:  # what a round makes of a file sounds the same
                self._known[file] = self._ready(file)
        windows = [window for file in files for window in self._known[file]]
        seconds, texts = self._engine.run(windows)
        tokens = sum(len(text.split()) for text in texts.values())
        return {"seconds": seconds, "texts": dict(texts), "windows": len(windows), "batches": 0, "tokens": tokens}

    def _ready(self, file: Path) -> list[Ready]:
        from faster_whisper.audio import pad_or_trim

        from services.worker.pipeline import prepare

        extractor = self._whisper.feature_extractor
        ready = []
        with tempfile.TemporaryDirectory() as scratch:
            spool = Path(scratch, "spool")
            spool.touch()
            recording = prepare.prepare(file, spool, vad=True, max_seconds=float(extractor.chunk_length))
            for window in recording.windows:
                speech = recording.cut_out(window)
                features = pad_or_trim(extractor(speech)[..., :-1])
                ready.append(Ready(file.name, window.index, speech, np.ascontiguousarray(features, np.float32)))
        return ready

    def _steps(self, batch_size: int) -> dict[str, Any]:
        """Seconds of encoding a batch and of one step of generating with it."""
        import ctranslate2

        extractor = self._whisper.feature_extractor
        noise = np.random.default_rng(1).normal(0, 0.1, extractor.n_samples).astype(np.float32)
        features = np.repeat(extractor(noise)[None, :, :3000], batch_size, axis=0)
        prompt = self._whisper.get_prompt(_tokenizer(self._whisper), [], without_timestamps=True)

        def once() -> tuple[float, float, int]:
            began = time.monotonic()
            encoded = self._counted.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(features)))
            between = time.monotonic()
            results = self._counted.generate(encoded, [prompt] * batch_size, beam_size=BEAM_SIZE)
            steps = max(len(result.sequences_ids[0]) for result in results)
            return between - began, time.monotonic() - between, max(1, steps)

        once()
        encoding, generating, steps = once()
        return {"encode_seconds": encoding, "step_seconds": generating / steps, "steps": steps}


def _tokenizer(whisper: Any) -> Any:
    from faster_whisper.tokenizer import Tokenizer

    return Tokenizer(whisper.hf_tokenizer, whisper.model.is_multilingual, task="transcribe", language=LANGUAGE)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine.model_server", description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compute-type", default="default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),  # standard output is for answers
    )
    server = Server(Loading(given.model, given.device, given.compute_type, given.threads, given.workers))
    print(json.dumps({"loaded": str(given.model)}), flush=True)
    for line in sys.stdin:
        print(json.dumps(server.answer(json.loads(line))), flush=True)
    server.close()


if __name__ == "__main__":
    main()
