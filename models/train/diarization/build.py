"""The pipeline's folder, as `services.worker.engine.speaker_models` loads it, and its parameters, tried out."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.scoring import NONE, ErrorRate, speaker_errors
from models.train.diarization.conversations import Conversation, Manner, converse
from models.train.diarization.evaluate import found_turns, loaded_pipeline, turns_of
from models.train.diarization.identities import is_held
from models.train.diarization.networks import embedding_described, loaded_model, save_model, segmentation_described
from models.train.diarization.plda import centered, write_plda
from models.train.diarization.segmentation import Cast
from models.train.diarization.utterances import Utterances
from models.train.recipe import PipelineRecipe, SegmentationRecipe, VoicesRecipe
from models.train.sound import Noises, narrowed
from models.train.speech import RATE
from models.train.training import seeded

_TRIED = (Manner(0.0), Manner(0.1), Manner(0.2))
_SPEAKERS = (2, 3, 4)
_NOISE_DECIBELS = (18.0, 40.0)
_NOISE_SEED = 7
_NARROW_EVERY = 5

Parameters = dict[str, float]


def write_folder(
    segmentation: Path,
    embedding: Path,
    collected: Path,
    folder: Path,
    recipe: PipelineRecipe,
    speakers: int,
    voices: VoicesRecipe,
) -> None:
    """With the middle one of the candidates, before any is tried."""
    folder.mkdir()
    with np.load(collected) as content:
        vectors, owners = content["vectors"], content["identities"]
    heard = np.array([not is_held(int(owner), voices) for owner in owners])
    apart, mean = centered(vectors[heard])
    write_plda(apart, owners[heard], recipe.dimensions, folder)
    model = loaded_model(embedding_described(), embedding)
    model.post_mean.copy_(torch.from_numpy(mean))
    save_model(model, embedding_described(), folder / "embedding")
    described = segmentation_described(speakers)
    save_model(loaded_model(described, segmentation), described, folder / "segmentation")
    tried = list(candidates(recipe))
    write_config(folder, tried[len(tried) // 2])


def write_config(folder: Path, clustering: Parameters) -> None:
    content = {
        "dependencies": {"pyannote.audio": "4.0.0"},
        "pipeline": {
            "name": "pyannote.audio.pipelines.SpeakerDiarization",
            "params": {
                "segmentation": "$model/segmentation",
                "embedding": "$model/embedding",
                "plda": "$model/plda",
                "clustering": "VBxClustering",
                "segmentation_batch_size": 16,
                "embedding_batch_size": 48,
                "embedding_exclude_overlap": True,
                "segmentation_step": 0.2,
            },
        },
        "params": {"segmentation": {"min_duration_off": 0.0}, "clustering": clustering},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def candidates(recipe: PipelineRecipe) -> Iterator[Parameters]:
    for threshold, scale, regularization in itertools.product(
        recipe.thresholds, recipe.acoustic_scales, recipe.regularizations
    ):
        yield {"threshold": threshold, "Fa": scale, "Fb": regularization}


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
    """Copies the folder, with the parameters that do best of all in conversations of voices that were held out of training."""
    torch.set_num_threads(1)
    cast = Cast.from_vectors(collected, voices, True, segmentation.neighbors, segmentation.similar_share)
    talks = list(_talks(Utterances(utterances), cast, recipe))
    pipeline = loaded_pipeline(untuned)
    pipeline.training = True  # pyannote keeps segmentations and embeddings with the file, and only clusters again
    rates = []
    for threshold, bias in itertools.product(recipe.frame_thresholds, recipe.pair_biases):
        deciding = {"threshold": threshold, "pair_bias": bias}
        pipeline._segmentation.model.hparams.update(deciding)
        files = [_file(talk, number) for number, talk in enumerate(talks)]
        for clustering in candidates(recipe):
            pipeline.instantiate({"segmentation": {"min_duration_off": 0.0}, "clustering": clustering})
            errors = sum((_errors(pipeline, file, talk) for file, talk in zip(files, talks, strict=True)), NONE)
            rates.append((errors.rate, tuple(deciding.items()), tuple(clustering.items())))
    best, deciding_best, clustering_best = min(rates)
    chosen = f"{dict(deciding_best)} and {dict(clustering_best)}"
    say(f"diarization error rate of held voices {best:.2%} with {chosen}, {max(rates)[0]:.2%} with the worst")
    shutil.copytree(untuned, folder)
    write_config(folder, dict(clustering_best))
    described = folder / "segmentation.json"
    content = json.loads(described.read_text(encoding="utf-8"))
    content["hyper_parameters"] |= dict(deciding_best)
    described.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _file(talk: Conversation, number: int) -> dict[str, Any]:
    return {"waveform": torch.from_numpy(talk.samples)[None], "sample_rate": RATE, "uri": str(number)}


def _errors(pipeline: Any, file: dict[str, Any], talk: Conversation) -> ErrorRate:
    return speaker_errors(turns_of(talk), found_turns(pipeline.apply(file)))


def _talks(utterances: Utterances, cast: Cast, recipe: PipelineRecipe) -> Iterator[Conversation]:
    noises = Noises(_NOISE_SEED)
    for number in range(recipe.conversations):
        numbers = seeded(recipe.seed, number)
        count = _SPEAKERS[number % len(_SPEAKERS)]
        who = cast.draw(count, numbers)
        seconds = recipe.seconds[number // (len(_SPEAKERS) * len(_TRIED)) % len(recipe.seconds)]
        talk = converse(
            int(seconds * RATE),
            count,
            lambda speaker, who=who, numbers=numbers: utterances.draw(who[speaker], numbers),  # type: ignore[misc]
            _TRIED[number // len(_SPEAKERS) % len(_TRIED)],
            numbers,
            int(numbers.uniform(0, 1) * RATE),
        )
        samples = narrowed(talk.samples, numbers) if number % _NARROW_EVERY == 0 else talk.samples
        samples = np.clip(noises.add(samples, numbers, _NOISE_DECIBELS), -1, 1)
        yield Conversation(samples, talk.activity)
