"""What the tasks' clips are made of: a name and a split, things that may sound, and beats of one second.

A *beat* is a ring, a sound, or both, within one second of the clip and across its middle. So every second is labelled
beyond doubt, and so is a frame from its middle.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeVar

from training.world.scene import Scene, Sound, Span, Thing
from training.world.scenes.events import add_flashes, draw_sound
from training.world.scenes.looks import Look, draw_looks
from training.world.scenes.motion import draw_things
from training.world.scenes.surroundings import draw_surroundings
from training.world.scenes.timing import span_of
from training.world.splits import is_held_out
from training.world.vocabulary import SHAPES, SIZES, SOUNDS

Split = Literal["train", "val", "test"]

VOICES = dict(zip(product(SHAPES, SIZES), SOUNDS, strict=True))
"""(shape, size) -> the sound kind of such a thing, in the tasks where things have a voice."""

LEAST_CLIPS = 4

_BEAT_START_S, _BEAT_LENGTH_S = (0.06, 0.2), (0.6, 0.74)

_Choice = TypeVar("_Choice")


@dataclass(frozen=True)
class Slot:
    """A clip to be planned: its number among all, its split and number within it."""

    task: str
    seed: int
    split: Split
    number: int
    number_in_split: int

    @property
    def name(self) -> str:
        """Eleven characters, as a YouTube id has: LLP's feature files are named by no more."""
        return f"world{self.number:06d}"

    @property
    def is_novel(self) -> bool:
        return self.split == "test" and self.number_in_split % 2 == 1

    @property
    def scene_seed(self) -> int:
        return zlib.crc32(f"{self.task} {self.seed} {self.split} {self.number}".encode())

    def rng(self) -> random.Random:
        return random.Random(f"{self.task} {self.seed} {self.split} {self.number}")

    def rotated(self, choices: Sequence[_Choice]) -> _Choice:
        """One of the choices; over a split all come equally often, in another order every round."""
        turn, place = divmod(self.number_in_split, len(choices))
        order = random.Random(f"{self.task} {self.seed} {self.split} round {turn}").sample(choices, len(choices))
        return order[place]


@dataclass(frozen=True)
class PlannedClip:
    """A clip of a task before it is drawn; each task adds its truth."""

    slot: Slot
    scene: Scene

    @property
    def name(self) -> str:
        return self.slot.name

    @property
    def split(self) -> Split:
        return self.slot.split


def slots(task: str, *, num_clips: int, seed: int) -> Iterator[Slot]:
    """Train, then val, then test."""
    assert num_clips >= LEAST_CLIPS, num_clips
    num_val, num_test = max(1, num_clips // 10), max(2, num_clips // 5)
    sizes: dict[Split, int] = {"train": num_clips - num_val - num_test, "val": num_val, "test": num_test}
    number = 0
    for split, size in sizes.items():
        for number_in_split in range(size):
            yield Slot(task, seed, split, number, number_in_split)
            number += 1


def draw_voiced_looks(rng: random.Random, number: int, *, is_novel: bool) -> list[Look]:
    """Looks whose voices are all held out, or none of them."""
    while True:
        looks = draw_looks(rng, number)
        if all(may_sound(look, VOICES[look.shape, look.size], is_novel=is_novel) for look in looks):
            return looks


def may_sound(thing: Look | Thing, kind: str, *, is_novel: bool) -> bool:
    return is_held_out(thing.colour, thing.shape, kind) == is_novel


def place_things(rng: random.Random, looks: Sequence[Look], seconds: float) -> tuple[Thing, ...]:
    """There from the beginning to the end; half of them move. Their sizes stay as they are."""
    sizes = [look.size for look in looks]
    while True:
        things = draw_things(rng, looks, [Span(0.0, seconds)] * len(looks), ())
        if [thing.size for thing in things] == sizes:  # where room is short, other sizes are drawn
            return things


def draw_beat(rng: random.Random, second: int) -> Span:
    return span_of(second + rng.uniform(*_BEAT_START_S), rng.uniform(*_BEAT_LENGTH_S))


class Timeline:
    """Gathers what happens in a clip, second by second."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._flashes: list[tuple[int, Span]] = []
        self._sounds: list[Sound] = []

    def ring(self, thing: int, second: int) -> None:
        """Without a sound of its own."""
        self._flashes.append((thing, draw_beat(self._rng, second)))

    def sound(self, kind: str, second: int) -> None:
        """From off the screen."""
        self._sounds.append(draw_sound(self._rng, kind, draw_beat(self._rng, second)))

    def ring_and_sound(self, thing: int, kind: str, second: int) -> None:
        beat = draw_beat(self._rng, second)
        self._flashes.append((thing, beat))
        self._sounds.append(draw_sound(self._rng, kind, beat, thing))

    def scene(self, slot: Slot, things: Iterable[Thing], seconds: float) -> Scene:
        sounds = tuple(sorted(self._sounds, key=lambda sound: sound.span.start_s))
        flashing = add_flashes(tuple(things), self._flashes)
        return Scene(slot.scene_seed, "video", seconds, flashing, sounds, **draw_surroundings(self._rng))


def draw_runs(rng: random.Random, lengths: Sequence[int], seconds: int) -> list[range]:
    """Runs of whole seconds, in order of time, at random distances that may be nothing."""
    slack = seconds - sum(lengths)
    cuts = sorted(rng.randint(0, slack) for _ in lengths)
    starts = [cut + sum(lengths[:number]) for number, cut in enumerate(cuts)]
    return [range(start, start + length) for start, length in zip(starts, lengths)]
