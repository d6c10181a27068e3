"""Draws scenes: what happens in a clip, from a seed, so that no answer is told by anything but seeing and hearing.

Times are seconds, places and distances shares of the picture's side, as in :mod:`training.world.scene`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from training.world import phrases, vocabulary
from training.world.scene import Collision, Kind, Recolour, Scene, Sign, Sound, Span, Thing, Utterance, Waypoint
from training.world.splits import Split, is_held_out

KIND_SHARES: dict[Kind, float] = {
    "video": 0.34,
    "match": 0.10,
    "cause": 0.14,
    "image": 0.14,
    "sounds": 0.08,
    "speech": 0.08,
    "noisy_speech": 0.06,
    "spoken_question": 0.06,
}
"""Share of each kind among clips."""

AREAS = {"left": (0.21, 0.5), "right": (0.79, 0.5), "top": (0.5, 0.21), "bottom": (0.5, 0.79), "middle": (0.5, 0.5)}
"""Area of a still picture -> (x, y) of its middle; a thing there is at most 0.06 off, along either axis."""

EDGE = 0.18
"""Middles of things stay this far from the picture's sides."""

SIGN_BAND = 0.24
"""Nothing else reaches into this share of the height, above or below, where a sign hangs."""

CLEARANCE = 0.3
"""Middles of things stay this far apart, except when they collide."""

_FLASH_SOUND_S = (0.6, 1.1)  # length of flashes and sounds
_GAP_S = 1.21  # between the starts of sounds
_SILENCE_S = 0.65  # around a flash that pretends
_SPEECH_PEAK_DB = 16.6  # of speech's peak, which level_db means, over its root mean square, which noise_db means
_MOST_FLASHES = 3  # of one thing
_LAST_S = 0.11  # after the last sound
_SHORTEST_VISIBLE_S = 1.5
_NOTICEABLE_S = 0.8  # between two entries, or two exits


class _Look(NamedTuple):
    colour: str
    shape: str
    size: str


@dataclass(frozen=True)
class _Wish:
    """The arguments of :func:`make`, kind apart."""

    seed: int
    split: Split
    is_novel: bool | None
    voices: Literal["known", "held_out"]

    def allows(self, thing: _Look | Thing, sound: str) -> bool:
        """May this thing make this sound?"""
        if self.split == "test" and self.is_novel is None:
            return True
        return is_held_out(thing.colour, thing.shape, sound) == bool(self.is_novel)


def make(
    seed: int,
    *,
    kind: Kind | None = None,
    split: Split = "train",
    is_novel: bool | None = None,
    voices: Literal["known", "held_out"] = "known",
) -> Scene:
    """The scene of a seed, always the same one.

    Args:
        seed: any whole number. kind: None draws one by KIND_SHARES.
        split: ``train`` holds nothing that :mod:`training.world.splits` keeps out; the two never share a scene.
        is_novel: in kinds ``video`` and ``match`` of split ``test``: True lets things sound only as they never do in
            training, False only as they do; then a video has at least one thing that sounds. None allows both.
        voices: ``held_out`` speaks with speech.HELD_OUT_VOICES, which training never hears.

    Raises:
        ValueError: novel combinations or held-out voices were asked of split ``train``.
    """
    if split == "train" and (is_novel or voices == "held_out"):
        raise ValueError("split 'train' holds nothing held out; ask split 'test' for novel combinations and voices")
    if kind is None:
        rng = random.Random(f"{split} {seed}")
        kind = rng.choices(list(KIND_SHARES), weights=list(KIND_SHARES.values()))[0]
    rng = random.Random(f"{split} {kind} {seed}")
    return _MAKERS[kind](rng, _Wish(seed, split, is_novel, voices))


# Kinds of clips ------------------------------------------------------------------------------------------------------


def _make_video(rng: random.Random, wish: _Wish) -> Scene:
    seconds = _draw_seconds(rng)
    signs = (_draw_sign(rng, _draw_sign_span(rng, seconds)),) if rng.random() < 0.2 else ()
    while True:
        looks = _draw_looks(rng, rng.choices((1, 2, 3), weights=(0.2, 0.4, 0.4))[0])
        things = _draw_things(rng, looks, _draw_visibilities(rng, len(looks), seconds), signs)
        for _ in range(3):
            flashing, sounds = _draw_flashes_and_sounds(rng, things, seconds, wish)
            if wish.is_novel is None or any(sound.source is not None for sound in sounds):
                return Scene(wish.seed, "video", seconds, flashing, sounds, signs=signs, **_draw_surroundings(rng))


