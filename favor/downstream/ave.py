"""AVE: one audio-visual event per ten-second clip, 28 classes and background (Tian et al., ECCV 2018).

The annotation file has one row per clip, ``Category&VideoID&Quality&StartTime&EndTime``, whole seconds. Some copies
begin with a header line and some do not; it is told by what it says, never by a setting, so no label can shift by one.
A class's number is the order of first appearance in the *full* file; background is 28.

The splits are lists of row numbers ("order"), counted from 0 without the header.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from favor.downstream.annotations import Place, Row, is_whole_number, one_of, read_lines, split_row
from favor.errors import MissingDependencyError

NUM_CLASSES = 28
BACKGROUND = NUM_CLASSES
NUM_SEGMENTS = 10
"""One-second segments of a clip."""

_COLUMNS = ("Category", "VideoID", "Quality", "StartTime", "EndTime")
_SUFFIXES = (".txt", ".npy", ".h5")


@dataclass(frozen=True)
class AveClip:
    """One row: the seconds [start_s, end_s) hold the event, all others are background.

    ``start_s == end_s`` is allowed: one official row (a church bell) has no length, so its clip is all background.
    """

    number: int
    video_id: str
    category: str
    label: int
    quality: str
    start_s: int
    end_s: int

    @property
    def segments(self) -> NDArray[np.int64]:
        """(10,) class of every second."""
        seconds = np.arange(NUM_SEGMENTS)
        return np.where((self.start_s <= seconds) & (seconds < self.end_s), self.label, BACKGROUND)


def read_annotations(path: str | Path, *, classes: Sequence[str] | None = None) -> tuple[AveClip, ...]:
    """All clips of an annotation file.

    Args:
        path: the full annotation file, or one of the split files of the same format (``testSet.txt``).
        classes: the 28 names in order, as :func:`classes_of` gives them from the full file. Without it the file itself
            must hold all 28, and their order of first appearance numbers them; a split file may order them otherwise.

    Raises:
        AnnotationError: names file and line.
    """
    rows = [
        split_row(place, line, delimiter="&", columns=_COLUMNS) for place, line in _without_header(read_lines(path))
    ]
    if not rows:
        raise Place(Path(path).name).error("a header and no rows", allowed="at least one row")
    names = _classes(Path(path).name, rows) if classes is None else list(classes)
    assert len(set(names)) == len(names) == NUM_CLASSES, f"{len(names)} classes given, not {NUM_CLASSES} different ones"
    return tuple(_clip(number, row, names) for number, row in enumerate(rows))


def classes_of(clips: Iterable[AveClip]) -> tuple[str, ...]:
    """Class names by number, of a full file's clips."""
    names = {clip.label: clip.category for clip in clips}
    return tuple(names[label] for label in sorted(names))


def segment_labels(clips: Sequence[AveClip]) -> NDArray[np.int64]:
    """(clips, 10) class of every second, 28 where there is no event."""
    return np.array([clip.segments for clip in clips], dtype=np.int64).reshape(-1, NUM_SEGMENTS)


def read_split(path: str | Path, *, num_clips: int) -> NDArray[np.int64]:
    """Row numbers of one split: an official ``.h5`` with "order", a ``.npy``, or a ``.txt`` with one number per line.

    Raises:
        AnnotationError: a number that is no row of ``num_clips``, or that comes twice.
        MissingDependencyError: an ``.h5`` without the package h5py.
    """
    path = Path(path)
    place = Place(path.name)
    suffix = one_of(place, "the suffix", path.suffix.lower(), _SUFFIXES)
    numbers = {".txt": _order_of_text, ".npy": _order_of_numpy, ".h5": _order_of_hdf}[suffix](path)
    if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer) or not numbers.size:
        raise place.error(f"an array of shape {numbers.shape} and {numbers.dtype}", allowed="a list of whole numbers")
    for entry, number in enumerate(numbers.tolist(), 1):
        if not 0 <= number < num_clips:
            raise Place(path.name, entry, "entry").error(
                f"row {number}", allowed=f"0 to {num_clips - 1}", advice="Give the split of this annotation file"
            )
    if len(set(numbers.tolist())) != numbers.size:
        raise place.error("a row number comes twice", allowed="every row at most once")
    return numbers.astype(np.int64)


def _without_header(lines: list[tuple[Place, str]]) -> list[tuple[Place, str]]:
    """A header says "Category" where a class stands, and no number where the start stands."""
    fields = [field.strip() for field in lines[0][1].split("&")]
    is_header = fields[0].casefold() == _COLUMNS[0].casefold() and not is_whole_number(fields[-1])
    return lines[1:] if is_header else lines


def _classes(file: str, rows: Sequence[Row]) -> list[str]:
    """Class names in the order of first appearance, which numbers them; all 28 must be there."""
    firsts = {row["Category"]: row for row in reversed(rows)}
    names = list(dict.fromkeys(row["Category"] for row in rows))
    if len(names) > NUM_CLASSES:
        extra = names[NUM_CLASSES]
        raise firsts[extra].place.error(f"Category is {extra!r}, the 29th class", allowed=f"{NUM_CLASSES} classes")
    if len(names) < NUM_CLASSES:
        raise Place(file).error(
            f"{len(names)} classes",
            allowed=f"{NUM_CLASSES}, for their order of first appearance numbers them",
            advice="Give the full annotation file, or its classes along with a split file",
        )
    return names


def _clip(number: int, row: Row, names: Sequence[str]) -> AveClip:
    start_s = row.whole_number("StartTime", most=NUM_SEGMENTS)
    end_s = row.whole_number("EndTime", most=NUM_SEGMENTS)
    if start_s > end_s:
        raise row.place.error(f"the event ends at {end_s} s, before its start at {start_s} s", allowed="start <= end")
    label = names.index(one_of(row.place, "Category", row["Category"], names))
    return AveClip(number, row["VideoID"], row["Category"], label, row["Quality"], start_s, end_s)


def _order_of_text(path: Path) -> NDArray[np.int64]:
    lines = [(place, line.strip()) for place, line in read_lines(path)]
    for place, text in lines:
        if not is_whole_number(text):
            raise place.error(f"{text[:80]!r}", allowed="one row number per line")
    return np.array([int(text) for _, text in lines], dtype=np.int64)


def _order_of_numpy(path: Path) -> NDArray[np.int64]:
    try:
        return np.asarray(np.load(path))
    except (OSError, ValueError, EOFError) as error:
        raise Place(path.name).error(f"not a numpy array ({error})", allowed="an array of row numbers") from None


def _order_of_hdf(path: Path) -> NDArray[np.int64]:
    try:
        import h5py
    except ImportError:
        raise MissingDependencyError(
            f"{path.name} is an HDF5 file, and the package h5py is not installed",
            allowed=".npy or .txt without it",
            advice="Install h5py, or write the row numbers to a text file, one per line",
        ) from None
    try:
        with h5py.File(path, "r") as file:
            return np.asarray(file["order"])
    except (OSError, KeyError) as error:
        raise Place(path.name).error(f"no HDF5 file with 'order' ({error})", allowed="a dataset 'order'") from None
