"""The pipeline's folder, as `services.worker.engine.speaker_models` loads it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import yaml

from models.train.diarization.identities import is_held
from models.train.diarization.networks import embedding_described, loaded_model, save_model, segmentation_described
from models.train.diarization.plda import centered, write_plda
from models.train.recipe import PipelineRecipe, VoicesRecipe

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
