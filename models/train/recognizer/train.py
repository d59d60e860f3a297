"""Training of the recognizer: windows that grow, all drawn anew at every step; weights averaged over the last of them.

A step's windows are computed in two parts side by side, so that a core that the other half of the recipe leaves is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from models.train.recipe import Phase, RecognizerRecipe
from models.train.recognizer.losses import Losses, frame_loss, looking_loss, token_loss
from models.train.recognizer.mixing import Mix, mix_window
from models.train.recognizer.network import Recognizer, sampled_pads
from models.train.recognizer.phrases import Phrases
from models.train.recognizer.targets import TextOptions, draw_prompt, pad, text_of
from models.train.training import AdamW, mixed_precision, save, seeded, train, warmed

_DECAY = 0.02
_CLIP = 1.0
_SHORT_FRAMES = 500
_SHORT_PROMPT, _LONG_PROMPT = 60, 224
_AVERAGED_EVERY = 10
_PARTS = 2


def train_recognizer(
    phrases: Path,
    product: Path,
    checkpoint: Path,
    recipe: RecognizerRecipe,
    fingerprint: str,
    say: Callable[[str], None],
    begin: Path | None = None,
) -> None:
    """Writes the averaged weights to ``product``. ``begin``: weights to go on from, in place of none."""
    torch.set_num_threads(1)
    learner = RecognizerLearner(Phrases(phrases), recipe)
    if begin is not None:
        learner.network.load_state_dict(torch.load(begin, weights_only=True))
    train(learner, checkpoint, fingerprint, say)
    save(product, learner.averaged.module.state_dict())
    checkpoint.unlink(missing_ok=True)


def load_recognizer(path: Path) -> Recognizer:
    network = Recognizer()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval()


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows, and what is wanted of them (`targets.Rows`)."""

    features: Tensor
    said: Tensor
    given: Tensor
    wanted: Tensor
    heard: Tensor
    next_heard: Tensor

    def part(self, number: int) -> Batch:
        """Every `_PARTS`-th window."""
        return Batch(*(getattr(self, field.name)[number::_PARTS] for field in fields(self)))


class RecognizerLearner:
    def __init__(self, phrases: Phrases, recipe: RecognizerRecipe) -> None:
        if any(phase.batch % _PARTS for phase in recipe.phases):
            raise ValueError(f"batches are computed in {_PARTS} parts of equal size")
        self._phrases = phrases
        self._recipe = recipe
        torch.manual_seed(recipe.seed)
        self.network = Recognizer()
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self._optimizer = AdamW(
            [
                {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": _DECAY},
                {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
            ],
            _CLIP,
            (0.9, 0.98),
        )
        self.averaged = AveragedModel(self.network)

    @property
    def steps(self) -> int:
        return self._recipe.steps

    def step(self, number: int) -> Mapping[str, float]:
        recipe = self._recipe
        numbers = seeded(recipe.seed, number)
        batch = self._drawn(_phase_at(recipe.phases, number), numbers)
        pads = sampled_pads(batch.features.shape[-1])
        done = number / recipe.steps
        rate = recipe.learning_rate * warmed(number, recipe.warm_up) * (1 - (1 - recipe.final_rate) * done)
        losses: list[Losses | None] = [None] * _PARTS

        def loss_of(part: int) -> Tensor:
            found = losses[part] = self._losses(batch.part(part), pads)
            return found.total

        self._optimizer.step_in_parts([partial(loss_of, part) for part in range(_PARTS)], rate, rate)
        is_late = number >= recipe.steps * (1 - recipe.averaged_share)
        if number == recipe.steps - 1 or (is_late and number % _AVERAGED_EVERY == 0):
            self.averaged.update_parameters(self.network)
        return _means([{"loss": found.total.item(), **found.figures} for found in losses if found])

    def _drawn(self, phase: Phase, numbers: np.random.Generator) -> Batch:
        recipe = self._recipe
        mix = Mix(recipe.joined_gap_seconds, recipe.narrow_share, recipe.repeated_share)
        is_short = phase.frames <= _SHORT_FRAMES
        windows = [mix_window(self._phrases, phase.frames, numbers, mix, is_short) for _ in range(phase.batch)]
        texts = [
            text_of(
                window,
                TextOptions(
                    bool(numbers.random() < recipe.timestamped_share),
                    recipe.timestamp_jitter,
                    bool(numbers.random() < recipe.cut_share),
                ),
                numbers,
            )
            for window in windows
        ]
        rows = pad(texts, self._prompts(phase, numbers))
        features = torch.from_numpy(np.stack([window.features for window in windows]))
        said = torch.from_numpy(np.stack([window.said for window in windows]))
        return Batch(features, said, *map(torch.from_numpy, (rows.given, rows.wanted, rows.heard, rows.next_heard)))

    def _losses(self, batch: Batch, pads: Tensor) -> Losses:
        with mixed_precision():
            encoded, bias = self.network.encoder(batch.features, pads)
            logits, looks = self.network.decoder(batch.given, encoded, bias)
            frames: Tensor = self.network.frame_words(encoded[:, : batch.said.shape[1]])
        tokens, figures = token_loss(logits, batch.wanted)
        looking = looking_loss(looks, batch.heard, batch.next_heard, self._recipe.pause_share)
        return Losses(tokens, frame_loss(frames, batch.said), looking, figures)

    def _prompts(self, phase: Phase, numbers: np.random.Generator) -> list[list[int]]:
        """All of one length, so that the rows of a batch are."""
        if numbers.random() >= phase.prompted:
            return [[]] * phase.batch
        longest = _LONG_PROMPT if numbers.random() < 0.5 else _SHORT_PROMPT
        length = int(numbers.integers(2, longest))
        return [draw_prompt(length, phase.frames // 2, numbers) for _ in range(phase.batch)]

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state(),
            "averaged": self.averaged.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self._optimizer.restore(state["optimizer"])
        self.averaged.load_state_dict(state["averaged"])


def _means(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(each[name] for each in figures) / len(figures) for name in figures[0]}


def _phase_at(phases: tuple[Phase, ...], number: int) -> Phase:
    for phase in phases:
        if number < phase.steps:
            return phase
        number -= phase.steps
    return phases[-1]
