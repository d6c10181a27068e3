"""The arithmetic of time: which frame and which sound share a step, and where windows begin (paper section 3.1).

One *step* is half a second: one video frame (32 visual tokens) beside 25 encoder frames of sound (50 Hz).
"""

from __future__ import annotations

import math

STEP_S = 0.5
"""Seconds in a step."""

AUDIO_FRAMES_PER_STEP = 25
"""Whisper encoder frames (50 Hz) in a step."""

TAIL_TOLERANCE_S = 0.05
"""A last piece of a stream shorter than this does not open a step of its own (codec padding is of this size)."""


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


def step_centres_s(steps: int) -> list[float]:
    """The middle of every step in seconds: 0.25, 0.75, ..."""
    return [STEP_S * (step + 0.5) for step in range(steps)]
