"""AVSBench's files: which pixels sound in five frames of a five-second clip, of a single source or of several.

S4     s4_meta_data.csv (name, category, split), and under s4_data:
       visual_frames, gt_masks    SPLIT/CATEGORY/NAME/NAME_1.png ... NAME_5.png; in train the first mask only
       audio_wav                  SPLIT/CATEGORY/NAME.wav
MS3    ms3_meta_data.csv (video_id, split), and under ms3_data:
       visual_frames              NAME/NAME.mp4_1.png ... NAME.mp4_5.png
       gt_masks, audio_wav        SPLIT/NAME/NAME_1.png ..., SPLIT/NAME.wav
both   videos/NAME.mp4

Frame n is the clip's at n - 1/2 s. A mask is 255 on the pixels of what sounds then, without its ring, and 0 elsewhere.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from favor.downstream.avsbench import NUM_FRAMES, AvsClip, Subset
from training.world.files import FPS, write_wav
from training.world.picture import draw, seen_things
from training.world.scene import Scene
from training.world.scenes.looks import Look
from training.world.vocabulary import SOUNDS

from .cast import VOICES, PlannedClip, Slot, Timeline, draw_voiced_looks, place_things, slots

SECONDS = 5
FRAME_TIMES_S = tuple(number + 0.5 for number in range(NUM_FRAMES))

_RINGS = 0.9  # a thing of MS3, in a second
_NUM_SOUNDING_WEIGHTS = (0.25, 0.5, 0.25)  # none, one, two things
_STRANGER_SOUNDS = 0.3


@dataclass(frozen=True)
class AvsPlan(PlannedClip):
    subset: Subset
    category: str
    """The source's sound kind in S4, nothing in MS3."""

    @property
    def official(self) -> AvsClip:
        """The record that the reader makes of it, which names its files."""
        return AvsClip(self.name, self.category, self.split, self.subset)


def plan_s4(num_clips: int, seed: int) -> list[AvsPlan]:
    return [_plan_s4(slot) for slot in slots("avs-s4", num_clips=num_clips, seed=seed)]


def plan_ms3(num_clips: int, seed: int) -> list[AvsPlan]:
    return [_plan_ms3(slot) for slot in slots("avs-ms3", num_clips=num_clips, seed=seed)]


def media_path(clip: AvsPlan) -> Path:
    return Path(f"{clip.subset}_data", "videos", f"{clip.name}.mp4")


def masks(scene: Scene, size: int) -> np.ndarray:
    """(5, size, size) bool, what sounds at ``FRAME_TIMES_S``."""
    seen = seen_things(scene, FRAME_TIMES_S, size)
    return np.stack([np.isin(frame, sounding(scene, time_s)) for frame, time_s in zip(seen, FRAME_TIMES_S)])


def sounding(scene: Scene, time_s: float) -> list[int]:
    """Numbers of the things that sound at a time."""
    return [sound.source for sound in scene.sounds if sound.source is not None and sound.span.contains(time_s)]


def write_beside(clip: AvsPlan, folder: Path, size: int) -> None:
    """Frames, masks and sound, which the official data hold as files of their own."""
    home, official = folder / f"{clip.subset}_data", clip.official
    for path in (*official.frames, *official.masks, official.sound):
        (home / path).parent.mkdir(parents=True, exist_ok=True)
    for path, time_s in zip(official.frames, FRAME_TIMES_S, strict=True):
        frame = draw(clip.scene, [time_s], size, first_frame=int(time_s * FPS))[0]
        Image.fromarray(frame).save(home / path)
    for path, mask in zip(official.masks, masks(clip.scene, size)):  # there may be one mask only
        Image.fromarray(mask.astype(np.uint8) * 255).save(home / path)
    write_wav(clip.scene, home / official.sound)


def write_annotations(clips: Sequence[AvsPlan], folder: Path) -> None:
    """The set's CSV."""
    subset = clips[0].subset
    columns = ("name", "category", "split") if subset == "s4" else ("video_id", "split")
    with (folder / f"{subset}_meta_data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for clip in clips:
            writer.writerow([text for text in (clip.name, clip.category, clip.split) if text])


def _plan_s4(slot: Slot) -> AvsPlan:
    rng, kind = slot.rng(), slot.rotated(SOUNDS)
    looks = _looks_with(kind, lambda: draw_voiced_looks(rng, rng.choice((2, 3)), is_novel=slot.is_novel))
    things = place_things(rng, looks, SECONDS)
    source = next(number for number, look in enumerate(looks) if VOICES[look.shape, look.size] == kind)
    pretender = rng.choice([number for number in range(len(looks)) if number != source])
    timeline = Timeline(rng)
    for second in range(SECONDS):
        timeline.ring_and_sound(source, kind, second)
        timeline.ring(pretender, second)
    return AvsPlan(slot, timeline.scene(slot, things, SECONDS), "s4", kind)


def _looks_with(kind: str, draw_looks: Callable[[], list[Look]]) -> list[Look]:
    """Looks of which one has this voice."""
    while True:
        looks = draw_looks()
        if any(VOICES[look.shape, look.size] == kind for look in looks):
            return looks


def _plan_ms3(slot: Slot) -> AvsPlan:
    rng = slot.rng()
    looks = draw_voiced_looks(rng, 3, is_novel=slot.is_novel)
    things = place_things(rng, looks, SECONDS)
    voices = [VOICES[look.shape, look.size] for look in looks]
    while True:
        timeline = Timeline(rng)
        for second in range(SECONDS):
            _add_second(rng, timeline, voices, second)
        scene = timeline.scene(slot, things, SECONDS)
        if any(sounding(scene, time_s) for time_s in FRAME_TIMES_S):
            return AvsPlan(slot, scene, "ms3", "")


def _add_second(rng: random.Random, timeline: Timeline, voices: Sequence[str], second: int) -> None:
    """Some things ring; up to two of them sound; else, at times, something off the screen."""
    ringing = [thing for thing in range(len(voices)) if rng.random() < _RINGS]
    number = rng.choices((0, 1, 2), weights=_NUM_SOUNDING_WEIGHTS)[0]
    heard = rng.sample(ringing, min(number, len(ringing)))
    for thing in ringing:
        if thing in heard:
            timeline.ring_and_sound(thing, voices[thing], second)
        else:
            timeline.ring(thing, second)
    if len(heard) < 2 and rng.random() < _STRANGER_SOUNDS:
        timeline.sound(rng.choice([kind for kind in SOUNDS if kind not in voices]), second)
