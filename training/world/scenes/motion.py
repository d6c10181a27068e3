"""How things move, or rest, without coming too close."""

from __future__ import annotations

import random
from collections.abc import Sequence

from training.world import vocabulary
from training.world.scene import Sign, Span, Thing, Waypoint

from .looks import Look, draw_size
from .placing import EDGE, heights, is_clear


def draw_things(
    rng: random.Random, looks: Sequence[Look], visible: Sequence[Span], signs: Sequence[Sign]
) -> tuple[Thing, ...]:
    """Half of them move; all keep clear of one another."""
    while True:
        things: list[Thing] = []
        for look, span in zip(looks, visible):
            thing = place_clear(rng, look, span, signs=signs, others=things)
            if thing is None:
                break
            things.append(thing)
        else:
            return tuple(things)
        looks = [look._replace(size=draw_size(rng)) for look in looks]


def place_clear(
    rng: random.Random, look: Look, visible: Span, *, signs: Sequence[Sign], others: Sequence[Thing]
) -> Thing | None:
    """A thing that keeps clear of the others; None if there is hardly room."""
    draw = _draw_motion if rng.random() < 0.5 else _draw_rest
    for _ in range(12):
        thing = Thing(*look, draw(rng, visible, heights(look.size, signs)))
        if is_clear(thing, others):
            return thing
    return None


def _draw_rest(rng: random.Random, visible: Span, y_range: tuple[float, float]) -> tuple[Waypoint, ...]:
    x, y = round(rng.uniform(EDGE, 1.0 - EDGE), 4), round(rng.uniform(*y_range), 4)
    return Waypoint(visible.start_s, x, y), Waypoint(visible.end_s, x, y)


def _draw_motion(rng: random.Random, visible: Span, y_range: tuple[float, float]) -> tuple[Waypoint, ...]:
    """Straight along an axis by 0.25 or more, at 0.06 to 0.2 per second; still before and after if there is time."""
    step_x, step_y = rng.choice(tuple(vocabulary.DIRECTIONS.values()))
    (low, high), across = ((EDGE, 1.0 - EDGE), y_range) if step_x else (y_range, (EDGE, 1.0 - EDGE))
    length, moving = _draw_run(rng, visible, high - low)
    first = rng.uniform(low, high - length)
    first, last = (first, first + length) if step_x + step_y > 0 else (first + length, first)
    still = round(rng.uniform(*across), 4)
    begin, end = (round(first, 4), still), (round(last, 4), still)
    if not step_x:
        begin, end = begin[::-1], end[::-1]
    return (
        Waypoint(visible.start_s, *begin),
        Waypoint(moving.start_s, *begin),
        Waypoint(moving.end_s, *end),
        Waypoint(visible.end_s, *end),
    )


def _draw_run(rng: random.Random, visible: Span, room: float) -> tuple[float, Span]:
    """How far it moves, at most as far as there is room, and when."""
    there_s = visible.end_s - visible.start_s
    speed = rng.uniform(max(0.06, 0.26 / there_s), 0.2)
    length = max(0.255, min(room, speed * there_s) * rng.uniform(0.6, 1.0))
    moving_s = min(length / speed, there_s)
    begin_s = round(visible.start_s + rng.uniform(0.0, there_s - moving_s), 3)
    return length, Span(begin_s, min(round(begin_s + moving_s, 3), visible.end_s))
