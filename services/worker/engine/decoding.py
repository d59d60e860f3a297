"""Windows of any jobs through CTranslate2's Whisper, many at once, so that what is found in one never depends on its neighbors.

Rows of a batch share a shape (model, prompt's form, search, longest text). Encoder outputs are kept by row, so that encoding,
decoding and alignment each have batches of their own size.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import ctranslate2
import numpy as np
import structlog
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens

from services.worker.engine.features import NumpyFeatures, TorchFeatures, mel
from services.worker.engine.memory import BatchLimit, is_echo, is_out_of_memory
from services.worker.engine.models import LoadedModel
from services.worker.pipeline.faults import WorkError
from services.worker.pipeline.quality import Try
from services.worker.pipeline.recording import Samples
from services.worker.work import AttemptKey, Options, Segment, Word

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Search:
    """One way to look for the best text; none of them samples."""

    beam_size: int
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    with_prompt: bool = True


SEARCHES = (
    Search(beam_size=5),
    # What went wrong is often a loop, or begun by the prompt.
    Search(beam_size=5, no_repeat_ngram_size=5, with_prompt=False),
    Search(beam_size=1, repetition_penalty=1.1, with_prompt=False),
)
"""Tried in this order until one is good. Part of every plan's fingerprint."""

MOST_TOKENS = 224
"""Half of Whisper's text context: what stock decoding allows for a window."""

TOKENS_PER_SECOND, TOKENS_BESIDE = 15, 20
"""More than anybody says, in the languages that take most tokens; a text that is longer is a loop."""

_LENGTH_CLASSES = (5.0, 10.0, 30.0)
"""Seconds. Windows of one class share a limit, so that the limit depends on nothing but the window."""

# faster-whisper places the first word of a row by the end of the row before it. Rows are put so far apart in its time
# that each is placed as if nothing went before.
_ROW_DISTANCE_SECONDS = 1000.0

_PREPENDED = "\"'“¿([{-"
_APPENDED = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001 - these are what Chinese text ends with


def most_tokens(seconds: float) -> int:
    """How long the text of a window with so much speech may be."""
    longest = next((length for length in _LENGTH_CLASSES if seconds <= length), _LENGTH_CLASSES[-1])
    return min(MOST_TOKENS, int(longest * TOKENS_PER_SECOND) + TOKENS_BESIDE)


class Voice:
    """What all windows of a job have in common: model, language, prompt."""

    def __init__(self, model: LoadedModel, language: str, options: Options) -> None:
        self.model = model
        self.tokenizer = Tokenizer(
            model.whisper.hf_tokenizer, model.whisper.model.is_multilingual, task="transcribe", language=language
        )
        self.features = (
            NumpyFeatures(model.whisper) if model.device == "cpu" else TorchFeatures(model.whisper, model.device)
        )
        self._options = options

    def prompt(self, search: Search) -> list[int]:
        return self._prompt if search.with_prompt else self._bare_prompt

    @cached_property
    def suppressed(self) -> list[int]:
        return list(get_suppressed_tokens(self.tokenizer, [-1]) or ())

    @cached_property
    def _prompt(self) -> list[int]:
        before = without_markers(self._options.initial_prompt)
        return self._made(
            self.tokenizer.encode(before) if before else [], without_markers(self._options.hotwords) or None
        )

    @cached_property
    def _bare_prompt(self) -> list[int]:
        return self._made([], None)

    def _made(self, before: list[int], hotwords: str | None) -> list[int]:
        prompt: list[int] = self.model.whisper.get_prompt(
            self.tokenizer, before, without_timestamps=True, hotwords=hotwords
        )
        # What goes before is cut where it would leave the text too little room.
        start = prompt.index(self.tokenizer.sot)
        room = self.model.whisper.max_length - MOST_TOKENS - (len(prompt) - start)
        return prompt if start <= room else [prompt[0], *prompt[start - room + 1 :]]


def without_markers(text: str) -> str:
    """What looks like one of the model's own tokens ("<|endoftext|>") would be taken for it."""
    return " ".join(re.sub(r"<\|.*?\|>", " ", text).split())


@dataclass(slots=True, eq=False)
class Request:
    """A window of an attempt on its way through the device. ``features``: what `Voice.features` made of it; ``seconds``
    of speech in it; ``words`` whether its words are to be timed; ``part``: of a window that was decoded before; ``is_doubtful``:
    what was found is a loop, which somebody may have said."""

    key: AttemptKey
    index: int
    voice: Voice
    features: Any
    seconds: float
    words: bool = True
    part: bool = False
    search: int = 0
    first_search: int = field(init=False)
    is_doubtful: bool = False
    tries: list[Try] = field(default_factory=list)
    encoded: Any = None
    done: Future[tuple[Segment, ...]] = field(default_factory=Future)

    def __post_init__(self) -> None:
        self.first_search = self.search

    def begin_anew(self) -> None:
        """As if it had not been on the device."""
        self.encoded = None
        self.search = self.first_search
        self.tries.clear()

    @property
    def shape(self) -> tuple[object, ...]:
        """(model, tokens before the text, of which before the transcript's start, search, longest text)."""
        prompt = self.voice.prompt(SEARCHES[self.search])
        start = prompt.index(self.voice.tokenizer.sot)
        return (self.voice.model.name, len(prompt), start, self.search, most_tokens(self.seconds))


