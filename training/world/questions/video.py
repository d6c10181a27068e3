"""What is seen in a video: video_qa."""

from __future__ import annotations

import random

from ..scene import Kind
from ..vocabulary import DIRECTIONS
from .draft import MARGIN_S, PICTURE, YES_NO, Clip, Draft, Family, direction
from .perception import colour, number_of_things, shape

STAYS = "it stays"
MOVING: frozenset[Kind] = frozenset({"video", "match", "cause"})
"""Kinds with a moving picture."""


def colliding(clip: Clip) -> set[int]:
    """Numbers of things that turn back somewhere."""
    return {number for collision in clip.scene.collisions for number in (collision.first, collision.second)}


def way(clip: Clip, rng: random.Random) -> Draft | None:
    """Which way a thing moves."""
    turning = colliding(clip)
    options = []
    for number, thing in enumerate(clip.things):
        word = None if number in turning else direction(thing)
        if word:
            answer = STAYS if word == "stays" else word
            options.append(Draft({"shape": thing.shape}, answer, (*DIRECTIONS, STAYS)))
    if not options:
        return None
    draft = rng.choice(options)
    return draft if draft.answer != STAYS or rng.random() < 0.35 else None


def first_or_last(clip: Clip, rng: random.Random) -> Draft | None:
    things = clip.things_by_entry
    if len(things) < 2:
        return None
    rank = rng.choice(("first", "last"))
    return Draft({"rank": rank}, things[0 if rank == "first" else -1].name, clip.names)


def appears_before(clip: Clip, rng: random.Random) -> Draft | None:
    if len(clip.things) < 2:
        return None
    first, second = rng.sample(clip.things, 2)
    difference = second.visible.start_s - first.visible.start_s
    if abs(difference) < MARGIN_S:
        return None
    return Draft({"first": first.name, "second": second.name}, "yes" if difference > 0 else "no", YES_NO)


FAMILIES = (
    Family("video_qa.direction", PICTURE, MOVING, 1.5, way),
    Family("video_qa.colour", PICTURE, MOVING, 1, colour),
    Family("video_qa.shape", PICTURE, MOVING, 1, shape),
    Family("video_qa.number", PICTURE, frozenset({"video"}), 0.7, number_of_things),
    Family("video_qa.first", PICTURE, MOVING, 1, first_or_last),
    Family("video_qa.before", PICTURE, MOVING, 1.5, appears_before),
)
