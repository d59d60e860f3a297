"""Training of the speaker embedding: voices told apart by an angular margin, from a second or three of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.train.diarization.conversations import ACTIVITY_SAMPLES
from models.train.diarization.identities import is_held
from models.train.diarization.networks import VECTOR, embed, embedding_described, loaded_model, new_model
from models.train.diarization.utterances import Utterances
from models.train.recipe import EmbeddingRecipe, PipelineRecipe, VoicesRecipe
from models.train.sound import Noises, recorded
from models.train.speech import RATE
from models.train.training import AdamW, falling, mixed_precision, save, seeded, train, warmed

_SECONDS = (1.2, 1.6, 2.0, 2.6, 3.2)
_COLLECTED_SECONDS = (2.0, 3.0, 4.0)
_NOISE_DECIBELS, _GAIN_DECIBELS = (12.0, 45.0), (-12.0, 8.0)
_DECAY, _CLIP = 1e-3, 5.0
_WARM_UP = 60
_MARGIN_GROWS = 0.25
_LEAST_SPEECH = 20
_COLLECTED_AT_ONCE = 64
_NOISE_SEED = 5

Arrays = tuple[Tensor, Tensor]


def train_embedding(
    utterances: Path,
    product: Path,
    checkpoint: Path,
    recipe: EmbeddingRecipe,
    voices: VoicesRecipe,
    fingerprint: str,
    say: Callable[[str], None],
) -> None:
    """Writes the weights to ``product``."""
    torch.set_num_threads(1)
    learner = EmbeddingLearner(Utterances(utterances), recipe, voices)
    train(learner, checkpoint, fingerprint, say)
    save(product, learner.model.state_dict())
    checkpoint.unlink(missing_ok=True)


class EmbeddingLearner:
    def __init__(self, utterances: Utterances, recipe: EmbeddingRecipe, voices: VoicesRecipe) -> None:
        self._recipe = recipe
        self._heard = Hearing(utterances, recipe.narrow_share)
        self._identities = [number for number in utterances.identities if not is_held(number, voices)]
        torch.manual_seed(recipe.seed)
        self.model = new_model(embedding_described())
        self.model.train()
        self._classes = nn.Parameter(0.1 * torch.randn(len(self._identities), VECTOR))
        self._optimizer = AdamW([{"params": [*self.model.parameters(), self._classes], "weight_decay": _DECAY}], _CLIP)

    @property
    def steps(self) -> int:
        return self._recipe.steps

    def step(self, number: int) -> Mapping[str, float]:
        recipe = self._recipe
        numbers = seeded(recipe.seed, number)
        batch = min(recipe.batch, len(self._identities))
        chosen = numbers.permutation(len(self._identities))[:batch]
        waveforms, weights = self._heard.draw(
            [self._identities[place] for place in chosen], float(numbers.choice(_SECONDS)), numbers
        )
        with mixed_precision():
            vectors = embed(self.model, waveforms, weights)
        target = torch.from_numpy(chosen)
        cosines = functional.normalize(vectors.float(), dim=1) @ functional.normalize(self._classes, dim=1).T
        margin = recipe.margin * min(1.0, number / (recipe.steps * _MARGIN_GROWS))
        loss = angular_loss(cosines, target, margin, recipe.scale)
        rate = recipe.learning_rate * warmed(number, _WARM_UP) * falling(number, recipe.steps, 0.01)
        self._optimizer.step(loss, rate)
        return {"loss": loss.item(), "right": (cosines.argmax(1) == target).float().mean().item()}

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "classes": self._classes.data,
            "optimizer": self._optimizer.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self._classes.data.copy_(state["classes"])
        self._optimizer.restore(state["optimizer"])


def angular_loss(cosines: Tensor, target: Tensor, margin: float, scale: float) -> Tensor:
    """Cross-entropy in which the right class must be nearer by ``margin`` radians (ArcFace, arXiv:1801.07698)."""
    angles = torch.acos(cosines.clamp(-1 + 1e-6, 1 - 1e-6))
    is_target = functional.one_hot(target, cosines.shape[1]) > 0
    return functional.cross_entropy(scale * torch.where(is_target, torch.cos(angles + margin), cosines), target)


class Hearing:
    """What is heard of one speaker: his sentences in a row, noisy, loud or soft, some over a telephone."""

    def __init__(self, utterances: Utterances, narrow_share: float) -> None:
        self._utterances = utterances
        self._narrow_share = narrow_share
        self._noises = Noises(_NOISE_SEED)

    def draw(self, identities: Sequence[int], seconds: float, numbers: np.random.Generator) -> Arrays:
        """(identities, samples) and where speech is, (identities, hundredths of a second)."""
        drawn = [self._one(identity, int(seconds * RATE), numbers) for identity in identities]
        return torch.from_numpy(np.stack([one for one, _ in drawn])), torch.from_numpy(np.stack([w for _, w in drawn]))

    def _one(
        self, identity: int, length: int, numbers: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        samples = np.zeros(length, np.float32)
        weights = np.zeros(length // ACTIVITY_SAMPLES, np.float32)
        at = 0
        while at < length:
            said = self._utterances.draw(identity, numbers)
            first = int(numbers.integers(max(1, len(said.samples) // 2))) if at == 0 else 0
            said = said.cut(first, min(len(said.samples) - first, length - at))
            samples[at : at + len(said.samples)] = said.samples
            for start, end in said.spans:
                weights[round((start + at) / ACTIVITY_SAMPLES) : round((end + at) / ACTIVITY_SAMPLES)] = 1
            at += len(said.samples)
        samples = recorded(samples, self._noises, _NOISE_DECIBELS, self._narrow_share, numbers)
        samples = samples * np.float32(10 ** (numbers.uniform(*_GAIN_DECIBELS) / 20))
        return np.clip(samples, -1, 1), weights if weights.sum() >= _LEAST_SPEECH else np.ones_like(weights)


def collect(utterances: Path, weights: Path, product: Path, recipe: PipelineRecipe, narrow_share: float) -> None:
    """Writes an .npz: ``vectors`` (n, 96) of everybody, several of each, and ``identities`` (n,) whose they are."""
    torch.set_num_threads(1)
    every = Utterances(utterances)
    hearing = Hearing(every, narrow_share)
    model = loaded_model(embedding_described(), weights)
    vectors, owners = [], []
    for repeat in range(recipe.repeats):
        for first in range(0, len(every.identities), _COLLECTED_AT_ONCE):
            some = every.identities[first : first + _COLLECTED_AT_ONCE]
            numbers = seeded(recipe.seed + repeat, first)
            with torch.inference_mode():
                found = embed(model, *hearing.draw(some, float(numbers.choice(_COLLECTED_SECONDS)), numbers))
            vectors.append(found.numpy())
            owners += some
    with product.open("wb") as file:
        np.savez(file, vectors=np.concatenate(vectors), identities=np.array(owners))
