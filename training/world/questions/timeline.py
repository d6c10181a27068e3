"""Everything that happens in a clip, in order of time, in one fixed grammar; for training only."""

from __future__ import annotations

from ..scene import Thing
from .draft import Clip, direction, name_at
from .perception import from_left, place_word
from .video import colliding


def events_in_order(clip: Clip, *, is_detailed: bool = False) -> str:
    """As in "red circle comes, red circle moves left, bell with red circle, hiss, blue square leaves".

    In detail every event has its second, a thing its size and, where that is clear, its place: "at 2 small red circle
    comes left, at 2 red circle moves left, at 3 bell with red circle".
    """
    scene = clip.scene
    told: list[tuple[float, int, str]] = []
    if scene.is_still:
        told += [(0.0, 0, _detailed(thing) if is_detailed else thing.name) for thing in from_left(clip)]
        told += [(0.0, 1, f"sign {sign.text}") for sign in scene.signs]
    else:
        told += _of_things(clip, is_detailed=is_detailed)
        told += [(sign.span.start_s, 7, f"sign {sign.text}") for sign in scene.signs]
    for sound in clip.sounds:
        source = None if sound.source is None else clip.things[sound.source]
        text = sound.kind if source is None else f"{sound.kind} with {name_at(source, sound.span.start_s)}"
        told.append((sound.span.start_s, 4, text))
    told += [(utterance.start_s, 8, f"says {utterance.text}") for utterance in scene.utterances]
    told.sort(key=lambda part: part[:2])
    if is_detailed and not scene.is_still:
        told = [(time_s, rank, f"at {int(time_s + 0.5)} {text}") for time_s, rank, text in told]
    return ", ".join(text for _, _, text in told) or "nothing"


def _of_things(clip: Clip, *, is_detailed: bool) -> list[tuple[float, int, str]]:
    told: list[tuple[float, int, str]] = []
    turning = colliding(clip)
    heard = [(sound.source, sound.span.start_s) for sound in clip.sounds if sound.source is not None]
    for number, thing in sorted(enumerate(clip.things), key=lambda pair: pair[1].path[0].x):
        start_s = thing.visible.start_s
        told += [(start_s, 0, text) for text in _coming(thing, is_turning=number in turning, is_detailed=is_detailed)]
        for flash in thing.flashes:
            if not any(source == number and abs(time_s - flash.start_s) < 0.05 for source, time_s in heard):
                told.append((flash.start_s, 5, f"{name_at(thing, flash.start_s)} flashes"))
        if thing.recolour:
            told.append((thing.recolour.time_s, 3, f"{thing.shape} turns {thing.recolour.colour}"))
        if thing in clip.leaving:
            told.append((thing.visible.end_s, 6, f"{name_at(thing, thing.visible.end_s)} leaves"))
    told += [(event.span.start_s, 2, event.text) for event in clip.visual_events if event.what == "hits"]
    return told


def _coming(thing: Thing, *, is_turning: bool, is_detailed: bool) -> list[str]:
    """It comes and, where that is clear, the way it moves; both are told together."""
    word = None if is_turning else direction(thing)
    comes = f"{thing.size} {thing.name} comes{_place(thing)}" if is_detailed else f"{thing.name} comes"
    return [comes] if word in (None, "stays") else [comes, f"{thing.name} moves {word}"]


def _detailed(thing: Thing) -> str:
    return f"{thing.size} {thing.name}{_place(thing)}"


def _place(thing: Thing) -> str:
    """Where it is at first, with a space before it; nothing where that is not clear."""
    word = place_word(thing.path[0].x, thing.path[0].y)
    return f" {word}" if word else ""
