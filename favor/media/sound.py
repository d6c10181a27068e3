"""The sound of a clip: any codec, rate and number of channels to one 16 kHz waveform that keeps the file's clock.

Legend: C channels, N samples at the file's rate, S samples at 16 kHz.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av
import av.audio.resampler
import av.container
import numpy as np

from favor.errors import UnreadableMediaError
from favor.media.clip import SAMPLE_RATE_HZ
from favor.media.container import check_whole, is_in_family, stream_seconds
from favor.media.limits import check_sample_rate
from favor.media.packets import decode_frames
from favor.media.reading import Reading

_GAP_S = Fraction(40, 1000)
"""Time stamps of whole milliseconds and uneven packets stray by less; a longer gap is a real one."""

_RESTART_S = 1
"""Time stamps that fall back further than this have begun anew (joined recordings); less is an overlap."""

_PADDING_S = Fraction(15, 100)
"""Codecs pad their last packet by less than this; more is sound that the header forgot."""

_UNSAFE_PLANES = 8
"""From so many planes on PyAV 18.1 reads past the frame's list of them (it looks for an end mark that FFmpeg does not
write) and crashes the process; such frames are packed into one plane first."""


@dataclass(frozen=True)
class Sound:
    """A decoded sound track.

    Args:
        waveform: (S,) float32 in [-1, 1] from its first real sample on.
        start: when that sample is heard, on the file's clock.
    """

    waveform: np.ndarray
    start: Fraction
    codec: str
    sample_rate_hz: int
    num_channels: int

    @property
    def seconds(self) -> float:
        return int(self.waveform.shape[0]) / SAMPLE_RATE_HZ


class SoundBuilder:
    """Puts decoded frames one after the other, with silence where the file's clock jumps, and resamples as it goes."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.mean = ChannelMean()
        self.start: Fraction | None = None
        self.end = Fraction(0)
        self.shift = Fraction(0)
        self.rate_hz = 0
        self.resampler: av.audio.resampler.AudioResampler | None = None
        self.pieces: list[np.ndarray] = []
        self.is_after_damage = False

    def add(self, frame: av.AudioFrame) -> bool:
        """Append a frame; False when the sound has reached its maximum length."""
        samples = self._checked(self.mean.of(frame))
        self._use_rate(frame.sample_rate)
        stamp = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
        if self.start is None:
            self.start = self.end = stamp or Fraction(0)
        gap = Fraction(0) if stamp is None else stamp + self.shift - self.end
        if self.reading.is_past_the_end(float(self.end + max(gap, Fraction(0)) - self.start)):
            return False
        self._append(self._bridged(samples, gap))
        self.is_after_damage = False
        return True

    def finish(self) -> np.ndarray:
        """(S,) float32, everything added so far."""
        self._flush()
        return np.concatenate([np.zeros(0, dtype=np.float32), *self.pieces])

    def _checked(self, samples: np.ndarray) -> np.ndarray:
        """Samples that are numbers; raises UnreadableMediaError or notes it."""
        finite = np.isfinite(samples)
        if finite.all():
            return samples
        at_s = float(self.end - (self.start or 0))
        what = f"{int((~finite).sum())} samples near {at_s:.2f} s are not numbers"
        if self.reading.options.when_damaged == "refuse":
            raise self.reading.damaged(what)
        self.reading.note(f"sound samples that are not numbers, the first near {at_s:.2f} s: silence stands there")
        return np.where(finite, samples, np.float32(0))

    def _bridged(self, samples: np.ndarray, gap: Fraction) -> np.ndarray:
        """The samples that belong at the end of what we have: silence before them, or their overlap removed."""
        at_s = float(self.end - (self.start or 0))
        if gap > (0 if self.is_after_damage else _GAP_S):
            if gap > _GAP_S:
                self.reading.note(f"a gap in the sound at {at_s:.2f} s, {float(gap):.2f} s long: filled with silence")
            self._silence(round(gap * self.rate_hz))
        elif gap < -_RESTART_S:
            self.reading.note(f"the file's clock, which starts anew at {at_s:.2f} s: the parts were joined")
            self.shift -= gap
        elif gap < -_GAP_S:
            self.reading.note(f"overlapping sound at {at_s:.2f} s, {float(-gap):.2f} s long")
            return samples[round(-gap * self.rate_hz) :]
        return samples

    def _silence(self, num_samples: int) -> None:
        for begin in range(0, num_samples, self.rate_hz):
            self._append(np.zeros(min(self.rate_hz, num_samples - begin), dtype=np.float32))

    def _append(self, samples: np.ndarray) -> None:
        if samples.size == 0:
            return
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="flt", layout="mono")
        frame.sample_rate = self.rate_hz
        self._keep(frame)
        self.end += Fraction(samples.size, self.rate_hz)

    def _use_rate(self, rate_hz: int) -> None:
        if rate_hz == self.rate_hz:
            return
        check_sample_rate(self.reading.name, rate_hz)
        self._flush()
        self.rate_hz = rate_hz
        self.resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)

    def _flush(self) -> None:
        if self.resampler is not None and self.rate_hz != SAMPLE_RATE_HZ:
            self._keep(None)

    def _keep(self, frame: av.AudioFrame | None) -> None:
        assert self.resampler is not None, "a rate comes before samples"
        self.pieces.extend(piece.to_ndarray()[0].astype(np.float32) for piece in self.resampler.resample(frame))