def _make_match(rng: random.Random, wish: _Wish) -> Scene:
    """Matched and mismatched clips differ in nothing but whether sounds take the flashes' times or others.

    Both sets of times are halves, drawn at random, of one set, so each alone looks the same in either case.
    """
    is_matched = rng.random() < 0.5
    number = rng.choice((2, 3))
    # Lengths below 1 s: a sound shifted by at least 1.21 s never touches a flash.
    lengths = [rng.uniform(0.6, 0.95) for _ in range(2 * number)]
    least_s = 2.1 + _GAP_S * (2 * number - 1)
    seconds = round(rng.uniform(least_s, 20.0) if rng.random() < 0.4 else rng.uniform(least_s, 13.0), 1)
    while True:
        starts = _spread(rng, [_GAP_S] * (2 * number - 1), 0.3, seconds - 0.95 - _LAST_S)
        spans = [_span(start, length) for start, length in zip(starts, lengths)]
        order = rng.sample(range(2 * number), 2 * number)
        flashes = [spans[place] for place in sorted(order[:number])]
        shifted = [spans[place] for place in sorted(order[number:])]

        looks = _draw_looks(rng, rng.choice((2, 3)))
        flashers = [rng.randrange(len(looks)) for _ in flashes]
        kinds = _draw_sound_kinds(rng, [[looks[flasher]] for flasher in flashers], wish)
        if None in kinds:
            continue
        visible = [
            Span(_draw_entry(rng, [f for f, who in zip(flashes, flashers) if who == thing]), seconds)
            for thing in range(len(looks))
        ]
        things = _add_flashes(_draw_things(rng, looks, visible, ()), zip(flashers, flashes))
        sounds = tuple(
            _draw_sound(rng, str(kind), span, flasher if is_matched else None)
            for kind, span, flasher in zip(kinds, flashes if is_matched else shifted, flashers)
        )
        surroundings = _draw_surroundings(rng)
        return Scene(wish.seed, "match", seconds, things, sounds, is_matched=is_matched, **surroundings)


def _make_cause(rng: random.Random, wish: _Wish) -> Scene:
    """The changing thing always collides, and there are always sounds: only their time tells which was the cause."""
    seconds = round(rng.uniform(9.0, 17.0), 1)  # in less there is hardly a way to keep all apart
    cause: Literal["sound", "collision"] = rng.choice(("sound", "collision"))
    change_s, collision_s, spans = _draw_cause_times(rng, seconds, cause)
    things = _draw_colliding_things(rng, seconds, collision_s)
    changing = rng.randrange(2)
    unused = [colour for colour in vocabulary.COLOURS if all(thing.colour != colour for thing in things)]
    number = 0 if cause == "collision" else max(n for n, span in enumerate(spans) if span.start_s < change_s)
    recoloured = replace(things[changing], recolour=Recolour(change_s, rng.choice(unused), cause, number))
    things[changing] = recoloured

    order = rng.sample(range(len(things)), len(things))  # old number at each new place
    first, second = sorted((order.index(0), order.index(1)))
    return Scene(
        wish.seed,
        "cause",
        seconds,
        tuple(things[old] for old in order),
        tuple(_draw_sound(rng, kind, span) for kind, span in zip(rng.sample(vocabulary.SOUNDS, len(spans)), spans)),
        collisions=(Collision(collision_s, first, second),),
        **_draw_surroundings(rng),
    )


def _make_image(rng: random.Random, wish: _Wish) -> Scene:
    has_sign = rng.random() < 0.5
    signs = (_draw_sign(rng, Span(0.0, 1.0)),) if has_sign else ()
    number = rng.choices((0, 1, 2, 3), weights=(0.2, 0.2, 0.3, 0.3))[0] if has_sign else rng.choice((1, 2, 3))
    things = _draw_still_things(rng, number, signs)
    return Scene(wish.seed, "image", 0.0, things, signs=signs, **_draw_surroundings(rng))


def _make_sounds(rng: random.Random, wish: _Wish) -> Scene:
    seconds = round(rng.uniform(2.0, 10.0), 1)
    number = rng.choice((1, 2, 3, 4))
    _, sounds = _draw_flashes_and_sounds(rng, (), seconds, wish, num_sounds=number)
    return Scene(wish.seed, "sounds", seconds, sounds=sounds, **_draw_surroundings(rng))


