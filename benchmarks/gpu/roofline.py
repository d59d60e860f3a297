"""How fast a card could decode a model at most, from its arithmetic and its memory alone. Pure.

Counted for each window: the encoder's products and attention, the keys and values of the cross attention, and for each
token and beam the decoder's products and attention, at the card's half-precision peak; and what a step must read of the
window's own keys and values, at the card's bandwidth. Weights are left out: a large batch shares their reading. Nothing
overlaps. A card reaches perhaps two thirds of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.random_model import ENCODER_POSITIONS, Shape

WINDOW_SECONDS = 30.0
BYTES = 2
"""Of a half-precision number."""


@dataclass(frozen=True, slots=True)
class Card:
    """Peaks as its maker gives them: half-precision operations a second (dense), bytes a second."""

    operations: float
    bandwidth: float


# NVIDIA's data sheets, SXM: operations without sparsity.
CARDS = {
    "H200": Card(989e12, 4.8e12),
    "H100": Card(989e12, 3.35e12),
    "A100": Card(312e12, 2.0e12),
}


def card_of(name: str) -> Card | None:
    """Of a device's name, as "NVIDIA H200"; None for one that is not known."""
    return next((card for known, card in CARDS.items() if known in name), None)


def peak_speed(shape: Shape, card: Card, tokens: float, beams: int) -> float:
    """Seconds of audio for each second, where every window is full and has so many tokens."""
    arithmetic = encoder_operations(shape) + beams * tokens * step_operations(shape)
    reading = tokens * keys_and_values_bytes(shape)
    return WINDOW_SECONDS / (arithmetic / card.operations + reading / card.bandwidth)


def encoder_operations(shape: Shape) -> float:
    """Of one window, with the keys and values that the decoder's layers make of it."""
    width, frames = shape.width, ENCODER_POSITIONS
    convolutions = 2 * 3 * width * (2 * frames * shape.mels + frames * width)
    products = 2 * 12 * width**2 * frames * shape.encoder_layers
    attention = 4 * frames**2 * width * shape.encoder_layers
    crossing = 2 * 2 * width**2 * frames * shape.decoder_layers
    return float(convolutions + products + attention + crossing)


def step_operations(shape: Shape) -> float:
    """Of one token of one beam; its attention to the tokens before it is too little to count."""
    width = shape.width
    layer = 2 * 14 * width**2 + 4 * ENCODER_POSITIONS * width
    return float(layer * shape.decoder_layers + 2 * width * shape.vocabulary)


def keys_and_values_bytes(shape: Shape) -> float:
    """What one step reads of one window; its beams share it."""
    return float(2 * ENCODER_POSITIONS * shape.width * shape.decoder_layers * BYTES)
