"""What loading gives back: a clip, and a receipt that says what was used of the file and what was left out.

Legend: F frames (one for each step of the picture), H W pixels, S samples at 16 kHz.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from favor.sync import num_steps

SAMPLE_RATE_HZ = 16_000
"""Every waveform leaves this room at this rate."""


@dataclass(frozen=True)
class VideoReceipt:
    """What was used of the picture.

    Args:
        codec: FFmpeg's name of the decoder, or Pillow's of the picture format.
        width, height: pixels of the upright picture, before it is resized.
        rotation_deg: degrees clockwise by which the picture was turned to stand upright: 0, 90, 180 or 270.
        num_frames: F, the frames used (not the frames in the file).
        times_s: when each used frame begins, on the clip's clock.
        frame_rule: the rule that chose them.
        start_s: when the first frame of the file begins, on the clip's clock.
        duration_s: seconds from the clip's zero to the end of the last frame's display.
    """

    codec: str
    width: int
    height: int
    rotation_deg: int
    num_frames: int
    times_s: tuple[float, ...]
    frame_rule: str
    start_s: float = 0.0
    duration_s: float = 0.0

    def to_dict(self) -> dict[str, object]:
        """JSON-ready; times rounded to 3 decimals."""
        return {
            "codec": self.codec,
            "width": self.width,
            "height": self.height,
            "rotation_deg": self.rotation_deg,
            "num_frames": self.num_frames,
            "times_s": [round(time_s, 3) for time_s in self.times_s],
            "frame_rule": self.frame_rule,
            "start_s": round(self.start_s, 3),
            "duration_s": round(self.duration_s, 3),
        }


@dataclass(frozen=True)
class AudioReceipt:
    """What was used of the sound.

    Args:
        codec: FFmpeg's name of the decoder.
        sample_rate_hz, num_channels: of the file, before averaging and resampling.
        seconds: from the first real sample to the last.
        start_s: where the first real sample lies on the clip's clock; before it the waveform is silence.
    """

    codec: str
    sample_rate_hz: int
    num_channels: int
    seconds: float
    start_s: float

    def to_dict(self) -> dict[str, object]:
        """JSON-ready; times rounded to 3 decimals."""
        return {
            "codec": self.codec,
            "sample_rate_hz": self.sample_rate_hz,
            "num_channels": self.num_channels,
            "seconds": round(self.seconds, 3),
            "start_s": round(self.start_s, 3),
        }


@dataclass(frozen=True)
class Receipt:
    """What was used of a clip; ``skipped`` says in sentences what was not."""

    name: str
    duration_s: float
    video: VideoReceipt | None
    audio: AudioReceipt | None
    skipped: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """JSON-ready; times rounded to 3 decimals."""
        return {
            "name": self.name,
            "duration_s": round(self.duration_s, 3),
            "video": None if self.video is None else self.video.to_dict(),
            "audio": None if self.audio is None else self.audio.to_dict(),
            "skipped": list(self.skipped),
        }


@dataclass(frozen=True)
class Clip:
    """A decoded clip, its picture and its sound on one clock that begins at zero.

    Args:
        frames: (F, H, W, 3) uint8 RGB, upright; F = 0 without a picture.
        times_s: (F,) float64, when each frame begins on the clip's clock.
        waveform: (S,) float32 in [-1, 1]; sample i lies at i / 16000 s of the clip's clock; S = 0 without sound.
        is_image: one still picture, to be shown as long as the sound lasts.
    """

    frames: np.ndarray
    times_s: np.ndarray
    waveform: np.ndarray
    is_image: bool
    receipt: Receipt

    @property
    def num_visual_steps(self) -> int:
        """F: one frame for each step."""
        return int(self.frames.shape[0])

    @property
    def num_audio_steps(self) -> int:
        """Steps that the waveform fills."""
        return num_steps(self.waveform.shape[0] / SAMPLE_RATE_HZ)
