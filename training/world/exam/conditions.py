"""With what of a clip a question is asked: all of it, a part, nothing, or another clip's sound.

Shapes: F frames, P visual tokens of a frame, S audio steps of whole chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from torch import Tensor

from .paper import Paper

Condition = Literal["both", "sound", "picture", "none", "mismatched_sound"]
"""``both`` is the clip as it is; ``none`` asks without a clip; ``mismatched_sound`` puts the sound of another clip of
the same kind and about the same length in the place of its own."""

CONDITIONS: tuple[Condition, ...] = get_args(Condition)

_EVERY = {"none": 3, "mismatched_sound": 3}
"""Of these only every third item of a family is asked: that is enough to see that they are far off."""


@dataclass(frozen=True)
class Streams:
    """A clip as the connector gets it: visual (F, P, width), audio (S, 25, width); either may be of length 0."""

    visual: Tensor
    audio: Tensor
    num_audio_steps: int
    is_image: bool


def items_for(paper: Paper, condition: Condition) -> tuple[int, ...]:
    """Numbers of the items that are asked under a condition: those whose clips have what it takes."""
    chosen: list[int] = []
    for family in paper.families:
        able = [
            n for n, item in enumerate(paper.items) if item.question.family == family and _fits(paper, n, condition)
        ]
        chosen += able[:: _EVERY.get(condition, 1)]
    return tuple(chosen)


def under(condition: Condition, paper: Paper, features: Sequence[Streams], number: int) -> Streams | None:
    """What is seen and heard of clip ``number``; None is nothing."""
    clip = features[number]
    match condition:
        case "none":
            return None
        case "sound":  # a sound without its picture is no image
            return replace(clip, visual=clip.visual[:0], is_image=False)
        case "picture":
            return replace(clip, audio=clip.audio[:0], num_audio_steps=0)
        case "mismatched_sound":
            other = features[_stranger(paper, number)]
            return replace(clip, audio=other.audio, num_audio_steps=other.num_audio_steps)
    return clip


def _fits(paper: Paper, item: int, condition: Condition) -> bool:
    scene = paper.clips[paper.items[item].clip].scene
    if condition == "picture":
        return scene.has_picture
    return scene.has_sound or condition not in ("sound", "mismatched_sound")


def _stranger(paper: Paper, number: int) -> int:
    """The other clip of the same kind that is nearest in length."""
    scene = paper.clips[number].scene
    others = [n for n, clip in enumerate(paper.clips) if clip.scene.kind == scene.kind and n != number]
    assert others, f"the paper has a single clip of kind {scene.kind}"
    return min(others, key=lambda other: abs(paper.clips[other].scene.seconds - scene.seconds))