def _make_speech(rng: random.Random, wish: _Wish) -> Scene:
    utterance, seconds = _draw_utterance(rng, phrases.draw(rng, wish.split), wish)
    surroundings = _draw_surroundings(rng) | {"noise_db": round(rng.uniform(-60.0, -46.0), 1)}
    return Scene(wish.seed, "speech", seconds, utterances=(utterance,), **surroundings)


def _make_noisy_speech(rng: random.Random, wish: _Wish) -> Scene:
    while True:
        things = _draw_still_things(rng, rng.choice((1, 2, 3)), ())
        try:
            text = phrases.draw_about(rng, things, wish.split)
        except LookupError:
            continue
        utterance, seconds = _draw_utterance(rng, text, wish)
        noise_db = round(utterance.level_db - _SPEECH_PEAK_DB - rng.uniform(0.0, 8.0), 1)
        surroundings = _draw_surroundings(rng) | {"noise_db": noise_db}
        return Scene(wish.seed, "noisy_speech", seconds, things, utterances=(utterance,), **surroundings)


def _make_spoken_question(rng: random.Random, wish: _Wish) -> Scene:
    form = rng.choice(phrases.SPOKEN_QUESTIONS)
    has_sign = form == "what is written" or rng.random() < 0.3
    signs = (_draw_sign(rng, Span(0.0, 1.0)),) if has_sign else ()
    while True:
        things = _draw_still_things(rng, rng.choice((1, 2, 3)), signs)
        try:
            text = phrases.draw_question(rng, form, things)
        except LookupError:
            continue
        utterance, seconds = _draw_utterance(rng, text, wish)
        surroundings = _draw_surroundings(rng)
        return Scene(
            wish.seed, "spoken_question", seconds, things, utterances=(utterance,), signs=signs, **surroundings
        )


_MAKERS: dict[Kind, Callable[[random.Random, _Wish], Scene]] = {
    "video": _make_video,
    "match": _make_match,
    "cause": _make_cause,
    "image": _make_image,
    "sounds": _make_sounds,
    "speech": _make_speech,
    "noisy_speech": _make_noisy_speech,
    "spoken_question": _make_spoken_question,
}


# Times ---------------------------------------------------------------------------------------------------------------


def _draw_seconds(rng: random.Random) -> float:
    """Between 2 and 20 s, mostly 4 to 14."""
    while True:
        seconds = math.exp(rng.gauss(math.log(8.0), 0.55))
        if 2.0 <= seconds <= 20.0:
            return round(seconds, 1)


def _span(start_s: float, length_s: float) -> Span:
    start_s = round(start_s, 3)
    return Span(start_s, round(start_s + length_s, 3))


def _spread(rng: random.Random, gaps_s: Sequence[float], low_s: float, high_s: float) -> list[float]:
    """Ascending times in [low, high], at least the gaps apart, uniform among all that are; fewer where none fit."""
    gaps_s = list(gaps_s)
    while gaps_s and sum(gaps_s) > high_s - low_s:
        gaps_s.pop()
    slack_s = max(high_s - low_s - sum(gaps_s), 0.0)
    offsets = sorted(rng.uniform(0.0, slack_s) for _ in range(len(gaps_s) + 1))
    return [low_s + offset + sum(gaps_s[:number]) for number, offset in enumerate(offsets)]


def _draw_visibilities(rng: random.Random, number: int, seconds: float) -> list[Span]:
    """When things are there; entries and exits are never nearly at the same time, unless with the clip's own."""
    spans: list[Span] = []
    while len(spans) < number:
        for _ in range(12):
            span = _draw_visible(rng, seconds)
            starts = [other.start_s for other in spans if other.start_s and span.start_s]
            ends = [other.end_s for other in spans if other.end_s < seconds and span.end_s < seconds]
            if all(abs(start - span.start_s) >= _NOTICEABLE_S for start in starts) and all(
                abs(end - span.end_s) >= _NOTICEABLE_S for end in ends
            ):
                break
        else:
            span = Span(0.0, seconds)
        spans.append(span)
    return spans


