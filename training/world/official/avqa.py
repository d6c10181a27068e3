"""MUSIC-AVQA's files: questions about ten-second clips in nine types.

    avqa-train.json, avqa-val.json, avqa-test.json    one list of questions each; splits are by clip (officially not)
    videos/NAME.mp4

A clip has three things, which are there throughout. At most one thing happens in a second: a thing rings and sounds, a
thing rings silently, or a sound comes from off the screen.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path
from typing import NamedTuple, get_args

from training.world.scene import Scene, Thing
from training.world.scenes.looks import Look, draw_looks
from training.world.splits import is_held_out
from training.world.vocabulary import SHAPES, SOUNDS

from .cast import PlannedClip, Slot, Split, Timeline, place_things, slots

SECONDS = 10

NUMBERS = ("zero", "one", "two", "three", "four")
YES_NO = ("yes", "no")
SIDES = ("left", "right")

_NUM_THINGS = 3
_COUNTS = tuple((rings, sounds, kinds) for rings in (2, 3) for sounds in (0, 1, 2) for kinds in (2, 3, 4))
"""Things that ring, things that sound, kinds of sound: all combinations, so that no count tells of another."""

_MIDDLE = 0.08
"""A thing whose middle is ever so near to the picture's middle is on neither side."""

_ANOTHER_RINGS_FIRST = 2 / 3
"""So of three things the one that rings first is no better a guess at the first that sounds than any."""


_MOST_AHEAD = 2
"""So many questions a case may be ahead of the rarest; with fewer, hardly any of a type with many cases were asked."""


class Option(NamedTuple):
    """A question that could be asked about a clip.

    Args:
        values: of the slots. answer: the right one. case: what is kept in balance; the answer, if nothing else.
    """

    values: tuple[str, ...]
    answer: str
    case: str


@dataclass(frozen=True)
class QuestionType:
    """``options`` are the questions of this type that a scene allows; ``cases`` come equally often."""

    category: str
    type: str
    text: str
    cases: tuple[str, ...]
    options: Callable[[Scene], Iterator[Option]]


@dataclass(frozen=True)
class Asked:
    """One question about a clip."""

    kind: QuestionType
    option: Option


@dataclass(frozen=True)
class AvqaPlan(PlannedClip):
    questions: tuple[Asked, ...]


def plan(num_clips: int, seed: int) -> list[AvqaPlan]:
    """Clip by clip, for each split counts the cases that have come."""
    counts: dict[str, Counter[tuple[str, str]]] = {split: Counter() for split in get_args(Split)}
    return [_plan_clip(slot, counts[slot.split]) for slot in slots("avqa", num_clips=num_clips, seed=seed)]


def media_path(clip: PlannedClip) -> Path:
    return Path("videos", f"{clip.name}.mp4")


def write_annotations(clips: Sequence[AvqaPlan], folder: Path) -> None:
    """All files but the clips themselves."""
    asked = [(clip, question) for clip in clips for question in clip.questions]
    for split in get_args(Split):
        records = [_record(n, clip, question) for n, (clip, question) in enumerate(asked) if clip.split == split]
        (folder / f"avqa-{split}.json").write_text(json.dumps(records, indent=1) + "\n")


def _record(number: int, clip: AvqaPlan, question: Asked) -> dict[str, str | int]:
    return {
        "video_id": clip.name,
        "question_id": number,
        "type": json.dumps([question.kind.category, question.kind.type]),
        "question_content": question.kind.text,
        "templ_values": json.dumps(question.option.values),
        "question_deleted": 0,
        "anser": question.option.answer,
    }


# --- the clip ---


class _Counts(NamedTuple):
    ringing: int
    sounding: int
    kinds: int