def model_of(shape: Hashable) -> str:
    """The name of the model that requests of this shape are for."""
    assert isinstance(shape, tuple)
    return str(shape[0])


# --- on the device


def decode(requests: Sequence[Request], encoder: BatchLimit) -> list[Try]:
    """Searches all windows at once; as many as ``encoder`` says are encoded at a time. Leaves each one's encoder output in it."""
    voice, search = requests[0].voice, SEARCHES[requests[0].search]
    model = voice.model.whisper.model
    _encode(requests, encoder)
    prompts = [request.voice.prompt(search) for request in requests]
    before = len(prompts[0]) - 1
    most = min(most_tokens(requests[0].seconds), voice.model.whisper.max_length - before)
    found = _heeding_echoes(
        voice.model.lanes,
        model.generate,
        _joined([request.encoded for request in requests], voice.model),
        prompts,
        beam_size=search.beam_size,
        repetition_penalty=search.repetition_penalty,
        no_repeat_ngram_size=search.no_repeat_ngram_size,
        # CTranslate2 stops at half of it, or where the prompt and the text together reach it
        max_length=max(2 * most, most + before),
        suppress_tokens=voice.suppressed,
        return_scores=True,
        return_no_speech_prob=True,
        sampling_temperature=0.0,
    )
    return [_try(request, result, most) for request, result in zip(requests, found, strict=True)]


def _try(request: Request, result: Any, most: int) -> Try:
    found = result.sequences_ids[0]
    text_tokens = tuple(token for token in found if token < request.voice.tokenizer.eot)
    return Try(
        text_tokens,
        request.voice.tokenizer.decode(list(text_tokens)),
        float(result.scores[0]) * len(found) / (len(found) + 1),
        float(result.no_speech_prob),
        len(found) < most,
    )


def _encode(requests: Sequence[Request], limit: BatchLimit) -> None:
    """Where memory is short for all of them at once, fewer: that is no reason to decode fewer."""
    missing = [request for request in requests if request.encoded is None]
    while missing:
        part = missing[: limit.size]
        try:
            _encode_at_once(part)
        except Exception as error:
            if len(part) == 1 or not is_out_of_memory(error):
                raise
            log.warning("encoder_memory_short", windows=len(part), batch_size=limit.halve(len(part)), error=str(error))
        else:
            limit.succeeded(len(part))
            missing = missing[len(part) :]


def _encode_at_once(requests: Sequence[Request]) -> None:
    voice = requests[0].voice
    features = _settled(voice.features.stacked([request.features for request in requests]))
    view = _heeding_echoes(
        voice.model.lanes, voice.model.whisper.model.encode, ctranslate2.StorageView.from_array(features)
    )
    for request, row in zip(requests, _split(view, voice.model), strict=True):
        request.encoded = row


