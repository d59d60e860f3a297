"""Which files are opened as recordings, by the controller that probes them and the worker that decodes them."""

from __future__ import annotations

from typing import Any

_CONTAINERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,gsm,matroska,webm,mov,mp4,m4a,3gp,mp2,mp3,mpeg,mpegts,"
    "mpegvideo,mxf,ogg,opus,tta,voc,w64,wav,wv,wtv,rm,dts,dtshd,spdif,adts,loas,nut,ircam,sox"
)

OPEN_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
"""For FFmpeg: without demuxers of playlists and descriptions, which open other files, or the network, at a file's wish."""


def main_track(container: Any) -> Any:
    """The audio track of PyAV's ``container`` that a player plays; None where there is none. FFmpeg's choice heeds what is marked as the
    default, and passes over what it knows too little of, which may be all there is."""
    return container.streams.best("audio") or next(iter(container.streams.audio), None)