def _plan_clip(slot: Slot, met: Counter[tuple[str, str]]) -> AvqaPlan:
    rng = slot.rng()
    counts = _Counts(*slot.rotated(_COUNTS))
    looks, kinds = _draw_looks_and_kinds(rng, counts, is_novel=slot.is_novel)
    things = place_things(rng, looks, SECONDS)
    scene = _draw_events(rng, counts, kinds).scene(slot, things, SECONDS)
    return AvqaPlan(slot, scene, tuple(_ask(rng, scene, met)))


def _draw_looks_and_kinds(rng: random.Random, counts: _Counts, *, is_novel: bool) -> tuple[list[Look], list[str]]:
    """Thing n makes kind n if it sounds at all; the other kinds come from off the screen."""
    while True:
        looks, kinds = draw_looks(rng, _NUM_THINGS), rng.sample(SOUNDS, counts.kinds)
        makers = zip(looks[: counts.sounding], kinds)
        if all(is_held_out(look.colour, look.shape, kind) == is_novel for look, kind in makers):
            return looks, kinds


class _Event(NamedTuple):
    """A thing that rings, a kind that is heard, or both."""

    thing: int | None
    kind: int | None


def _draw_events(rng: random.Random, counts: _Counts, kinds: Sequence[str]) -> Timeline:
    does_another_ring_first = rng.random() < _ANOTHER_RINGS_FIRST
    while True:
        events = _draw_event_list(rng, counts)
        rings = [event.thing for event in events if event.thing is not None]
        made = [event.thing for event in events if event.thing is not None and event.kind is not None]
        if len(events) <= SECONDS and (not made or (rings[0] != made[0]) == does_another_ring_first):
            break
    timeline = Timeline(rng)
    for second, (thing, kind) in zip(sorted(rng.sample(range(SECONDS), len(events))), events):
        if thing is None:
            timeline.sound(kinds[kind or 0], second)
        elif kind is None:
            timeline.ring(thing, second)
        else:
            timeline.ring_and_sound(thing, kinds[kind], second)
    return timeline


def _draw_event_list(rng: random.Random, counts: _Counts) -> list[_Event]:
    """In the order of time. What sounds may also ring silently, and be heard without ringing."""
    events: list[_Event] = []
    for thing in range(counts.sounding):
        events += [_Event(thing, thing)] * rng.randint(1, 2)
        events += [_Event(thing, None)] * rng.randint(0, 2)
        events += [_Event(None, thing)] * rng.randint(0, 1)
    for thing in range(counts.sounding, counts.ringing):
        events += [_Event(thing, None)] * rng.randint(1, 4)
    for kind in range(counts.sounding, counts.kinds):
        events += [_Event(None, kind)] * rng.randint(1, 2)
    rng.shuffle(events)
    return events


# --- the questions ---


def _ask(rng: random.Random, scene: Scene, met: Counter[tuple[str, str]]) -> Iterator[Asked]:
    """At most one question of each type: of the case that came least often; none if it would come too often."""
    for kind in QUESTION_TYPES:
        options = list(kind.options(scene))
        if not options:
            continue
        option = min(rng.sample(options, len(options)), key=lambda each: met[kind.text, each.case])
        if met[kind.text, option.case] < min(met[kind.text, case] for case in kind.cases) + _MOST_AHEAD:
            met[kind.text, option.case] += 1
            yield Asked(kind, option)


def _times_heard(scene: Scene) -> Counter[str]:
    return Counter(sound.kind for sound in scene.sounds)


def _times_sounding(scene: Scene) -> Counter[int]:
    """By number of the thing."""
    return Counter(sound.source for sound in scene.sounds if sound.source is not None)


def _ringing(scene: Scene) -> list[Thing]:
    """In the order of their first ring."""
    return sorted((thing for thing in scene.things if thing.flashes), key=lambda thing: thing.flashes[0].start_s)


def _side(thing: Thing) -> str | None:
    if all(point.x < 0.5 - _MIDDLE for point in thing.path):
        return "left"
    return "right" if all(point.x > 0.5 + _MIDDLE for point in thing.path) else None


