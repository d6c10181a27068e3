"""What things look like."""

from __future__ import annotations

import random
from typing import NamedTuple

from training.world import vocabulary


class Look(NamedTuple):
    """The words of the vocabulary for a thing."""

    colour: str
    shape: str
    size: str


def draw_looks(rng: random.Random, number: int) -> list[Look]:
    """No two share a colour or a shape."""
    colours = rng.sample(list(vocabulary.COLOURS), number)
    shapes = rng.sample(vocabulary.SHAPES, number)
    return [Look(colour, shape, draw_size(rng)) for colour, shape in zip(colours, shapes)]


def draw_size(rng: random.Random) -> str:
    return rng.choice(("small", "big"))
