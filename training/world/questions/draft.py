"""What the families of questions are made of: a clip as they see it, a draft question, a family."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ..scene import Kind, Scene, Sound, Span, Thing
from ..vocabulary import DIRECTIONS

MARGIN_S = 0.6
"""Times closer than this are never compared."""

EDGE_S = 0.3
"""A thing that is there this soon after the beginning does not appear; one that leaves this near to the end stays."""

PICTURE = frozenset({"picture"})
SOUND = frozenset({"sound"})
BOTH = frozenset({"picture", "sound"})

YES_NO = ("yes", "no")
NONE = "none"


@dataclass(frozen=True)
class Event:
    """Something that happens.

    Args:
        span: when; an instant has no length. text: as an answer says it.
        clause: as a question says it.
        what: comes, leaves, flashes, turns, hits, sound. thing: number of the (first) thing. kind: of a sound.
    """

    span: Span
    text: str
    clause: str
    what: str
    thing: int | None = None
    kind: str = ""


@dataclass(frozen=True)
class Clip:
    """A scene with what the families ask of it again and again."""

    scene: Scene

    @cached_property
    def things(self) -> tuple[Thing, ...]:
        return self.scene.things

    @cached_property
    def sounds(self) -> tuple[Sound, ...]:
        """In order of time."""
        return tuple(sorted(self.scene.sounds, key=lambda sound: sound.span.start_s))

    @cached_property
    def sound_kinds(self) -> tuple[str, ...]:
        """Each kind once, in order of time."""
        return tuple(dict.fromkeys(sound.kind for sound in self.sounds))

    @cached_property
    def single_sounds(self) -> tuple[Sound, ...]:
        """Those whose kind is heard exactly once."""
        counts = Counter(sound.kind for sound in self.sounds)
        return tuple(sound for sound in self.sounds if counts[sound.kind] == 1)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The first name of every thing."""
        return tuple(thing.name for thing in self.things)

    @cached_property
    def constant(self) -> tuple[Thing, ...]:
        """Things that keep their colour."""
        return tuple(thing for thing in self.things if thing.recolour is None)

    @cached_property
    def entering(self) -> tuple[Thing, ...]:
        """Things that appear while one watches."""
        return tuple(thing for thing in self.things if thing.visible.start_s > EDGE_S)

    @cached_property
    def leaving(self) -> tuple[Thing, ...]:
        """Things that leave while one watches."""
        return tuple(thing for thing in self.things if thing.visible.end_s < self.scene.seconds - EDGE_S)

    @cached_property
    def visual_events(self) -> tuple[Event, ...]:
        """Appearing, leaving, flashes, changes of colour and collisions, in order of time."""
        events = [
            Event(_instant(thing.visible.start_s), f"{thing.name} comes", f"the {thing.name} appears", "comes", number)
            for number, thing in enumerate(self.things)
            if thing in self.entering
        ]
        for number, thing in enumerate(self.things):
            if thing in self.leaving:
                name = name_at(thing, thing.visible.end_s)
                events.append(
                    Event(_instant(thing.visible.end_s), f"{name} leaves", f"the {name} leaves", "leaves", number)
                )
            for flash in thing.flashes:
                name = name_at(thing, flash.start_s)
                events.append(Event(flash, f"{name} flashes", f"the {name} flashes", "flashes", number))
            if thing.recolour:
                text = f"{thing.shape} turns {thing.recolour.colour}"
                events.append(Event(_instant(thing.recolour.time_s), text, f"the {text}", "turns", number))
        for collision in self.scene.collisions:
            first, second = (
                name_at(self.things[i], collision.time_s - 1e-3) for i in (collision.first, collision.second)
            )
            text = f"{first} hits {second}"
            events.append(
                Event(_instant(collision.time_s), text, f"the {first} hits the {second}", "hits", collision.first)
            )
        return tuple(sorted(events, key=lambda event: event.span.start_s))

    @cached_property
    def sound_events(self) -> tuple[Event, ...]:
        """Sounds in order of time; ``thing`` is their source."""
        return tuple(
            Event(sound.span, sound.kind, f"the {sound.kind}", "sound", sound.source, sound.kind)
            for sound in self.sounds
        )

    @cached_property
    def is_order_of_sounds_clear(self) -> bool:
        starts = [sound.span.start_s for sound in self.sounds]
        return all(later - earlier >= MARGIN_S for earlier, later in itertools.pairwise(starts))

    @cached_property
    def things_by_entry(self) -> tuple[Thing, ...]:
        """Things in the order in which they appear, or none where the order is not clear."""
        things = sorted(self.things, key=lambda thing: thing.visible.start_s)
        starts = [thing.visible.start_s for thing in things]
        is_clear = all(later - earlier >= MARGIN_S for earlier, later in itertools.pairwise(starts))
        return tuple(things) if is_clear else ()


