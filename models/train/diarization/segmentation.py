"""Training of the segmentation: in chunks of ten seconds, how many speak in each frame, and who is who.

Two frames are compared by their vectors; the middle of a speaker's vectors where he speaks alone is what he is known by, and
against it every frame is asked whether he is heard. Nothing depends on which speaker is called the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.train.diarization.conversations import Manner, converse
from models.train.diarization.identities import is_held
from models.train.diarization.networks import CHUNK_SECONDS, new_model, segmentation_described
from models.train.diarization.plda import centered
from models.train.diarization.utterances import Utterance, Utterances
from models.train.recipe import SegmentationRecipe, VoicesRecipe
from models.train.sound import Noises, recorded
from models.train.speech import RATE, Samples
from models.train.training import AdamW, falling, mixed_precision, save, seeded, train, warmed

CHUNK = int(CHUNK_SECONDS * RATE)
_FRAME_COLUMNS = 4  # hundredths of a second; frame i is centered on i * 40 ms
_MOST_AT_ONCE = 2
_LEAST_ALONE = 6
_EVERY = 2
_DECAY, _CLIP = 1e-3, 2.0
_SHARED_RATE = 0.5
_NOISE_DECIBELS, _GAIN_DECIBELS, _LEVEL_DECIBELS = (12.0, 45.0), (-12.0, 8.0), (-5.0, 5.0)
_NOISE_SEED = 6


class Cast:
    """Who meets whom: anybody, or voices that are hard to tell apart."""

    def __init__(self, identities: Sequence[int], nearest: Mapping[int, Sequence[int]], similar_share: float) -> None:
        self._identities, self._nearest, self._similar_share = identities, nearest, similar_share

    @classmethod
    def from_vectors(
        cls, collected: Path, voices: VoicesRecipe, held: bool, neighbors: int, similar_share: float
    ) -> Cast:
        """``collected``: of `embedding.collect`; of those that are held out of training, or of the others."""
        with np.load(collected) as content:
            vectors, owners = centered(content["vectors"])[0], content["identities"]
        identities = [int(number) for number in np.unique(owners) if is_held(int(number), voices) == held]
        means = np.stack([vectors[owners == number].mean(0) for number in identities])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        order = np.argsort(-(means @ means.T), axis=1)[:, 1 : neighbors + 1]
        nearest = {number: [identities[place] for place in row] for number, row in zip(identities, order, strict=True)}
        return cls(identities, nearest, similar_share)

    def draw(self, count: int, numbers: np.random.Generator) -> list[int]:
        first = int(numbers.choice(self._identities))
        alike = self._nearest[first]
        others: Sequence[int]
        if numbers.random() >= self._similar_share or len(alike) < count - 1:
            others = [number for number in self._identities if number != first]
        else:  # from those that could be one to those that are rather alike
            others = alike[: max(count - 1, round(len(alike) ** numbers.random()))]
        return [first, *(int(number) for number in numbers.choice(others, count - 1, replace=False))]


@dataclass(frozen=True, slots=True)
class Chunk:
    """``activity``: (frames of 40 ms, speakers)."""

    samples: Samples
    activity: NDArray[np.bool_]


class Chunks:
    """Chunks of conversations, drawn anew each time."""

    def __init__(self, utterances: Utterances, cast: Cast, recipe: SegmentationRecipe) -> None:
        self._utterances, self._cast, self._recipe = utterances, cast, recipe
        self._noises = Noises(_NOISE_SEED)

    def draw(self, numbers: np.random.Generator) -> Chunk:
        recipe = self._recipe
        count = int(numbers.choice(recipe.speakers + 1, p=recipe.speakers_shares))
        samples = np.zeros(CHUNK, np.float32)
        activity = np.zeros((recipe.speakers, CHUNK // 160), np.bool_)
        if count:
            samples, activity[:count] = self._talk(count, numbers)
        samples = recorded(samples, self._noises, _NOISE_DECIBELS, recipe.narrow_share, numbers)
        samples = samples * np.float32(10 ** (numbers.uniform(*_GAIN_DECIBELS) / 20))
        return Chunk(np.clip(samples, -1, 1), np.ascontiguousarray(activity[:, ::_FRAME_COLUMNS].T))

    def _talk(self, count: int, numbers: np.random.Generator) -> tuple[Samples, NDArray[np.bool_]]:
        recipe = self._recipe
        identities = self._cast.draw(count, numbers)
        gains = (10 ** (numbers.uniform(*_LEVEL_DECIBELS, count) / 20)).astype(np.float32)

        def speak(speaker: int) -> Utterance:
            said = self._utterances.draw(identities[speaker], numbers)
            return Utterance(said.samples * gains[speaker], said.spans)

        overlapped = numbers.uniform(0, recipe.most_overlapped) if numbers.random() < recipe.overlapped_share else 0.0
        # of many speakers a chunk has something only where their turns are short
        manner = Manner(float(overlapped), short=0.3 if count < 3 else float(numbers.uniform(0.3, 1.0)))
        talk = converse(CHUNK, count, speak, manner, numbers, int(numbers.uniform(-5, 1) * RATE))
        return talk.samples, talk.activity


def train_segmentation(
    utterances: Path,
    embedding: Path,
    collected: Path,
    product: Path,
    checkpoint: Path,
    recipe: SegmentationRecipe,
    voices: VoicesRecipe,
    fingerprint: str,
    say: Callable[[str], None],
) -> None:
    """Writes the weights to ``product``. ``embedding``: weights whose first layers are begun with."""
    torch.set_num_threads(1)
    cast = Cast.from_vectors(collected, voices, False, recipe.neighbors, recipe.similar_share)
    learner = SegmentationLearner(Chunks(Utterances(utterances), cast, recipe), embedding, recipe)
    train(learner, checkpoint, fingerprint, say)
    save(product, learner.model.state_dict())
    checkpoint.unlink(missing_ok=True)


class SegmentationLearner:
    def __init__(self, chunks: Chunks, embedding: Path, recipe: SegmentationRecipe) -> None:
        self._chunks, self._recipe = chunks, recipe
        torch.manual_seed(recipe.seed)
        self.model = new_model(segmentation_described(recipe.speakers))
        weights = torch.load(embedding, weights_only=True)
        shared = {name.removeprefix("tdnn."): tensor for name, tensor in weights.items() if name.startswith("tdnn.")}
        self.model.tdnn.load_state_dict(shared)
        self._shared = list(self.model.tdnn.parameters())
        known = {id(parameter) for parameter in self._shared}
        own = [parameter for parameter in self.model.parameters() if id(parameter) not in known]
        self._optimizer = AdamW(
            [{"params": self._shared, "weight_decay": _DECAY}, {"params": own, "weight_decay": _DECAY}], _CLIP
        )

    @property
    def steps(self) -> int:
        return self._recipe.steps

    def step(self, number: int) -> Mapping[str, float]:
        recipe = self._recipe
        numbers = seeded(recipe.seed, number)
        chunks = [self._chunks.draw(numbers) for _ in range(recipe.batch)]
        waveforms = torch.from_numpy(np.stack([chunk.samples for chunk in chunks]))[:, None]
        activity = torch.from_numpy(np.stack([chunk.activity for chunk in chunks]))
        is_frozen = number < recipe.steps * recipe.frozen_share
        self._set_frozen(is_frozen)
        with mixed_precision():
            counts, vectors, heard = self.model.outputs(waveforms)
        losses = losses_of(counts.float(), vectors.float(), heard.float(), self.model.aff, activity)
        loss = recipe.counting * losses.counting + recipe.telling * losses.telling + recipe.assigning * losses.assigning
        rate = recipe.learning_rate * warmed(number, recipe.warm_up) * falling(number, recipe.steps, 0.01)
        self._optimizer.step(loss, 0.0 if is_frozen else rate * _SHARED_RATE, rate)
        return losses.figures

    def _set_frozen(self, is_frozen: bool) -> None:
        self.model.train()
        self.model.tdnn.train(not is_frozen)
        for parameter in self._shared:
            parameter.requires_grad_(not is_frozen)

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self._optimizer.state()}

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self._optimizer.restore(state["optimizer"])


@dataclass(frozen=True, slots=True)
class Losses:
    counting: Tensor
    telling: Tensor
    assigning: Tensor
    figures: dict[str, float]


def losses_of(counts: Tensor, vectors: Tensor, heard: Tensor, scale: Tensor, activity: Tensor) -> Losses:
    """``counts``: (batch, frames, 3) log-probabilities; ``vectors``: (batch, frames, 32) of length 1; ``heard``:
    (batch, frames, 33); ``scale``: cosine's factor and what is taken off it; ``activity``: (batch, frames, speakers)."""
    speaking = activity.sum(2)
    at_once = speaking.clamp(max=_MOST_AT_ONCE)
    counting = functional.nll_loss(counts.flatten(0, 1), at_once.flatten())
    telling, told_apart = telling_loss(vectors[:, ::_EVERY], scale, activity[:, ::_EVERY])
    assigning = assigning_loss(vectors, heard, activity)
    with torch.no_grad():
        is_two, found = at_once == _MOST_AT_ONCE, counts.argmax(2)
        figures = {
            "counting": counting.item(),
            "telling": telling.item(),
            "assigning": assigning.item(),
            "told apart": told_apart,
            "two found": float(((found == _MOST_AT_ONCE) & is_two).sum() / is_two.sum().clamp(min=1)),
            "two false": float(((found == _MOST_AT_ONCE) & ~is_two).sum() / is_two.sum().clamp(min=1)),
        }
    return Losses(counting, telling, assigning, figures)


