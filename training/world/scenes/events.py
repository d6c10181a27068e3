"""Flashes of things, and sounds: made by a thing while it flashes, or heard from off the screen."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from training.world import vocabulary
from training.world.scene import Sound, Span, Thing

from .looks import Look
from .timing import FLASH_SOUND_S, GAP_S, LAST_S, span_of, spread
from .wish import Wish

_SILENCE_S = 0.65  # around a flash that pretends
_MOST_FLASHES = 3  # of one thing


class _Event(NamedTuple):
    """A sound, or a flash without one."""

    span: Span
    is_sound: bool


class _Heard(NamedTuple):
    """When a sound is heard, and the number of the thing that it comes from, if any."""

    span: Span
    source: int | None


def draw_events(
    rng: random.Random, things: tuple[Thing, ...], *, num_sounds: int, seconds: float, wish: Wish
) -> tuple[tuple[Thing, ...], tuple[Sound, ...]]:
    """Sounds that things make while they flash, sounds from off the screen, and flashes without a sound."""
    num_silent = rng.choice((1, 1, 2)) if things and rng.random() < 0.45 else 0
    events = _draw_spans(rng, num_sounds, num_silent, seconds)
    flashers = _draw_flashers(rng, things, events)
    heard = [_Heard(event.span, flasher) for event, flasher in zip(events, flashers) if event.is_sound]
    sounds = _draw_sounds(rng, things, heard, wish)
    flashes = [(sound.source, sound.span) for sound in sounds] + [
        (flasher, event.span) for event, flasher in zip(events, flashers) if not event.is_sound
    ]
    return add_flashes(things, flashes), sounds


def _draw_spans(rng: random.Random, num_sounds: int, num_silent: int, seconds: float) -> list[_Event]:
    """In order of time; silent flashes keep their distance. Short clips hold fewer."""
    are_sounds = [True] * num_sounds + [False] * num_silent
    rng.shuffle(are_sounds)
    if not are_sounds:
        return []
    lengths = [rng.uniform(*FLASH_SOUND_S) for _ in are_sounds]
    gaps = [
        GAP_S if first == second else max(GAP_S, length + _SILENCE_S)
        for first, second, length in zip(are_sounds, are_sounds[1:], lengths)
    ]
    starts = spread(rng, gaps, 0.1, seconds - FLASH_SOUND_S[1] - LAST_S)
    return [_Event(span_of(start, length), is_sound) for start, length, is_sound in zip(starts, lengths, are_sounds)]


def _draw_flashers(rng: random.Random, things: Sequence[Thing], events: Sequence[_Event]) -> list[int | None]:
    """The thing that flashes at each event; some sounds come from none."""
    flashers: list[int | None] = []
    for span, is_sound in events:
        showing = [
            number
            for number, thing in enumerate(things)
            if flashers.count(number) < _MOST_FLASHES and _is_there_during(thing, span)
        ]
        does_flash = showing and (not is_sound or rng.random() < 0.72)
        flashers.append(rng.choice(showing) if does_flash else None)
    return flashers


def _is_there_during(thing: Thing, span: Span) -> bool:
    return thing.visible.start_s + 0.1 <= span.start_s and span.end_s + 0.1 <= thing.visible.end_s


def _draw_sounds(rng: random.Random, things: Sequence[Thing], heard: Sequence[_Heard], wish: Wish) -> tuple[Sound, ...]:
    groups = _draw_groups(rng, len(heard))
    makers = [
        [things[source] for (_, source), group in zip(heard, groups) if group == number and source is not None]
        for number in range(len(heard))
    ]
    kinds = draw_sound_kinds(rng, makers, wish)
    sounds = []
    for (span, source), group in zip(heard, groups):
        kind = kinds[group]
        if kind is None:  # no sound that it may make is left, so it keeps quiet
            source, kind = None, rng.choice([sound for sound in vocabulary.SOUNDS if sound not in kinds])
        sounds.append(draw_sound(rng, kind, span, source))
    return tuple(sounds)


def _draw_groups(rng: random.Random, number: int) -> list[int]:
    """Which sounds are of one kind: mostly each has its own."""
    groups = list(range(number))
    if number > 1 and rng.random() < 0.15:
        alike = rng.sample(groups, min(number, rng.choice((2, 3))))
        for member in alike:
            groups[member] = alike[0]
    return groups


def draw_sound_kinds(rng: random.Random, makers: Sequence[Sequence[Look | Thing]], wish: Wish) -> list[str | None]:
    """A kind of its own for each sound, one that all its makers may make; None where no such kind is left."""
    allowed = [[s for s in vocabulary.SOUNDS if all(wish.allows(maker, s) for maker in each)] for each in makers]
    kinds: list[str | None] = [None] * len(makers)
    for number in sorted(range(len(makers)), key=lambda n: len(allowed[n])):
        left = [sound for sound in allowed[number] if sound not in kinds]
        kinds[number] = rng.choice(left) if left else None
    return kinds


def draw_sound(rng: random.Random, kind: str, span: Span, source: int | None = None) -> Sound:
    return Sound(kind, span, round(rng.random(), 3), round(rng.uniform(-26.0, -12.0), 1), source)


def add_flashes(things: Sequence[Thing], flashes: Iterable[tuple[int | None, Span]]) -> tuple[Thing, ...]:
    """The things with the flashes of their numbers; those of number None are nobody's."""
    ordered = sorted(flashes, key=lambda flash: flash[1].start_s)
    return tuple(
        replace(thing, flashes=tuple(span for who, span in ordered if who == number))
        for number, thing in enumerate(things)
    )
