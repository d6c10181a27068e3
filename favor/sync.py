"""The arithmetic of time: which frame and which sound share a step, and where windows begin (paper section 3.1).

One *step* is half a second: one video frame (32 visual tokens) beside 25 encoder frames of sound (50 Hz). Everything
here is exact integer arithmetic on the host; the tensors follow the indices of a :class:`WindowPlan`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

STEP_S = 0.5
"""Seconds in a step."""

AUDIO_FRAMES_PER_STEP = 25
"""Whisper encoder frames (50 Hz) in a step."""

STEPS_PER_AUDIO_CHUNK = 60
"""Steps in the 30 s that released Whispers encode at a time; a Whisper of other size has its own chunk."""

TAIL_TOLERANCE_S = 0.05
"""A last piece of a stream shorter than this does not open a step of its own (codec padding is of this size)."""

NOTHING = -1
"""Index of a step in which a stream has nothing: it becomes zeros."""


def num_steps(seconds: float) -> int:
    """Steps that a stream of ``seconds`` fills: every begun half second counts, a tail below the tolerance does not.

    A stream that exists has at least one step; zero seconds have none.
    """
    if seconds <= 0:
        return 0
    return max(1, math.ceil((seconds - TAIL_TOLERANCE_S) / STEP_S))


def num_windows(steps: int, window_steps: int) -> int:
    """W = ceil(T / k) windows (paper section 3.2)."""
    return -(-steps // window_steps)


def num_audio_chunks(audio_steps: int, chunk_steps: int = STEPS_PER_AUDIO_CHUNK) -> int:
    """Pieces of ``chunk_steps`` steps that the audio encoder gets; the last one is padded with silence."""
    return -(-audio_steps // chunk_steps)


def step_centres_s(steps: int) -> list[float]:
    """The middle of every step in seconds: 0.25, 0.75, ..."""
    return [STEP_S * (step + 0.5) for step in range(steps)]


@dataclass(frozen=True)
class ClipSteps:
    """How the streams of one clip fill its steps.

    Args:
        num_frames: encoded frames; step t shows frame t, and the last frame when there are fewer frames than steps.
        num_visual_steps: steps with a picture.
        num_audio_steps: steps with sound.
        num_audio_chunks: encoded chunks of sound.
        has_picture, has_sound: presence flags; a stream flagged absent keeps its length but becomes zeros.
        chunk_steps: steps of an encoded chunk.
    """

    num_frames: int
    num_visual_steps: int
    num_audio_steps: int
    num_audio_chunks: int
    has_picture: bool = True
    has_sound: bool = True
    chunk_steps: int = STEPS_PER_AUDIO_CHUNK

    @classmethod
    def of_clip(
        cls,
        *,
        num_frames: int,
        num_audio_steps: int,
        is_image: bool,
        length_rule: Literal["true", "padded"] = "true",
        chunk_steps: int = STEPS_PER_AUDIO_CHUNK,
    ) -> ClipSteps:
        """Steps of a clip by the ``length_rule`` of :class:`favor.configuration.ConnectorConfig`.

        An image with sound is shown in every step of the sound. ``padded``: sound fills its last chunk, and an
        image without sound is shown for one chunk, as in the released code.
        """
        chunks = num_audio_chunks(num_audio_steps, chunk_steps)
        if length_rule == "padded":
            num_audio_steps = chunks * chunk_steps
        num_visual_steps = num_frames
        if is_image:
            alone = chunk_steps if length_rule == "padded" else num_frames
            num_visual_steps = num_audio_steps or alone
        return cls(num_frames, num_visual_steps, num_audio_steps, chunks, chunk_steps=chunk_steps)

    def length(self, align: Literal["sync", "concat"] = "sync") -> int:
        """T, steps of the clip: the longer stream, or both one after the other with ``align = concat``."""
        if align == "concat":
            return self.num_visual_steps + self.num_audio_steps
        return max(self.num_visual_steps, self.num_audio_steps)


@dataclass(frozen=True)
class WindowPlan:
    """Where every step of every window of every clip comes from.

    All lists run over the steps of all windows, clip after clip, S = sum(windows_per_clip) * window_steps long.

    Args:
        visual_index: row among the packed frames of all clips, or NOTHING.
        audio_index: row among the packed audio steps of all chunks of all clips, or NOTHING.
        is_real: False where a step only fills up its clip's last window.
        windows_per_clip: W of each clip.
        window_steps: k.
    """

    visual_index: tuple[int, ...]
    audio_index: tuple[int, ...]
    is_real: tuple[bool, ...]
    windows_per_clip: tuple[int, ...]
    window_steps: int

    @classmethod
    def of(
        cls, clips: Sequence[ClipSteps], *, window_steps: int, align: Literal["sync", "concat"] = "sync"
    ) -> WindowPlan:
        """Lay the clips' steps out in non-overlapping windows (stride = window), filled up at the end."""
        rows: list[tuple[int, int, bool]] = []
        windows_per_clip = []
        first_frame = first_audio_step = 0
        for clip in clips:
            length = clip.length(align)
            windows = num_windows(length, window_steps)
            rows += _real_steps(clip, align=align, first_frame=first_frame, first_audio_step=first_audio_step)
            rows += [(NOTHING, NOTHING, False)] * (windows * window_steps - length)
            windows_per_clip.append(windows)
            first_frame += clip.num_frames
            first_audio_step += clip.num_audio_chunks * clip.chunk_steps
        visual_index, audio_index, is_real = zip(*rows, strict=True) if rows else ((), (), ())
        return cls(visual_index, audio_index, is_real, tuple(windows_per_clip), window_steps)

    @property
    def num_windows(self) -> int:
        return sum(self.windows_per_clip)

    @property
    def has_padding(self) -> bool:
        return not all(self.is_real)


def _real_steps(
    clip: ClipSteps, *, align: Literal["sync", "concat"], first_frame: int, first_audio_step: int
) -> Iterator[tuple[int, int, bool]]:
    audio_start = clip.num_visual_steps if align == "concat" else 0
    for step in range(clip.length(align)):
        visual = audio = NOTHING
        if clip.has_picture and step < clip.num_visual_steps:
            visual = first_frame + min(step, clip.num_frames - 1)
        if clip.has_sound and 0 <= step - audio_start < clip.num_audio_steps:
            audio = first_audio_step + step - audio_start
        yield visual, audio, True
