"""What the recognizer is trained on: the next token, the word of every encoder step, and where the decoder looks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models.train.recognizer.targets import IGNORED
from models.train.recognizer.vocabulary import FIRST_TIMESTAMP, SIZE, UNKNOWN

LOOKING_WEIGHT = 0.3

# A timestamp that is off by a bin is nearly right.
_AROUND = torch.arange(-3, 4)
_SOFTENED = torch.tensor([0.04, 0.11, 0.2, 0.3, 0.2, 0.11, 0.04])
_RIGHT_TIMESTAMP = 5
_NEVER = -1e4


@dataclass(frozen=True, slots=True)
class Losses:
    """``figures`` are for people: shares that are right."""

    tokens: Tensor
    frames: Tensor
    looking: Tensor
    figures: dict[str, float]

    @property
    def total(self) -> Tensor:
        return self.tokens + self.frames + LOOKING_WEIGHT * self.looking


def token_loss(logits: Tensor, wanted: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy over what is not IGNORED; timestamps are softened over three bins to either side."""
    predicted = logits.float().log_softmax(-1)
    counted, is_time = wanted != IGNORED, wanted >= FIRST_TIMESTAMP
    loss = -predicted.gather(2, wanted.clamp(min=0)[..., None])[..., 0]
    if is_time.any():
        bins = (wanted[is_time][:, None] + _AROUND).clamp(FIRST_TIMESTAMP, SIZE - 1)
        softened = -(predicted[is_time].gather(1, bins) * _SOFTENED).sum(1)
        loss = loss.masked_scatter(is_time, softened)
    with torch.no_grad():
        best, is_word = predicted.argmax(-1), counted & (wanted < UNKNOWN)
        figures = {
            "words": _share(best == wanted, is_word),
            "timestamps": _share((best - wanted).abs() <= _RIGHT_TIMESTAMP, is_time),
        }
    return (loss * counted).sum() / counted.sum(), figures


def frame_loss(logits: Tensor, said: Tensor) -> Tensor:
    return functional.cross_entropy(logits.float().reshape(-1, UNKNOWN + 1), said.reshape(-1))


def _share(right: Tensor, of: Tensor) -> float:
    return float((right & of).sum() / of.sum().clamp(min=1))


def looks_inside(looks: Tensor, spans: Tensor) -> Tensor:
    """Minus the logarithm of the share that lies in the spans. ``looks``: (batch, places, steps), ``spans``: (batch, places, 3)."""
    steps = torch.arange(looks.shape[-1])
    inside = (steps >= spans[..., :1]) & (steps < spans[..., 1:2])
    known = (spans[..., 0] >= 0) & inside.any(-1)
    if not known.any():
        return torch.zeros(())
    return -looks[known].masked_fill(~inside[known], _NEVER).logsumexp(-1).mean()


def looks_evenly(looks: Tensor, spans: Tensor, pause_share: float) -> Tensor:
    """Divergence from looking evenly over a word, with ``pause_share`` on the pause behind it. Words are timed by these
    looks: what is not claimed by the word before a pause goes to the one after it."""
    steps = torch.arange(looks.shape[-1])
    word = ((steps >= spans[..., :1]) & (steps < spans[..., 1:2])).float()
    pause = ((steps >= spans[..., 1:2]) & (steps < spans[..., 2:])).float()
    known = (spans[..., 0] >= 0) & (word.sum(-1) > 0)
    if not known.any():
        return torch.zeros(())
    word, pause = word[known], pause[known]
    share = pause_share * (pause.sum(-1, keepdim=True) > 0)
    wanted = (1 - share) * word / word.sum(-1, keepdim=True)
    wanted = wanted + share * pause / pause.sum(-1, keepdim=True).clamp(min=1)
    return functional.kl_div(looks[known], wanted, reduction="batchmean")


def looking_loss(looks: list[Tensor], heard: Tensor, next_heard: Tensor, pause_share: float) -> Tensor:
    """The first layer follows what was said, later ones look at what comes; the last layer's first two heads time words."""
    loss = looks_inside(looks[0][:, 0], heard)
    for layer in looks[1:-1]:
        loss = loss + looks_inside(layer[:, 0], next_heard)
    for head in (0, 1):
        loss = loss + looks_evenly(looks[-1][:, head], next_heard, pause_share)
    return loss
