"""Test clips made on the spot: a white flash and a 1 kHz beep at known seconds, in every shape a file can have."""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BEEP_HZ = 1000
EVENT_S = 0.24
"""Flash and beep last this long, around their second: shorter than a step, longer than a frame."""

TICK = Fraction(1, 90_000)


@dataclass(frozen=True)
class Track:
    """One sound track: its samples (C, N), and when each piece of it is heard."""

    samples: np.ndarray
    rate_hz: int = 48_000
    codec: str = "aac"
    layout: str = "mono"
    start_s: float = 0.0
    jumps: tuple[tuple[float, float], ...] = ()
    """(from this second of the track on, this many seconds later): holes in the time stamps."""


def beeps(seconds: float, at: Sequence[float] = (), *, rate_hz: int = 48_000, start_s: float = 0.0) -> np.ndarray:
    """(N,) float32 of a track that begins at ``start_s``, with beeps around the seconds ``at`` of the clip."""
    times = start_s + np.arange(round(seconds * rate_hz)) / rate_hz
    loud = np.zeros(times.shape, dtype=bool)
    for centre in at:
        loud |= np.abs(times - centre) < EVENT_S / 2
    return (0.5 * np.sin(2 * np.pi * BEEP_HZ * times) * loud).astype(np.float32)


def flash_frames(times_s: Iterable[float], at: Sequence[float] = (), *, size: tuple[int, int] = (96, 72)) -> list:
    """Frames (H, W, 3), dark grey with a white flash around the seconds ``at``."""
    width, height = size
    levels = [255 if any(abs(time - centre) < EVENT_S / 2 for centre in at) else 24 for time in times_s]
    return [np.full((height, width, 3), level, dtype=np.uint8) for level in levels]


def constant_times(seconds: float, fps: float | Fraction = 25, *, start_s: float = 0.0) -> list[float]:
    return [start_s + float(number / Fraction(fps)) for number in range(round(seconds * fps))]


def encode(
    *,
    container: str = "mp4",
    frames: Sequence[np.ndarray] = (),
    times_s: Sequence[float] = (),
    video_codec: str = "libx264",
    video_options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    fps: float | Fraction = 25,
    tracks: Sequence[Track] = (),
    container_options: dict[str, str] | None = None,
) -> bytes:
    """Encode frames at exact times, and any number of sound tracks."""
    # A file on disk, because moving an mp4's header to its front means opening the file again.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip"
        with av.open(str(path), "w", format=container, options=container_options or {}) as output:
            _encode_into(output, frames, times_s, tracks, video_codec, video_options, pix_fmt, fps)
        return path.read_bytes()


def _encode_into(output, frames, times_s, tracks, video_codec, video_options, pix_fmt, fps) -> None:
    video = _add_video(output, frames, codec=video_codec, options=video_options, pix_fmt=pix_fmt, fps=fps)
    audio = [_add_audio(output, track) for track in tracks]
    packets = [] if video is None else _video_packets(video, frames, times_s)
    for stream, track in zip(audio, tracks, strict=True):
        packets += _audio_packets(stream, track)
    packets.sort(key=lambda packet: float(packet.dts * packet.time_base))
    for packet in packets:
        output.mux(packet)


def _add_video(output, frames, *, codec, options, pix_fmt, fps):
    if not len(frames):
        return None
    if codec == "libx264":
        options = {"preset": "ultrafast", "tune": "zerolatency", **(options or {})}
    time_base = 1 / Fraction(fps) if codec in ("gif", "mpeg4", "mpeg1video", "mjpeg") else TICK
    stream = output.add_stream(codec, rate=Fraction(fps), options=options or {}, time_base=time_base)
    stream.height, stream.width = frames[0].shape[:2]
    stream.pix_fmt = pix_fmt
    return stream


def _video_packets(stream, frames, times_s):
    packets = []
    for pixels, time_s in zip(frames, times_s, strict=True):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgba" if pixels.shape[2] == 4 else "rgb24")
        frame.pts, frame.time_base = round(time_s / TICK), TICK
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _add_audio(output, track: Track):
    return output.add_stream(track.codec, rate=track.rate_hz, layout=track.layout)


