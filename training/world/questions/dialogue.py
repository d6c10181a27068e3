"""Dialogues about a video whose last question says 'it': avsd."""

from __future__ import annotations

import random

from ..scene import Kind, Thing
from ..vocabulary import COLOURS, DIRECTIONS, SHAPES
from .draft import BOTH, NONE, PICTURE, YES_NO, Clip, Draft, Family, candidates, direction, pick_balanced
from .video import colliding

Turns = tuple[tuple[str, str], ...]

_DIALOGUE: frozenset[Kind] = frozenset({"video", "match"})


def _referents(clip: Clip, rng: random.Random, *, by: str) -> list[tuple[Thing, Turns]]:
    """Things with earlier turns that lead to them and name only their ``shape`` or ``colour``, or nothing of them."""
    found: list[tuple[Thing, Turns]] = []
    things = clip.things_by_entry
    asked = {"shape": "Which shape {}?", "colour": "What colour is the thing that {}?"}[by]
    if len(things) > 1:
        found.append((things[0], ((asked.format("appears first"), getattr(things[0], by)),)))
        found.append((things[-1], ((asked.format("appears last"), getattr(things[-1], by)),)))
    leaving = sorted(clip.leaving, key=lambda thing: thing.visible.end_s)
    if len(leaving) > 1 and leaving[1].visible.end_s - leaving[0].visible.end_s >= 0.6:
        found.append((leaving[0], ((asked.format("leaves first"), getattr(leaving[0], by)),)))
    flashing = [thing for thing in clip.things if thing.flashes]
    if len(flashing) == 1 and len(clip.things) > 1:
        found.append((flashing[0], ((asked.format("flashes"), getattr(flashing[0], by)),)))
    found = [(thing, turns) for thing, turns in found if thing.recolour is None]
    if rng.random() < 0.5:
        number = ("How many things are there in all?", str(len(clip.things)))
        found = [(thing, (number, *turns)) for thing, turns in found]
    return found


def colour_of_it(clip: Clip, rng: random.Random) -> Draft | None:
    referents = _referents(clip, rng, by="shape")
    if not referents:
        return None
    thing, turns = rng.choice(referents)
    return Draft({}, thing.colour, candidates((t.colour for t in clip.things), COLOURS), before=turns)


def shape_of_it(clip: Clip, rng: random.Random) -> Draft | None:
    referents = _referents(clip, rng, by="colour")
    if not referents:
        return None
    thing, turns = rng.choice(referents)
    return Draft({}, thing.shape, candidates((t.shape for t in clip.things), SHAPES), before=turns)


def sound_of_it(clip: Clip, rng: random.Random) -> Draft | None:
    """The one kind of sound that comes with it, or none."""
    if not clip.sounds:
        return None
    options: dict[str, list[Draft]] = {"found": [], NONE: []}
    for thing, turns in _referents(clip, rng, by=rng.choice(("shape", "colour"))):
        number = clip.things.index(thing)
        kinds = {sound.kind for sound in clip.sounds if sound.source == number}
        strangers = any(
            sound.source != number and any(flash.overlaps(sound.span) for flash in thing.flashes)
            for sound in clip.sounds
        )
        if len(kinds) > 1 or strangers:
            continue
        draft = Draft({}, next(iter(kinds), NONE), (*clip.sound_kinds, NONE), before=turns)
        options["found" if kinds else NONE].append(draft)
    return pick_balanced(rng, options, {"found": 0.85, NONE: 0.15})


def does_it_move(clip: Clip, rng: random.Random) -> Draft | None:
    options: dict[str, list[Draft]] = {"yes": [], "no": []}
    for thing, turns in _referents(clip, rng, by=rng.choice(("shape", "colour"))):
        answer = "no" if direction(thing) == "stays" else "yes"
        options[answer].append(Draft({}, answer, YES_NO, before=turns))
    return pick_balanced(rng, options, {"yes": 0.5, "no": 0.5})


def where_it_moves(clip: Clip, rng: random.Random) -> Draft | None:
    turning = colliding(clip)
    options = []
    for thing, turns in _referents(clip, rng, by=rng.choice(("shape", "colour"))):
        word = direction(thing)
        if word in DIRECTIONS and clip.things.index(thing) not in turning:
            options.append(Draft({}, word, tuple(DIRECTIONS), before=(*turns, ("Does it move?", "yes"))))
    return rng.choice(options) if options else None


FAMILIES = (
    Family("avsd.colour", PICTURE, _DIALOGUE, 1, colour_of_it),
    Family("avsd.shape", PICTURE, _DIALOGUE, 1, shape_of_it),
    Family("avsd.sound", BOTH, _DIALOGUE, 2, sound_of_it),
    Family("avsd.moves", PICTURE, _DIALOGUE, 1, does_it_move),
    Family("avsd.direction", PICTURE, _DIALOGUE, 1, where_it_moves),
)
