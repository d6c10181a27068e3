"""What is around the things: signs, the background, its grain, and noise."""

from __future__ import annotations

import random
from typing import Any

from training.world import vocabulary
from training.world.scene import Sign, Span

from .timing import span_of


def draw_sign(rng: random.Random, span: Span) -> Sign:
    """A word or, less often, a number of one to three digits, in the upper or lower band."""
    if rng.random() < 0.6:
        text = rng.choice(vocabulary.PRINTED_WORDS)
    else:
        num_digits = rng.choice((1, 2, 3))
        text = str(rng.randint(10 ** (num_digits - 1), 10**num_digits - 1))
    half = 0.065 * len(text) + 0.03
    return Sign(text, span, round(rng.uniform(half, 1.0 - half), 4), rng.choice((0.12, 0.88)))


def draw_sign_span(rng: random.Random, seconds: float) -> Span:
    """The whole clip, or 2 s of it or more."""
    if seconds < 3.0 or rng.random() < 0.5:
        return Span(0.0, seconds)
    return span_of(start := rng.uniform(0.0, seconds - 2.1), rng.uniform(2.0, seconds - start - 0.01))


def draw_surroundings(rng: random.Random) -> dict[str, Any]:
    """Arguments of a Scene: background (a dark grey or brown), grain and noise."""
    dark = rng.randint(14, 44)
    red, green = (rng.randint(10, 20), rng.randint(3, 8)) if rng.random() < 0.4 else (0, 0)
    background = tuple(dark + tint + rng.randint(-3, 3) for tint in (red, green, 0))
    return {
        "background": background,
        "grain": round(rng.uniform(2.0, 8.0), 2),
        "noise_db": round(rng.uniform(-65.0, -50.0), 1),
    }
