"""The picture of a clip: which frame each step gets, and when it was shown.

Legend: F frames (one for each step), H W pixels. Seconds are Fractions until they leave, so that a frame that begins
exactly in the middle of a step is never lost to rounding.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, cast

import av
import av.container
import numpy as np
from av.sidedata.sidedata import SideDataContainer

from favor.errors import UnreadableMediaError
from favor.media.container import check_whole
from favor.media.limits import FrameRule, check_decoded_frames, check_pixels
from favor.media.packets import decode_frames
from favor.media.picture import on_white, resized
from favor.media.reading import Reading
from favor.sync import STEP_S, num_steps

_STEP = Fraction(STEP_S)
_RESTART_S = 1
"""Time stamps that fall back further than this have begun anew (joined recordings); less is disorder."""

Choice = Literal["previous", "this", "wait"]


@dataclass(frozen=True)
class Picture:
    """The used frames of a video.

    Args:
        frames: (F, size, size, 3) uint8 RGB, upright.
        times_s: (F,) float64 on the clip's clock.
        start_s, end_s: of the whole picture on the clip's clock, the last frame's display included.
        zero: the clip's zero on the file's clock.
    """

    frames: np.ndarray
    times_s: np.ndarray
    start_s: float
    end_s: float
    zero: Fraction
    codec: str
    width: int
    height: int
    rotation_deg: int


def midpoints(step: int, now: Fraction) -> Choice:
    """Which frame the step gets when the next frame begins at ``now``: the one shown in the step's middle."""
    return "previous" if now > (step + Fraction(1, 2)) * _STEP else "wait"


def first_last(step: int, now: Fraction) -> Choice:
    """Even steps get the first frame of their second, odd steps the last (released FAVOR code)."""
    second, is_last = divmod(step, 2)
    if now >= second + 1:
        return "previous"
    return "this" if now >= second and not is_last else "wait"


_RULES: dict[FrameRule, Callable[[int, Fraction], Choice]] = {"midpoints": midpoints, "first_last": first_last}


class StepFiller:
    """Gives every step its frame while the frames go by; holds one full-size frame, the previous one."""

    def __init__(self, rule: FrameRule, size: int) -> None:
        self.choose = _RULES[rule]
        self.size = size
        self.pixels: list[np.ndarray] = []
        self.times_s: list[float] = []
        self.previous: tuple[av.VideoFrame, Fraction] | None = None
        self.converted: tuple[Fraction, np.ndarray] | None = None

    def show(self, frame: av.VideoFrame, now: Fraction) -> None:
        """The next frame, shown from ``now`` on."""
        this = (frame, now)
        while (choice := self.choose(len(self.pixels), now)) != "wait":
            self._fill(this if choice == "this" or self.previous is None else self.previous)
        self.previous = this

    def finish(self, steps: int) -> None:
        """No more frames: the last one is held."""
        assert self.previous is not None, "no frame was shown"
        while len(self.pixels) < steps:
            self._fill(self.previous)
        del self.pixels[steps:], self.times_s[steps:]

    def _fill(self, shown: tuple[av.VideoFrame, Fraction]) -> None:
        frame, time = shown
        if self.converted is None or self.converted[0] != time:
            self.converted = (time, oriented(resized(rgb_pixels(frame), self.size), display_matrix(frame)))
        self.pixels.append(self.converted[1])
        self.times_s.append(float(time))


class PictureClock:
    """When each frame is shown on the clip's clock, also where the file's time stamps are missing or fall back."""

    def __init__(self, stream: av.VideoStream, *, sound_start: Fraction | None, reading: Reading) -> None:
        rate = stream.average_rate or stream.guessed_rate
        self.usual_frame = 1 / Fraction(rate) if rate else Fraction(1, 25)
        self.sound_start = sound_start
        self.reading = reading
        self.zero = Fraction(0)
        self.shift = Fraction(0)
        self.start: Fraction | None = None
        self.last = Fraction(0)
        self.last_length = self.usual_frame

    @property
    def end(self) -> Fraction:
        """When the last frame's display ends."""
        return self.last + self.last_length

    def read(self, frame: av.VideoFrame) -> Fraction | None:
        """The frame's time, or None for a frame that comes out of order and cannot be placed."""
        stamp = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
        if self.start is None:
            self._begin(stamp or Fraction(0))
        now = self.end if stamp is None else stamp - self.zero + self.shift
        if self.start is None:
            self.start = self.last = now
        elif now < self.last:
            if self.last - now <= _RESTART_S:
                self.reading.note("frames whose time stamps are out of order")
                return None
            self.reading.note(f"the file's clock, which starts anew at {float(self.last):.2f} s: the parts were joined")
            self.shift += self.end - now
            now = self.end
        self.last = now
        length = frame.duration * frame.time_base if frame.duration and frame.time_base is not None else None
        self.last_length = length or self.usual_frame
        return now

    def _begin(self, stamp: Fraction) -> None:
        self.zero = stamp if self.sound_start is None else min(stamp, self.sound_start)


