"""Frames and a waveform to a real clip: what the demo shows, and what a generated world writes.

Legend: F frames, H W pixels, C channels, N samples.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal

import av
import av.container
import numpy as np

from favor.errors import ConfigurationError
from favor.media.clip import SAMPLE_RATE_HZ

Container = Literal["mp4", "mov", "mkv", "webm", "wav"]

_CHUNK = 1024


@dataclass(frozen=True)
class _Codecs:
    format: str
    video: str | None
    audio: str
    options: dict[str, str]


_CODECS: dict[str, _Codecs] = {
    "mp4": _Codecs("mp4", "libx264", "aac", {"crf": "20", "preset": "veryfast"}),
    "mov": _Codecs("mov", "libx264", "aac", {"crf": "20", "preset": "veryfast"}),
    "mkv": _Codecs("matroska", "libx264", "aac", {"crf": "20", "preset": "veryfast"}),
    "webm": _Codecs("webm", "libvpx-vp9", "libopus", {"crf": "32", "b": "0", "deadline": "realtime", "cpu-used": "8"}),
    "wav": _Codecs("wav", None, "pcm_s16le", {}),
}


def write_clip(
    target: Path | BinaryIO,
    *,
    frames: np.ndarray | Iterable[np.ndarray] | None = None,
    fps: float | Fraction = 25,
    waveform: np.ndarray | None = None,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    container: Container = "mp4",
) -> None:
    """Encode a clip that starts at zero, with a picture, a sound, or both.

    Args:
        target: a path, or a seekable binary file open for writing.
        frames: (F, H, W, 3) uint8 RGB, or an iterable of (H, W, 3); an odd last row or column is repeated once,
            because H.264 and VP9 want even sides.
        fps: frames a second.
        waveform: (N,) or (C, N) float in [-1, 1], C at most 2.
        sample_rate_hz: of the waveform.
        container: mp4 and mov and mkv hold H.264 with AAC, webm holds VP9 with Opus, wav holds sound alone.

    Raises:
        ConfigurationError: nothing to write, an unknown container, or arrays of another shape.
    """
    codecs = _codecs(container, has_picture=frames is not None, has_sound=waveform is not None)
    with _opened(target) as file, av.open(file, "w", format=codecs.format) as output:
        packets = []
        if frames is not None and codecs.video is not None:
            packets.append(_picture_packets(output, codecs, frames=frames, fps=Fraction(fps).limit_denominator(1001)))
        if waveform is not None:
            packets.append(_sound_packets(output, codecs, waveform=_channels(waveform), rate_hz=sample_rate_hz))
        # The first packet writes the header, so every stream is set up before any packet is taken.
        for _, packet in heapq.merge(*packets, key=lambda item: item[0]):
            output.mux(packet)


_Packets = Iterator[tuple[float, "av.Packet[Any]"]]


def _picture_packets(
    output: av.container.OutputContainer, codecs: _Codecs, *, frames: np.ndarray | Iterable[np.ndarray], fps: Fraction
) -> _Packets:
    """Set the picture's stream up now; encode while the packets, with their times in seconds, are taken."""
    pictures = _even_frames(frames)
    first = next(pictures, None)
    if first is None:
        raise _cannot_write("0 frames", "at least 1 frame")
    stream = output.add_stream(codecs.video or "", rate=fps, options=codecs.options)
    assert isinstance(stream, av.VideoStream), codecs.video
    stream.height, stream.width = first.shape[:2]
    stream.pix_fmt = "yuv420p"

    def encode() -> Iterator[av.Packet[Any]]:
        for number, pixels in enumerate(chain([first], pictures)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, 1 / fps
            yield from stream.encode(frame)
        yield from stream.encode(None)

    return _timed(encode())


def _sound_packets(
    output: av.container.OutputContainer, codecs: _Codecs, *, waveform: np.ndarray, rate_hz: int
) -> _Packets:
    """Set the sound's stream up now; encode (C, N) float32 while the packets are taken."""
    layout = "mono" if waveform.shape[0] == 1 else "stereo"
    stream = output.add_stream(codecs.audio, rate=rate_hz, layout=layout)
    assert isinstance(stream, av.AudioStream), codecs.audio
    resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate_hz)

    def encode() -> Iterator[av.Packet[Any]]:
        for begin in range(0, waveform.shape[1], _CHUNK):
            samples = np.ascontiguousarray(waveform[:, begin : begin + _CHUNK])
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate_hz, begin, Fraction(1, rate_hz)
            for converted in resampler.resample(frame):
                yield from stream.encode(converted)
        yield from stream.encode(None)

    return _timed(encode())


def _timed(packets: Iterable[av.Packet[Any]]) -> _Packets:
    for packet in packets:
        yield (float((packet.dts or 0) * packet.time_base), packet)


def _even_frames(frames: np.ndarray | Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 with even sides."""
    shape: tuple[int, ...] | None = None
    for frame in frames:
        pixels = np.asarray(frame)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise _cannot_write(f"a frame of shape {pixels.shape} and type {pixels.dtype}", "(H, W, 3) of uint8")
        if shape not in (None, pixels.shape):
            raise _cannot_write(f"frames of shapes {shape} and {pixels.shape}", "frames of 1 shape")
        shape = pixels.shape
        height, width = shape[:2]
        yield np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _channels(waveform: np.ndarray) -> np.ndarray:
    """(N,) or (C, N) -> (C, N) float32 in [-1, 1]."""
    samples = np.atleast_2d(np.asarray(waveform, dtype=np.float32))
    if samples.ndim != 2 or samples.shape[0] > 2 or samples.shape[1] == 0:
        raise _cannot_write(f"a waveform of shape {np.shape(waveform)}", "(N,) or (2, N) with at least 1 sample")
    if not np.isfinite(samples).all():
        raise _cannot_write(f"{int((~np.isfinite(samples)).sum())} samples that are not numbers", "finite samples")
    return np.clip(samples, -1, 1)


def _codecs(container: str, *, has_picture: bool, has_sound: bool) -> _Codecs:
    if container not in _CODECS:
        raise _cannot_write(f"the container {container!r}", ", ".join(_CODECS))
    codecs = _CODECS[container]
    if not has_picture and not has_sound:
        raise _cannot_write("neither frames nor a waveform", "frames, a waveform, or both")
    if has_picture and codecs.video is None:
        raise _cannot_write(f"frames for {container}", "a waveform alone")
    return codecs


def _cannot_write(given: str, allowed: str) -> ConfigurationError:
    return ConfigurationError(f"write_clip was given {given}", allowed=allowed, advice="Correct the arguments")


@contextmanager
def _opened(target: Path | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(target, Path):
        with target.open("wb") as file:
            yield file
    else:
        yield target