def _audio_packets(stream, track: Track):
    samples = np.atleast_2d(track.samples).astype(np.float32)
    resampler = av.AudioResampler(format=stream.codec_context.format, layout=track.layout, rate=track.rate_hz)
    packets = []
    for begin in range(0, samples.shape[1], 960):
        piece = samples[:, begin : begin + 960].T.reshape(1, -1)  # (C, N) -> (1, N*C): PyAV fails on 8 planes
        frame = av.AudioFrame.from_ndarray(piece, format="flt", layout=track.layout)
        later_s = sum(by for since, by in track.jumps if begin / track.rate_hz >= since)
        frame.sample_rate, frame.time_base = track.rate_hz, Fraction(1, track.rate_hz)
        frame.pts = begin + round((track.start_s + later_s) * track.rate_hz)
        for converted in resampler.resample(frame):
            packets += stream.encode(converted)
    return packets + stream.encode(None)


def clip(
    *,
    seconds: float = 4.0,
    at: Sequence[float] = (1.75,),
    fps: float | Fraction = 25,
    size: tuple[int, int] = (96, 72),
    container: str = "mp4",
    audio_seconds: float | None = None,
    audio_start_s: float = 0.0,
    video_start_s: float = 0.0,
    times_s: Sequence[float] | None = None,
    audio_codec: str = "aac",
    rate_hz: int = 48_000,
    layout: str = "mono",
    **encoding,
) -> bytes:
    """A clip that flashes and beeps at the seconds ``at``; by default 4 s of mp4 with H.264 at 25 fps and AAC."""
    times = list(times_s) if times_s is not None else constant_times(seconds, fps, start_s=video_start_s)
    heard_s = seconds - audio_start_s if audio_seconds is None else audio_seconds
    mono = beeps(heard_s, at, rate_hz=rate_hz, start_s=audio_start_s)
    channels = len(av.AudioLayout(layout).channels)
    track = Track(np.tile(mono, (channels, 1)), rate_hz, audio_codec, layout, start_s=audio_start_s)
    return encode(
        container=container,
        frames=flash_frames(times, at, size=size),
        times_s=times,
        fps=fps,
        tracks=[track] if heard_s > 0 else [],
        **encoding,
    )


def silent_clip(seconds: float = 2.0, *, fps: float = 25, size: tuple[int, int] = (96, 72), **encoding) -> bytes:
    """A clip without a sound track."""
    return clip(seconds=seconds, at=(0.75,), fps=fps, size=size, audio_seconds=0, **encoding)


def sound_file(
    seconds: float = 2.0,
    at: Sequence[float] = (0.75,),
    *,
    container: str = "wav",
    codec: str = "pcm_s16le",
    rate_hz: int = 48_000,
    layout: str = "mono",
) -> bytes:
    """A sound file that beeps at the seconds ``at``."""
    channels = len(av.AudioLayout(layout).channels)
    samples = np.tile(beeps(seconds, at, rate_hz=rate_hz), (channels, 1))
    return encode(container=container, tracks=[Track(samples, rate_hz, codec, layout)])


def corners(width: int = 96, height: int = 64) -> np.ndarray:
    """(H, W, 3): red top left, green top right, blue bottom left, white bottom right."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[: height // 2, : width // 2] = (255, 0, 0)
    picture[: height // 2, width // 2 :] = (0, 255, 0)
    picture[height // 2 :, : width // 2] = (0, 0, 255)
    picture[height // 2 :, width // 2 :] = (255, 255, 255)
    return picture


def with_display_matrix(mp4: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """Write (a, b, c, d) into the first track's header: a pixel at (x, y) is shown at (a x + c y, b x + d y)."""
    a, b, c, d = (value * 2**16 for value in matrix)
    place = mp4.index(b"tkhd") + 4 + 40
    return mp4[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30) + mp4[place + 36 :]


def packets_of(data: bytes, kind: str) -> list[tuple[int, int]]:
    """(position, size) of every packet of the first stream of a kind ("video" or "audio")."""
    with av.open(io.BytesIO(data)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return [(packet.pos, packet.size) for packet in container.demux(stream) if packet.size]


def overwrite(data: bytes, position: int, new: bytes) -> bytes:
    return data[:position] + new + data[position + len(new) :]


def bright_steps(frames: np.ndarray) -> list[int]:
    """Steps whose frame shows the flash."""
    return [step for step, frame in enumerate(frames) if frame.mean() > 128]


def loud_steps(waveform: np.ndarray) -> list[int]:
    """Steps (of 8000 samples at 16 kHz) in which the beep sounds."""
    steps = [waveform[begin : begin + 8000] for begin in range(0, len(waveform), 8000)]
    return [number for number, samples in enumerate(steps) if np.sqrt(np.mean(samples**2)) > 0.02]
