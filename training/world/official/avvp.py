"""LLP's files (AVVP): what is heard and what is seen in every second of ten, and weak labels for training.

AVVP_train.csv, AVVP_val_pd.csv, AVVP_test_pd.csv    filename, event_labels: tabs between, whatever the suffix says
AVVP_eval_audio.csv, AVVP_eval_visual.csv            filename, onset, offset, event_labels: val and test
video/FILENAME.mp4
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from training.world.scenes.looks import Look
from training.world.vocabulary import SOUNDS

from .cast import VOICES, PlannedClip, Slot, Split, Timeline, draw_runs, draw_voiced_looks, place_things, slots

SECONDS = 10

CLASS_NAMES = {
    "bell": "Telephone_bell_ringing",
    "beep": "Fire_alarm",
    "hum": "Vacuum_cleaner",
    "hiss": "Frying_(food)",
    "siren": "Baby_cry_infant_cry",
    "clicks": "Basketball_bounce",
    "whistle": "Violin_fiddle",
    "drum": "Clapping",
}
"""Sound kind -> the class whose name it borrows; 17 of LLP's 25 classes never occur."""

WEAK_FILES: dict[Split, str] = {"train": "AVVP_train.csv", "val": "AVVP_val_pd.csv", "test": "AVVP_test_pd.csv"}

_IS_SEEN = 0.6  # a run of a thing's voice, with its ring
_RUN_LENGTHS = (1, 2, 2, 3)


@dataclass(frozen=True)
class Event:
    """A class, by its sound kind, throughout the whole seconds of ``run``."""

    kind: str
    run: range


@dataclass(frozen=True)
class AvvpPlan(PlannedClip):
    heard: tuple[Event, ...]
    seen: tuple[Event, ...]

    @property
    def filename(self) -> str:
        return f"{self.name}_0_{SECONDS}"


def plan(num_clips: int, seed: int) -> list[AvvpPlan]:
    return [_plan_clip(slot) for slot in slots("avvp", num_clips=num_clips, seed=seed)]


def media_path(clip: PlannedClip) -> Path:
    return Path("video", f"{clip.name}_0_{SECONDS}.mp4")


def write_annotations(clips: Sequence[AvvpPlan], folder: Path) -> None:
    """All files but the clips themselves."""
    for split, name in WEAK_FILES.items():
        rows = [(clip.filename, ",".join(_weak_labels(clip))) for clip in clips if clip.split == split]
        _write_table(folder / name, ("filename", "event_labels"), rows)
    dense = [clip for clip in clips if clip.split != "train"]
    _write_dense(folder / "AVVP_eval_audio.csv", [(clip.filename, clip.heard) for clip in dense])
    _write_dense(folder / "AVVP_eval_visual.csv", [(clip.filename, clip.seen) for clip in dense])


def _weak_labels(clip: AvvpPlan) -> list[str]:
    kinds = {event.kind for event in (*clip.heard, *clip.seen)}
    return [CLASS_NAMES[kind] for kind in SOUNDS if kind in kinds]


def _write_dense(path: Path, clips: Iterable[tuple[str, Sequence[Event]]]) -> None:
    rows = [
        (filename, str(event.run.start), str(event.run.stop), CLASS_NAMES[event.kind])
        for filename, events in clips
        for event in events
    ]
    _write_table(path, ("filename", "onset", "offset", "event_labels"), rows)


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    path.write_text("".join("\t".join(row) + "\n" for row in (columns, *rows)))


def _plan_clip(slot: Slot) -> AvvpPlan:
    rng = slot.rng()
    looks = draw_voiced_looks(rng, rng.choice((2, 3)), is_novel=slot.is_novel)
    things = place_things(rng, looks, SECONDS)
    timeline, heard, seen = Timeline(rng), _Seconds(), _Seconds()
    _add_sounds(rng, timeline, looks, heard, seen)
    _add_silent_rings(rng, timeline, looks, seen)
    return AvvpPlan(slot, timeline.scene(slot, things, SECONDS), heard.events(), seen.events())


class _Seconds:
    """Which kinds fill which seconds."""

    def __init__(self) -> None:
        self._filled: set[tuple[int, str]] = set()

    def fill(self, kind: str, second: int) -> None:
        self._filled.add((second, kind))

    def has(self, kind: str, second: int) -> bool:
        return (second, kind) in self._filled

    def events(self) -> tuple[Event, ...]:
        """Seconds that touch are one event."""
        return tuple(
            Event(kind, run)
            for kind in SOUNDS
            for run in _runs(second for second in range(SECONDS) if self.has(kind, second))
        )


def _runs(seconds: Iterable[int]) -> list[range]:
    """Unbroken runs of ascending numbers."""
    grouped = (list(run) for _, run in groupby(enumerate(seconds), key=lambda pair: pair[1] - pair[0]))
    return [range(run[0][1], run[-1][1] + 1) for run in grouped]


def _add_sounds(rng: random.Random, timeline: Timeline, looks: Sequence[Look], heard: _Seconds, seen: _Seconds) -> None:
    """One sound at a time: of a thing that rings, of one that does not, or of none."""
    voices = [VOICES[look.shape, look.size] for look in looks]
    strangers = [kind for kind in SOUNDS if kind not in voices]
    while sum(lengths := [rng.choice(_RUN_LENGTHS) for _ in range(rng.choice((3, 4)))]) > SECONDS:
        pass
    for run in draw_runs(rng, lengths, SECONDS):
        thing = rng.randrange(len(looks) + 1)
        kind = voices[thing] if thing < len(looks) else rng.choice(strangers)
        is_seen = thing < len(looks) and rng.random() < _IS_SEEN
        for second in run:
            heard.fill(kind, second)
            if is_seen:
                seen.fill(kind, second)
                timeline.ring_and_sound(thing, kind, second)
            else:
                timeline.sound(kind, second)


def _add_silent_rings(rng: random.Random, timeline: Timeline, looks: Sequence[Look], seen: _Seconds) -> None:
    """Once for some things, whatever is heard then; where the thing rings already, nothing is added."""
    for thing, look in enumerate(looks):
        kind = VOICES[look.shape, look.size]
        length = rng.choice((0, 1, 2, 3))
        first = rng.randint(0, SECONDS - length)
        for second in range(first, first + length):
            if not seen.has(kind, second):
                seen.fill(kind, second)
                timeline.ring(thing, second)