def telling_loss(vectors: Tensor, scale: Tensor, activity: Tensor) -> tuple[Tensor, float]:
    """Of two frames in which one speaks alone, whether it is the same one; and how often that is right. Same and different
    pairs weigh alike, however many there are. Without this loss, who is who is not learned in any reasonable time."""
    alone = activity.sum(2) == 1
    speakers = activity.float()
    is_same = (speakers @ speakers.transpose(1, 2)) > 0
    counted = alone[:, :, None] & alone[:, None, :]
    same, different = counted & is_same, counted & ~is_same
    odds = vectors @ vectors.transpose(1, 2) * scale[0] - scale[1]
    losses = functional.binary_cross_entropy_with_logits(odds, is_same.float(), reduction="none")
    with torch.no_grad():
        right = 0.5 * (_share(odds > 0, same) + _share(odds <= 0, different))
    return 0.5 * (_mean(losses, same) + _mean(losses, different)), float(right)


def assigning_loss(vectors: Tensor, heard: Tensor, activity: Tensor) -> Tensor:
    """Whether each speaker is heard in each frame, by his middle; those who are hardly ever alone have none. Frames with
    two at once count as much again, for they are what is hard."""
    alone = (activity & (activity.sum(2, keepdim=True) == 1)).float()
    frames = alone.sum(1)
    middles = functional.normalize(alone.transpose(1, 2) @ vectors, dim=-1)
    odds = heard[..., :-1] @ middles.transpose(1, 2) + heard[..., -1:]
    losses = functional.binary_cross_entropy_with_logits(odds, activity.float(), reduction="none")
    known = (frames >= _LEAST_ALONE).float()[:, None, :]
    weights = known * (1 + (activity.sum(2, keepdim=True) >= _MOST_AT_ONCE).float())
    return (losses * weights).sum() / weights.sum().clamp(min=1)


def _mean(losses: Tensor, where: Tensor) -> Tensor:
    return (losses * where).sum() / where.sum().clamp(min=1)


def _share(right: Tensor, of: Tensor) -> Tensor:
    return (right & of).sum() / of.sum().clamp(min=1)
