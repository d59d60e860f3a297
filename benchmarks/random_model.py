"""Whisper models of real shapes with random weights, from nothing: `python -m benchmarks.random_model SHAPE FOLDER`.

They cost what the real ones cost and need no download. Invariant: stock faster-whisper loads and decodes them unmodified,
at a realistic length and without falling back: about three words for each second of sound in a window, each
word one token, none repeated within a window, at a high probability. So the words of a text are the tokens that made it.

How: almost all weights are random, and small beside what is planned. Each position of the decoder has a random direction
of its own, and the output row of that position's word points there. Three channels are kept clear of anything random: the
encoder's first says whether a frame holds sound (padding is exact zero), an attention head of the decoder's last layer
takes its mean over the window into the decoder's first channel, and end-of-text is as likely as the position (second
channel) is past what that sound allows (the third channel is one always). The alignment heads look where
that many words, one after the other, would be heard: of words timed at random the engine would take the gaps for words that
it missed, and decode again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float32]

ENCODER_POSITIONS, DECODER_POSITIONS = 1500, 448
TIMESTAMPS = 1501
HEAD_WIDTH = 64
HEARING_HEAD = 1  # of the decoder's last layer; no alignment head of any shape

# In logits: what the planned word has over the others' mean, and what end-of-text gains with each position.
_WORD_LOGIT, _END_SLOPE = 22.0, 8.0
_PROMPT = 4  # positions that it takes
_FIRST_END = 6.0  # the position from which a silent window may end
_POSITION_SCALE = 100.0  # positions in the channel that counts them are divided by it, so that it stays small
_TOKENS_PER_SOUND = (
    140.0  # positions that a mean of 1 in the sound channel adds; windows full of speech have 0.7 to 0.85
)
_RESIDUAL = 0.3  # root mean square of all that the layers add at random, beside directions of 1
_EMBEDDED = 0.1  # ... and the tokens' embeddings
_SOUND_GAIN = 3.0

_FRAMES_PER_SECOND = 50  # the encoder's
WORD_SECONDS = 0.28
"""From the beginning of one word to the next one's."""
_LOOKING_GAIN = 2.0
# Radians a frame, of the waves by which a frame is found: once in a window, and each 21 frames.
_SLOWEST, _FASTEST = 0.004, 0.3
_LOOKING_POSITIONS = 240  # the prompt and the longest text

# Channels; the first is also the convolutions'.
_SOUND, _POSITION, _ONE = 0, 1, 2
_CLEAR = 3


@dataclass(frozen=True, slots=True)
class Shape:
    """``width`` is the model's; heads are 64 wide, feed-forward layers four times as wide as the model."""

    name: str
    width: int
    encoder_layers: int
    decoder_layers: int
    mels: int
    vocabulary: int
    alignment_heads: tuple[tuple[int, int], ...]

    @property
    def heads(self) -> int:
        return self.width // HEAD_WIDTH


# Alignment heads as the published models' (layer, head).
SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", 384, 4, 4, 80, 51_865, ((2, 2), (3, 0), (3, 2), (3, 3), (3, 4), (3, 5))),
        Shape(
            "large-v3",
            1280,
            32,
            32,
            128,
            51_866,
            (
                *((7, 0), (10, 17), (12, 18), (13, 12), (16, 1)),
                *((17, 14), (19, 11), (21, 4), (24, 1), (25, 6)),
            ),
        ),
        Shape("turbo", 1280, 32, 4, 128, 51_866, ((2, 4), (2, 11), (3, 3), (3, 6), (3, 11), (3, 14))),
    )
}


