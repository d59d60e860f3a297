"""Decoding windows with stock faster-whisper's batched pipeline, so that one result never depends on its neighbors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_whisper import BatchedInferencePipeline
from faster_whisper.audio import pad_or_trim
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import TranscriptionOptions, get_suppressed_tokens

from services.worker.engine.models import LoadedModel
from services.worker.pipeline.faults import WorkError
from services.worker.pipeline.prepare import Samples
from services.worker.work import Options, Segment, Word

BEAM_SIZE = 5
LOG_PROB_THRESHOLD, NO_SPEECH_THRESHOLD = -1.0, 0.6

# The batched pipeline places the first word of a window by the end of the window before it. Rows are put so far apart
# in its time that each is placed as if nothing went before: a resumed recording gets the words of an undisturbed one.
_ROW_DISTANCE_SECONDS = 1000.0


class WindowDecoder:
    """One job's decoder. Not shared between jobs, since the pipeline inside keeps a time from call to call."""

    def __init__(self, model: LoadedModel, language: str, options: Options, *, words: bool) -> None:
        self._whisper = model.whisper
        self._pipeline = BatchedInferencePipeline(model.whisper)
        self._tokenizer = Tokenizer(
            model.whisper.hf_tokenizer, model.whisper.model.is_multilingual, task="transcribe", language=language
        )
        self._options = _transcription_options(self._tokenizer, options, words)

    def decode(self, audio: Sequence[Samples]) -> list[tuple[Segment, ...]]:
        """The segments of each window, timed in seconds from the window's own beginning; blank ones left out."""
        features = np.stack([pad_or_trim(mel(self._whisper, samples)) for samples in audio])
        sampling_rate = self._whisper.feature_extractor.sampling_rate
        rows = [
            {"offset": row * _ROW_DISTANCE_SECONDS, "duration": len(samples) / sampling_rate}
            for row, samples in enumerate(audio)
        ]
        self._pipeline.last_speech_timestamp = -_ROW_DISTANCE_SECONDS
        decoded = self._pipeline.forward(features, self._tokenizer, rows, self._options)
        return [
            tuple(_segment(raw, row["offset"]) for raw in segments if raw["text"].strip() and not _is_silence(raw))
            for row, segments in zip(rows, decoded, strict=True)
        ]


def mel(whisper: object, samples: Samples) -> Samples:
    """Log-mel features (bands, frames) of a window, as the batched pipeline computes them."""
    features: Samples = whisper.feature_extractor(samples)[..., :-1]  # type: ignore[attr-defined]
    return features


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


def _is_silence(raw: dict[str, Any]) -> bool:
    """What the model itself holds for no speech; the batched pipeline takes these thresholds and does not use them."""
    return bool(raw["no_speech_prob"] > NO_SPEECH_THRESHOLD and raw["avg_logprob"] < LOG_PROB_THRESHOLD)


def _segment(raw: dict[str, Any], offset: float) -> Segment:
    """As a value of ours; numbers become plain floats, since the front that unpickles them has no numpy."""
    words = tuple(_word(word, offset) for word in raw.get("words") or ())
    return Segment(
        round(float(raw["start"]) - offset, 3), round(float(raw["end"]) - offset, 3), raw["text"], words=words
    )


def _word(raw: dict[str, Any], offset: float) -> Word:
    start, end = float(raw["start"]) - offset, float(raw["end"]) - offset
    return Word(raw["word"], round(start, 2), round(end, 2), round(float(raw["probability"]), 4))


def _transcription_options(tokenizer: Tokenizer, options: Options, words: bool) -> TranscriptionOptions:
    """The batched pipeline's own defaults, apart from what a job may choose."""
    return TranscriptionOptions(
        beam_size=BEAM_SIZE,
        best_of=5,
        patience=1,
        length_penalty=1,
        repetition_penalty=1,
        no_repeat_ngram_size=0,
        log_prob_threshold=LOG_PROB_THRESHOLD,
        no_speech_threshold=NO_SPEECH_THRESHOLD,
        compression_ratio_threshold=2.4,
        condition_on_previous_text=False,
        prompt_reset_on_temperature=0.5,
        temperatures=[0.0],
        initial_prompt=options.initial_prompt or None,
        prefix=None,
        suppress_blank=True,
        suppress_tokens=get_suppressed_tokens(tokenizer, [-1]),
        without_timestamps=True,
        max_initial_timestamp=0.0,
        word_timestamps=words,
        prepend_punctuations="\"'“¿([{-",
        append_punctuations="\"'.。,，!！?？:：”)]}、",  # noqa: RUF001 - these are what Chinese text ends with
        multilingual=False,
        max_new_tokens=None,
        clip_timestamps=[],
        hallucination_silence_threshold=None,
        hotwords=options.hotwords or None,
    )
