"""A folder of features: what it says of itself, its shards, and reading a clip's features from them.

A folder holds an index, which says of which clips and by which encoders its features are, and shards of tensors.

Shapes: F frames and S audio steps of all clips of a shard, P visual tokens of a frame.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from favor.errors import ConfigurationError
from favor.feature_cache import weights_hash
from favor.modeling import FavorForConditionalGeneration
from favor.sync import num_audio_chunks
from training.recipe import Strict
from training.world import scenes
from training.world.scene import Kind, Scene
from training.world.splits import Split

KINDS: tuple[Kind, ...] = get_args(Kind)
"""Kinds of clips by their numbers in shards."""

StreamName = Literal["sound", "picture"]

_INDEX = "shards.json"
_SETTINGS = ("seed", "split", "clips", "shard_clips", "precision", "kinds")


class Encode(Strict):
    """One folder of features.

    Args:
        model: a FAVOR folder whose encoders are trained.
        output: the folder. seed, split: of the scenes. clips: how many. shard_clips: in one file.
        precision: of the encoders; features are kept in bfloat16.
        kinds: share of each kind of clip; None takes the world's own.
    """

    name: str = "encode"
    summary: str = ""
    model: str
    output: str
    seed: int = 0
    split: Split = "train"
    clips: int = Field(gt=0)
    shard_clips: int = Field(default=512, gt=0)
    precision: Literal["bf16", "fp32"] = "bf16"
    kinds: dict[Kind, float] | None = None

    @property
    def num_shards(self) -> int:
        return -(-self.clips // self.shard_clips)


@dataclass(frozen=True)
class ClipFeatures:
    """A clip as the connector gets it: (F, P, width), (true audio steps, 25, audio width), and of which scene."""

    visual: Tensor
    audio: Tensor
    is_image: bool
    seed: int

    @property
    def num_frames(self) -> int:
        return len(self.visual)

    @property
    def num_audio_steps(self) -> int:
        return len(self.audio)

    def without(self, stream: StreamName) -> ClipFeatures:
        """A picture without its sound stays what it is; a sound without its picture is no image."""
        if stream == "sound":
            return replace(self, audio=self.audio[:0])
        return replace(self, visual=self.visual[:0], is_image=False)


class Shards:
    """A folder of features, mapped into memory: reading a clip copies nothing but its own features."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.recipe, self.encoders = _read_index(self.folder)
        missing = [n for n in range(self.recipe.num_shards) if not shard_path(self.folder, n).exists()]
        if missing:
            raise ConfigurationError(
                f"{self.folder.name} lacks {len(missing)} of its {self.recipe.num_shards} shards",
                allowed="a folder that is complete",
                advice="Run python -m training encode again; it makes what is missing",
            )
        opened = [_load_shard(shard_path(self.folder, number)) for number in range(self.recipe.num_shards)]
        self._visual = [shard["visual"] for shard in opened]
        self._audio = [shard["audio"] for shard in opened]
        self.num_frames, self.num_audio_steps, self.is_image, self.kinds, self.seeds = (
            torch.cat([shard[name] for shard in opened]).numpy()
            for name in ("num_frames", "num_audio_steps", "is_image", "kinds", "seeds")
        )
        self._first_frame = _firsts([shard["num_frames"] for shard in opened])
        self._first_step = _firsts([shard["num_audio_steps"] for shard in opened])

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def num_steps(self) -> np.ndarray:
        """Of every clip, its longer stream."""
        return np.maximum(self.num_frames, self.num_audio_steps)

    def clip(self, number: int) -> ClipFeatures:
        """The features of one clip."""
        shard = number // self.recipe.shard_clips
        frame, step = int(self._first_frame[number]), int(self._first_step[number])
        return ClipFeatures(
            visual=self._visual[shard][frame : frame + int(self.num_frames[number])],
            audio=self._audio[shard][step : step + int(self.num_audio_steps[number])],
            is_image=bool(self.is_image[number]),
            seed=int(self.seeds[number]),
        )

    def scene(self, number: int) -> Scene:
        """What the clip shows."""
        return scenes.make(int(self.seeds[number]), kind=KINDS[self.kinds[number]], split=self.recipe.split)

    def of_kinds(self, kinds: Sequence[str] | None) -> np.ndarray:
        """Numbers of the clips of these kinds; None takes all.

        Raises:
            ConfigurationError: there is no such kind, or no clip of them.
        """
        if kinds is None:
            return np.arange(len(self))
        found = np.flatnonzero(np.isin(self.kinds, [KINDS.index(kind) for kind in kinds if kind in KINDS]))
        if not set(kinds) <= set(KINDS) or not len(found):
            raise ConfigurationError(
                f"{self.folder.name} is asked for clips of the kinds {', '.join(kinds)}",
                allowed=f"kinds that it holds, of {', '.join(KINDS)}",
                advice="Correct data.world.kinds",
            )
        return found

    def refuse_other_encoders(self, model: FavorForConditionalGeneration) -> None:
        """Features mean nothing to a model with other encoders.

        Raises:
            ConfigurationError: they were made by others, or there is an adapter between the model's.
        """
        if encoders_hash(model) != self.encoders:
            raise ConfigurationError(
                f"the features in {self.folder.name} were made by other encoders than the model's",
                allowed="features of the very same weights",
                advice="Make them again with python -m training encode",
            )