def _draw_visible(rng: random.Random, seconds: float) -> Span:
    start_s = 0.0
    if rng.random() > 0.3 and seconds > _SHORTEST_VISIBLE_S + 0.6:
        start_s = round(rng.uniform(0.6, seconds - _SHORTEST_VISIBLE_S), 3)
    end_s, earliest_s = seconds, start_s + _SHORTEST_VISIBLE_S
    if rng.random() > 0.5 and seconds - 0.6 > earliest_s:
        end_s = round(rng.uniform(earliest_s + 0.001, seconds - 0.6), 3)
    return Span(start_s, end_s)


def _draw_entry(rng: random.Random, flashes: Sequence[Span]) -> float:
    """When a thing enters that flashes then: mostly at the beginning."""
    latest_s = min((flash.start_s for flash in flashes), default=2.0) - 0.2
    return round(rng.uniform(0.6, latest_s), 3) if latest_s > 0.6 and rng.random() < 0.4 else 0.0


def _draw_cause_times(
    rng: random.Random, seconds: float, cause: Literal["sound", "collision"]
) -> tuple[float, float, list[Span]]:
    """Times of the change and of the collision, and the spans of two or three sounds; one may be the cause.

    What is not the cause is at least 1.5 s (a collision) or 1.6 s (a sound's start) from the change, and no sound
    starts within 1.1 s of the collision.
    """
    number = rng.choice((2, 3))
    place = rng.randrange(number)  # of the cause among the sounds, so that it is no more often the middle one
    while True:
        change_s = round(rng.uniform(2.0, seconds - 2.0), 3)
        cause_s = round(change_s - rng.uniform(0.251, 0.399), 3)
        collision_s = cause_s if cause == "collision" else round(rng.uniform(1.5, seconds - 1.5), 3)
        if not 1.5 <= collision_s <= seconds - 1.5 or (cause == "sound" and abs(collision_s - change_s) < 1.5):
            continue
        causes = [cause_s] if cause == "sound" else []
        others = [rng.uniform(0.2, seconds - 1.1 - _LAST_S) for _ in range(number - len(causes))]
        starts = sorted(causes + others)
        if cause == "collision" and not starts[0] < change_s < starts[-1]:
            continue
        if cause == "sound" and starts[place] != cause_s:
            continue
        if any(abs(start - change_s) < 1.6 or abs(start - collision_s) < 1.2 for start in others):
            continue
        if any(later - earlier < _GAP_S for earlier, later in pairwise(starts)):
            continue
        return change_s, collision_s, [_span(start, rng.uniform(*_FLASH_SOUND_S)) for start in starts]


# Things --------------------------------------------------------------------------------------------------------------


def _draw_looks(rng: random.Random, number: int) -> list[_Look]:
    """No two share a colour or a shape."""
    colours = rng.sample(list(vocabulary.COLOURS), number)
    shapes = rng.sample(vocabulary.SHAPES, number)
    return [_Look(colour, shape, _draw_size(rng)) for colour, shape in zip(colours, shapes)]


def _draw_size(rng: random.Random) -> str:
    return rng.choice(("small", "big"))


def _heights(size: str, signs: Sequence[Sign]) -> tuple[float, float]:
    """Lowest and highest y of a thing of this size beside these signs."""
    low, high, reach = EDGE, 1.0 - EDGE, SIGN_BAND + vocabulary.SIZES[size]
    for sign in signs:
        low, high = (reach, high) if sign.y < 0.5 else (low, 1.0 - reach)
    return low, high


def _draw_things(
    rng: random.Random, looks: Sequence[_Look], visible: Sequence[Span], signs: Sequence[Sign]
) -> tuple[Thing, ...]:
    """Half of them move; all keep clear of one another."""
    while True:
        things: list[Thing] = []
        for look, span in zip(looks, visible):
            thing = _place_clear(rng, look, span, signs=signs, others=things)
            if thing is None:
                break
            things.append(thing)
        else:
            return tuple(things)
        looks = [look._replace(size=_draw_size(rng)) for look in looks]


def _place_clear(
    rng: random.Random, look: _Look, visible: Span, *, signs: Sequence[Sign], others: Sequence[Thing]
) -> Thing | None:
    """A thing that keeps clear of the others; None if there is hardly room."""
    draw = _draw_motion if rng.random() < 0.5 else _draw_rest
    for _ in range(12):
        thing = Thing(*look, draw(rng, visible, _heights(look.size, signs)))
        if all(_closest(thing, other) >= CLEARANCE for other in others):
            return thing
    return None


