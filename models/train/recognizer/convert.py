"""The trained recognizer as faster-whisper wants it: CTranslate2's weights, a tokenizer, what the features are."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from ctranslate2.converters.utils import fuse_linear
from ctranslate2.specs import common_spec
from ctranslate2.specs.whisper_spec import WhisperSpec
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import nn

from models.train.recognizer import vocabulary
from models.train.recognizer.network import Attention, DecoderLayer, EncoderLayer, FeedForward, Recognizer
from models.train.recognizer.phrases import BANDS
from models.train.speech import RATE

CHUNK_SECONDS = 30
_HOP = 160


def convert(network: Recognizer, folder: Path) -> None:
    """Writes a new folder; weights as 8-bit integers."""
    folder.mkdir()
    spec = _spec(copy.deepcopy(network).requires_grad_(False))  # what CTranslate2 is given it quantizes in its place
    spec.register_vocabulary(vocabulary.tokens())
    last = network.size.decoder_layers - 1
    spec.config.suppress_ids = []
    spec.config.suppress_ids_begin = []
    spec.config.lang_ids = [vocabulary.ENGLISH]
    spec.config.alignment_heads = [[last, 0], [last, 1]]
    spec.validate()
    spec.optimize(quantization="int8")
    spec.save(str(folder))
    _tokenizer().save(str(folder / "tokenizer.json"))
    described = {
        "chunk_length": CHUNK_SECONDS,
        "feature_size": BANDS,
        "hop_length": _HOP,
        "n_fft": 400,
        "n_samples": CHUNK_SECONDS * RATE,
        "nb_max_frames": CHUNK_SECONDS * RATE // _HOP,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
        "sampling_rate": RATE,
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(described, indent=1), encoding="utf-8")


def _spec(network: Recognizer) -> Any:
    size = network.size
    spec = WhisperSpec(size.encoder_layers, size.heads, size.decoder_layers, size.heads)
    encoder, decoder = network.encoder, network.decoder
    for convolution, into in ((encoder.conv1, spec.encoder.conv1), (encoder.conv2, spec.encoder.conv2)):
        into.weight, into.bias = convolution.weight, convolution.bias
    spec.encoder.position_encodings.encodings = encoder.positions
    _set_norm(spec.encoder.layer_norm, encoder.norm)
    for into, layer in zip(spec.encoder.layer, encoder.layers, strict=True):
        assert isinstance(layer, EncoderLayer)
        _set_self_attention(into.self_attention, layer.attention, layer.attention_norm)
        _set_feed_forward(into.ffn, layer.feed_forward)
    spec.decoder.embeddings.weight = decoder.tokens.weight
    spec.decoder.projection.weight = decoder.tokens.weight
    spec.decoder.position_encodings.encodings = decoder.positions
    _set_norm(spec.decoder.layer_norm, decoder.norm)
    for into, layer in zip(spec.decoder.layer, decoder.layers, strict=True):
        assert isinstance(layer, DecoderLayer)
        _set_self_attention(into.self_attention, layer.self_attention, layer.self_norm)
        _set_cross_attention(into.attention, layer.cross_attention, layer.cross_norm)
        _set_feed_forward(into.ffn, layer.feed_forward)
    return spec


def _set_norm(spec: Any, norm: nn.LayerNorm) -> None:
    spec.gamma, spec.beta = norm.weight, norm.bias


def _linear(layer: nn.Linear) -> Any:
    spec = common_spec.LinearSpec()
    _set_linear(spec, layer)
    return spec


def _set_linear(spec: Any, layer: nn.Linear) -> None:
    spec.weight = layer.weight
    if layer.bias is not None:
        spec.bias = layer.bias


def _set_self_attention(spec: Any, attention: Attention, norm: nn.LayerNorm) -> None:
    fuse_linear(spec.linear[0], [_linear(layer) for layer in (attention.query, attention.key, attention.value)])
    _set_linear(spec.linear[1], attention.out)
    _set_norm(spec.layer_norm, norm)


def _set_cross_attention(spec: Any, attention: Attention, norm: nn.LayerNorm) -> None:
    fuse_linear(spec.linear[0], [_linear(attention.query)])
    fuse_linear(spec.linear[1], [_linear(attention.key), _linear(attention.value)])
    _set_linear(spec.linear[2], attention.out)
    _set_norm(spec.layer_norm, norm)


def _set_feed_forward(spec: Any, block: FeedForward) -> None:
    _set_norm(spec.layer_norm, block.norm)
    _set_linear(spec.linear_0, block.first)
    _set_linear(spec.linear_1, block.second)


def _tokenizer() -> Tokenizer:
    """One token a word, with the space before it."""
    tokens = vocabulary.tokens()
    tokenizer = Tokenizer(models.WordLevel({token: place for place, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in vocabulary.SPECIALS])
    tokenizer.add_tokens([AddedToken(token, special=False) for token in tokens[vocabulary.FIRST_TIMESTAMP :]])
    assert tokenizer.get_vocab_size() == vocabulary.SIZE
    return tokenizer
