"""From what was heard in a chunk's windows to its speakers: pyannote's clustering, in a process of its own.

It holds Python's lock for seconds, and would stop the engine child's lanes for as long. The steps and their order are those of
pyannote's `SpeakerDiarization.apply`.
"""

from __future__ import annotations

import copy
import io
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray
from pebble import ProcessExpired

from services.worker.engine import child_processes
from services.worker.engine.child_processes import LOOK_SECONDS
from services.worker.engine.torchaudio_stub import import_torchaudio
from services.worker.pipeline.faults import WorkError
from services.worker.pipeline.speaker_linking import LEAST_ALIKE
from services.worker.work import Voice, VoiceTurn

log = structlog.get_logger()

FAST_STEP = 0.5
"""Of the usual step between two windows, where speakers switch fast."""

DEATHS_ALLOWED = 3
"""Ends of the process over one chunk before that is a fault: one may be killed for want of memory."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the models say of a row of windows.

    - scores: (windows, frames, speakers), the segmentation's; 0 or 1 where it is a powerset.
    - active: the same, as 0 or 1. - embeddings: (windows, speakers, dimension), of no meaning for who is silent.
    """

    scores: NDArray[Any]
    active: NDArray[np.uint8]
    embeddings: NDArray[np.float32]


def joined(parts: Sequence[Heard]) -> Heard:
    return Heard(
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.active for part in parts]),
        np.concatenate([part.embeddings for part in parts]),
    )


@dataclass(frozen=True, slots=True)
class Rules:
    """How a pipeline makes speakers of windows. ``clustering``: pyannote's, wrapped so that it can be sent; ``windows`` and
    ``frames``: pyannote's `SlidingWindow`s."""

    clustering: Any
    windows: Any
    frames: Any
    least_pause: float


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many speakers there are. ``is_all``: the windows are those of the whole recording, so that there are no fewer
    than ``fewest`` in them."""

    fewest: int | None
    most: int | None
    is_all: bool


@dataclass(frozen=True, slots=True)
class Found:
    """As in `ChunkSpeakers`, in seconds from the first window's beginning."""

    voices: tuple[Voice, ...] = ()
    turns: tuple[VoiceTurn, ...] = ()
    exclusive: tuple[VoiceTurn, ...] = ()


_DIED = (
    "The process that tells the speakers apart died again and again, most likely for want of memory. Give the worker more, or set "
    "diarizationMaxDurationSeconds to less."
)


class Clusters(Protocol):
    def find(self, heard: Heard, rules: Rules, bounds: Bounds, check: Callable[[], None]) -> Found:
        """``check`` is called while it waits, and may raise to give up. Raises WorkError ENGINE_FAILED."""
        ...


class ClusterProcess:
    """The process, shared by all jobs. It is asked for one chunk at a time, so that one that is canceled costs no other
    its place, and a process that dies is this chunk's."""

    def __init__(self) -> None:
        self._pool = child_processes.new_pool(1, _begin)
        self._turn = threading.Lock()

    def start(self) -> None:
        """Has it started and its libraries loaded, which takes seconds, before there is anything to do."""
        self._pool.schedule(_nothing)

    def close(self) -> None:
        child_processes.end(self._pool)

    def find(self, heard: Heard, rules: Rules, bounds: Bounds, check: Callable[[], None]) -> Found:
        while not self._turn.acquire(timeout=LOOK_SECONDS):
            check()
        try:
            return self._find((heard, rules, bounds), check)
        finally:
            self._turn.release()

    def _find(self, asked: tuple[Heard, Rules, Bounds], check: Callable[[], None]) -> Found:
        deaths = 0
        while True:
            try:
                return child_processes.result(self._pool, find_speakers, asked, check)
            except MemoryError as error:
                raise WorkError("ENGINE_FAILED", _DIED) from error
            except (ProcessExpired, BrokenProcessPool) as error:
                deaths += 1
                log.warning("clustering_died", deaths=deaths, error=str(error))
                if deaths == DEATHS_ALLOWED:
                    raise WorkError("ENGINE_FAILED", _DIED) from error
            if not self._pool.active:  # a process that dies while it has nothing to do breaks it
                child_processes.end(self._pool)
                self._pool = child_processes.new_pool(1, _begin)


def counting_less(clustering: Any, share: float) -> Any:
    """pyannote's clustering for windows that overlap more, of which each is only this share of what is new. VBx takes windows for
    independent of each other: hearing all twice it splits voices. What one counts is its acoustic scale, Fa (Landini et al., 2022)."""
    if share == 1 or not hasattr(clustering, "Fa"):
        return clustering
    made = copy.deepcopy(clustering)
    given = made.parameters(instantiated=True)
    return made.instantiate(given | {"Fa": given["Fa"] * share})


# --- in the process


def _begin(parent: int) -> None:
    child_processes.begin(parent)
    warnings.filterwarnings("ignore")  # as in the engine's own process, where it is said why
    _load_libraries()  # here, for what it is sent is read before it is asked for anything


def _load_libraries() -> None:
    import_torchaudio()
    import pyannote.audio.pipelines  # noqa: F401


def _nothing() -> None:
    return


