"""Which stage makes what, of what: the two halves of the recipe, which know nothing of each other."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from models.train import report
from models.train.recipe import (
    EmbeddingRecipe,
    EvaluationRecipe,
    PipelineRecipe,
    Recipe,
    SegmentationRecipe,
    VoicesRecipe,
)
from models.train.report import BUNDLED, NEW, Figure
from models.train.stages import Stage

WHISPER, DIARIZATION = "whisper-demo", "diarization-demo"
"""Folders of the finished models, under the names that they are bundled by."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _PhrasesParameters:
    seed: int
    phrases: int
    twin_share: float


@dataclass(frozen=True, slots=True)
class _Nothing:
    """A stage that has no parameters of its own."""


@dataclass(frozen=True, slots=True)
class _Segmenting:
    segmentation: SegmentationRecipe
    voices: VoicesRecipe


@dataclass(frozen=True, slots=True)
class _Embedding:
    embedding: EmbeddingRecipe
    voices: VoicesRecipe


@dataclass(frozen=True, slots=True)
class _Collecting:
    seed: int
    repeats: int
    narrow_share: float


@dataclass(frozen=True, slots=True)
class _Estimating:
    dimensions: int
    voices: VoicesRecipe


@dataclass(frozen=True, slots=True)
class _Trying:
    pipeline: PipelineRecipe
    segmentation: SegmentationRecipe
    voices: VoicesRecipe


@dataclass(frozen=True, slots=True)
class _Evaluating:
    """``bundled``: a hash of what is compared with."""

    evaluation: EvaluationRecipe
    bundled: str


def recognizer_stages(recipe: Recipe, folder: Path, say: Say) -> Stage:
    """The stage whose product is the CTranslate2 folder."""
    from models.train.recognizer.convert import convert
    from models.train.recognizer.phrases import synthesize
    from models.train.recognizer.train import load_recognizer, train_recognizer

    own = recipe.recognizer
    work = folder / "work"
    phrases = Stage(
        "phrases",
        work / "phrases",
        lambda path: synthesize(path, own.phrases, own.twin_share, own.seed, say),
        _PhrasesParameters(own.seed, own.phrases, own.twin_share),
    )
    trained = Stage(
        "recognizer",
        work / "recognizer.pt",
        lambda path: train_recognizer(
            phrases.product, path, work / "recognizer.checkpoint", own, trained.fingerprint, say
        ),
        own,
        (phrases,),
    )
    polishing = recipe.polishing.of(own)
    polished = Stage(
        "polished recognizer",
        work / "polished.pt",
        lambda path: train_recognizer(
            phrases.product,
            path,
            work / "polished.checkpoint",
            polishing,
            polished.fingerprint,
            say,
            trained.product,
        ),
        polishing,
        (trained,),
    )
    return Stage(
        "recognizer's folder",
        folder / WHISPER,
        lambda path: convert(load_recognizer(polished.product), path),
        _Nothing(),
        (polished,),
    )


def diarization_stages(recipe: Recipe, folder: Path, say: Say) -> Stage:
    """The stage whose product is the pipeline's folder."""
    from models.train.diarization import build, tune
    from models.train.diarization.embedding import collect, train_embedding
    from models.train.diarization.segmentation import train_segmentation
    from models.train.diarization.utterances import synthesize

    work, voices = folder / "work", recipe.voices
    utterances = Stage("voices", work / "voices", lambda path: synthesize(path, voices, say), voices)
    embedding = Stage(
        "embedding",
        work / "embedding.pt",
        lambda path: train_embedding(
            utterances.product,
            path,
            work / "embedding.checkpoint",
            recipe.embedding,
            voices,
            embedding.fingerprint,
            say,
        ),
        _Embedding(recipe.embedding, voices),
        (utterances,),
    )
    collected = Stage(
        "embeddings of everybody",
        work / "embedded.npz",
        lambda path: collect(
            utterances.product, embedding.product, path, recipe.pipeline, recipe.embedding.narrow_share
        ),
        _Collecting(recipe.pipeline.seed, recipe.pipeline.repeats, recipe.embedding.narrow_share),
        (embedding,),
    )
    segmentation = Stage(
        "segmentation",
        work / "segmentation.pt",
        lambda path: train_segmentation(
            utterances.product,
            embedding.product,
            collected.product,
            path,
            work / "segmentation.checkpoint",
            recipe.segmentation,
            voices,
            segmentation.fingerprint,
            say,
        ),
        _Segmenting(recipe.segmentation, voices),
        (collected,),
    )
    untuned = Stage(
        "pipeline",
        work / "pipeline",
        lambda path: build.write_folder(
            segmentation.product,
            embedding.product,
            collected.product,
            path,
            recipe.pipeline,
            recipe.segmentation.speakers,
            voices,
        ),
        _Estimating(recipe.pipeline.dimensions, voices),
        (segmentation,),
    )
    return Stage(
        "pipeline's parameters",
        folder / DIARIZATION,
        lambda path: tune.tune(
            untuned.product,
            utterances.product,
            collected.product,
            path,
            recipe.pipeline,
            recipe.segmentation,
            voices,
            say,
        ),
        _Trying(recipe.pipeline, recipe.segmentation, voices),
        (untuned,),
    )


def recognizer_figures(recipe: Recipe, folder: Path, bundled: Path, hashed: str, say: Say) -> Stage:
    from models.train.recognizer.evaluate import evaluate

    models = {BUNDLED: bundled / WHISPER, NEW: folder / WHISPER}
    return _figures("recognizer", evaluate, models, recipe.evaluation, hashed, recognizer_stages(recipe, folder, say))


def diarization_figures(recipe: Recipe, folder: Path, bundled: Path, hashed: str, say: Say) -> Stage:
    from models.train.diarization.evaluate import evaluate

    models = {BUNDLED: bundled / DIARIZATION, NEW: folder / DIARIZATION}
    return _figures("diarization", evaluate, models, recipe.evaluation, hashed, diarization_stages(recipe, folder, say))


Evaluate = Callable[[Mapping[str, Path], EvaluationRecipe], list[Figure]]


def _figures(
    half: str, evaluate: Evaluate, models: Mapping[str, Path], recipe: EvaluationRecipe, hashed: str, made: Stage
) -> Stage:
    return Stage(
        f"{half}'s figures",
        models[NEW].parent / f"{half}.json",
        lambda path: report.write(_apart(evaluate, models, recipe), path),
        _Evaluating(recipe, hashed),
        (made,),
    )


def _apart(evaluate: Evaluate, folders: Mapping[str, Path], recipe: EvaluationRecipe) -> list[Figure]:
    """In a process of its own: what espeak-ng says depends on what it said before, also in an earlier stage."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(evaluate, folders, recipe).result()
