"""The loop around every training: checkpoints, so that a run that was cut goes on where it was, and a line of progress.

A step depends on nothing but the learner's state and its number, which seeds all that is drawn in it. So a run that was
cut ends in the same weights as one that was not.
"""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

CHECKPOINT_SECONDS = 180.0
PROGRESS_SECONDS = 30.0


class Learner(Protocol):
    """What is trained. ``step`` returns figures for the line of progress, by name."""

    @property
    def steps(self) -> int: ...

    def step(self, number: int) -> Mapping[str, float]: ...

    def state(self) -> dict[str, Any]:
        """All that a later ``restore`` needs: tensors, and dictionaries and lists of them."""
        ...

    def restore(self, state: dict[str, Any]) -> None: ...


def train(learner: Learner, checkpoint: Path, fingerprint: str, say: Callable[[str], None]) -> None:
    """Runs the steps that are left. The checkpoint is one of the same ``fingerprint``, else it does not count."""
    first = _resume(learner, checkpoint, fingerprint)
    if first:
        say(f"going on at step {first} of {learner.steps}")
    began = saved = told = time.monotonic()
    figures: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(first, learner.steps):
        for name, value in learner.step(number).items():
            figures[name].append(value)
        now, done = time.monotonic(), number + 1
        if now - saved >= CHECKPOINT_SECONDS:
            save(checkpoint, {"fingerprint": fingerprint, "steps": done, "learner": learner.state()})
            saved = now
        if now - told >= PROGRESS_SECONDS or done == learner.steps:
            left = (now - began) / (done - first) * (learner.steps - done)
            means = ", ".join(f"{name} {sum(values) / len(values):.3f}" for name, values in figures.items())
            say(f"step {done} of {learner.steps}, {left / 60:.0f} min left: {means}")
            figures.clear()
            told = now


def _resume(learner: Learner, checkpoint: Path, fingerprint: str) -> int:
    if not checkpoint.exists():
        return 0
    saved = torch.load(checkpoint, weights_only=True)
    if saved["fingerprint"] != fingerprint:
        return 0
    learner.restore(saved["learner"])
    return int(saved["steps"])


def save(path: Path, content: object) -> None:
    """Whole or not at all."""
    scratch = path.with_name(path.name + ".part")
    torch.save(content, scratch)
    os.replace(scratch, path)


def seeded(seed: int, step: int) -> np.random.Generator:
    """What a step draws; torch's own numbers are seeded alike."""
    torch.manual_seed(seed * 1_000_003 + step)
    return np.random.default_rng([seed, step])


def warmed(step: int, warm_up: int) -> float:
    """From near 0 to 1 over the first steps."""
    return min(1.0, (step + 1) / max(1, warm_up))


def falling(step: int, steps: int, last: float) -> float:
    """From 1 to ``last`` in half a wave of the cosine."""
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * step / steps))


_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # of x86, and the last of ARM


def mixed_precision() -> torch.autocast:
    """For a forward pass: bfloat16 where the processor knows it, and float32 where it would be emulated, which takes nine
    times as long."""
    known = torch.cpu.get_capabilities()
    enabled = any(known.get(name, False) for name in _BFLOAT16)
    return torch.autocast("cpu", torch.bfloat16, enabled, cache_enabled=False)  # the cache is all threads' together


class AdamW:
    """torch's, with the bounds and the check that every training here wants."""

    def __init__(self, groups: list[dict[str, Any]], clip: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self._clip = clip
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        self._optimizer = torch.optim.AdamW(groups, lr=1.0, betas=betas)
        self._threads = ThreadPoolExecutor(initializer=torch.set_num_threads, initargs=(1,))

    def step(self, loss: Tensor, *rates: float) -> None:
        """One rate a group. Gradients that are not finite change nothing."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._apply(rates)

    def step_in_parts(self, parts: Sequence[Callable[[], Tensor]], *rates: float) -> None:
        """Of the mean of the parts' losses, each in a thread of its own. Gradients are added up in the order of the parts,
        so that the number of cores changes nothing but the time."""
        of_parts = list(self._threads.map(self._gradients, parts))
        for parameter, gradients in zip(self._parameters, zip(*of_parts, strict=True), strict=True):
            known = [gradient for gradient in gradients if gradient is not None]
            parameter.grad = torch.stack(known).sum(0) / len(parts) if known else None
        self._apply(rates)

    def _gradients(self, part: Callable[[], Tensor]) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(part(), self._parameters, allow_unused=True)

    def _apply(self, rates: Sequence[float]) -> None:
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        norm = nn.utils.clip_grad_norm_([p for p in self._parameters if p.grad is not None], self._clip)
        if torch.isfinite(norm):
            self._optimizer.step()

    def state(self) -> dict[str, Any]:
        return self._optimizer.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        self._optimizer.load_state_dict(state)
