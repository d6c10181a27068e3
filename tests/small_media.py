"""The smallest clips that still differ: moving noise, rising tones, patches of colour; as bytes, made on the spot."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import Image

from favor.media import SAMPLE_RATE_HZ, write_clip

FPS = 8


@cache
def video(seconds: float = 2.0, *, seed: int = 0, has_sound: bool = True) -> bytes:
    """A video of coarse noise that changes every half second, with a tone that does too."""
    return _written(frames=moving_noise(seconds, seed=seed), waveform=tones(seconds, seed=seed) if has_sound else None)


@cache
def sound(seconds: float = 2.0, *, seed: int = 0) -> bytes:
    """A wav of a tone that changes every half second."""
    return _written(waveform=tones(seconds, seed=seed), container="wav")


@cache
def picture(*, seed: int = 0, size: tuple[int, int] = (64, 48)) -> bytes:
    """A png of coarse noise; ``size`` is (width, height)."""
    target = io.BytesIO()
    Image.fromarray(_noise(np.random.default_rng(seed), *size)).save(target, "PNG")
    return target.getvalue()


def moving_noise(seconds: float, *, seed: int = 0) -> np.ndarray:
    """(F, 48, 64, 3) uint8 at FPS."""
    random = np.random.default_rng(seed)
    shots = [_noise(random, 64, 48) for _ in range(int(2 * seconds) + 1)]
    return np.stack([shots[2 * number // FPS] for number in range(round(seconds * FPS))])


def tones(seconds: float, *, seed: int = 0) -> np.ndarray:
    """(N,) float32 at SAMPLE_RATE_HZ."""
    random = np.random.default_rng(seed)
    pitches = random.uniform(200, 3000, size=int(2 * seconds) + 1)
    times = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return (0.5 * np.sin(2 * np.pi * pitches[(2 * times).astype(int)] * times)).astype(np.float32)


def _noise(random: np.random.Generator, width: int, height: int) -> np.ndarray:
    patches = random.integers(0, 256, size=(-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return patches.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]


def _written(**clip) -> bytes:
    target = io.BytesIO()
    write_clip(target, fps=FPS, **clip)
    return target.getvalue()
