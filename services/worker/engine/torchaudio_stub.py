"""Lets torchaudio be imported where its C++ extension cannot be loaded.

The wheel on the index links CUDA libraries that a CPU-only torch does not bring; pyannote.audio imports torchaudio,
but nothing here needs the extension.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


def import_torchaudio() -> None:
    """To be called before pyannote.audio is imported."""
    try:
        import_module("torchaudio")
    except (OSError, RuntimeError):  # the second where it is built for another CUDA than torch
        for name in [name for name in sys.modules if name == "torchaudio" or name.startswith("torchaudio.")]:
            del sys.modules[name]
        sys.modules["torchaudio._extension"] = _extension()
        import_module("torchaudio")


def _extension() -> ModuleType:
    stub: Any = ModuleType("torchaudio._extension")
    stub._IS_TORCHAUDIO_EXT_AVAILABLE = False
    stub._IS_ALIGN_AVAILABLE = False
    stub.fail_if_no_align = lambda function: function
    stub._check_cuda_version = lambda: None
    module: ModuleType = stub
    return module
