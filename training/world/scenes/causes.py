"""Clips in which a thing changes its colour because of a collision or of a sound."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal, NamedTuple

from training.world import vocabulary
from training.world.scene import Collision, Recolour, Scene, Span, Thing, Waypoint

from .events import draw_sound
from .looks import Look, draw_looks
from .motion import place_clear
from .placing import EDGE
from .surroundings import draw_surroundings
from .timing import FLASH_SOUND_S, GAP_S, LAST_S, draw_visible, span_of
from .wish import Wish

_Cause = Literal["sound", "collision"]


class _Times(NamedTuple):
    """Times of the change and of the collision, and the spans of two or three sounds; one may be the cause."""

    change_s: float
    collision_s: float
    sounds: list[Span]


def make_cause(rng: random.Random, wish: Wish) -> Scene:
    """The changing thing always collides, and there are always sounds: only their time tells which was the cause."""
    seconds = round(rng.uniform(9.0, 17.0), 1)  # in less there is hardly a way to keep all apart
    cause: _Cause = rng.choice(("sound", "collision"))
    times = _draw_times(rng, seconds, cause)
    things = _recolour(rng, _draw_colliding_things(rng, seconds, times.collision_s), times, cause)
    order = rng.sample(range(len(things)), len(things))  # old number at each new place
    first, second = sorted((order.index(0), order.index(1)))
    kinds = rng.sample(vocabulary.SOUNDS, len(times.sounds))
    return Scene(
        wish.seed,
        "cause",
        seconds,
        tuple(things[old] for old in order),
        tuple(draw_sound(rng, kind, span) for kind, span in zip(kinds, times.sounds)),
        collisions=(Collision(times.collision_s, first, second),),
        **draw_surroundings(rng),
    )


def _draw_times(rng: random.Random, seconds: float, cause: _Cause) -> _Times:
    """What is not the cause keeps away from the change, and no sound starts close to the collision."""
    number = rng.choice((2, 3))
    place = rng.randrange(number)  # of the cause among the sounds, so that it is no more often the middle one
    while True:
        change_s = round(rng.uniform(2.0, seconds - 2.0), 3)
        cause_s = round(change_s - rng.uniform(0.251, 0.399), 3)
        collision_s = cause_s if cause == "collision" else round(rng.uniform(1.5, seconds - 1.5), 3)
        if not 1.5 <= collision_s <= seconds - 1.5 or (cause == "sound" and abs(collision_s - change_s) < 1.5):
            continue
        causes = [cause_s] if cause == "sound" else []
        others = [rng.uniform(0.2, seconds - 1.1 - LAST_S) for _ in range(number - len(causes))]
        starts = sorted(causes + others)
        is_in_place = starts[place] == cause_s if cause == "sound" else starts[0] < change_s < starts[-1]
        if is_in_place and _are_apart(starts) and not _is_any_near(others, change_s, collision_s):
            return _Times(change_s, collision_s, [span_of(start, rng.uniform(*FLASH_SOUND_S)) for start in starts])


def _are_apart(starts: Sequence[float]) -> bool:
    return all(later - earlier >= GAP_S for earlier, later in pairwise(starts))


def _is_any_near(starts: Sequence[float], change_s: float, collision_s: float) -> bool:
    return any(abs(start - change_s) < 1.6 or abs(start - collision_s) < 1.2 for start in starts)


def _recolour(rng: random.Random, things: Sequence[Thing], times: _Times, cause: _Cause) -> list[Thing]:
    """One of the first two, which collide, changes."""
    changing = rng.randrange(2)
    unused = [colour for colour in vocabulary.COLOURS if all(thing.colour != colour for thing in things)]
    earlier = [number for number, span in enumerate(times.sounds) if span.start_s < times.change_s]
    recolour = Recolour(times.change_s, rng.choice(unused), cause, max(earlier) if cause == "sound" else 0)
    return [replace(thing, recolour=recolour) if n == changing else thing for n, thing in enumerate(things)]


def _draw_colliding_things(rng: random.Random, seconds: float, collision_s: float) -> list[Thing]:
    """Two or three things; the first two approach along one axis, meet, and turn back."""
    while True:
        looks = draw_looks(rng, rng.choice((2, 3)))
        things = _draw_collision(rng, looks[:2], seconds, collision_s)
        if len(looks) == 2:
            return things
        bystander = place_clear(rng, looks[2], draw_visible(rng, seconds), signs=(), others=things)
        if bystander is not None:
            return [*things, bystander]


def _draw_collision(rng: random.Random, looks: Sequence[Look], seconds: float, collision_s: float) -> list[Thing]:
    """Two things that run up to the place where they touch, and back."""
    radii = [vocabulary.SIZES[look.size] for look in looks]
    still = round(rng.uniform(EDGE, 1.0 - EDGE), 4)
    is_level = rng.random() < 0.5
    room = 1.0 - 2.0 * EDGE - sum(radii)  # what both have to run up in
    runs = [rng.uniform(0.12, room / 2) for _ in radii]
    meeting = EDGE + runs[0] + rng.uniform(0.0, room - sum(runs))
    before_s, after_s = rng.uniform(0.9, 1.4), rng.uniform(0.9, 1.4)
    times = 0.0, round(collision_s - before_s, 3), collision_s, round(collision_s + after_s, 3), seconds
    things = []
    for look, contact, run, side in zip(looks, (meeting, meeting + sum(radii)), runs, (-1, 1)):
        first, last = contact + side * run, contact + side * (run * rng.uniform(0.6, 1.0))
        points = [(round(along, 4), still) for along in (first, first, contact, last, last)]
        path = tuple(Waypoint(t, *(point if is_level else point[::-1])) for t, point in zip(times, points))
        things.append(Thing(*look, path))
    if rng.random() < 0.5:
        things.reverse()
    return things
