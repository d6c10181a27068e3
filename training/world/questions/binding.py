"""Which sound and which sight belong together, and what causes what: avssd, avm, while, cause."""

from __future__ import annotations

import random

from ..scene import Kind, Span, Thing
from ..vocabulary import COLOURS, SOUNDS
from .draft import BOTH, MARGIN_S, NONE, PICTURE, YES_NO, Clip, Draft, Family, candidates, name_at, pick_balanced
from .video import MOVING

BINDING: frozenset[Kind] = frozenset({"video"})
"""Kinds in which some sounds have a source and some have none; elsewhere the kind of clip would tell."""

SHARE = {"found": 0.88, NONE: 0.12}
"""How often something is wanted as the answer, and how often 'none': more clips allow a 'none', so less."""

EASE_S = 0.15
"""A thing that comes or goes this near to a sound makes the answer unclear."""


def _flashers_near(clip: Clip, span: Span) -> list[Thing]:
    """Things with a flash that overlaps a span or starts near its start."""
    return [
        thing
        for thing in clip.things
        if any(f.overlaps(span) or abs(f.start_s - span.start_s) < MARGIN_S for f in thing.flashes)
    ]


def _sources(clip: Clip) -> dict[str, list[Draft]]:
    """Sounds heard once that have exactly one flash with them, or clearly none; by type of answer."""
    options: dict[str, list[Draft]] = {"found": [], NONE: []}
    unskilled = (*(name for name in clip.names), NONE)
    for sound in clip.single_sounds:
        near = _flashers_near(clip, sound.span)
        slots = {"sound": sound.kind}
        if sound.source is None:
            if not near:
                options[NONE].append(Draft(slots, NONE, unskilled))
        elif near == [clip.things[sound.source]] and clip.things[sound.source].recolour is None:
            options["found"].append(Draft(slots, near[0].name, unskilled))
    return options


def source(clip: Clip, rng: random.Random) -> Draft | None:
    """Which thing makes a sound, or none: it comes from off the screen."""
    return pick_balanced(rng, _sources(clip), SHARE) if clip.things else None


def sound_of_thing(clip: Clip, rng: random.Random) -> Draft | None:
    """Which sound a thing makes, or none: it never flashes, or only silently."""
    if not clip.sounds:
        return None
    options: dict[str, list[Draft]] = {"found": [], NONE: []}
    unskilled = (*clip.sound_kinds, NONE)
    for number, thing in enumerate(clip.things):
        kinds = {sound.kind for sound in clip.sounds if sound.source == number}
        strangers = [sound for sound in clip.sounds if sound.source != number and _is_with(sound.span, thing)]
        if strangers or len(kinds) > 1:
            continue
        answer = next(iter(kinds), NONE)
        draft = Draft({"thing": thing.name if thing in clip.constant else thing.shape}, answer, unskilled)
        options["found" if kinds else NONE].append(draft)
    return pick_balanced(rng, options, SHARE)


def _is_with(span: Span, thing: Thing) -> bool:
    return any(flash.overlaps(span) for flash in thing.flashes)


def is_matched(clip: Clip, rng: random.Random) -> Draft | None:
    """Do the sounds belong to the flashes?"""
    if clip.scene.is_matched is None:
        return None
    return Draft({}, "yes" if clip.scene.is_matched else "no", YES_NO)


def heard_while_flashing(clip: Clip, rng: random.Random) -> Draft | None:
    """The sound during the only flash of a thing, or none."""
    if not clip.sounds:
        return None
    options: dict[str, list[Draft]] = {"found": [], NONE: []}
    for number, thing in enumerate(clip.things):
        if len(thing.flashes) != 1:
            continue
        flash = thing.flashes[0]
        heard = [s for s in clip.sounds if s.span.overlaps(Span(flash.start_s - 0.2, flash.end_s + 0.2))]
        if len(heard) > 1 or any(sound.source != number for sound in heard):
            continue
        answer = heard[0].kind if heard else NONE
        slots = {"thing": name_at(thing, flash.start_s)}
        options["found" if heard else NONE].append(Draft(slots, answer, (*clip.sound_kinds, NONE)))
    return pick_balanced(rng, options, {"found": 0.75, NONE: 0.25})


def flashing_while_heard(clip: Clip, rng: random.Random) -> Draft | None:
    """The thing that flashes during a sound, or none."""
    return pick_balanced(rng, _sources(clip), SHARE) if clip.things else None