def media_inputs(clips: Sequence[ClipFeatures], *, chunk_steps: int) -> dict[str, Tensor]:
    """The model's inputs for some clips in order, but for text; sound filled up to whole chunks of the encoder."""
    nothing = torch.zeros(len(clips), 0, dtype=torch.long)
    media = {
        "num_frames": torch.tensor([clip.num_frames for clip in clips]),
        "num_audio_steps": torch.tensor([clip.num_audio_steps for clip in clips]),
        "is_image": torch.tensor([clip.is_image for clip in clips]),
        "instruction_ids": nothing,
        "instruction_mask": nothing,
        "visual_features": torch.cat([clip.visual for clip in clips]),
        "audio_features": _whole_chunks([clip.audio for clip in clips], chunk_steps),
    }
    return {name: value for name, value in media.items() if not name.endswith("_features") or len(value)}


def _whole_chunks(sounds: Sequence[Tensor], size: int) -> Tensor:
    lengths = [num_audio_chunks(len(sound), size) * size for sound in sounds]
    whole = sounds[0].new_zeros(sum(lengths), *sounds[0].shape[1:])
    start = 0
    for sound, length in zip(sounds, lengths):
        whole[start : start + len(sound)] = sound
        start += length
    return whole


def encoders_hash(model: FavorForConditionalGeneration) -> str:
    """Of all weights of both encoders: features fit no others.

    Raises:
        ConfigurationError: there is an adapter between them; kept features are of encoders that work each for itself.
    """
    if model.adapter is not None:
        raise ConfigurationError(
            "data.world holds the encoders' features and an adapter works inside the encoders",
            allowed="data.train with clips",
            advice="Write clips of the world with python -m training clips, or leave the adapter out",
        )
    return weights_hash(model.vision, weights_hash(model.audio, None))


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.safetensors"


def write_shard(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a file that is either whole or not there."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, unfinished)
    unfinished.replace(path)


def claim(folder: Path, recipe: Encode, model: FavorForConditionalGeneration) -> None:
    """Say what the folder's features are, or find that it says the same already."""
    mine: dict[str, Any] = {**recipe.model_dump(include=set(_SETTINGS)), "encoders": encoders_hash(model)}
    path = folder / _INDEX
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        other = [name for name in mine if kept.get(name) != mine[name]]
        if other:
            raise ConfigurationError(
                f"{folder.name} holds features of another {', '.join(other)}",
                allowed="the settings that it was begun with",
                advice="Choose another output, or delete the old one",
            )
        return
    unfinished = path.with_name(f".{_INDEX}.{os.getpid()}")
    unfinished.write_text(json.dumps(mine, indent=1), encoding="utf-8")
    unfinished.replace(path)


def _read_index(folder: Path) -> tuple[Encode, str]:
    try:
        kept = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"{folder.name!r} holds no features", allowed="a folder of python -m training encode", advice="Make it"
        ) from error
    encoders = kept.pop("encoders")
    return Encode(model="", output=str(folder), **kept), encoders


def _load_shard(path: Path) -> dict[str, Tensor]:
    """Its tensors; their memory is the file's, read when it is first looked at."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a reader, no dict


def _firsts(lengths: Sequence[Tensor]) -> np.ndarray:
    """Where each clip begins in its shard."""
    return torch.cat([each.cumsum(0) - each for each in lengths]).numpy()
