"""LLP, the data of audio-visual video parsing (AVVP): ten-second clips, 25 classes (Tian et al., ECCV 2020).

Weak files, one row per clip, tell which classes occur at all (train, val, test):

    filename<TAB>event_labels                           EWG-FzjkTr4_40_50<TAB>Speech,Frying_(food)

Dense files, one row per event, tell when, one file for what is heard and one for what is seen (val and test together):

    filename<TAB>onset<TAB>offset<TAB>event_labels      EWG-FzjkTr4_40_50<TAB>0<TAB>10<TAB>Frying_(food)

Events of one class may touch (0-2, 2-6, 6-10): painted on seconds they are one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from favor.downstream.annotations import AnnotationError, Place, Row, one_of, read_table

CLASSES = (
    "Speech",
    "Car",
    "Cheering",
    "Dog",
    "Cat",
    "Frying_(food)",
    "Basketball_bounce",
    "Fire_alarm",
    "Chainsaw",
    "Cello",
    "Banjo",
    "Singing",
    "Chicken_rooster",
    "Violin_fiddle",
    "Vacuum_cleaner",
    "Baby_laughter",
    "Accordion",
    "Lawn_mower",
    "Motorcycle",
    "Helicopter",
    "Acoustic_guitar",
    "Telephone_bell_ringing",
    "Baby_cry_infant_cry",
    "Blender",
    "Clapping",
)
"""Class names by number, the official order."""

NUM_SEGMENTS = 10
"""One-second segments of a clip."""

_FILENAME = re.compile(r"(?P<video_id>.+)_(?P<start>\d+)_(?P<end>\d+)")


@dataclass(frozen=True)
class LlpClip:
    """One row of a weak file: the classes seen or heard somewhere in the clip, by number, in the file's order."""

    filename: str
    labels: tuple[int, ...]

    @property
    def feature_name(self) -> str:
        """Name of the officially distributed feature files: the first eleven characters.

        Mostly the YouTube id; a few official ids are shorter, and then part of the start time belongs to the name.
        """
        return self.filename[:11]


@dataclass(frozen=True)
class LlpEvent:
    """One row of a dense file: the class fills the seconds [onset_s, offset_s)."""

    filename: str
    onset_s: int
    offset_s: int
    label: int


def read_clips(path: str | Path) -> tuple[LlpClip, ...]:
    """A weak file.

    Raises:
        AnnotationError: names file and line.
    """
    clips = []
    met: dict[str, Place] = {}
    for row in read_table(path, delimiter="\t", columns=("filename", "event_labels")):
        clip = LlpClip(_filename(row), tuple(_label(row.place, name) for name in row["event_labels"].split(",")))
        if clip.filename in met:
            raise row.place.error(f"{clip.filename!r} stood already on {met[clip.filename]}", allowed="each clip once")
        if len(set(clip.labels)) != len(clip.labels):
            raise row.place.error(f"a class comes twice: {row['event_labels']!r}", allowed="each class once")
        met[clip.filename] = row.place
        clips.append(clip)
    return tuple(clips)


def read_events(path: str | Path) -> tuple[LlpEvent, ...]:
    """A dense file, of sound or of picture.

    Raises:
        AnnotationError: names file and line.
    """
    columns = ("filename", "onset", "offset", "event_labels")
    return tuple(_event(row) for row in read_table(path, delimiter="\t", columns=columns))


def clip_labels(clips: Sequence[LlpClip]) -> NDArray[np.bool_]:
    """(clips, 25) which classes occur."""
    labels = np.zeros((len(clips), len(CLASSES)), dtype=bool)
    for number, clip in enumerate(clips):
        labels[number, list(clip.labels)] = True
    return labels


def segment_labels(events: Iterable[LlpEvent], filenames: Sequence[str]) -> NDArray[np.bool_]:
    """(clips, 10, 25) which classes fill which seconds, for the clips named; events of other clips are left out."""
    rows = {filename: number for number, filename in enumerate(filenames)}
    if len(rows) != len(filenames):
        raise AnnotationError("a clip is named twice", allowed="each clip once", advice="Name it once")
    labels = np.zeros((len(filenames), NUM_SEGMENTS, len(CLASSES)), dtype=bool)
    for event in events:
        if event.filename in rows:
            labels[rows[event.filename], event.onset_s : event.offset_s, event.label] = True
    return labels


def _event(row: Row) -> LlpEvent:
    onset_s = row.whole_number("onset", most=NUM_SEGMENTS)
    offset_s = row.whole_number("offset", most=NUM_SEGMENTS)
    if onset_s >= offset_s:
        raise row.place.error(f"the event lasts from {onset_s} to {offset_s} s", allowed="onset < offset")
    return LlpEvent(_filename(row), onset_s, offset_s, _label(row.place, row["event_labels"]))


def _filename(row: Row) -> str:
    filename = row["filename"]
    if not _FILENAME.fullmatch(filename):
        raise row.place.error(f"filename is {filename!r}", allowed="ID_START_END, such as EWG-FzjkTr4_40_50")
    return filename


def _label(place: Place, name: str) -> int:
    return CLASSES.index(one_of(place, "event_labels", name.strip(), CLASSES))
