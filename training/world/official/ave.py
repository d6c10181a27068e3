"""AVE's files: one event per ten-second clip, of one of 28 classes, and decoys in either stream.

Annotations.txt                          Category&VideoID&Quality&StartTime&EndTime, all clips
trainSet.txt, valSet.txt, testSet.txt    the same rows by split
train_order.txt, ...                     row numbers of each split, one per line (officially .h5)
AVE/NAME.mp4
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import get_args

from training.world.scenes.looks import Look, draw_looks
from training.world.vocabulary import SHAPES, SOUNDS

from .cast import PlannedClip, Slot, Split, Timeline, draw_runs, may_sound, place_things, slots

SECONDS = 10
CLASSES = tuple(product(SOUNDS[:7], SHAPES))
"""(sound kind, shape) of every class; numbers are the reader's affair: the order of first appearance."""

NO_CLASS_SOUND = SOUNDS[7]
"""A thing that rings with it is no event."""

LEAST_CLIPS = 40
"""So many have 28 for training: the reader numbers classes by their first appearance and wants them all."""

_RUN_LENGTHS = (2, 3, 3, 4)
_DECOY_IS_ALIKE = 0.7
_RING_HAS_NO_CLASS_SOUND = 0.4


@dataclass(frozen=True)
class AvePlan(PlannedClip):
    """The event of class ``category`` fills the whole seconds of ``event``."""

    category: str
    event: range


def plan(num_clips: int, seed: int) -> list[AvePlan]:
    return [_plan_clip(slot) for slot in slots("ave", num_clips=num_clips, seed=seed)]


def media_path(clip: PlannedClip) -> Path:
    return Path("AVE", f"{clip.name}.mp4")


def write_annotations(clips: Sequence[AvePlan], folder: Path) -> None:
    """All files but the clips themselves."""
    rows = [
        f"{clip.category}&{clip.name}&good&{clip.event.start}&{clip.event.stop}"  # quality: the world has one
        for clip in clips
    ]
    _write_rows(folder / "Annotations.txt", rows)
    for split in get_args(Split):
        numbers = [number for number, clip in enumerate(clips) if clip.split == split]
        _write_rows(folder / f"{split}Set.txt", [rows[number] for number in numbers])
        (folder / f"{split}_order.txt").write_text("".join(f"{number}\n" for number in numbers))


def _write_rows(path: Path, rows: Sequence[str]) -> None:
    path.write_text("\n".join(["Category&VideoID&Quality&StartTime&EndTime", *rows]) + "\n")


def _plan_clip(slot: Slot) -> AvePlan:
    rng = slot.rng()
    kind, shape = slot.rotated(CLASSES)
    looks = _draw_looks(rng, kind, shape, is_novel=slot.is_novel)
    things = place_things(rng, looks, SECONDS)
    event, sound_decoy, ring_decoy = _draw_three_runs(rng)
    timeline = Timeline(rng)
    for second in event:
        timeline.ring_and_sound(0, kind, second)
    _add_sound_decoy(rng, timeline, kind, sound_decoy)
    _add_ring_decoy(rng, timeline, looks, ring_decoy)
    return AvePlan(slot, timeline.scene(slot, things, SECONDS), f"{kind} {shape}", event)


def _draw_looks(rng: random.Random, kind: str, shape: str, *, is_novel: bool) -> list[Look]:
    """Two or three; the first is the event's."""
    number = rng.choice((2, 3))
    while True:
        looks = draw_looks(rng, number)
        if looks[0].shape == shape and may_sound(looks[0], kind, is_novel=is_novel):
            return looks


def _draw_three_runs(rng: random.Random) -> list[range]:
    """The event and its two decoys, alike in length and order, so that each stream alone sees two that may be it."""
    while True:
        lengths = [rng.choice(_RUN_LENGTHS) for _ in range(3)]
        if sum(lengths) <= SECONDS:
            return rng.sample(draw_runs(rng, lengths, SECONDS), 3)


def _add_sound_decoy(rng: random.Random, timeline: Timeline, kind: str, run: range) -> None:
    others = [other for other, _ in CLASSES if other != kind]
    heard = kind if rng.random() < _DECOY_IS_ALIKE else rng.choice(others)
    for second in run:
        timeline.sound(heard, second)


def _add_ring_decoy(rng: random.Random, timeline: Timeline, looks: Sequence[Look], run: range) -> None:
    thing = 0 if rng.random() < _DECOY_IS_ALIKE else rng.randrange(1, len(looks))
    # Never a combination that is held out: the event's alone is what a test clip is about.
    has_sound = rng.random() < _RING_HAS_NO_CLASS_SOUND and may_sound(looks[thing], NO_CLASS_SOUND, is_novel=False)
    for second in run:
        if has_sound:
            timeline.ring_and_sound(thing, NO_CLASS_SOUND, second)
        else:
            timeline.ring(thing, second)
