"""What a scene is asked to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from training.world.scene import Thing
from training.world.splits import Split, is_held_out

from .looks import Look


@dataclass(frozen=True)
class Wish:
    """The arguments of :func:`training.world.scenes.make`, kind apart."""

    seed: int
    split: Split
    is_novel: bool | None
    voices: Literal["known", "held_out"]

    def allows(self, thing: Look | Thing, sound: str) -> bool:
        """May this thing make this sound?"""
        if self.split == "test" and self.is_novel is None:
            return True
        return is_held_out(thing.colour, thing.shape, sound) == bool(self.is_novel)
