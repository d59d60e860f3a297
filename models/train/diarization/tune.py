"""The pipeline's parameters, tried out in conversations of voices that were held out of training."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.scoring import NONE, ErrorRate, speaker_errors
from models.train.diarization.build import candidates, write_config
from models.train.diarization.conversations import Conversation, Manner, converse
from models.train.diarization.evaluate import found_turns, loaded_pipeline, turns_of
from models.train.diarization.segmentation import Cast
from models.train.diarization.utterances import Utterances
from models.train.recipe import PipelineRecipe, SegmentationRecipe, VoicesRecipe
from models.train.sound import Noises, recorded
from models.train.speech import RATE
from models.train.training import seeded

_MANNERS = (Manner(0.0), Manner(0.1), Manner(0.2))
_SPEAKERS = (2, 3, 4)
_NOISE_DECIBELS = (18.0, 40.0)
_NOISE_SEED = 7
_NARROW_EVERY = 5


@dataclass(frozen=True, slots=True)
class Held:
    """A conversation of held voices. Those of one ``kind`` (speakers, seconds) are judged together."""

    kind: tuple[int, float]
    talk: Conversation


def tune(
    untuned: Path,
    utterances: Path,
    collected: Path,
    folder: Path,
    recipe: PipelineRecipe,
    segmentation: SegmentationRecipe,
    voices: VoicesRecipe,
    say: Callable[[str], None],
) -> None:
    """Copies the folder, with parameters that do best. Every kind of conversation counts the same, however long it is."""
    torch.set_num_threads(1)
    cast = Cast.from_vectors(collected, voices, True, segmentation.neighbors, segmentation.similar_share)
    held = list(_conversations(Utterances(utterances), cast, recipe))
    pipeline = loaded_pipeline(untuned)
    pipeline.training = True  # pyannote keeps segmentations and embeddings with the file, and only clusters again
    _run_networks_once(pipeline)
    rates: dict[tuple[float, ...], float] = {}
    for threshold, bias in itertools.product(recipe.frame_thresholds, recipe.pair_biases):
        pipeline._segmentation.model.hparams.update({"threshold": threshold, "pair_bias": bias})
        files = [_file(one.talk, number) for number, one in enumerate(held)]
        for clustering in candidates(recipe):
            pipeline.instantiate({"segmentation": {"min_duration_off": 0.0}, "clustering": clustering})
            rates[(threshold, bias, *clustering.values())] = _rate(pipeline, files, held)
    chosen = middle_of_the_best(rates, recipe.tolerance)
    threshold, bias, *rest = chosen
    clustering = dict(zip(next(candidates(recipe)), rest, strict=True))
    deciding = {"threshold": threshold, "pair_bias": bias}
    say(
        f"diarization error rate of held voices {rates[chosen]:.2%} with {deciding} and {clustering}; "
        f"{min(rates.values()):.2%} with the best, {max(rates.values()):.2%} with the worst"
    )
    shutil.copytree(untuned, folder)
    write_config(folder, clustering)
    described = folder / "segmentation.json"
    content = json.loads(described.read_text(encoding="utf-8"))
    content["hyper_parameters"] |= deciding
    described.write_text(json.dumps(content, indent=1), encoding="utf-8")


def middle_of_the_best(rates: Mapping[tuple[float, ...], float], tolerance: float) -> tuple[float, ...]:
    """Of the parameters that are at most ``tolerance`` worse than the best the one that has the others nearest, in steps of
    what was tried: so few conversations do not tell them apart, and in the middle others are as good."""
    tried = [sorted(set(values)) for values in zip(*rates, strict=True)]

    def steps(one: tuple[float, ...], other: tuple[float, ...]) -> int:
        pairs = zip(tried, one, other, strict=True)
        return sum(abs(values.index(a) - values.index(b)) for values, a, b in pairs)

    good = [one for one, rate in rates.items() if rate <= min(rates.values()) + tolerance]
    return min(good, key=lambda one: (sum(steps(one, other) for other in good), rates[one], one))


def _rate(pipeline: Any, files: Sequence[dict[str, Any]], held: Sequence[Held]) -> float:
    errors: defaultdict[tuple[int, float], ErrorRate] = defaultdict(lambda: NONE)
    for file, one in zip(files, held, strict=True):
        errors[one.kind] += speaker_errors(turns_of(one.talk), found_turns(pipeline.apply(file)))
    return float(np.mean([pooled.rate for pooled in errors.values()]))


def _file(talk: Conversation, number: int) -> dict[str, Any]:
    return {"waveform": torch.from_numpy(talk.samples)[None], "sample_rate": RATE, "uri": str(number)}


def _conversations(utterances: Utterances, cast: Cast, recipe: PipelineRecipe) -> Iterator[Held]:
    noises = Noises(_NOISE_SEED)
    kinds = itertools.cycle(itertools.product(recipe.seconds, _MANNERS, _SPEAKERS))
    for number, (seconds, manner, count) in zip(range(recipe.conversations), kinds, strict=False):
        numbers = seeded(recipe.seed, number)
        who = cast.draw(count, numbers)
        talk = converse(
            int(seconds * RATE),
            count,
            lambda speaker, who=who, numbers=numbers: utterances.draw(who[speaker], numbers),  # type: ignore[misc]
            manner,
            numbers,
            int(numbers.uniform(0, 1) * RATE),
        )
        narrow_share = float(number % _NARROW_EVERY == 0)
        samples = recorded(talk.samples, noises, _NOISE_DECIBELS, narrow_share, numbers)
        yield Held((count, seconds), Conversation(np.clip(samples, -1, 1), talk.activity))


def _run_networks_once(pipeline: Any) -> None:
    """What is tried changes what is made of the networks' outputs, never those: they are most of the work."""
    segmentation, embedding = pipeline._segmentation.model, pipeline._embedding.model_
    segmentation.outputs = _Remembered(segmentation.outputs)
    computed = embedding.forward_frames
    frames = _Remembered(lambda waveforms: (computed(waveforms),))
    embedding.forward_frames = lambda waveforms: frames(waveforms)[0]


class _Remembered:
    """A function of windows (batch, 1, samples), one by one, that is computed once for each."""

    def __init__(self, compute: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        self._compute = compute
        self._known: dict[bytes, tuple[Tensor, ...]] = {}

    def __call__(self, waveforms: Tensor) -> tuple[Tensor, ...]:
        found = [self._of(window) for window in torch.split(waveforms, 1)]
        return tuple(torch.cat(parts).float() for parts in zip(*found, strict=True))

    def _of(self, window: Tensor) -> tuple[Tensor, ...]:
        key = hashlib.blake2b(window.numpy().tobytes(), digest_size=16).digest()
        if key not in self._known:
            self._known[key] = tuple(part.half() for part in self._compute(window))  # there are gigabytes of them
        return self._known[key]
