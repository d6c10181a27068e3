"""What things do in every step of a clip, as dense labels: where they are, how they move, when they come and go.

Shapes: S steps, C colours, K = C + 4 names of a thing (its colour, then its shape).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from favor.sync import STEP_S, step_centres_s
from training.world.scene import Scene, Thing
from training.world.vocabulary import COLOURS, DIRECTIONS, SHAPES

WHAT = ("comes", "leaves", "flashes", "turns")
"""What may begin in a step."""

ZONES = 5
"""Parts of the picture's width, and of its height."""

MOTIONS = ("stays", *DIRECTIONS)

UNKNOWN = -100
"""Label of what is not there, or not clear."""

NAMES = (*COLOURS, *SHAPES)

_COLOURS = tuple(COLOURS)
_STILL = 0.012  # of the picture's side in half a second
_CLEAR = 1.5  # how much further along than aside


class Happenings(NamedTuple):
    """Of one clip, or of several one after the other.

    Args:
        begins: (S, 4, C) float, 1 where a thing of this colour begins to do one of WHAT.
        zones: (S, K, 2) int64, the fifth of the width and of the height in which it is.
        motions: (S, K) int64, index into MOTIONS.
    """

    begins: Tensor
    zones: Tensor
    motions: Tensor

    @classmethod
    def joined(cls, parts: list[Happenings]) -> Happenings:
        return cls(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def happenings_of(scene: Scene, *, steps: int, filled: int) -> Happenings:
    """Labels of ``steps`` steps that show a picture, filled up to ``filled``; a frame shows the middle of its step."""
    begins = torch.zeros(filled, len(WHAT), len(COLOURS))
    zones = torch.full((filled, len(NAMES), 2), UNKNOWN)
    motions = torch.full((filled, len(NAMES)), UNKNOWN)
    times = np.asarray(step_centres_s(steps if scene.has_picture else 0))
    for thing in scene.things:
        for what, time_s in _begun(thing):
            step = int(np.searchsorted(times, time_s))  # the first frame that shows it
            if step < len(times) and time_s < scene.seconds:
                begins[step, WHAT.index(what), _COLOURS.index(thing.colour_at(time_s))] = 1.0
        for step, time_s in enumerate(times):
            if scene.is_still or thing.visible.contains(time_s):
                names = [NAMES.index(thing.colour_at(time_s)), NAMES.index(thing.shape)]
                x, y = thing.place(time_s)
                zones[step, names] = torch.tensor([_zone(x), _zone(y)])
                motions[step, names] = _motion(thing, time_s)
    return Happenings(begins, zones, motions)


def _begun(thing: Thing) -> list[tuple[str, float]]:
    begun = [("comes", thing.visible.start_s), ("leaves", thing.visible.end_s)]
    begun += [("flashes", flash.start_s) for flash in thing.flashes]
    return begun + ([("turns", thing.recolour.time_s)] if thing.recolour else [])


def _zone(share: float) -> int:
    return min(max(int(share * ZONES), 0), ZONES - 1)


def _motion(thing: Thing, time_s: float) -> int:
    """Since the frame before, as far as it was there."""
    before = max(time_s - STEP_S, thing.visible.start_s)
    if time_s - before < STEP_S / 2:
        return UNKNOWN
    (x0, y0), (x1, y1) = thing.place(before), thing.place(time_s)
    dx, dy = x1 - x0, y1 - y0
    if max(abs(dx), abs(dy)) < _STILL:
        return MOTIONS.index("stays")
    along, aside = max(abs(dx), abs(dy)), min(abs(dx), abs(dy))
    if along < _CLEAR * aside:
        return UNKNOWN
    way = ((1 if dx > 0 else -1), 0) if abs(dx) > abs(dy) else (0, (1 if dy > 0 else -1))
    return next(MOTIONS.index(word) for word, step in DIRECTIONS.items() if step == way)
