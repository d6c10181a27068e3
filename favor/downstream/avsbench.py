"""AVSBench: which pixels sound, in one of five frames per clip (Zhou et al., ECCV 2022).

Two sets, each a CSV with a column ``split`` and one row per clip; the clip's name is the first column.

    S4    one source; frames, masks and sound lie under SPLIT/CATEGORY/NAME; train has a mask for the first frame only
    MS3   several sources; frames lie under NAME as NAME.mp4_1.png ..., masks and sound under SPLIT/NAME
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from favor.downstream.annotations import Place, one_of, read_text

Subset = Literal["s4", "ms3"]
Split = Literal["train", "val", "test"]

NUM_FRAMES = 5


@dataclass(frozen=True)
class AvsClip:
    """One row; ``category`` is empty in MS3. Paths begin in the data folder (``s4_data``, ``ms3_data``)."""

    name: str
    category: str
    split: str
    subset: Subset

    @property
    def num_masks(self) -> int:
        """How many frames have a mask, from the first on."""
        return 1 if self.subset == "s4" and self.split == "train" else NUM_FRAMES

    @property
    def frames(self) -> tuple[Path, ...]:
        if self.subset == "s4":
            return self._numbered("visual_frames", NUM_FRAMES)
        folder = Path("visual_frames", self.name)
        return tuple(folder / f"{self.name}.mp4_{number}.png" for number in range(1, NUM_FRAMES + 1))

    @property
    def masks(self) -> tuple[Path, ...]:
        return self._numbered("gt_masks", self.num_masks)

    @property
    def sound(self) -> Path:
        return Path("audio_wav", self.split, self.category, f"{self.name}.wav")

    def _numbered(self, folder: str, count: int) -> tuple[Path, ...]:
        # An empty category adds nothing to a path.
        home = Path(folder, self.split, self.category, self.name)
        return tuple(home / f"{self.name}_{number}.png" for number in range(1, count + 1))


def read_clips(path: str | Path, *, subset: Subset, split: Split | None = None) -> tuple[AvsClip, ...]:
    """The clips of a set's CSV, of one split or of all.

    Raises:
        AnnotationError: names file and line.
    """
    name = Path(path).name
    reader = csv.reader(read_text(path).splitlines())
    header = [column.strip() for column in next(reader, [])]
    wanted = ("split", "category") if subset == "s4" else ("split",)
    for column in wanted:
        if header.count(column) != 1:
            raise Place(name, 1).error(
                f"the header names {', '.join(header)[:120]}",
                allowed=f"the clip's name first, and {' and '.join(wanted)}",
                advice="Give the CSV of this set",
            )
    clips: dict[str, AvsClip] = {}
    for fields in reader:
        if any(field.strip() for field in fields):
            place = Place(name, reader.line_num)
            clip = _clip(place, _named(place, header, fields), header[0], subset)
            if clip.name in clips:
                raise place.error(f"the clip {clip.name!r} comes twice", allowed="each clip once")
            clips[clip.name] = clip
    if not clips:
        raise Place(name).error("no rows", allowed="at least one clip")
    return tuple(clip for clip in clips.values() if split in (None, clip.split))


def _named(place: Place, header: list[str], fields: list[str]) -> dict[str, str]:
    if len(fields) != len(header):
        raise place.error(f"{len(fields)} fields", allowed=f"{len(header)}: {', '.join(header)}")
    return dict(zip(header, (field.strip() for field in fields)))


def _clip(place: Place, fields: Mapping[str, str], name_column: str, subset: Subset) -> AvsClip:
    split = one_of(place, "split", fields["split"], get_args(Split))
    category = fields["category"] if subset == "s4" else ""
    for column, text in ((name_column, fields[name_column]), ("category", category if subset == "s4" else "-")):
        if not text or text in (".", "..") or "/" in text or "\\" in text:
            raise place.error(f"{column} is {text!r}", allowed="a plain name, for it becomes part of a path")
    return AvsClip(fields[name_column], category, split, subset)
