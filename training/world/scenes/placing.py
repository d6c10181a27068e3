"""Where things are in the picture, and how far apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from training.world import vocabulary
from training.world.scene import Sign, Thing

AREAS = {"left": (0.21, 0.5), "right": (0.79, 0.5), "top": (0.5, 0.21), "bottom": (0.5, 0.79), "middle": (0.5, 0.5)}
"""Area of a still picture -> (x, y) of its middle; a thing there is at most 0.06 off, along either axis."""

EDGE = 0.18
"""Middles of things stay this far from the picture's sides."""

SIGN_BAND = 0.24
"""Nothing else reaches into this share of the height, above or below, where a sign hangs."""

CLEARANCE = 0.3
"""Middles of things stay this far apart, except when they collide."""


def heights(size: str, signs: Sequence[Sign]) -> tuple[float, float]:
    """Lowest and highest y of a thing of this size beside these signs."""
    low, high, reach = EDGE, 1.0 - EDGE, SIGN_BAND + vocabulary.SIZES[size]
    for sign in signs:
        low, high = (reach, high) if sign.y < 0.5 else (low, 1.0 - reach)
    return low, high


def is_clear(thing: Thing, others: Sequence[Thing]) -> bool:
    """Does it keep clear of all of them?"""
    return all(_closest(thing, other) >= CLEARANCE for other in others)


def _closest(first: Thing, second: Thing) -> float:
    """Least distance of their middles while both are visible; infinite if they never are."""
    start_s = max(first.visible.start_s, second.visible.start_s)
    end_s = min(first.visible.end_s, second.visible.end_s)
    if start_s >= end_s:
        return math.inf
    turns = {point.time_s for point in (*first.path, *second.path) if start_s < point.time_s < end_s}
    places = [(first.place(time_s), second.place(time_s)) for time_s in sorted(turns | {start_s, end_s})]
    apart = [(a[0] - b[0], a[1] - b[1]) for a, b in places]
    return min(_distance_to_line(*ends) for ends in pairwise(apart))


def _distance_to_line(first: tuple[float, float], last: tuple[float, float]) -> float:
    """Distance of the straight line between two points from (0, 0)."""
    along = last[0] - first[0], last[1] - first[1]
    length = along[0] ** 2 + along[1] ** 2
    share = -(first[0] * along[0] + first[1] * along[1]) / length if length > 0 else 0.0
    share = min(max(share, 0.0), 1.0)
    return math.hypot(first[0] + share * along[0], first[1] + share * along[1])