def find_speakers(heard: Heard, rules: Rules, bounds: Bounds) -> Found:
    """The speakers of a row of windows; none where nobody is ever heard."""
    _load_libraries()
    from pyannote.audio.pipelines.utils import SpeakerDiarizationMixin
    from pyannote.core import SlidingWindowFeature

    # pyannote writes into what it is given
    active = SlidingWindowFeature(heard.active.astype(np.float32), rules.windows)
    count = SpeakerDiarizationMixin.speaker_count(active, rules.frames, warm_up=(0.0, 0.0))
    if count.data.max() == 0:
        return Found()
    clusters = _clusters(heard, active, rules, bounds)
    count.data = np.minimum(count.data, float(bounds.most or np.inf)).astype(np.int8)
    clusters[heard.active.sum(axis=1) == 0] = _NOBODY
    scores = SlidingWindowFeature(_clustered(heard.scores, clusters), rules.windows)
    turns = _turns(scores, count, rules.least_pause)
    count.data = np.minimum(count.data, 1).astype(np.int8)
    exclusive = _turns(scores, count, rules.least_pause)
    return _numbered(heard, clusters, rules, turns, exclusive)


_NOBODY = -2
"""pyannote's own mark for who is not in any cluster."""


def _clusters(heard: Heard, active: Any, rules: Rules, bounds: Bounds) -> NDArray[Any]:
    """(windows, speakers): whose voice each is. Where these windows are not all there are, some of the speakers may not be in
    them: more are taken for there than sound different only if they do sound different."""
    usable = max(1, len(rules.clustering.filter_embeddings(heard.embeddings, segmentations=active)[0]))
    most = min(bounds.most or usable, usable)
    fewest = min(bounds.fewest or 1, most)
    if bounds.is_all:
        return _asked(heard, active, rules, fewest, most)
    found = _asked(heard, active, rules, 1, most)
    if len(_heard_clusters(heard, found)) < fewest:
        forced = _asked(heard, active, rules, fewest, most)
        if _sound_different(heard, forced):
            return forced
    return found


def _heard_clusters(heard: Heard, clusters: NDArray[Any]) -> list[int]:
    spoken = heard.active.sum(axis=1) > 0
    return [int(cluster) for cluster in np.unique(clusters[spoken]) if cluster != _NOBODY]


def _sound_different(heard: Heard, clusters: NDArray[Any]) -> bool:
    means = [_mean_embedding(heard, clusters == cluster) for cluster in _heard_clusters(heard, clusters)]
    vectors = np.array([mean for mean in means if mean])
    alike = np.triu(vectors @ vectors.T, 1) if len(vectors) else np.zeros(1)
    return bool(alike.max() < LEAST_ALIKE)


def _asked(heard: Heard, active: Any, rules: Rules, fewest: int, most: int) -> NDArray[Any]:
    # pyannote prints warnings that nobody can act on, and what is printed is the worker's log
    with redirect_stdout(io.StringIO()):
        clusters, _, _ = rules.clustering(
            embeddings=heard.embeddings.copy(),
            segmentations=active,
            num_clusters=fewest if fewest == most else None,
            min_clusters=fewest,
            max_clusters=most,
        )
    return np.array(clusters)


def _clustered(scores: NDArray[Any], clusters: NDArray[Any]) -> NDArray[np.float32]:
    """(windows, frames, clusters); not a number where a cluster is not in a window. What `SpeakerDiarization.reconstruct` makes,
    in half the memory."""
    windows, frames, speakers = scores.shape
    found = np.full((windows, frames, int(clusters.max()) + 1), np.nan, np.float32)
    for speaker in range(speakers):
        of = np.flatnonzero(clusters[:, speaker] != _NOBODY)
        places = clusters[of, speaker]
        found[of, :, places] = np.fmax(found[of, :, places], scores[of, :, speaker])
    return found


def _turns(scores: Any, count: Any, least_pause: float) -> list[tuple[float, float, int]]:
    from pyannote.audio.pipelines.utils import SpeakerDiarizationMixin
    from pyannote.core import SlidingWindowFeature

    fresh = SlidingWindowFeature(scores.data.copy(), scores.sliding_window)
    discrete = SpeakerDiarizationMixin.to_diarization(fresh, count)
    annotation = SpeakerDiarizationMixin.to_annotation(discrete, min_duration_on=0.0, min_duration_off=least_pause)
    return [(turn.start, turn.end, label) for turn, _, label in annotation.itertracks(yield_label=True)]


def _numbered(
    heard: Heard,
    clusters: NDArray[Any],
    rules: Rules,
    turns: list[tuple[float, float, int]],
    exclusive: list[tuple[float, float, int]],
) -> Found:
    """Voices are numbered in the order in which they are first heard."""
    numbers: dict[int, int] = {}
    for _, _, cluster in turns:
        numbers.setdefault(cluster, len(numbers))
    seconds = dict.fromkeys(numbers, 0.0)
    for start, end, cluster in turns:
        seconds[cluster] += end - start
    voices = tuple(
        Voice(_mean_embedding(heard, clusters == cluster), round(seconds[cluster], 3)) for cluster in numbers
    )
    return Found(
        voices,
        tuple(VoiceTurn(start, end, numbers[cluster]) for start, end, cluster in turns),
        tuple(VoiceTurn(start, end, numbers[cluster]) for start, end, cluster in exclusive if cluster in numbers),
    )


def _mean_embedding(heard: Heard, chosen: NDArray[np.bool_]) -> tuple[float, ...]:
    """A unit vector: what is heard longest, and alone, counts most."""
    alone = heard.active * (heard.active.sum(axis=2, keepdims=True) == 1)
    weights = alone.sum(axis=1)[chosen].astype(np.float64)
    if not weights.any():
        weights = heard.active.sum(axis=1)[chosen].astype(np.float64)
    embeddings = heard.embeddings[chosen].astype(np.float64)
    lengths = np.linalg.norm(embeddings, axis=1)
    good = np.isfinite(lengths) & (lengths > 0) & (weights > 0)
    mean = ((weights / lengths)[good, None] * embeddings[good]).sum(axis=0)
    length = np.linalg.norm(mean)
    if not length > 0:
        return ()
    return tuple(float(number) for number in (mean / length).astype(np.float32))
