"""What a clip may be: safety limits that nobody should meet, and options that a caller chooses.

Every limit is checked twice: on what the header says, and on what comes out of the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from favor.errors import MediaLimitError
from favor.sync import TAIL_TOLERANCE_S

FrameRule = Literal["midpoints", "first_last"]

MIN_SIDE_PIXELS = 8
"""A picture narrower than this is a tracking pixel or a lie, nothing to look at."""

MIN_SAMPLE_RATE_HZ = 1_000
MAX_SAMPLE_RATE_HZ = 768_000
"""Sound outside these rates is not sound; resampling it would only burn time."""


@dataclass(frozen=True)
class MediaLimits:
    """Hard limits against hostile files.

    Args:
        max_bytes: size of one file.
        max_pixels: width times height of one frame.
        max_duration_s: longest clip that is looked at at all, whatever the options say.
        max_streams: pictures, sounds, subtitles and the rest in one file.
        max_decoded_frames: frames taken out of the decoder for one clip (4 hours at 72 frames a second).
    """

    max_bytes: int = 512 * 2**20
    max_pixels: int = 7680 * 4320
    max_duration_s: float = 4 * 3600.0
    max_streams: int = 16
    max_decoded_frames: int = 2**20


@dataclass(frozen=True)
class MediaOptions:
    """How a clip is read.

    Args:
        frame_rule: ``midpoints`` takes the frame shown in the middle of every step (0.25, 0.75, ... s);
            ``first_last`` takes the first and the last frame of every second, as the released FAVOR code does.
        frame_size: frames become ``frame_size`` x ``frame_size``, bicubic, aspect not kept.
        max_seconds: longest clip accepted.
        when_too_long: ``refuse`` with both numbers, or ``cut`` and say so in ``receipt.skipped``.
        when_damaged: ``refuse`` a damaged file, or ``skip`` what cannot be decoded (silence, or the previous frame)
            and say so in ``receipt.skipped``.
    """

    frame_rule: FrameRule = "midpoints"
    frame_size: int = 224
    max_seconds: float = 300.0
    when_too_long: Literal["refuse", "cut"] = "refuse"
    when_damaged: Literal["refuse", "skip"] = "refuse"


def check_bytes(name: str, num_bytes: int, limits: MediaLimits) -> None:
    """Raises MediaLimitError."""
    if num_bytes > limits.max_bytes:
        raise MediaLimitError(
            f"{name} has {num_bytes:,} bytes",
            allowed=f"at most {limits.max_bytes:,} bytes",
            advice="Send a shorter or smaller file",
        )


def check_pixels(name: str, width: int, height: int, limits: MediaLimits) -> None:
    """Raises MediaLimitError for a picture that is too large or too small."""
    if width * height > limits.max_pixels:
        raise MediaLimitError(
            f"{name} has a picture of {width} x {height} = {width * height:,} pixels",
            allowed=f"at most {limits.max_pixels:,} pixels",
            advice="Scale the picture down",
        )
    if min(width, height) < MIN_SIDE_PIXELS:
        raise MediaLimitError(
            f"{name} has a picture of {width} x {height} pixels",
            allowed=f"at least {MIN_SIDE_PIXELS} x {MIN_SIDE_PIXELS} pixels",
            advice="Send a picture in which something can be seen",
        )


def refused_pixels(limits: MediaLimits) -> int:
    """FFmpeg is told to make room for no more. Coded pictures are padded to whole blocks, hence the margin."""
    return 2 * limits.max_pixels


def too_many_pixels(name: str, at_least: int, limits: MediaLimits) -> MediaLimitError:
    return MediaLimitError(
        f"{name} has a picture of more than {at_least:,} pixels",
        allowed=f"at most {limits.max_pixels:,} pixels",
        advice="Scale the picture down",
    )


def check_streams(name: str, num_streams: int, limits: MediaLimits) -> None:
    """Raises MediaLimitError."""
    if num_streams > limits.max_streams:
        raise MediaLimitError(
            f"{name} has {num_streams} streams",
            allowed=f"at most {limits.max_streams} streams",
            advice="Keep one picture and one sound track",
        )


def check_decoded_frames(name: str, num_frames: int, limits: MediaLimits) -> None:
    """Raises MediaLimitError."""
    if num_frames > limits.max_decoded_frames:
        raise MediaLimitError(
            f"{name} has more than {limits.max_decoded_frames:,} frames",
            allowed=f"at most {limits.max_decoded_frames:,} frames",
            advice="Lower the frame rate or send a shorter clip",
        )


def check_sample_rate(name: str, sample_rate_hz: int) -> None:
    """Raises MediaLimitError."""
    if not MIN_SAMPLE_RATE_HZ <= sample_rate_hz <= MAX_SAMPLE_RATE_HZ:
        raise MediaLimitError(
            f"{name} has sound at {sample_rate_hz:,} samples a second",
            allowed=f"{MIN_SAMPLE_RATE_HZ:,} to {MAX_SAMPLE_RATE_HZ:,} samples a second",
            advice="Convert the sound, for example to 48,000 samples a second",
        )


def check_header_seconds(name: str, seconds: float, *, options: MediaOptions, limits: MediaLimits) -> None:
    """Raises MediaLimitError for a clip whose header already says that it is too long."""
    if seconds > limits.max_duration_s:
        raise too_long(name, f"{seconds:,.1f} s", limits.max_duration_s)
    if options.when_too_long == "refuse" and seconds > options.max_seconds + TAIL_TOLERANCE_S:
        raise too_long(name, f"{seconds:,.1f} s", options.max_seconds)


def too_long(name: str, length: str, max_seconds: float) -> MediaLimitError:
    return MediaLimitError(
        f"{name} is {length} long",
        allowed=f"at most {max_seconds:,.1f} s",
        advice="Cut the clip, or ask for only its beginning to be used",
    )
