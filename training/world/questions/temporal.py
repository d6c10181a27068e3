"""What comes next, how often, in which order and when: after, count, order, when."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from ..scene import Kind
from .draft import (
    BOTH,
    MARGIN_S,
    PICTURE,
    SOUND,
    YES_NO,
    Clip,
    Draft,
    Event,
    Family,
    are_one_moment,
    name_at,
    numbers,
    orders,
)
from .video import MOVING

AUDIBLE: frozenset[Kind] = MOVING | {"sounds"}
"""Kinds with sound events."""

Side = Callable[[Clip, random.Random], Draft | None]


def once(events: Sequence[Event]) -> list[Event]:
    """Those that happen exactly once."""
    counts = Counter(event.text for event in events)
    return [event for event in events if counts[event.text] == 1]


def neighbour(anchor: Event, events: Sequence[Event], *, is_next: bool) -> Event | None:
    """The event right after (or before) another, where no other is near enough to either to confuse them."""
    sign = 1 if is_next else -1
    beyond = []
    for event in events:
        if event is anchor or are_one_moment(event, anchor):
            continue
        distance = sign * (event.span.start_s - anchor.span.start_s)
        if abs(distance) < MARGIN_S or event.span.overlaps(anchor.span):
            return None
        if distance > 0:
            beyond.append((distance, event))
    beyond.sort(key=lambda pair: pair[0])
    if not beyond or (len(beyond) > 1 and beyond[1][0] - beyond[0][0] < MARGIN_S):
        return None
    return beyond[0][1]


def _draw_neighbour(
    anchors: Sequence[Event], events: Sequence[Event], rng: random.Random, *, is_next: bool
) -> Draft | None:
    """A draft about the neighbour of a random anchor, with at least two candidates."""
    for anchor in rng.sample(anchors, len(anchors)):
        found = neighbour(anchor, events, is_next=is_next)
        others = tuple(
            dict.fromkeys(e.text for e in events if e is not anchor and e.what != "hits" and e.text != anchor.text)
        )
        if found and found.what != "hits" and len(others) > 1 and found.text in others:
            return Draft({"anchor": anchor.clause}, found.text, others)
    return None


def _event_by_event(*, is_next: bool) -> Side:
    """Seen after something seen."""

    def draw(clip: Clip, rng: random.Random) -> Draft | None:
        return _draw_neighbour(once(clip.visual_events), clip.visual_events, rng, is_next=is_next)

    return draw


def _event_by_sound(*, is_next: bool) -> Side:
    """Seen after a sound."""

    def draw(clip: Clip, rng: random.Random) -> Draft | None:
        return _draw_neighbour(once(clip.sound_events), clip.visual_events, rng, is_next=is_next)

    return draw


def _sound_by_event(*, is_next: bool) -> Side:
    """Heard after something seen."""

    def draw(clip: Clip, rng: random.Random) -> Draft | None:
        return _draw_neighbour(once(clip.visual_events), clip.sound_events, rng, is_next=is_next)

    return draw


def _sound_by_sound(*, is_next: bool) -> Side:
    """Heard after a sound."""

    def draw(clip: Clip, rng: random.Random) -> Draft | None:
        return _draw_neighbour(once(clip.sound_events), clip.sound_events, rng, is_next=is_next)

    return draw


def _thing_by_thing(*, is_next: bool) -> Side:
    """Appearing after another thing."""

    def draw(clip: Clip, rng: random.Random) -> Draft | None:
        things = clip.things_by_entry
        if len(things) < 3:
            return None
        index = rng.randrange(len(things) - 1)
        anchor, found = (index, index + 1) if is_next else (index + 1, index)
        others = tuple(thing.name for thing in things if thing is not things[anchor])
        return Draft({"anchor": f"the {things[anchor].name}"}, things[found].name, others)

    return draw


def _count(rng: random.Random, counts: dict[str, int], slot: str, *, share_of_one: float) -> Draft | None:
    """How often one of several: first the number, then which; most "1" are not asked, since most clips offer them."""
    if not counts:
        return None
    number = rng.choice(sorted(set(counts.values())))
    if number == 1 and rng.random() >= share_of_one:
        return None
    key = rng.choice([key for key, count in counts.items() if count == number])
    return Draft({slot: key}, str(number), numbers(number))


def count_of_sound(clip: Clip, rng: random.Random) -> Draft | None:
    return _count(rng, Counter(sound.kind for sound in clip.sounds), "sound", share_of_one=0.05)


def count_of_flashes(clip: Clip, rng: random.Random) -> Draft | None:
    counts = {thing.name: len(thing.flashes) for thing in clip.constant if thing.flashes}
    return _count(rng, counts, "thing", share_of_one=0.5)


def count_of_heard_flashes(clip: Clip, rng: random.Random) -> Draft | None:
    """Flashes of a thing that have their sound; only where it flashes more than once."""
    options = []
    for number, thing in enumerate(clip.things):
        if len(thing.flashes) < 2 or thing.recolour:
            continue
        bound = sum(sound.source == number for sound in clip.sounds)
        strangers = any(
            sound.source != number and any(flash.overlaps(sound.span) for flash in thing.flashes)
            for sound in clip.sounds
        )
        if not strangers:
            unskilled = tuple(str(n) for n in range(len(thing.flashes) + 1))
            options.append(Draft({"thing": thing.name}, str(bound), unskilled))
    return rng.choice(options) if options else None


def count_of_kinds(clip: Clip, rng: random.Random) -> Draft | None:
    kinds = len(clip.sound_kinds)
    if not kinds:
        return None
    return Draft({}, str(kinds), numbers(kinds))


def count_of_sounds(clip: Clip, rng: random.Random) -> Draft | None:
    if not clip.sounds:
        return None
    return Draft({}, str(len(clip.sounds)), numbers(len(clip.sounds)))


def order_of_sounds(clip: Clip, rng: random.Random) -> Draft | None:
    if not 2 <= len(clip.sounds) <= 5 or len(clip.sound_kinds) < 2 or not clip.is_order_of_sounds_clear:
        return None
    kinds = [sound.kind for sound in clip.sounds]
    return Draft({}, ", ".join(kinds), orders(kinds, ", "))


def order_of_things(clip: Clip, rng: random.Random) -> Draft | None:
    if len(clip.things_by_entry) < 2:
        return None
    names = [thing.name for thing in clip.things_by_entry]
    return Draft({}, ", ".join(names), orders(names, ", "))


def _sound_and_thing(clip: Clip, rng: random.Random) -> tuple[str, str, bool] | None:
    """(sound, thing, is the sound first?).

    A late thing has most sounds before it, so that its time alone would tell the answer. Hence a thing is taken only
    where there are sounds on both of its sides (or a sound with things on both sides), and the side is drawn first.
    """
    things = [(thing.visible.start_s, thing.name) for thing in clip.entering]
    sounds = [(sound.span.start_s, sound.kind) for sound in clip.single_sounds]
    groups = [[(sound, thing) for sound in sounds] for thing in things]
    groups += [[(sound, thing) for thing in things] for sound in sounds]
    usable = []
    for group in groups:
        earlier = [pair for pair in group if pair[1][0] - pair[0][0] >= MARGIN_S]
        later = [pair for pair in group if pair[0][0] - pair[1][0] >= MARGIN_S]
        if earlier and later:
            usable.append((earlier, later))
    if not usable:
        return None
    is_first = rng.random() < 0.5
    earlier, later = rng.choice(usable)
    sound, thing = min(earlier if is_first else later, key=lambda pair: abs(pair[0][0] - pair[1][0]))
    return sound[1], thing[1], is_first


def is_sound_before_thing(clip: Clip, rng: random.Random) -> Draft | None:
    found = _sound_and_thing(clip, rng)
    if not found:
        return None
    sound, thing, is_first = found
    return Draft({"sound": sound, "thing": thing}, "yes" if is_first else "no", YES_NO)


def sound_or_thing_first(clip: Clip, rng: random.Random) -> Draft | None:
    found = _sound_and_thing(clip, rng)
    if not found:
        return None
    sound, thing, is_first = found
    first, second = rng.sample([f"the {sound}", f"the {thing}"], 2)
    return Draft({"first": first, "second": second}, sound if is_first else thing, (sound, thing))


def _when(clip: Clip, rng: random.Random, times: Sequence[tuple[dict[str, str], float]]) -> Draft | None:
    if not times:
        return None
    slots, time_s = rng.choice(times)
    seconds = range(int(clip.scene.seconds + 0.5) + 1)
    return Draft(slots, str(int(time_s + 0.5)), tuple(str(second) for second in seconds))


def when_sound(clip: Clip, rng: random.Random) -> Draft | None:
    return _when(clip, rng, [({"sound": sound.kind}, sound.span.start_s) for sound in clip.single_sounds])


def when_appears(clip: Clip, rng: random.Random) -> Draft | None:
    return _when(clip, rng, [({"thing": thing.name}, thing.visible.start_s) for thing in clip.entering])


def when_leaves(clip: Clip, rng: random.Random) -> Draft | None:
    times = [({"thing": name_at(t, t.visible.end_s)}, t.visible.end_s) for t in clip.leaving]
    return _when(clip, rng, times)


def when_flashes(clip: Clip, rng: random.Random) -> Draft | None:
    times = [
        ({"thing": name_at(thing, thing.flashes[0].start_s)}, thing.flashes[0].start_s)
        for thing in clip.things
        if len(thing.flashes) == 1
    ]
    return _when(clip, rng, times)


FAMILIES = (
    Family("after.next_event", PICTURE, MOVING, 1, _event_by_event(is_next=True)),
    Family("after.previous_event", PICTURE, MOVING, 1, _event_by_event(is_next=False)),
    Family("after.next_event_by_sound", BOTH, MOVING, 1.5, _event_by_sound(is_next=True)),
    Family("after.previous_event_by_sound", BOTH, MOVING, 1.5, _event_by_sound(is_next=False)),
    Family("after.next_sound_by_event", BOTH, MOVING, 1.5, _sound_by_event(is_next=True)),
    Family("after.previous_sound_by_event", BOTH, MOVING, 1.5, _sound_by_event(is_next=False)),
    Family("after.next_sound", SOUND, AUDIBLE, 1, _sound_by_sound(is_next=True)),
    Family("after.previous_sound", SOUND, AUDIBLE, 1, _sound_by_sound(is_next=False)),
    Family("after.next_thing", PICTURE, MOVING, 1, _thing_by_thing(is_next=True)),
    Family("after.previous_thing", PICTURE, MOVING, 1, _thing_by_thing(is_next=False)),
    Family("count.sound", SOUND, AUDIBLE, 1.5, count_of_sound),
    Family("count.flashes", PICTURE, MOVING, 1.5, count_of_flashes),
    Family("count.heard_flashes", BOTH, MOVING, 1.5, count_of_heard_flashes),
    Family("count.kinds", SOUND, AUDIBLE, 1, count_of_kinds),
    Family("count.sounds", SOUND, AUDIBLE, 1, count_of_sounds),
    Family("order.sounds", SOUND, AUDIBLE, 1.5, order_of_sounds),
    Family("order.things", PICTURE, MOVING, 1.5, order_of_things),
    Family("order.is_before", BOTH, MOVING, 2.5, is_sound_before_thing),
    Family("order.first", BOTH, MOVING, 2.5, sound_or_thing_first),
    Family("when.sound", SOUND, AUDIBLE, 1.5, when_sound),
    Family("when.appears", PICTURE, MOVING, 1, when_appears),
    Family("when.leaves", PICTURE, MOVING, 1, when_leaves),
    Family("when.flashes", PICTURE, MOVING, 1, when_flashes),
)
