"""Which files are opened as recordings, by the controller that probes them and the worker that decodes them."""

from __future__ import annotations

_CONTAINERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,gsm,matroska,webm,mov,mp4,m4a,3gp,mp2,mp3,mpeg,mpegts,"
    "mpegvideo,ogg,opus,tta,voc,w64,wav,wv,wtv,rm,dts,dtshd,spdif,adts,loas,nut,ircam,sox"
)

OPEN_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
"""For FFmpeg: without demuxers of playlists and descriptions, which open other files, or the network, at a file's wish."""
