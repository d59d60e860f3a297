"""torchaudio is imported without its extension, whatever its extension complains of."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from services.worker.engine import torchaudio_stub


@pytest.mark.parametrize(
    "error",
    [
        OSError("libc10_cuda.so: cannot open shared object file"),
        RuntimeError("Detected that PyTorch and TorchAudio were compiled with different CUDA versions."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_extension_that_cannot_be_used_is_left_out(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    given: list[object] = []

    def importing(name: str) -> ModuleType:
        assert name == "torchaudio"
        given.append(sys.modules.get("torchaudio._extension"))
        if len(given) == 1:
            raise error
        return ModuleType(name)

    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "torchaudio"}
    try:
        for name in kept:
            del sys.modules[name]
        monkeypatch.setattr(torchaudio_stub, "import_module", importing)
        torchaudio_stub.import_torchaudio()
        assert given[0] is None
        assert getattr(given[1], "_IS_TORCHAUDIO_EXT_AVAILABLE", None) is False
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
            del sys.modules[name]
        sys.modules.update(kept)