def make_random_model(folder: Path, shape: Shape, seed: int = 1, number_format: str = "float16") -> Path:
    """Writes a model folder in CTranslate2's format and returns it; equal arguments give equal files.

    ``number_format``: "float16", as published models, or "float32".
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens = vocabulary(shape)
    spec = _specification(shape, seed, np.dtype(number_format))
    spec.register_vocabulary(tokens)
    first_language = tokens.index("<|startoftranscript|>") + 1
    spec.config.suppress_ids = []
    spec.config.suppress_ids_begin = [tokens.index("<|endoftext|>")]
    spec.config.lang_ids = list(range(first_language, tokens.index("<|translate|>")))
    spec.config.alignment_heads = [list(head) for head in shape.alignment_heads]
    spec.validate()
    spec.save(str(folder))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(tokens), ensure_ascii=False))
    (folder / "preprocessor_config.json").write_text(json.dumps(_preprocessor(shape), indent=1))
    return folder


def vocabulary(shape: Shape) -> list[str]:
    """Tokens in the order of the real vocabulary: text, end, start, languages, tasks, times.

    The last text token is the empty one: CTranslate2 tells multilingual models by it.
    """
    from faster_whisper.tokenizer import _LANGUAGE_CODES  # all that version 3 knows: one more than its forerunners

    languages = [code for code in _LANGUAGE_CODES if code != "yue" or shape.vocabulary > 51_865]
    special = [
        *("<|endoftext|>", "<|startoftranscript|>"),
        *(f"<|{code}|>" for code in languages),
        *("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
        *(f"<|{number * 0.02:.2f}|>" for number in range(TIMESTAMPS)),
    ]
    words = shape.vocabulary - len(special) - 2
    return ["<unk>", *(f"Ġ{_word(number)}" for number in range(words)), "", *special]


def _word(number: int) -> str:
    """Four letters, different for each number below 26 ** 4."""
    mixed = (number * 181_081 + 7_919) % 26**4  # no factor in common with 26: neighbors differ in all letters
    return "".join(chr(ord("a") + mixed // 26**place % 26) for place in range(4))


def _tokenizer(tokens: list[str]) -> dict[str, Any]:
    first_special = tokens.index("<|endoftext|>")
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": token} | added
            for number, token in enumerate(tokens[first_special:], first_special)
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "WordLevel",
            "vocab": {token: number for number, token in enumerate(tokens[:first_special])},
            "unk_token": "<unk>",
        },
    }


def _preprocessor(shape: Shape) -> dict[str, Any]:
    return {
        "chunk_length": 30,
        "feature_size": shape.mels,
        "hop_length": 160,
        "n_fft": 400,
        "n_samples": 480_000,
        "nb_max_frames": 3000,
        "sampling_rate": 16_000,
        "feature_extractor_type": "WhisperFeatureExtractor",
    }


def _specification(shape: Shape, seed: int, dtype: np.dtype[Any]) -> Any:
    from ctranslate2.specs import WhisperSpec

    spec = WhisperSpec(shape.encoder_layers, shape.heads, shape.decoder_layers, shape.heads)
    builder = _Builder(shape, np.random.default_rng(seed), dtype)
    builder.encoder(spec.encoder)
    builder.decoder(spec.decoder)
    return spec


class _Builder:
    """Fills a specification; draws in a fixed order."""

    def __init__(self, shape: Shape, numbers: np.random.Generator, dtype: np.dtype[Any]) -> None:
        self._shape = shape
        self._numbers = numbers
        self._dtype = dtype

    def encoder(self, spec: Any) -> None:
        width, mels = self._shape.width, self._shape.mels
        first = self._drawn((width, mels, 3), 1 / np.sqrt(3 * mels))
        first[_SOUND] = 0
        first[_SOUND, : mels // 4] = _SOUND_GAIN / (
            3 * (mels // 4)
        )  # deep sounds: positive in speech, negative in pauses
        second = self._drawn((width, width, 3), 1 / np.sqrt(3 * width))
        second[_SOUND] = 0
        second[_SOUND, _SOUND] = 1 / 3
        for conv, weight in ((spec.conv1, first), (spec.conv2, second)):
            conv.weight = weight.astype(self._dtype)
            conv.bias = np.zeros(width, self._dtype)  # so that padding stays exactly zero
        positions = _sinusoids(ENCODER_POSITIONS, width)
        positions -= positions.mean(axis=1, keepdims=True)  # so that a norm leaves the clear channel at zero
        positions[:, _SOUND] = 0
        spec.position_encodings.encodings = positions.astype(self._dtype)
        added = _RESIDUAL / np.sqrt(2 * self._shape.encoder_layers)
        for layer in spec.layer:
            self._self_attention(layer.self_attention, added)
            self._feed_forward(layer.ffn, added)
        self._norm(spec.layer_norm)

    def decoder(self, spec: Any) -> None:
        width = self._shape.width
        directions = self._drawn((DECODER_POSITIONS, width), 1.0)
        directions[:, :_CLEAR] = 0
        embeddings = self._drawn((self._shape.vocabulary, width), _EMBEDDED)
        embeddings[:, :_CLEAR] = 0
        positions = directions.copy()
        positions[:, _POSITION] = np.arange(DECODER_POSITIONS) / _POSITION_SCALE - 1
        positions[:, _ONE] = 1
        looking = self._looking(directions)
        spec.embeddings.weight = embeddings.astype(self._dtype)
        spec.position_encodings.encodings = positions.astype(self._dtype)
        spec.scale_embeddings = False
        added = _RESIDUAL / np.sqrt(3 * self._shape.decoder_layers)
        for number, layer in enumerate(spec.layer):
            self._self_attention(layer.self_attention, added)
            heads = [head for of_layer, head in self._shape.alignment_heads if of_layer == number]
            self._cross_attention(layer.attention, added, heads, looking, hears=layer is spec.layer[-1])
            self._feed_forward(layer.ffn, added)
        self._norm(spec.layer_norm)
        spec.projection.weight = self._projection(directions).astype(self._dtype)

    def _projection(self, directions: Weights) -> Weights:
        """Output rows, (vocabulary, width): a word for each position, and when to end."""
        width, vocabulary_size = self._shape.width, self._shape.vocabulary
        end = vocabulary(self._shape).index("<|endoftext|>")
        rows = self._drawn((vocabulary_size, width), 0.5 / np.sqrt(width))
        rows[:, :_CLEAR] = 0
        words = self._numbers.choice(np.arange(1, end - 1), DECODER_POSITIONS, replace=False)
        rows[words] += _WORD_LOGIT / width * directions
        rows[end] = 0
        rows[end, _SOUND] = -_END_SLOPE * _TOKENS_PER_SOUND
        rows[end, _POSITION] = _END_SLOPE * _POSITION_SCALE
        rows[end, _ONE] = _END_SLOPE * (_POSITION_SCALE - _FIRST_END) + _WORD_LOGIT
        return rows

    def _self_attention(self, spec: Any, added: float) -> None:
        width = self._shape.width
        self._norm(spec.layer_norm)
        self._linear(spec.linear[0], self._drawn((3 * width, width), 1 / np.sqrt(width)))
        self._linear(spec.linear[1], self._adding(width, added))

    def _looking(self, directions: Weights) -> tuple[Weights, Weights]:
        """(queries, keys) of a head by which a position looks at its word's frames, each (64, width): both are waves over
        the frames, as the encoder's positions are, and agree at one frame alone."""
        width = self._shape.width
        rates = _rates(width)
        chosen = np.searchsorted(-rates, -np.geomspace(_FASTEST, _SLOWEST, HEAD_WIDTH // 2))
        keys = np.zeros((HEAD_WIDTH, width), np.float32)
        keys[np.arange(HEAD_WIDTH), np.concatenate([chosen, chosen + width // 2])] = 1
        frames = _FRAMES_PER_SECOND * WORD_SECONDS * np.clip(np.arange(_LOOKING_POSITIONS) - _PROMPT, 0, None)
        angles = frames[:, None] * rates[chosen][None]
        wanted = _LOOKING_GAIN * np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        queries = np.linalg.lstsq(directions[:_LOOKING_POSITIONS], wanted, rcond=None)[0].T
        return queries.astype(np.float32), keys

    def _cross_attention(
        self, spec: Any, added: float, heads: Sequence[int], looking: tuple[Weights, Weights], *, hears: bool
    ) -> None:
        """Its ``heads`` are ``looking`` for their words' frames. Where it ``hears``, one head takes the mean of the encoder's
        sound channel over the whole window."""
        width = self._shape.width
        queries = self._drawn((width, width), 1 / np.sqrt(width))
        keys_values = self._drawn((2 * width, width), 1 / np.sqrt(width))
        out = self._adding(width, added)
        for head in heads:
            queries[_rows(head)], keys_values[_rows(head)] = looking
        if hears:
            first = HEARING_HEAD * HEAD_WIDTH
            queries[_rows(HEARING_HEAD)] = 0  # all frames alike
            keys_values[width + first] = 0
            keys_values[width + first, _SOUND] = 1
            out[:, first] = 0
            out[_SOUND, first] = 1
        self._norm(spec.layer_norm)
        for linear, weight in zip(spec.linear, (queries, keys_values, out), strict=True):
            self._linear(linear, weight)

    def _feed_forward(self, spec: Any, added: float) -> None:
        width = self._shape.width
        self._norm(spec.layer_norm)
        self._linear(spec.linear_0, self._drawn((4 * width, width), 1 / np.sqrt(width)))
        self._linear(spec.linear_1, self._adding(4 * width, added))

    def _adding(self, into: int, added: float) -> Weights:
        """A layer's last weights, (width, into): what it adds has that root mean square, and spares the clear channels."""
        weight = self._drawn((self._shape.width, into), added / np.sqrt(into))
        weight[:_CLEAR] = 0
        return weight

    def _drawn(self, shape: tuple[int, ...], scale: float) -> Weights:
        return self._numbers.standard_normal(shape, np.float32) * np.float32(scale)

    def _linear(self, spec: Any, weight: Weights) -> None:
        spec.weight = weight.astype(self._dtype)
        spec.bias = np.zeros(len(weight), self._dtype)

    def _norm(self, spec: Any) -> None:
        spec.gamma = np.ones(self._shape.width, self._dtype)
        spec.beta = np.zeros(self._shape.width, self._dtype)


def _rows(head: int) -> slice:
    return slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)


def _rates(width: int) -> Weights:
    """Of the waves of Whisper's encoder's positions, radians a frame: (width / 2,), falling."""
    rates: Weights = np.exp(-np.log(10_000) / (width // 2 - 1) * np.arange(width // 2)).astype(np.float32)
    return rates


def _sinusoids(positions: int, width: int) -> Weights:
    """As Whisper's encoder has them, (positions, width)."""
    angles = np.arange(positions)[:, None] * _rates(width)[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.random_model", description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--format", choices=("float16", "float32"), default="float16")
    given = parser.parse_args()
    try:
        make_random_model(given.folder, SHAPES[given.shape], given.seed, given.format)
    except OSError as error:
        print(f"The model cannot be written: {error}", file=sys.stderr)
        return 1
    print(given.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