def load_sound(container: av.container.InputContainer, stream: av.AudioStream, *, reading: Reading) -> Sound | None:
    """Decode one sound track; None when it has no samples.

    Raises:
        UnreadableMediaError: damaged.
        MediaLimitError: too long, or a sample rate that is not sound's.
    """
    builder = SoundBuilder(reading)
    num_channels = 0
    is_cut = False
    for frame in decode_frames(container, stream, reading):
        if not isinstance(frame, av.AudioFrame):
            builder.is_after_damage = True
            continue
        num_channels = num_channels or frame.layout.nb_channels
        if not builder.add(frame):
            is_cut = True
            break
    first_rate_hz = builder.rate_hz
    waveform = builder.finish()
    if builder.start is None or waveform.size == 0:
        return None
    if not is_cut:
        check_whole(container, stream, seconds=builder.end - builder.start, reading=reading)
        waveform = waveform[: _true_length(container, stream, builder=builder)]
    return Sound(
        np.clip(waveform, -1, 1),
        start=builder.start,
        codec=stream.codec_context.name,
        sample_rate_hz=first_rate_hz,
        num_channels=num_channels,
    )


def _true_length(container: av.container.InputContainer, stream: av.AudioStream, *, builder: SoundBuilder) -> int:
    """Samples at 16 kHz without the padding of the last packet, where the container states the true length."""
    assert builder.start is not None, "there is sound"
    seconds = builder.end - builder.start
    stated = stream_seconds(stream) if is_in_family(container, "mov") else None
    if stated is not None and 0 < seconds - stated < _PADDING_S:
        seconds = stated
    return round(seconds * SAMPLE_RATE_HZ)


class ChannelMean:
    """The plain mean of the channels of frames in any sample format."""

    def __init__(self) -> None:
        self._packed_from: tuple[str, str, int] | None = None
        self._packer: av.audio.resampler.AudioResampler | None = None

    def of(self, frame: av.AudioFrame) -> np.ndarray:
        """(N,) float32."""
        num_channels = frame.layout.nb_channels
        if frame.format.is_planar and num_channels >= _UNSAFE_PLANES:
            frame = self._packed(frame)
        samples = frame.to_ndarray()
        if not frame.format.is_planar:
            samples = samples.reshape(-1, num_channels).T  # (1, N*C) -> (C, N)
        mono: np.ndarray = _as_float(samples).mean(axis=0, dtype=np.float32)  # (C, N) -> (N,)
        return mono

    def _packed(self, frame: av.AudioFrame) -> av.AudioFrame:
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._packer is None or form != self._packed_from:
            self._packer = av.AudioResampler(format="flt", layout=frame.layout, rate=frame.sample_rate)
            self._packed_from = form
        (packed,) = self._packer.resample(frame)
        return packed


def _as_float(samples: np.ndarray) -> np.ndarray:
    """Samples of any type as float32 in [-1, 1]."""
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / np.float32(2 ** (8 * samples.dtype.itemsize - 1))
    return samples


def silent_track(name: str) -> UnreadableMediaError:
    return UnreadableMediaError(
        f"{name} has a sound track of 0 samples",
        allowed="at least 1 sample of sound",
        advice="Check that the recording is complete",
    )
