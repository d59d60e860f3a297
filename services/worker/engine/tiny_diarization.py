"""The demo's speaker models: a segmentation and an embedding on log-mel features, small enough to be bundled.

Parameter names are those of the weights in ``models/diarization-demo``. Import after ``import_torchaudio``.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from pyannote.audio.core.model import Model
from pyannote.audio.core.task import Task
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor, nn
from torch.nn import functional

SAMPLE_RATE = 16_000
_HOP = 160  # samples between two mel frames

# Powerset classes of three speakers, at most two at once: nobody, 0, 1, 2, 0+1, 0+2, 1+2.
_PAIR_CLASS = {(0, 1): 4, (0, 2): 5, (1, 2): 6}
_CLASSES = 7
_MAX_SPEAKERS = 3

_VECTOR = 32
# Log-probabilities.
_NEVER, _IMPOSSIBLE = -9.0, -1e4


def mel_matrix(bands: int, fft: int, rate: int, low: float = 40.0, high: float = 7600.0) -> Tensor:
    """Triangular filters (fft / 2 + 1, bands) between ``low`` and ``high`` hertz, on the HTK mel scale."""

    def to_mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    points = torch.linspace(to_mel(low), to_mel(high), bands + 2, dtype=torch.float64)
    hertz = 700 * (10 ** (points / 2595) - 1)
    bins = torch.linspace(0, rate / 2, fft // 2 + 1, dtype=torch.float64)[:, None]
    left, middle, right = hertz[None, :-2], hertz[None, 1:-1], hertz[None, 2:]
    rising, falling = (bins - left) / (middle - left), (right - bins) / (right - middle)
    return torch.clamp(torch.minimum(rising, falling), min=0).float()


def pitch_matrix(
    pitches: int, fft: int, rate: int, low: float = 70.0, high: float = 400.0, top: float = 3400.0
) -> Tensor:
    """Waves (fft / 2 + 1, pitches) over the spectrum up to ``top``, whose crests are the harmonics of pitches from ``low`` to ``high``
    hertz, evenly spaced in octaves. What a magnitude spectrum gives with them is its autocorrelation at those periods."""
    hertz = torch.linspace(0, rate / 2, fft // 2 + 1, dtype=torch.float64)[:, None]
    pitch = low * (high / low) ** torch.linspace(0, 1, pitches, dtype=torch.float64)
    return (torch.cos(2 * math.pi * hertz / pitch) * (hertz <= top)).float()


class LogMel(nn.Module):
    """(batch, 1, samples) to (batch, bands + pitches, frames); frame j is centered on sample j * hop.

    Mel bands blur harmonics, and a telephone cuts the lowest off; by ``pitches`` the height of a voice is there all the same.
    """

    def __init__(
        self, bands: int = 64, fft: int = 512, width: int = 400, rate: int = SAMPLE_RATE, pitches: int = 0
    ) -> None:
        super().__init__()
        self.fft, self.width, self.pitches = fft, width, pitches
        self.window: Tensor
        self.filters: Tensor
        self.waves: Tensor
        self.register_buffer("window", torch.hann_window(width), persistent=False)
        self.register_buffer("filters", mel_matrix(bands, fft, rate), persistent=False)
        self.register_buffer("waves", pitch_matrix(pitches, fft, rate), persistent=False)

    def forward(self, waveforms: Tensor) -> Tensor:
        frames = max(1, waveforms.shape[-1] // _HOP)
        spectrum = torch.stft(
            waveforms.squeeze(1),
            self.fft,
            _HOP,
            self.width,
            self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        power = (spectrum.real.square() + spectrum.imag.square())[..., :frames]
        power = power.transpose(1, 2)
        # brings the features of speech near zero mean and unit variance
        features = (torch.log(torch.matmul(power, self.filters) + 1e-5) + 5.0) / 4.0
        if self.pitches:
            magnitude = power.sqrt()
            share = torch.matmul(magnitude, self.waves) / (magnitude.sum(-1, keepdim=True) + 1e-2)
            features = torch.cat([features, 4.0 * share], -1)
        return features.transpose(1, 2)


class Block(nn.Module):
    """A convolution, normalized, with a short cut where the shapes allow it."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.c = nn.Conv1d(inputs, outputs, kernel, stride, padding=padding, dilation=dilation, bias=False)
        self.b = nn.BatchNorm1d(outputs)
        self.short_cut = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.b(self.c(x)))
        return x + y if self.short_cut else y


