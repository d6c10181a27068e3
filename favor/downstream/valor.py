"""VALOR-32K: clips and their captions, for text-to-video retrieval and captioning (Chen et al., 2023).

id list     a JSON list of clip ids, one file per split ("test_id.json")
mapper      a JSON object, clip id -> caption or list of captions, one file for all ("txt_mapper_en.json")
captions    a COCO-style file with "annotations": [{"image_id": ..., "caption": ...}], the reference of scoring
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from favor.downstream.annotations import Place, read_json


@dataclass(frozen=True)
class ValorClip:
    clip_id: str
    captions: tuple[str, ...]


def read_ids(path: str | Path) -> tuple[str, ...]:
    """An id list.

    Raises:
        AnnotationError: names file and record.
    """
    name = Path(path).name
    ids = read_json(path)
    if not isinstance(ids, list) or not ids:
        raise Place(name).error(f"a {type(ids).__name__}", allowed="a list of clip ids, not an empty one")
    met: set[str] = set()
    for number, clip_id in enumerate(ids, 1):
        place = Place(name, number, "record")
        if not isinstance(clip_id, str) or not clip_id:
            raise place.error(f"{clip_id!r}"[:120], allowed="a clip id, as text")
        if clip_id in met:
            raise place.error(f"{clip_id!r} comes twice", allowed="each clip once")
        met.add(clip_id)
    return tuple(ids)


def read_mapper(path: str | Path) -> Mapping[str, tuple[str, ...]]:
    """Clip id -> its captions.

    Raises:
        AnnotationError: names file and clip.
    """
    name = Path(path).name
    mapper = read_json(path)
    if not isinstance(mapper, dict) or not mapper:
        raise Place(name).error(f"a {type(mapper).__name__}", allowed="an object of clip id -> captions, not empty")
    return {clip_id: _captions(Place(f"{name}, clip {clip_id}"), given) for clip_id, given in mapper.items()}


def read_references(path: str | Path) -> Mapping[str, tuple[str, ...]]:
    """Clip id -> its captions, of a COCO-style file.

    Raises:
        AnnotationError: names file and record.
    """
    name = Path(path).name
    content = read_json(path)
    records = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(records, list) or not records:
        raise Place(name).error("no list 'annotations'", allowed="an object with 'annotations'")
    references: dict[str, tuple[str, ...]] = {}
    for number, record in enumerate(records, 1):
        place = Place(name, number, "record")
        clip_id, caption = _reference(place, record)
        references[clip_id] = (*references.get(clip_id, ()), *_captions(place, caption))
    return references


def read_clips(ids: str | Path, mapper: str | Path) -> tuple[ValorClip, ...]:
    """The clips of one split, in the id list's order.

    Raises:
        AnnotationError: also where the mapper lacks a clip of the list.
    """
    captions = read_mapper(mapper)
    clips = []
    for number, clip_id in enumerate(read_ids(ids), 1):
        if clip_id not in captions:
            raise Place(Path(ids).name, number, "record").error(
                f"{clip_id!r} has no caption in {Path(mapper).name}", allowed="clips of the mapper"
            )
        clips.append(ValorClip(clip_id, captions[clip_id]))
    return tuple(clips)


def _reference(place: Place, record: Any) -> tuple[str, str]:
    clip_id, caption = (record.get("image_id"), record.get("caption")) if isinstance(record, dict) else (None, None)
    if not isinstance(clip_id, str) or not clip_id or not isinstance(caption, str):
        raise place.error(f"{record!r}"[:120], allowed="an object with image_id and caption, both text")
    return clip_id, caption


def _captions(place: Place, given: object) -> tuple[str, ...]:
    captions = given if isinstance(given, list) else [given]
    if not captions or not all(isinstance(caption, str) and caption.strip() for caption in captions):
        raise place.error(f"{given!r}"[:120], allowed="a caption, or a list of them, none empty")
    return tuple(captions)