def load_frames(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    *,
    sound_start: Fraction | None,
    reading: Reading,
) -> Picture:
    """Decode the picture and keep one frame for each step.

    Args:
        sound_start: when the sound begins on the file's clock; the clip's zero is the earlier of the two beginnings.

    Raises:
        UnreadableMediaError: damaged, or not one frame in it.
        MediaLimitError: too long, too many pixels or too many frames.
    """
    _check_header_pixels(stream, reading)
    clock = PictureClock(stream, sound_start=sound_start, reading=reading)
    filler = StepFiller(reading.options.frame_rule, reading.options.frame_size)
    is_cut = _fill_steps(container, stream, clock=clock, filler=filler, reading=reading)
    if filler.previous is None or clock.start is None:
        raise _no_frames(reading)
    if not is_cut:
        is_cut = reading.is_past_the_end(float(clock.end))
    if not is_cut:
        check_whole(container, stream, seconds=clock.end - clock.start, reading=reading)
    end_s = reading.max_seconds if is_cut else float(clock.end)
    filler.finish(num_steps(end_s))
    _note_late_start(filler, start_s=float(clock.start), reading=reading)
    last = filler.previous[0]
    turned = is_turned(display_matrix(last))
    return Picture(
        frames=np.stack(filler.pixels),
        times_s=np.asarray(filler.times_s, dtype=np.float64),
        start_s=float(clock.start),
        end_s=end_s,
        zero=clock.zero,
        codec=stream.codec_context.name,
        width=last.height if turned else last.width,
        height=last.width if turned else last.height,
        rotation_deg=-last.rotation % 360,
    )


def _fill_steps(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    *,
    clock: PictureClock,
    filler: StepFiller,
    reading: Reading,
) -> bool:
    """Show every frame to the filler; True when the clip was cut at its maximum."""
    for num_decoded, frame in enumerate(decode_frames(container, stream, reading), start=1):
        check_decoded_frames(reading.name, num_decoded, reading.limits)
        if not isinstance(frame, av.VideoFrame):
            continue
        check_pixels(reading.name, frame.width, frame.height, reading.limits)
        now = clock.read(frame)
        if now is None:
            continue
        if reading.is_past_the_end(float(now)):
            return True
        filler.show(frame, now)
        reading.report(float(now))
    return False


def _no_frames(reading: Reading) -> UnreadableMediaError:
    return UnreadableMediaError(
        f"{reading.name} has a picture of which 0 frames can be decoded",
        allowed="at least 1 frame",
        advice="Check that the file is complete, or convert it to mp4 with H.264 and AAC",
    )


def _note_late_start(filler: StepFiller, *, start_s: float, reading: Reading) -> None:
    num_early = sum(shown_s > STEP_S * (step + 1) for step, shown_s in enumerate(filler.times_s))
    if num_early:
        reading.note(f"the picture begins at {start_s:.2f} s: the {num_early} steps before it show its first frame")


def _check_header_pixels(stream: av.VideoStream, reading: Reading) -> None:
    context = stream.codec_context
    if context is not None and context.width and context.height:
        check_pixels(reading.name, context.width, context.height, reading.limits)


def rgb_pixels(frame: av.VideoFrame) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a decoded frame of any pixel format, transparency on white."""
    if frame.format.has_palette or any(part.is_alpha for part in frame.format.components):
        return on_white(frame.to_ndarray(format="rgba"))
    return frame.to_ndarray(format="rgb24")


def display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """(a, b, c, d) of the container's display matrix: a pixel at (x, y) is shown at (a x + c y, b x + d y)."""
    data = cast(SideDataContainer, frame.side_data).get("DISPLAYMATRIX")
    if data is None:
        return (1, 0, 0, 1)
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data))
    return (a, b, c, d)


def is_turned(matrix: tuple[int, int, int, int]) -> bool:
    """Whether width and height change places."""
    a, b, _, _ = matrix
    return abs(b) > abs(a)


def oriented(pixels: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Turn or mirror (H, W, 3) pixels as the display matrix says, to the nearest right angle."""
    a, b, c, d = matrix
    if is_turned(matrix):
        pixels = pixels.transpose(1, 0, 2)  # (H, W, 3) -> (W, H, 3)
        flip_x, flip_y = c < 0, b < 0
    else:
        flip_x, flip_y = a < 0, d < 0
    return pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
