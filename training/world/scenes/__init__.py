"""Draws scenes: what happens in a clip, from a seed, so that no answer is told by anything but seeing and hearing.

Times are seconds, places and distances shares of the picture's side, as in :mod:`training.world.scene`.

Kinds of clips, by how they are made:

moving         things come, move, flash, sound and go: ``video``, ``match``
causes         two things collide and one changes its colour: ``cause``
stills         one silent picture: ``image``
hearing        sounds or speech, with a still picture or none: ``sounds``, ``speech`` and the like

What they draw from:

wish           what is asked for            looks          colours, shapes and sizes
timing         when things happen           placing        where things are, and how far apart
motion         how they move                events         their flashes, and all sounds
surroundings   signs, background, noise
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

from training.world.scene import Kind, Scene
from training.world.splits import Split

from .causes import make_cause
from .hearing import make_noisy_speech, make_sounds, make_speech, make_spoken_question
from .moving import make_match, make_video
from .placing import AREAS, CLEARANCE, EDGE, SIGN_BAND
from .stills import make_image
from .wish import Wish

__all__ = ["AREAS", "CLEARANCE", "EDGE", "KIND_SHARES", "SIGN_BAND", "make"]

KIND_SHARES: dict[Kind, float] = {
    "video": 0.34,
    "match": 0.10,
    "cause": 0.14,
    "image": 0.14,
    "sounds": 0.08,
    "speech": 0.08,
    "noisy_speech": 0.06,
    "spoken_question": 0.06,
}
"""Share of each kind among clips."""

_MAKERS: dict[Kind, Callable[[random.Random, Wish], Scene]] = {
    "video": make_video,
    "match": make_match,
    "cause": make_cause,
    "image": make_image,
    "sounds": make_sounds,
    "speech": make_speech,
    "noisy_speech": make_noisy_speech,
    "spoken_question": make_spoken_question,
}


def make(
    seed: int,
    *,
    kind: Kind | None = None,
    split: Split = "train",
    is_novel: bool | None = None,
    voices: Literal["known", "held_out"] = "known",
) -> Scene:
    """The scene of a seed, always the same one.

    Args:
        seed: any whole number. kind: None draws one by KIND_SHARES.
        split: ``train`` holds nothing that :mod:`training.world.splits` keeps out; the two never share a scene.
        is_novel: in kinds ``video`` and ``match`` of split ``test``: True lets things sound only as they never do in
            training, False only as they do; then a video has at least one thing that sounds. None allows both.
        voices: ``held_out`` speaks with speech.HELD_OUT_VOICES, which training never hears.

    Raises:
        ValueError: novel combinations or held-out voices were asked of split ``train``.
    """
    if split == "train" and (is_novel or voices == "held_out"):
        raise ValueError("split 'train' holds nothing held out; ask split 'test' for novel combinations and voices")
    if kind is None:
        rng = random.Random(f"{split} {seed}")
        kind = rng.choices(list(KIND_SHARES), weights=list(KIND_SHARES.values()))[0]
    rng = random.Random(f"{split} {kind} {seed}")
    return _MAKERS[kind](rng, Wish(seed, split, is_novel, voices))