def _instant(time_s: float) -> Span:
    return Span(time_s, time_s)


def name_at(thing: Thing, time_s: float) -> str:
    """What a thing is called at a time: its colour may change."""
    return f"{thing.colour_at(time_s)} {thing.shape}"


def direction(thing: Thing) -> str | None:
    """Where it moves: left, right, up, down, ``stays``, or None where that is not clear."""
    xs = [point.x for point in thing.path]
    ys = [point.y for point in thing.path]
    if max(xs) - min(xs) < 0.03 and max(ys) - min(ys) < 0.03:
        return "stays"
    dx, dy = xs[-1] - xs[0], ys[-1] - ys[0]
    is_across = abs(dx) >= abs(dy)
    along, aside = (dx, dy) if is_across else (dy, dx)
    places = xs if is_across else ys
    is_straight = all((later - earlier) * along >= 0 for earlier, later in itertools.pairwise(places))
    if abs(along) < 0.12 or abs(along) < 2 * abs(aside) or not is_straight:
        return None
    step = ((1 if dx > 0 else -1), 0) if is_across else (0, (1 if dy > 0 else -1))
    return next(word for word, way in DIRECTIONS.items() if way == step)


def are_one_moment(first: Event, second: Event) -> bool:
    """Do a sound and the flash of its source belong together?"""
    return (
        {first.what, second.what} == {"sound", "flashes"}
        and first.thing == second.thing
        and abs(first.span.start_s - second.span.start_s) < 0.05
    )


def candidates(occurring: Iterable[str], vocabulary: Iterable[str]) -> tuple[str, ...]:
    """What occurs, each once; the whole vocabulary where only one does, since then naming it is the skill."""
    found = tuple(dict.fromkeys(occurring))
    return found if len(found) > 1 else tuple(dict.fromkeys((*vocabulary, *found)))


def orders(parts: Sequence[str], separator: str) -> tuple[str, ...]:
    """Every different order of some parts."""
    return tuple(dict.fromkeys(separator.join(order) for order in itertools.permutations(parts)))


def numbers(answer: int, *, lowest: int = 1) -> tuple[str, ...]:
    """Counts that one would guess."""
    return tuple(str(number) for number in range(lowest, max(3, answer) + 1))


def pick_balanced(rng: random.Random, options: dict[str, list[Draft]], share: dict[str, float]) -> Draft | None:
    """Draw first the type of answer by its share, then a draft of this type; None where there is none.

    Falling back to another type would tilt the balance.
    """
    wanted = rng.choices(list(share), list(share.values()))[0]
    drafts = options.get(wanted)
    return rng.choice(drafts) if drafts else None


@dataclass(frozen=True)
class Draft:
    """A question before it is worded.

    Args:
        slots: what fills the wording. answer, unskilled, before: as in ``Question``.
        needs: where it differs from the family's.
    """

    slots: dict[str, str]
    answer: str
    unskilled: tuple[str, ...]
    needs: frozenset[str] | None = None
    before: tuple[tuple[str, str], ...] = field(default=())


@dataclass(frozen=True)
class Family:
    """One kind of question.

    Args:
        name: as ``count.flashes``; what is before the dot is the task. needs: see ``Question``.
        kinds: of scenes that may carry it. weight: how often it is asked against others. draw: makes a draft or None.
    """

    name: str
    needs: frozenset[str]
    kinds: frozenset[Kind]
    weight: float
    draw: Callable[[Clip, random.Random], Draft | None]

    @property
    def task(self) -> str:
        return self.name.split(".")[0]