def _heeding_echoes(times: int, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Again, up to so many times, where it may have failed for an error of another call: each lane's worker may have one to tell."""
    for _ in range(times):
        try:
            return call(*arguments, **named)
        except RuntimeError as error:
            if not is_echo(error):
                raise
            log.warning("device_error_told_again", error=str(error))
    return call(*arguments, **named)


def _split(view: Any, model: LoadedModel) -> Any:
    """The rows of an encoder output, each with a first dimension of 1, where they are: in NumPy or on the GPU."""
    if view.dtype == ctranslate2.DataType.bfloat16:  # which neither NumPy nor the CUDA interface knows; nothing is lost
        view = view.to(ctranslate2.DataType.float32)
    if view.device == "cuda":
        import torch

        return torch.as_tensor(view, device=model.device)[:, None].unbind()
    rows = np.asarray(view)
    return [rows[row : row + 1] for row in range(len(rows))]


def apart(row: Any) -> Any:
    """A row of an encoder output that does not keep those that were encoded with it."""
    if row is None:
        return None
    return row.copy() if isinstance(row, np.ndarray) else row.clone()


def _settled(array: Any) -> Any:
    """Torch computes on a stream that CTranslate2's worker does not wait for: what is handed over must be there."""
    if not isinstance(array, np.ndarray) and array.is_cuda:
        import torch

        torch.cuda.current_stream(array.device).synchronize()
    return array


def _joined(rows: Sequence[Any], model: LoadedModel) -> Any:
    if isinstance(rows[0], np.ndarray):
        view = ctranslate2.StorageView.from_array(
            np.concatenate(rows) if len(rows) > 1 else np.ascontiguousarray(rows[0])
        )
    else:
        import torch

        view = ctranslate2.StorageView.from_array(_settled(torch.cat(list(rows)).contiguous()))
    return view.to(ctranslate2.DataType.bfloat16) if model.compute_type.endswith("bfloat16") else view


# --- beside it


def timed(requests: Sequence[Request], texts: Sequence[Try]) -> list[tuple[Segment, ...]]:
    """The chosen text of each window as one segment, with its words and their times in seconds from the window's beginning;
    nothing where there are no words. Of requests without ``words``, and of a model that cannot time them, only the segment."""
    found: list[tuple[Segment, ...]] = [()] * len(requests)
    rows = [row for row, tried in enumerate(texts) if tried.text.strip()]
    for row in rows:
        found[row] = (Segment(0.0, round(requests[row].seconds, 3), texts[row].text),)
    for group in _groups([row for row in rows if requests[row].words], requests, texts):
        for row, segment in zip(
            group, _aligned([requests[row] for row in group], [texts[row] for row in group]), strict=True
        ):
            found[row] = (segment,)
    return found


def _groups(rows: Sequence[int], requests: Sequence[Request], texts: Sequence[Try]) -> list[list[int]]:
    """Rows that can be aligned together and get the times that each would get alone.

    CTranslate2 normalizes attention over all positions of the longest text where all rows have as many frames, so the
    padding of shorter ones shifts their words by hundredths. Texts of equal length have no padding. On a CPU a row
    alone fills the cores.
    """
    if not rows or requests[rows[0]].voice.model.device == "cpu":
        return [[row] for row in rows]
    groups: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for row in rows:
        groups[
            id(requests[row].voice.model), *requests[row].voice.tokenizer.sot_sequence, len(texts[row].tokens)
        ].append(row)
    return list(groups.values())


def _aligned(requests: Sequence[Request], texts: Sequence[Try]) -> list[Segment]:
    voice = requests[0].voice
    whisper = voice.model.whisper
    rows: list[list[dict[str, Any]]] = []
    for number, (request, tried) in enumerate(zip(requests, texts, strict=True)):
        offset = number * _ROW_DISTANCE_SECONDS
        rows.append(
            [
                {
                    "tokens": list(tried.tokens),
                    "start": offset,
                    "end": offset + request.seconds,
                    "seek": int(offset * whisper.frames_per_second),
                }
            ]
        )
    _heeding_echoes(
        voice.model.lanes,
        whisper.add_word_timestamps,
        rows,
        voice.tokenizer,
        _joined([request.encoded for request in requests], voice.model),
        [int(np.ceil(request.seconds)) * whisper.frames_per_second for request in requests],
        _PREPENDED,
        _APPENDED,
        -_ROW_DISTANCE_SECONDS,
    )
    return [
        _segment(tried, request, row[0], number * _ROW_DISTANCE_SECONDS)
        for number, (tried, request, row) in enumerate(zip(texts, requests, rows, strict=True))
    ]


def _segment(tried: Try, request: Request, raw: dict[str, Any], offset: float) -> Segment:
    """As a value of ours; numbers become plain floats, since the front that unpickles them has no numpy."""
    words = tuple(_word(word, offset) for word in raw.get("words") or ())
    if not words:
        return Segment(0.0, round(request.seconds, 3), tried.text)
    return Segment(words[0].start, words[-1].end, tried.text, words=words)


def _word(raw: dict[str, Any], offset: float) -> Word:
    start, end = float(raw["start"]) - offset, float(raw["end"]) - offset
    return Word(raw["word"], round(start, 2), round(end, 2), round(float(raw["probability"]), 4))


# --- languages


def settle_language(model: LoadedModel, wanted: str) -> str:
    """The language that is sure without listening: the wanted one, or the model's only one; "" where it is to be detected.

    Raises WorkError LANGUAGE_UNSUPPORTED.
    """
    if wanted and wanted not in model.languages:
        known = ", ".join(model.languages)
        raise WorkError(
            "LANGUAGE_UNSUPPORTED",
            f"The model {model.name!r} does not know the language {wanted!r}. It knows: {known}. "
            "Choose one of them or none, or another model.",
        )
    return model.languages[0] if len(model.languages) == 1 else wanted


def detect_language(model: LoadedModel, audio: Sequence[Samples]) -> tuple[str, float]:
    """Language and its probability, from the first ``chunk_length`` of speech in ``audio``, as the batched pipeline does."""
    frames: list[Samples] = []
    for samples in audio:
        frames.append(mel(model.whisper, samples))
        if sum(part.shape[-1] for part in frames) >= model.whisper.feature_extractor.nb_max_frames:
            break
    # one dummy frame, so that there is something to look at where nobody speaks
    frames.append(np.full((model.whisper.model.n_mels, 1), -1.5, dtype=np.float32))
    language, probability, _ = model.whisper.detect_language(features=np.concatenate(frames, axis=1))
    return str(language), float(probability)
