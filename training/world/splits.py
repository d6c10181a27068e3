"""What is kept out of training, so that tests can ask for combinations and phrases that were never met."""

from __future__ import annotations

import zlib
from typing import Literal

from training.data.shuffling import hashed
from training.world import vocabulary

Split = Literal["train", "test"]

_COLOURS = {colour: number for number, colour in enumerate(vocabulary.COLOURS)}
_SHAPES = {shape: number for number, shape in enumerate(vocabulary.SHAPES)}
_SOUNDS = {sound: number for number, sound in enumerate(vocabulary.SOUNDS)}
_QUESTION_STARTS = ("what ", "which ", "how ", "where ", "is ")


def seed_of_clip(seed: int, split: Split, number: int) -> int:
    """Seed of the scene of clip ``number``; the splits' seeds are as independent as those of two clips."""
    return hashed(seed, ("train", "test").index(split), number) >> 16


def is_held_out(colour: str, shape: str, sound: str) -> bool:
    """Is it left to tests that a thing of this colour and shape makes this sound?

    One triple in six is. They lie like a Latin square, so training still meets every colour with every shape, every
    colour with every sound and every shape with every sound: only the combination of all three is new.
    """
    return (_COLOURS[colour] + _SHAPES[shape] + _SOUNDS[sound]) % len(_COLOURS) == 0


def is_held_out_phrase(text: str) -> bool:
    """Is this phrase spoken in tests only? About one in five is; spoken questions, being few, never are."""
    if text.startswith(_QUESTION_STARTS):
        return False
    return zlib.crc32(text.encode()) // 7 % 5 == 0
