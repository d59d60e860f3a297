"""Stages: each makes one product, a file or a folder, and is skipped when the product is there.

A product is whole or absent: it is written beside its place and then renamed. Beside it lies ``NAME.made``, the
fingerprint of what it was made by, in which those of the stages before it are contained.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Stage:
    """``make(path)`` writes the product to ``path``, whose folder exists. ``parameters`` is a dataclass of plain values,
    all that decides the product besides the stages it comes ``after``."""

    name: str
    product: Path
    make: Callable[[Path], None]
    parameters: Any
    after: tuple[Stage, ...] = ()

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the parameters and the stages before."""
        content = [self.name, asdict(self.parameters), [stage.fingerprint for stage in self.after]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def is_made(self) -> bool:
        mark = _mark(self.product)
        return self.product.exists() and mark.exists() and mark.read_text(encoding="utf-8") == self.fingerprint


def run(stage: Stage, say: Callable[[str], None]) -> None:
    """Makes the product of every stage that it needs and of the stage itself, where it is not there yet."""
    for before in stage.after:
        run(before, say)
    if stage.is_made:
        say(f"{stage.name}: there already")
        return
    say(f"{stage.name} ...")
    began = time.monotonic()
    stage.product.parent.mkdir(parents=True, exist_ok=True)
    scratch = stage.product.with_name(stage.product.name + ".part")
    _remove(scratch)
    stage.make(scratch)
    _mark(stage.product).unlink(missing_ok=True)
    _remove(stage.product)
    scratch.rename(stage.product)
    _mark(stage.product).write_text(stage.fingerprint, encoding="utf-8")
    say(f"{stage.name}: made in {time.monotonic() - began:.0f} s")


def _mark(product: Path) -> Path:
    return product.with_name(product.name + ".made")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
