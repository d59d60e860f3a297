"""From a file to a recording whose windows are known: its sound on this disk, where in it is speech, and what is to be said of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from faster_whisper.vad import get_vad_model

from services.worker.pipeline.decode import ChannelMeter, Findings, decode
from services.worker.pipeline.recording import PreparedRecording
from services.worker.pipeline.speech import VoiceDetector, speech_spans
from services.worker.pipeline.windows import plan_everything, plan_speech


def warm_up() -> None:
    """Loads the voice detector, which all jobs share."""
    get_vad_model()


def prepare(source: Path, spool: Path, *, vad: bool, max_seconds: float, channels: bool = False) -> PreparedRecording:
    """Decodes ``source`` into ``spool`` and plans its windows: of speech alone, or of everything where ``vad`` is off;
    where voice is heard has to be known all the same, to see where words are missing.
    ``spool`` is there: whoever no longer wants it removes it, and it does not come again. What an earlier try left in it does not
    count.
    ``channels``: measures the levels of the channels, too, where there are two.

    Raises WorkError AUDIO_INVALID, AUDIO_MISSING; OSError where the disk fails, FileNotFoundError where the spool is gone.
    """
    detector = VoiceDetector()
    meter = ChannelMeter() if channels else None
    findings = Findings()
    samples = 0
    with spool.open("r+b") as file:
        file.truncate()
        for chunk in decode(source, meter, findings):
            file.write(chunk.tobytes())
            samples += len(chunk)
            detector.feed(chunk.astype(np.float32) / np.float32(32768.0))
    levels = meter.finish() if meter is not None else None
    spans = speech_spans(detector.finish().tolist(), samples, max_seconds)
    if vad:
        return PreparedRecording(spool, samples, plan_speech(spans, max_seconds), levels, findings.note)
    windows = plan_everything(samples, max_seconds)
    return PreparedRecording(spool, samples, windows, levels, findings.note, tuple(spans))