def _draw_rest(rng: random.Random, visible: Span, heights: tuple[float, float]) -> tuple[Waypoint, ...]:
    x, y = round(rng.uniform(EDGE, 1.0 - EDGE), 4), round(rng.uniform(*heights), 4)
    return Waypoint(visible.start_s, x, y), Waypoint(visible.end_s, x, y)


def _draw_motion(rng: random.Random, visible: Span, heights: tuple[float, float]) -> tuple[Waypoint, ...]:
    """Straight along an axis by 0.25 or more, at 0.06 to 0.2 per second; still before and after if there is time."""
    step_x, step_y = rng.choice(tuple(vocabulary.DIRECTIONS.values()))
    (low, high), across = ((EDGE, 1.0 - EDGE), heights) if step_x else (heights, (EDGE, 1.0 - EDGE))
    there_s = visible.end_s - visible.start_s
    speed = rng.uniform(max(0.06, 0.26 / there_s), 0.2)
    length = max(0.255, min(high - low, speed * there_s) * rng.uniform(0.6, 1.0))
    moving_s = min(length / speed, there_s)
    begin_s = round(visible.start_s + rng.uniform(0.0, there_s - moving_s), 3)
    end_s = min(round(begin_s + moving_s, 3), visible.end_s)

    first = rng.uniform(low, high - length)
    first, last = (first, first + length) if step_x + step_y > 0 else (first + length, first)
    still = rng.uniform(*across)
    (x0, y0), (x1, y1) = ((first, still), (last, still)) if step_x else ((still, first), (still, last))
    x0, y0, x1, y1 = round(x0, 4), round(y0, 4), round(x1, 4), round(y1, 4)
    return (
        Waypoint(visible.start_s, x0, y0),
        Waypoint(begin_s, x0, y0),
        Waypoint(end_s, x1, y1),
        Waypoint(visible.end_s, x1, y1),
    )


def _closest(first: Thing, second: Thing) -> float:
    """Least distance of their middles while both are visible; infinite if they never are."""
    start_s, end_s = (
        max(first.visible.start_s, second.visible.start_s),
        min(first.visible.end_s, second.visible.end_s),
    )
    if start_s >= end_s:
        return math.inf
    turns = {point.time_s for point in (*first.path, *second.path) if start_s < point.time_s < end_s}
    places = [(first.place(time_s), second.place(time_s)) for time_s in sorted(turns | {start_s, end_s})]
    apart = [(a[0] - b[0], a[1] - b[1]) for a, b in places]
    return min(_distance_to_line(*ends) for ends in pairwise(apart))


def _distance_to_line(first: tuple[float, float], last: tuple[float, float]) -> float:
    """Distance of the straight line between two points from (0, 0)."""
    along = last[0] - first[0], last[1] - first[1]
    length = along[0] ** 2 + along[1] ** 2
    share = -(first[0] * along[0] + first[1] * along[1]) / length if length > 0 else 0.0
    share = min(max(share, 0.0), 1.0)
    return math.hypot(first[0] + share * along[0], first[1] + share * along[1])


def _draw_colliding_things(rng: random.Random, seconds: float, collision_s: float) -> list[Thing]:
    """Two or three things; the first two approach along one axis, meet, and turn back."""
    while True:
        looks = _draw_looks(rng, rng.choice((2, 3)))
        things = _draw_collision(rng, looks, seconds, collision_s)
        if len(looks) == 2:
            return things
        bystander = _place_clear(rng, looks[2], _draw_visible(rng, seconds), signs=(), others=things)
        if bystander is not None:
            return [*things, bystander]


def _draw_collision(rng: random.Random, looks: Sequence[_Look], seconds: float, collision_s: float) -> list[Thing]:
    """The paths of the first two looks."""
    radii = [vocabulary.SIZES[look.size] for look in looks[:2]]
    still = rng.uniform(EDGE, 1.0 - EDGE)
    is_level = rng.random() < 0.5
    room = 1.0 - 2.0 * EDGE - sum(radii)  # what both have to run up in
    runs = [rng.uniform(0.12, room / 2) for _ in radii]
    meeting = EDGE + runs[0] + rng.uniform(0.0, room - sum(runs))
    before_s, after_s = rng.uniform(0.9, 1.4), rng.uniform(0.9, 1.4)
    times = 0.0, round(collision_s - before_s, 3), collision_s, round(collision_s + after_s, 3), seconds
    contact = [meeting, meeting + sum(radii)]
    things = []
    for look, place, run, side in zip(looks, contact, runs, (-1, 1)):
        back = run * rng.uniform(0.6, 1.0)
        along = [place + side * run, place + side * run, place, place + side * back, place + side * back]
        points = [(round(a, 4), round(still, 4)) for a in along]
        path = tuple(Waypoint(t, *(point if is_level else point[::-1])) for t, point in zip(times, points))
        things.append(Thing(*look, path))
    if rng.random() < 0.5:
        things.reverse()
    return things