def time_delay_network(bands: int, channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        Block(bands, channels, 5, 2),
        Block(channels, channels, 3),
        Block(channels, channels, 3, dilation=2),
        Block(channels, channels, 3, dilation=3),
        Block(channels, outputs, 1),
    )


class TinySegmentation(Model):  # type: ignore[misc]  # pyannote publishes no types
    """Log-mel and pitch, time-delay network at 40 ms a frame, LSTM, self-attention, LSTM, and what ``decode`` makes of them.

    - head: powerset classes as they are.
    - cluster: how many speak comes from the powerset classes; who it is, from clusters of per-frame speaker vectors.
    - centers: how many speak is a head of its own; the middles of the clusters are the chunk's speakers, and a further head
      says of each in each frame whether it is heard. So two at once are told by their voices.
    """

    def __init__(
        self,
        n_mels: int = 64,
        channels: int = 160,
        pooled: int = 256,
        reduced: int = 128,
        hidden: int = 96,
        heads: int = 4,
        decode: str = "head",
        threshold: float = 0.5,
        min_frames: int = 6,
        pair_bias: float = 0.0,
        sample_rate: int = SAMPLE_RATE,
        num_channels: int = 1,
        task: Task | None = None,
        width: int = 400,
        pitches: int = 0,
    ) -> None:
        super().__init__(sample_rate=sample_rate, num_channels=num_channels, task=task)
        self.save_hyperparameters(
            "n_mels",
            "channels",
            "pooled",
            "reduced",
            "hidden",
            "heads",
            "decode",
            "threshold",
            "min_frames",
            "pair_bias",
            "width",
            "pitches",
        )
        self.mel = LogMel(n_mels, width=width, rate=sample_rate, pitches=pitches)
        self.tdnn = time_delay_network(n_mels + pitches, channels, pooled)
        self.down = Block(pooled, reduced, 3, 2)
        self.rnn1 = nn.LSTM(reduced, hidden, batch_first=True, bidirectional=True)
        self.ln = nn.LayerNorm(2 * hidden)
        self.att = nn.MultiheadAttention(2 * hidden, heads, batch_first=True)
        self.rnn2 = nn.LSTM(2 * hidden, hidden, batch_first=True, bidirectional=True)
        self.lin = nn.Linear(2 * hidden, hidden)
        self.spk = nn.Linear(2 * hidden, _VECTOR)
        self.aff = nn.Parameter(torch.tensor([8.0, 4.0]))  # used in training only; here because the weights hold it
        if decode == "centers":
            self.heard = nn.Linear(2 * hidden, _VECTOR + 1)

    @property
    def dimension(self) -> int:
        return int(self.specifications.num_powerset_classes)

    def build(self) -> None:
        outputs = 3 if self.hparams.decode == "centers" else self.dimension
        self.classifier = nn.Linear(self.hparams.hidden, outputs)
        self.activation = self.default_activation()

    @lru_cache  # noqa: B019 - as pyannote's own models; one instance a process
    def num_frames(self, num_samples: int) -> int:
        frames = max(1, num_samples // _HOP)
        for _ in range(2):
            frames = (frames - 1) // 2 + 1
        return frames

    def receptive_field_size(self, num_frames: int = 1) -> int:
        return 4 * _HOP * num_frames

    def receptive_field_center(self, frame: int = 0) -> int:
        return 4 * _HOP * frame

    def forward(self, waveforms: Tensor) -> Tensor:
        """(batch, 1, samples) to log-probabilities (batch, frames, classes)."""
        classes, vectors, heard = self.outputs(waveforms)
        threshold, min_frames = self.hparams.threshold, self.hparams.min_frames
        if self.hparams.decode == "head":
            return classes
        if heard is None:
            chunks = zip(_array(classes), _array(vectors), strict=True)
            decided = [decide_speakers(p, v, threshold, min_frames) for p, v in chunks]
        else:
            speakers = len(self.specifications.classes)
            decided = [
                decide_by_centers(p, v, h, threshold, min_frames, speakers, self.hparams.pair_bias)
                for p, v, h in zip(_array(classes), _array(vectors), _array(heard), strict=True)
            ]
        return torch.from_numpy(np.stack(decided)).to(classes.device)

    def outputs(self, waveforms: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(batch, 1, samples) to log-probabilities of the classes, or of how many speak; the frames' speaker vectors, of
        length 1; and, with ``centers``, what says who is heard: (batch, frames, 33)."""
        # One chunk at a time takes half as long on a CPU: its activations stay in the cache.
        parts = (waveforms,) if self.training else torch.split(waveforms, 1)
        x = torch.cat([self.down(self.tdnn(self.mel(part))) for part in parts]).transpose(1, 2)
        x, _ = self.rnn1(x)
        y = self.ln(x)
        x = x + self.att(y, y, y, need_weights=False)[0]
        vectors = functional.normalize(self.spk(x), dim=-1)
        x, _ = self.rnn2(x)
        classes = self.activation(self.classifier(functional.leaky_relu(self.lin(x))))
        return classes, vectors, self.heard(x) if self.hparams.decode == "centers" else None


def _array(x: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = x.float().cpu().numpy()
    return array


def decide_speakers(
    log_probabilities: NDArray[np.float32], vectors: NDArray[np.float32], threshold: float, min_frames: int
) -> NDArray[np.float32]:
    """Log-probabilities (frames, 7) that say with near certainty who speaks in each frame.

    Frames with one speaker are clustered by their vectors (frames, 32), at most three clusters of ``min_frames`` or
    more, joined while their mean cosine similarity is over ``threshold``.
    """
    p = np.exp(log_probabilities)
    speaking = np.stack([p[:, 0], p[:, 1:4].sum(1), p[:, 4:7].sum(1)], 1).argmax(1)
    alone = np.flatnonzero(speaking == 1)
    if len(alone) >= 2:
        classes = _clustered(speaking, vectors, alone, threshold, min_frames)
    else:
        classes = (speaking > 0).astype(int)
    decided = np.full((len(speaking), _CLASSES), _NEVER, np.float32)
    decided[np.arange(len(speaking)), classes] = -1e-3
    return decided


def _clustered(
    speaking: NDArray[np.intp], vectors: NDArray[np.float32], alone: NDArray[np.intp], threshold: float, min_frames: int
) -> NDArray[np.intp]:
    centers = _centers(vectors[alone], threshold, min_frames, _MAX_SPEAKERS)
    similarity = vectors @ centers.T
    speaker = np.full(len(speaking), -1)
    speaker[alone] = similarity[alone].argmax(1)
    classes = np.zeros(len(speaking), int)
    classes[alone] = 1 + speaker[alone]
    for frame in np.flatnonzero(speaking == 2):
        classes[frame] = _pair_class(int(frame), alone, speaker, similarity[frame])
    return classes


def _centers(vectors: NDArray[np.float32], threshold: float, min_frames: int, most: int) -> NDArray[np.float32]:
    """Unit vectors (speakers, 32) in the middle of the largest clusters, at most so many."""
    every = 2 if len(vectors) > 40 else 1  # every other frame says as much, in a quarter of the time
    sample = vectors[::every]
    cluster = np.zeros(1, int)
    if len(sample) > 1:
        cluster = fcluster(linkage(sample, "average", metric="cosine"), 1 - threshold, "distance") - 1
    sizes = np.bincount(cluster)
    kept = [k for k in np.argsort(-sizes)[:most] if sizes[k] >= min_frames / every] or [int(sizes.argmax())]
    centers = np.stack([sample[cluster == k].mean(0) for k in kept])
    unit: NDArray[np.float32] = centers / np.linalg.norm(centers, axis=1, keepdims=True)
    return unit


def _pair_class(frame: int, alone: NDArray[np.intp], speaker: NDArray[np.intp], similarity: NDArray[np.float32]) -> int:
    """Two at once are most likely who spoke before and who speaks after; else the likeliest other one."""
    if len(similarity) < 2:
        return 1
    at = int(np.searchsorted(alone, frame))
    before = int(speaker[alone[at - 1]]) if at > 0 else -1
    after = int(speaker[alone[at]]) if at < len(alone) else -1
    if before < 0 or after < 0 or before == after:
        before = before if before >= 0 else after
        order = np.argsort(-similarity)
        after = int(order[0] if order[0] != before else order[1])
    return _PAIR_CLASS[min(before, after), max(before, after)]


def decide_by_centers(
    counts: NDArray[np.float32],
    vectors: NDArray[np.float32],
    heard: NDArray[np.float32],
    threshold: float,
    min_frames: int,
    speakers: int,
    pair_bias: float = 0.0,
) -> NDArray[np.float32]:
    """Log-probabilities (frames, classes) of every set of at most two of ``speakers``, in pyannote's order.

    ``counts``: log-probabilities of nobody, one, two (frames, 3); ``vectors``: (frames, 32), clustered over the frames
    with one speaker as in ``decide_speakers``; ``heard``: (frames, 33), whose product with a cluster's middle, and the last
    as it is, are the log-odds that this speaker is heard; ``pair_bias`` is added to the score of every two.
    """
    classes = [chosen for size in range(3) for chosen in combinations(range(speakers), size)]
    decided = np.full((len(counts), len(classes)), _IMPOSSIBLE, np.float32)
    speaking = counts.argmax(1)
    sample = vectors[speaking == 1] if (speaking == 1).any() else vectors[speaking > 0]
    if len(sample) == 0:
        decided[:, 0] = 0
        return decided
    centers = _centers(sample, threshold, min_frames, speakers)
    odds = heard[:, :-1] @ centers.T + heard[:, -1:]
    yes, no = -np.logaddexp(0, -odds), -np.logaddexp(0, odds)
    for place, chosen in enumerate(classes):
        if max(chosen, default=0) < len(centers):
            decided[:, place] = counts[:, len(chosen)] + no.sum(1) + (yes - no)[:, list(chosen)].sum(1)
            if len(chosen) == 2:
                decided[:, place] += pair_bias
    return decided - np.logaddexp.reduce(decided, 1, keepdims=True)


class TinyEmbedding(Model):  # type: ignore[misc]  # pyannote publishes no types
    """Log-mel and pitch, time-delay network at 20 ms a frame, weighted statistics pooling, linear layer, whitening."""

    MIN_SAMPLES = 4800

    def __init__(
        self,
        n_mels: int = 64,
        channels: int = 160,
        pooled: int = 256,
        dimension: int = 96,
        sample_rate: int = SAMPLE_RATE,
        num_channels: int = 1,
        task: Task | None = None,
        width: int = 400,
        pitches: int = 0,
    ) -> None:
        super().__init__(sample_rate=sample_rate, num_channels=num_channels, task=task)
        self.save_hyperparameters("n_mels", "channels", "pooled", "dimension", "width", "pitches")
        self.mel = LogMel(n_mels, width=width, rate=sample_rate, pitches=pitches)
        self.tdnn = time_delay_network(n_mels + pitches, channels, pooled)
        self.emb = nn.Linear(2 * pooled, dimension)
        self.norm = nn.BatchNorm1d(dimension, affine=False)
        self.register_buffer("post_mean", torch.zeros(dimension))
        self.register_buffer("post", torch.eye(dimension))

    @property
    def dimension(self) -> int:
        return int(self.hparams.dimension)

    @lru_cache  # noqa: B019 - as pyannote's own models; one instance a process
    def num_frames(self, num_samples: int) -> int:
        return (max(1, num_samples // _HOP) - 1) // 2 + 1

    def receptive_field_size(self, num_frames: int = 1) -> int:
        return 2 * _HOP * num_frames

    def receptive_field_center(self, frame: int = 0) -> int:
        return 2 * _HOP * frame

    def forward(self, waveforms: Tensor, weights: Tensor | None = None) -> Tensor:
        """(batch, 1, samples) and frame weights (batch, frames) to (batch, dimension)."""
        return self.forward_embedding(self.forward_frames(waveforms), weights)

    def forward_frames(self, waveforms: Tensor) -> Tensor:
        """(batch, 1, samples) to (batch, features, frames)."""
        if waveforms.shape[-1] < self.MIN_SAMPLES:  # pyannote finds the shortest length by trying
            raise ValueError("at least 0.3 s of audio needed")
        # One chunk at a time takes half as long on a CPU: its activations stay in the cache.
        return torch.cat([self.tdnn(self.mel(chunk)) for chunk in torch.split(waveforms, 1)])

    def forward_embedding(self, frames: Tensor, weights: Tensor | None = None) -> Tensor:
        """(batch, features, frames) and weights (batch, frames) or (batch, speakers, frames) to (batch, dimension) or
        (batch, speakers, dimension)."""
        if weights is None:
            weights = frames.new_ones(frames.shape[0], frames.shape[-1])
        rows = weights[:, None] if weights.dim() == 2 else weights
        if rows.shape[-1] != frames.shape[-1]:
            rows = functional.interpolate(rows, size=frames.shape[-1], mode="nearest")
        rows = rows / (rows.sum(-1, keepdim=True) + 1e-6)
        mean = rows @ frames.transpose(1, 2)
        variance = rows @ frames.square().transpose(1, 2) - mean.square()
        pooled = self.emb(torch.cat([mean, torch.sqrt(variance.clamp(min=1e-5))], -1))
        embeddings: Tensor = (self.norm(pooled.flatten(0, 1)) - self.post_mean) @ self.post
        return embeddings if weights.dim() == 2 else embeddings.reshape(*pooled.shape[:2], -1)