def _plain(values: tuple[str, ...], answer: str) -> Option:
    return Option(values, answer, case=answer)


def _against_rings(values: tuple[str, ...], answer: str, ring_answer: str) -> Option:
    """``ring_answer``: what is answered by taking every ring for a sound. It must not help."""
    return Option(values, answer, case=f"{answer}, rings say {ring_answer}")


def _cases_against_rings(answers: Sequence[str]) -> tuple[str, ...]:
    return tuple(_against_rings((), *pair).case for pair in product(answers, repeat=2))


def _number_heard(scene: Scene) -> Iterator[Option]:
    yield _plain((), NUMBERS[len(_times_heard(scene))])


def _heard_more(scene: Scene) -> Iterator[Option]:
    times = _times_heard(scene)
    for first, second in permutations(times, 2):
        if times[first] != times[second]:
            yield _plain((first, second), YES_NO[times[first] < times[second]])


def _number_ringing(scene: Scene) -> Iterator[Option]:
    yield _plain((), NUMBERS[len(_ringing(scene))])


def _side_of_thing(scene: Scene) -> Iterator[Option]:
    for thing in scene.things:
        side = _side(thing)
        if side:
            yield _plain((thing.name,), side)


def _is_on_screen(scene: Scene) -> Iterator[Option]:
    made = {sound.kind for sound in scene.sounds if sound.source is not None}
    for kind in _times_heard(scene):
        yield _plain((kind,), YES_NO[kind not in made])


def _number_sounding(scene: Scene) -> Iterator[Option]:
    yield _plain((), NUMBERS[len(_times_sounding(scene))])


def _side_of_source(scene: Scene) -> Iterator[Option]:
    made = {sound.kind: scene.things[sound.source] for sound in scene.sounds if sound.source is not None}
    for kind, thing in made.items():
        side = _side(thing)
        if side:
            yield _plain((kind,), side)


def _sounds_more(scene: Scene) -> Iterator[Option]:
    """Of things that ring differently often and sound differently often."""
    times = _times_sounding(scene)
    for (one, first), (other, second) in permutations(enumerate(scene.things), 2):
        rings = len(first.flashes), len(second.flashes)
        if all(rings) and rings[0] != rings[1] and times[one] != times[other]:
            answer, ring_answer = YES_NO[times[one] < times[other]], YES_NO[rings[0] < rings[1]]
            yield _against_rings((first.name, second.name), answer, ring_answer)


def _first_to_sound(scene: Scene) -> Iterator[Option]:
    made = [sound.source for sound in scene.sounds if sound.source is not None]
    if made:
        yield _plain((), scene.things[made[0]].shape)


QUESTION_TYPES = (
    QuestionType("Audio", "Counting", "How many different sounds are heard?", NUMBERS[2:5], _number_heard),
    QuestionType(
        "Audio", "Comparative", "Is the <FirstObject> heard more often than the <SecondObject>?", YES_NO, _heard_more
    ),
    QuestionType("Visual", "Counting", "How many things flash?", NUMBERS[2:4], _number_ringing),
    QuestionType("Visual", "Location", "On which side is the <Object>?", SIDES, _side_of_thing),
    QuestionType("Audio-Visual", "Existential", "Does a thing here make the <Object>?", YES_NO, _is_on_screen),
    QuestionType("Audio-Visual", "Counting", "How many things here make a sound?", NUMBERS[:3], _number_sounding),
    QuestionType(
        "Audio-Visual",
        "Location",
        "On which side is the thing that makes the <Object>?",
        SIDES,
        _side_of_source,
    ),
    QuestionType(
        "Audio-Visual",
        "Comparative",
        "Does the <FirstObject> sound more often than the <SecondObject>?",
        _cases_against_rings(YES_NO),
        _sounds_more,
    ),
    QuestionType("Audio-Visual", "Temporal", "Which shape makes a sound first?", SHAPES, _first_to_sound),
)