def _draw_still_things(rng: random.Random, number: int, signs: Sequence[Sign]) -> tuple[Thing, ...]:
    """Each in an area of its own; a sign takes the area above or below."""
    taken = {"top" if sign.y < 0.5 else "bottom" for sign in signs}
    while True:
        areas = rng.sample([area for area in AREAS if area not in taken], number)
        things = tuple(_draw_still_thing(rng, look, area) for look, area in zip(_draw_looks(rng, number), areas))
        pairs = [(first, second) for place, first in enumerate(things) for second in things[:place]]
        if all(_closest(first, second) >= CLEARANCE for first, second in pairs):
            return things


def _draw_still_thing(rng: random.Random, look: _Look, area: str) -> Thing:
    x, y = (round(min(max(middle + rng.uniform(-0.06, 0.06), EDGE), 1.0 - EDGE), 4) for middle in AREAS[area])
    return Thing(*look, (Waypoint(0.0, x, y), Waypoint(1.0, x, y)))


# Flashes and sounds --------------------------------------------------------------------------------------------------


def _draw_flashes_and_sounds(
    rng: random.Random, things: tuple[Thing, ...], seconds: float, wish: _Wish, num_sounds: int | None = None
) -> tuple[tuple[Thing, ...], tuple[Sound, ...]]:
    """Sounds that things make while they flash, sounds from off the screen, and flashes without a sound."""
    if num_sounds is None:
        num_sounds = rng.choices((0, 1, 2, 3, 4), weights=(0.1, 0.2, 0.3, 0.25, 0.15))[0]
    num_silent = rng.choice((1, 1, 2)) if things and rng.random() < 0.45 else 0
    events = _draw_events(rng, num_sounds, num_silent, seconds)

    flashes: list[tuple[int, Span]] = []
    spans: list[Span] = []
    sources: list[int | None] = []
    num_flashes = [0] * len(things)
    for span, is_sound in events:
        showing = [
            n for n, thing in enumerate(things) if num_flashes[n] < _MOST_FLASHES and _is_there_during(thing, span)
        ]
        chosen = rng.choice(showing) if showing and (not is_sound or rng.random() < 0.72) else None
        if chosen is not None:
            num_flashes[chosen] += 1
        if is_sound:
            spans.append(span)
            sources.append(chosen)
        elif chosen is not None:
            flashes.append((chosen, span))

    groups = _draw_groups(rng, len(spans))
    members = [[n for n, group in enumerate(groups) if group == g] for g in range(len(spans))]
    makers = [[things[s] for n in ns if (s := sources[n]) is not None] for ns in members]
    kinds = _draw_sound_kinds(rng, makers, wish)
    sounds = []
    for number, span in enumerate(spans):
        source, kind = sources[number], kinds[groups[number]]
        if kind is None:  # no sound that it may make is left, so it keeps quiet
            source, kind = None, rng.choice([sound for sound in vocabulary.SOUNDS if sound not in kinds])
        if source is not None:
            flashes.append((source, span))
        sounds.append(_draw_sound(rng, kind, span, source))
    return _add_flashes(things, flashes), tuple(sounds)


def _draw_events(rng: random.Random, num_sounds: int, num_silent: int, seconds: float) -> list[tuple[Span, bool]]:
    """(span, is it a sound?) in order of time; silent flashes keep their distance. Short clips hold fewer."""
    are_sounds = [True] * num_sounds + [False] * num_silent
    rng.shuffle(are_sounds)
    if not are_sounds:
        return []
    lengths = [rng.uniform(*_FLASH_SOUND_S) for _ in are_sounds]
    gaps = [
        _GAP_S if first == second else max(_GAP_S, length + _SILENCE_S)
        for first, second, length in zip(are_sounds, are_sounds[1:], lengths)
    ]
    starts = _spread(rng, gaps, 0.1, seconds - _FLASH_SOUND_S[1] - _LAST_S)
    return [(_span(start, length), is_sound) for start, length, is_sound in zip(starts, lengths, are_sounds)]