def visible_while_heard(clip: Clip, rng: random.Random) -> Draft | None:
    """The only shape in sight during a sound."""
    if len(clip.things) < 2:
        return None
    options = []
    for sound in clip.single_sounds:
        wide = Span(sound.span.start_s - EASE_S, sound.span.end_s + EASE_S)
        seen = [thing for thing in clip.things if thing.visible.overlaps(wide)]
        if len(seen) == 1 and seen[0].visible.contains(wide.start_s) and seen[0].visible.contains(wide.end_s):
            options.append(Draft({"sound": sound.kind}, seen[0].shape, tuple(t.shape for t in clip.things)))
    return rng.choice(options) if options else None


def heard_while_visible(clip: Clip, rng: random.Random) -> Draft | None:
    """The only sound while a thing is in sight."""
    if len(clip.sound_kinds) < 2:
        return None
    options = []
    for thing in clip.constant:
        seen = thing.visible
        wide = Span(seen.start_s - EASE_S, seen.end_s + EASE_S)
        heard = [sound for sound in clip.sounds if sound.span.overlaps(wide)]
        if len(heard) == 1 and seen.contains(heard[0].span.start_s) and seen.contains(heard[0].span.end_s):
            options.append(Draft({"thing": thing.name}, heard[0].kind, clip.sound_kinds))
    return rng.choice(options) if options else None


def _change(clip: Clip) -> tuple[Thing, str, tuple[str, ...], frozenset[str]] | None:
    """(thing, what made it change colour, all that could have, streams needed) of the only change."""
    changed = [(number, thing) for number, thing in enumerate(clip.things) if thing.recolour]
    if len(changed) != 1:
        return None
    number, thing = changed[0]
    change = thing.recolour
    assert change is not None
    possible = (*clip.sound_kinds, *(other.name for other in clip.things if other is not thing))
    if len(possible) < 2:
        possible = tuple(dict.fromkeys((*possible, *SOUNDS)))
    if change.cause == "sound":
        return thing, clip.scene.sounds[change.cause_number].kind, possible, BOTH
    collision = clip.scene.collisions[change.cause_number]
    other = collision.second if collision.first == number else collision.first
    return thing, clip.things[other].name, possible, PICTURE


def cause(clip: Clip, rng: random.Random) -> Draft | None:
    """What made a thing change its colour: a sound or another thing."""
    found = _change(clip)
    if not found:
        return None
    thing, answer, possible, needs = found
    return Draft({"shape": thing.shape}, answer, possible, needs)


def did_cause(clip: Clip, rng: random.Random) -> Draft | None:
    """Was it this sound, this thing? A 'no' names something else that occurs."""
    found = _change(clip)
    if not found:
        return None
    thing, answer, possible, _ = found
    occurring = set(clip.sound_kinds) | set(clip.names)
    wrong = [name for name in possible if name != answer and name in occurring]
    if not wrong:
        return None
    reply = rng.choice(YES_NO)
    named = answer if reply == "yes" else rng.choice(wrong)
    return Draft({"cause": named, "shape": thing.shape}, reply, YES_NO, BOTH)


def effect(clip: Clip, rng: random.Random) -> Draft | None:
    """Which colour a thing takes."""
    found = _change(clip)
    if not found:
        return None
    thing = found[0]
    assert thing.recolour is not None
    colours = (*(t.colour for t in clip.things), thing.recolour.colour)
    return Draft({"shape": thing.shape}, thing.recolour.colour, candidates(colours, COLOURS))


_CAUSE: frozenset[Kind] = frozenset({"cause"})

FAMILIES = (
    Family("avssd.source", BOTH, BINDING, 2.5, source),
    Family("avssd.sound", BOTH, BINDING, 2.5, sound_of_thing),
    Family("avm.match", BOTH, frozenset({"match"}), 4, is_matched),
    Family("while.heard_flashing", BOTH, MOVING, 2, heard_while_flashing),
    Family("while.flashing", BOTH, BINDING, 2, flashing_while_heard),
    Family("while.visible", BOTH, MOVING, 2, visible_while_heard),
    Family("while.heard_visible", BOTH, MOVING, 2, heard_while_visible),
    Family("cause.what", BOTH, _CAUSE, 4, cause),
    Family("cause.did", BOTH, _CAUSE, 3, did_cause),
    Family("cause.effect", PICTURE, _CAUSE, 1.5, effect),
)
