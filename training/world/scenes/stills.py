"""Still pictures."""

from __future__ import annotations

import random
from collections.abc import Sequence

from training.world.scene import Scene, Sign, Span, Thing, Waypoint

from .looks import Look, draw_looks
from .placing import AREAS, EDGE, is_clear
from .surroundings import draw_sign, draw_surroundings
from .wish import Wish


def make_image(rng: random.Random, wish: Wish) -> Scene:
    """A silent picture of things, a sign, or both."""
    has_sign = rng.random() < 0.5
    signs = (draw_sign(rng, Span(0.0, 1.0)),) if has_sign else ()
    number = rng.choices((0, 1, 2, 3), weights=(0.2, 0.2, 0.3, 0.3))[0] if has_sign else rng.choice((1, 2, 3))
    things = draw_still_things(rng, number, signs)
    return Scene(wish.seed, "image", 0.0, things, signs=signs, **draw_surroundings(rng))


def draw_still_things(rng: random.Random, number: int, signs: Sequence[Sign]) -> tuple[Thing, ...]:
    """Each in an area of its own; a sign takes the area above or below."""
    taken = {"top" if sign.y < 0.5 else "bottom" for sign in signs}
    while True:
        areas = rng.sample([area for area in AREAS if area not in taken], number)
        things = tuple(_draw_still_thing(rng, look, area) for look, area in zip(draw_looks(rng, number), areas))
        if all(is_clear(thing, things[:place]) for place, thing in enumerate(things)):
            return things


def _draw_still_thing(rng: random.Random, look: Look, area: str) -> Thing:
    x, y = (round(min(max(middle + rng.uniform(-0.06, 0.06), EDGE), 1.0 - EDGE), 4) for middle in AREAS[area])
    return Thing(*look, (Waypoint(0.0, x, y), Waypoint(1.0, x, y)))