def _draw_groups(rng: random.Random, number: int) -> list[int]:
    """Which sounds are of one kind: mostly each has its own."""
    groups = list(range(number))
    if number > 1 and rng.random() < 0.15:
        alike = rng.sample(groups, min(number, rng.choice((2, 3))))
        for member in alike:
            groups[member] = alike[0]
    return groups


def _draw_sound_kinds(rng: random.Random, makers: Sequence[Sequence[_Look | Thing]], wish: _Wish) -> list[str | None]:
    """A kind of its own for each sound, one that all its makers may make; None where no such kind is left."""
    allowed = [[s for s in vocabulary.SOUNDS if all(wish.allows(maker, s) for maker in each)] for each in makers]
    kinds: list[str | None] = [None] * len(makers)
    for number in sorted(range(len(makers)), key=lambda n: len(allowed[n])):
        left = [sound for sound in allowed[number] if sound not in kinds]
        kinds[number] = rng.choice(left) if left else None
    return kinds


def _draw_sound(rng: random.Random, kind: str, span: Span, source: int | None = None) -> Sound:
    return Sound(kind, span, round(rng.random(), 3), round(rng.uniform(-26.0, -12.0), 1), source)


def _is_there_during(thing: Thing, span: Span) -> bool:
    return thing.visible.start_s + 0.1 <= span.start_s and span.end_s + 0.1 <= thing.visible.end_s


def _add_flashes(things: Sequence[Thing], flashes: Iterable[tuple[int, Span]]) -> tuple[Thing, ...]:
    ordered = sorted(flashes, key=lambda flash: flash[1].start_s)
    return tuple(
        replace(thing, flashes=tuple(span for who, span in ordered if who == number))
        for number, thing in enumerate(things)
    )


# Signs, speech and surroundings --------------------------------------------------------------------------------------


def _draw_sign(rng: random.Random, span: Span) -> Sign:
    """A word or, less often, a number of one to three digits, in the upper or lower band."""
    if rng.random() < 0.6:
        text = rng.choice(vocabulary.PRINTED_WORDS)
    else:
        num_digits = rng.choice((1, 2, 3))
        text = str(rng.randint(10 ** (num_digits - 1), 10**num_digits - 1))
    half = 0.065 * len(text) + 0.03
    return Sign(text, span, round(rng.uniform(half, 1.0 - half), 4), rng.choice((0.12, 0.88)))


def _draw_sign_span(rng: random.Random, seconds: float) -> Span:
    """The whole clip, or 2 s of it or more."""
    if seconds < 3.0 or rng.random() < 0.5:
        return Span(0.0, seconds)
    return _span(start := rng.uniform(0.0, seconds - 2.1), rng.uniform(2.0, seconds - start - 0.01))


def _draw_utterance(rng: random.Random, text: str, wish: _Wish) -> tuple[Utterance, float]:
    """An utterance, and how long a clip it needs at most: words are spoken faster than supposed here."""
    from training.world import speech

    names = tuple(speech.VOICES if wish.voices == "known" else speech.HELD_OUT_VOICES)
    start_s, rate = round(rng.uniform(0.15, 0.4), 3), rng.randint(130, 190)
    level_db = round(rng.uniform(-22.0, -14.0), 1)
    utterance = Utterance(text, start_s, rng.choice(names), rate, rng.randint(30, 70), level_db)
    seconds = start_s + 0.42 * len(text.split()) * 160 / rate + 0.7
    return utterance, max(2.0, math.ceil(seconds * 10.0) / 10.0)


def _draw_surroundings(rng: random.Random) -> dict[str, Any]:
    """Background (a dark grey or brown), grain and noise."""
    dark = rng.randint(14, 44)
    red, green = (rng.randint(10, 20), rng.randint(3, 8)) if rng.random() < 0.4 else (0, 0)
    background = tuple(dark + tint + rng.randint(-3, 3) for tint in (red, green, 0))
    return {
        "background": background,
        "grain": round(rng.uniform(2.0, 8.0), 2),
        "noise_db": round(rng.uniform(-65.0, -50.0), 1),
    }
