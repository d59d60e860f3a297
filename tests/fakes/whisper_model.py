"""faster-whisper's model on a device of so many bytes, in place of the real one in `services.worker.engine.models`."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np

OUT_OF_MEMORY = "CUDA failed with error out of memory"


class FakeDevice:
    """Loads models as large as their model.bin."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.taken: dict[str, int] = {}
        """By model, what it takes; a model that is loaded twice is an error."""
        self.loaded: list[str] = []
        """Every load, in order."""
        self.held: dict[str, threading.Event] = {}
        """Loads that wait, by model."""
        self.begun = threading.Semaphore(0)
        """Released by every load that waits."""
        self.refused = threading.Semaphore(0)
        """Released by every load that has no room."""
        self.given: list[dict[str, object]] = []

    def free(self) -> int:
        return self.size - sum(self.taken.values())

    def load(self, path: str, **given: object) -> FakeWhisper:
        name, size = Path(path).name, (Path(path) / "model.bin").stat().st_size
        if name in self.held:
            self.begun.release()
            assert self.held[name].wait(10)
        if size > self.free():
            self.refused.release()
            raise RuntimeError(OUT_OF_MEMORY)
        assert name not in self.taken
        self.taken[name] = size
        self.loaded.append(name)
        self.given.append(given)
        return FakeWhisper(self, name)


class FakeWhisper:
    def __init__(self, device: FakeDevice, name: str) -> None:
        self.model = SimpleNamespace(
            compute_type="float16", is_multilingual=False, unload_model=lambda: device.taken.pop(name)
        )
        self.model.generate = lambda *_, **__: []
        self.hf_tokenizer = SimpleNamespace(token_to_id=len)
        self.feature_extractor = SimpleNamespace(mel_filters=np.zeros((80, 1)), chunk_length=30)

    def encode(self, features: np.ndarray) -> None:
        assert features.shape == (1, 80, 3000)


def make_folders(model_dir: Path, sizes: dict[str, int]) -> None:
    """Folders that have what a model needs, with model.bin of a size each."""
    for name, size in sizes.items():
        folder = model_dir / name
        folder.mkdir(parents=True)
        for file in ("config.json", "tokenizer.json", "vocabulary.txt"):
            (folder / file).touch()
        with (folder / "model.bin").open("wb") as model:
            model.truncate(size)
