"""Whisper's architecture, small: what it computes is what CTranslate2 computes of the converted weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.train.recognizer.phrases import BANDS
from models.train.recognizer.vocabulary import FIRST_TIMESTAMP, SIZE, TIMESTAMPS, UNKNOWN

ENCODER_STEPS, DECODER_PLACES = 1500, 448
_WHOLE_FRAMES = 3000
_SAMPLED_PADS = 16


@dataclass(frozen=True, slots=True)
class Size:
    width: int = 128
    heads: int = 4
    encoder_layers: int = 3
    decoder_layers: int = 3

    @property
    def inner(self) -> int:
        return 4 * self.width


SIZE_OF_DEMO = Size()


def sinusoids(length: int, width: int) -> Tensor:
    """(length, width): sines, then cosines, of frequencies that fall evenly on a logarithmic scale (Whisper's)."""
    angles = torch.arange(length)[:, None] * _frequencies(width)[None]
    return torch.cat([angles.sin(), angles.cos()], 1)


def _frequencies(width: int) -> Tensor:
    return torch.exp(-math.log(10_000) / (width // 2 - 1) * torch.arange(width // 2))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, of: Tensor | None = None, bias: Tensor | None = None, causal: bool = False) -> Tensor:
        """(batch, places, width), looking at ``of`` or itself; ``bias`` is added to the logits of what is looked at."""
        of = x if of is None else of
        query, key, value = self._split(self.query(x)), self._split(self.key(of)), self._split(self.value(of))
        mask = None if bias is None else bias.to(query.dtype).expand(x.shape[0], 1, x.shape[1], of.shape[1])
        return self._joined(functional.scaled_dot_product_attention(query, key, value, mask, is_causal=causal))

    def looking(self, x: Tensor, of: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """As ``forward``, and the logarithm of where it looks: (batch, heads, places, places of ``of``)."""
        query, key, value = self._split(self.query(x)), self._split(self.key(of)), self._split(self.value(of))
        logits = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
        looks = (logits if bias is None else logits + bias).log_softmax(-1)
        return self._joined(looks.exp().to(value.dtype) @ value), looks

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def _joined(self, x: Tensor) -> Tensor:
        joined: Tensor = self.out(x.transpose(1, 2).flatten(2))
        return joined


class FeedForward(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, inner)
        self.second = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.second(functional.gelu(self.first(self.norm(x))))
        return y


class EncoderLayer(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(size.width)
        self.attention = Attention(size.width, size.heads)
        self.feed_forward = FeedForward(size.width, size.inner)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor = self.feed_forward(x + self.attention(self.attention_norm(x), bias=bias))
        return y


class DecoderLayer(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(size.width)
        self.self_attention = Attention(size.width, size.heads)
        self.cross_norm = nn.LayerNorm(size.width)
        self.cross_attention = Attention(size.width, size.heads)
        self.feed_forward = FeedForward(size.width, size.inner)

    def forward(self, x: Tensor, encoded: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        x = x + self.self_attention(self.self_norm(x), causal=True)
        seen, looks = self.cross_attention.looking(self.cross_norm(x), encoded, bias)
        return self.feed_forward(x + seen), looks


class Encoder(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(BANDS, size.width, 3, padding=1)
        self.conv2 = nn.Conv1d(size.width, size.width, 3, stride=2, padding=1)
        self.positions = nn.Parameter(sinusoids(ENCODER_STEPS, size.width), requires_grad=False)
        self.layers = nn.ModuleList(EncoderLayer(size) for _ in range(size.encoder_layers))
        self.norm = nn.LayerNorm(size.width)

    def forward(self, features: Tensor, pads: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """(batch, 80, frames) to (batch, steps, width), and the bias for attention to it.

        Decoders see windows of 30 s, mostly padding: it is stood for by ``_SAMPLED_PADS`` of its places, whose logits
        carry the logarithm of how many each stands for. That equals the whole window at a fraction of its cost.
        ``pads``: those of `sampled_pads`, where they are not to be drawn here.
        """
        frames = features.shape[-1]
        if frames == _WHOLE_FRAMES:
            x, bias = self._convolved(features) + self.positions, None
        else:
            x, bias = self._with_sampled_pads(features, sampled_pads(frames) if pads is None else pads)
        for layer in self.layers:
            x = layer(x, bias)
        return self.norm(x), bias

    def _with_sampled_pads(self, features: Tensor, pads: Tensor) -> tuple[Tensor, Tensor]:
        batch, steps = features.shape[0], features.shape[-1] // 2
        convolved = self._convolved(functional.pad(features, (0, 8)))
        pad = convolved[:1, steps + 1 : steps + 2].expand(batch, _SAMPLED_PADS, -1)
        places = torch.cat([torch.arange(steps), pads])
        bias = torch.zeros(1, 1, 1, steps + _SAMPLED_PADS)
        bias[..., steps:] = math.log((ENCODER_STEPS - steps) / _SAMPLED_PADS)
        return torch.cat([convolved[:, :steps], pad], 1) + self.positions[places], bias

    def _convolved(self, features: Tensor) -> Tensor:
        return functional.gelu(self.conv2(functional.gelu(self.conv1(features)))).transpose(1, 2)


def sampled_pads(frames: int) -> Tensor:
    """Places of the padding behind so many frames, drawn by torch's own numbers."""
    steps = frames // 2
    return torch.randint(steps, ENCODER_STEPS, (_SAMPLED_PADS,)) if steps < ENCODER_STEPS else torch.zeros(0).long()


class Decoder(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tokens = nn.Embedding(SIZE, size.width)
        self.positions = nn.Parameter(0.2 * sinusoids(DECODER_PLACES, size.width))
        self.layers = nn.ModuleList(DecoderLayer(size) for _ in range(size.decoder_layers))
        self.norm = nn.LayerNorm(size.width)

    def forward(self, tokens: Tensor, encoded: Tensor, bias: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Logits (batch, places, tokens), and where each layer looks: (batch, heads, places, steps), logarithms."""
        x = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        looks = []
        for layer in self.layers:
            x, seen = layer(x, encoded, bias)
            looks.append(seen)
        return self.norm(x) @ self.tokens.weight.T, looks


class Recognizer(nn.Module):
    """``frame_words`` says which word is said in each step of the encoder: for training only."""

    def __init__(self, size: Size = SIZE_OF_DEMO) -> None:
        super().__init__()
        self.size = size
        self.encoder = Encoder(size)
        self.decoder = Decoder(size)
        self.frame_words = nn.Linear(size.width, UNKNOWN + 1)
        with torch.no_grad():
            self._begin_near_what_is_known()

    def _begin_near_what_is_known(self) -> None:
        """Timestamps are neighbors of each other; encoder heads look a few steps to either side. From plain noise the
        first takes most of a training, and the second may never come."""
        tokens = self.decoder.tokens.weight
        tokens.normal_(0, 0.05)
        tokens[FIRST_TIMESTAMP:] = 0.1 * sinusoids(TIMESTAMPS, self.size.width)
        for layer, offsets in zip(self.encoder.layers, _OFFSETS, strict=False):
            assert isinstance(layer, EncoderLayer)
            _look_aside(layer.attention, offsets)


_OFFSETS = ((-4, -1, 1, 4), (-8, -3, 3, 8), (-14, -5, 5, 14), (-3, 3, -8, 8))
_FASTEST = 0.02
_STRENGTH = 1.3


def _look_aside(attention: Attention, offsets: tuple[int, ...]) -> None:
    """Each head's queries are its keys turned by so many steps, on the fast half of the sinusoids."""
    width, inner = attention.query.weight.shape[0], attention.query.weight.shape[0] // attention.heads
    frequencies = _frequencies(width)
    fast = torch.nonzero(frequencies > _FASTEST).flatten()
    chosen = fast[torch.linspace(0, len(fast) - 1, inner // 2).round().long()].tolist()
    for head, offset in zip(range(attention.heads), offsets, strict=False):
        query, key = torch.zeros(inner, width), torch.zeros(inner, width)
        for row, sine in enumerate(chosen):
            cosine = width // 2 + sine
            angle = float(frequencies[sine]) * offset
            key[2 * row, sine] = key[2 * row + 1, cosine] = _STRENGTH
            query[2 * row, sine] = query[2 * row + 1, cosine] = _STRENGTH * math.cos(angle)
            query[2 * row, cosine] = _STRENGTH * math.sin(angle)
            query[2 * row + 1, sine] = -_STRENGTH * math.sin(angle)
        rows = slice(head * inner, (head + 1) * inner)
        attention.query.weight[rows] = query + 0.02 * torch.randn_like(query)
        attention.key.weight[rows] = key + 0.02 * torch.randn_like(key)
    attention.query.bias.zero_()
