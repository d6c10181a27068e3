"""``python -m training perceive RECIPE.yaml``: teach one encoder to see or hear the world, from nothing.

Every step draws fresh clips, so nothing is ever seen twice; a held-out batch is scored now and then.
"""

from __future__ import annotations

import argparse
import random
import string
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedConfig

from favor import presets
from favor.media import SAMPLE_RATE_HZ
from favor.modeling import FavorForConditionalGeneration
from favor.processor import FavorProcessor
from favor.sync import AUDIO_FRAMES_PER_STEP, STEP_S
from training.recipe import load_settings, recipe_arguments
from training.world import picture, scenes, sound, vocabulary
from training.world.dense import PictureHeads, SoundHeads, join
from training.world.scene import Kind, Scene
from training.world.teaching import Lesson, teach

VISION_KINDS: dict[Kind, float] = {"video": 0.3, "match": 0.1, "cause": 0.15, "image": 0.45}
AUDIO_KINDS: dict[Kind, float] = {
    "sounds": 0.22, "speech": 0.33, "noisy_speech": 0.15, "spoken_question": 0.15, "video": 0.15,
}  # fmt: skip
FRAMES_PER_SCENE = 4
FRAMES_PER_S = round(AUDIO_FRAMES_PER_STEP / STEP_S)
"""Sound vectors of a second."""

POOL_SIZE, FRESH_SHARE = 3000, 0.15
"""Clips kept to be heard again, and the share of new ones."""

WHOLE_SHARE = 0.3
"""Pieces of sound that hold one clip and silence behind it, as in use; the others are filled up with further clips."""


class Perception(Lesson):
    """One run.

    Args:
        model: a preset. part: which of its encoders learns.
        batch: frames, or pieces of sound of the audio encoder's length.
    """

    model: str
    part: Literal["vision", "audio"]


add_arguments = recipe_arguments


def run(options: argparse.Namespace) -> int:
    """Train; goes on from where an earlier run of the same output stopped."""
    train(load_settings(Perception, options.recipe, options.overrides))
    return 0


def train(recipe: Perception) -> dict[str, float]:
    """Teach the encoder; its weights are at the end in ``OUTPUT/encoder.safetensors``, scores in ``scores.json``."""
    torch.manual_seed(recipe.seed)
    heads, batch_of = _teacher(recipe, *presets.untrained(recipe.model, seed=recipe.seed))
    scores = teach(recipe, heads, batch_of)
    encoder = heads.get_submodule(recipe.part)
    tensors = {name: value.contiguous() for name, value in encoder.state_dict().items()}
    save_file(tensors, Path(recipe.output) / "encoder.safetensors")
    return scores


def _teacher(
    recipe: Perception, model: FavorForConditionalGeneration, processor: FavorProcessor
) -> tuple[nn.Module, Callable[[str, int, int], tuple[Any, ...]]]:
    """The encoder with its heads, and what makes (inputs, labels) of a split, a step and a size."""
    for encoder in (model.vision, model.audio):
        for module in encoder.modules():
            config = getattr(module, "config", None)
            if isinstance(config, PreTrainedConfig):  # explicit attention: several times faster in bf16 on a CPU
                config._attn_implementation = "eager"
    if recipe.part == "vision":
        model.vision.unfreeze()
        torch.nn.init.normal_(model.vision.vit.model.embeddings.position_embedding, std=POSITION_STD)
        size = model.config.vision_config.image_size
        return PictureHeads(model.vision).train(), lambda split, step, number: frames_and_labels(
            processor, split=split, seed=recipe.seed, step=step, number=number, size=size
        )
    model.audio.unfreeze()
    model.audio.model.embed_positions.weight.data.mul_(POSITION_SCALE)
    seconds = round(model.config.audio_chunk_steps * STEP_S)
    pools = {"train": ClipPool("train", size=POOL_SIZE), "test": ClipPool("test", size=0)}
    return SoundHeads(model.audio).train(), lambda split, step, number: mels_and_labels(
        processor, pools[split], seed=recipe.seed, step=step, number=number, seconds=seconds
    )


POSITION_STD = 0.4
"""Of the picture's position table at the start: as large as the patches, else places and shapes are learnt late."""

POSITION_SCALE = 0.3
"""Whisper's sinusoids begin as large as its sounds; a small encoder starts faster with quieter ones."""


def frames_and_labels(
    processor: FavorProcessor, *, split: str, seed: int, step: int, number: int, size: int
) -> tuple[Tensor, picture.PictureLabels]:
    """``number`` normalised frames (F, 3, size, size), a few from each of many fresh scenes, and their labels."""
    rng = random.Random(f"frames {split} {seed} {step}")
    frames: list[np.ndarray] = []
    labels: list[picture.PictureLabels] = []
    while sum(len(each) for each in frames) < number:
        kind = rng.choices(list(VISION_KINDS), list(VISION_KINDS.values()))[0]
        scene = scenes.make(rng.getrandbits(48), kind=kind, split=split)  # type: ignore[arg-type]
        if split == "train":
            scene = _with_other_signs(scene, rng)
        times = [0.0] if scene.is_still else [_telling_time(scene, rng) for _ in range(FRAMES_PER_SCENE)]
        frames.append(picture.draw(scene, times, size))
        labels.append(picture.label(scene, times))
    pixels = processor.image_processor(images=list(np.concatenate(frames)), do_resize=False, return_tensors="pt")
    return pixels["pixel_values"], join(labels)


def _with_other_signs(scene: Scene, rng: random.Random) -> Scene:
    """Every second sign says anything at all: read by characters, not recognised as one of a few words."""
    signs = [sign if rng.random() < 0.5 else replace(sign, text=_any_text(rng)) for sign in scene.signs]
    return replace(scene, signs=tuple(signs))


def _any_text(rng: random.Random) -> str:
    characters = rng.choice((string.digits, vocabulary.PRINTED_CHARACTERS))
    return "".join(rng.choices(characters, k=rng.randint(1, vocabulary.MAX_PRINTED_CHARACTERS)))


def _telling_time(scene: Scene, rng: random.Random) -> float:
    """Any time of the clip, but every second time one at which something flashes."""
    flashes = [flash for thing in scene.things for flash in thing.flashes]
    if flashes and rng.random() < 0.5:
        flash = rng.choice(flashes)
        return rng.uniform(flash.start_s, flash.end_s)
    return rng.uniform(0.0, scene.seconds)


@dataclass(frozen=True)
class HeardClip:
    """A clip's waveform (16 kHz) and its labels at 50 Hz, cut to whole 20 ms."""

    wave: np.ndarray
    sounds: np.ndarray
    words: np.ndarray


class ClipPool:
    """Clips to hear, most of them heard before: speech takes far longer to synthesise than to learn from.

    Args:
        split: of the scenes. size: clips kept; 0 makes every clip afresh.
    """

    def __init__(self, split: str, *, size: int) -> None:
        self.split, self.size = split, size
        self._clips: list[HeardClip] = []

    def draw(self, rng: random.Random) -> HeardClip:
        """A clip; a FRESH_SHARE of them new, in the place of an old one."""
        if len(self._clips) == self.size and self.size and rng.random() > FRESH_SHARE:
            return rng.choice(self._clips)
        clip = self._make(rng)
        if len(self._clips) < self.size:
            self._clips.append(clip)
        elif self.size:
            self._clips[rng.randrange(self.size)] = clip
        return clip

    def _make(self, rng: random.Random) -> HeardClip:
        kind = rng.choices(list(AUDIO_KINDS), list(AUDIO_KINDS.values()))[0]
        scene = scenes.make(rng.getrandbits(48), kind=kind, split=self.split)  # type: ignore[arg-type]
        wave = sound.play(scene)
        frames = len(wave) * FRAMES_PER_S // SAMPLE_RATE_HZ
        labels = sound.label(scene, frames)
        return HeardClip(wave[: frames * SAMPLE_RATE_HZ // FRAMES_PER_S], labels.sounds, labels.words)


def mels_and_labels(
    processor: FavorProcessor, pool: ClipPool, *, seed: int, step: int, number: int, seconds: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-mel pieces (B, bins, frames) and their labels at 50 Hz, sounds (B, T) and words (B, T)."""
    rng = random.Random(f"sounds {pool.split} {seed} {step}")
    made = [_piece(rng, pool, seconds=seconds) for _ in range(number)]
    waves, sounds, words = zip(*made, strict=True)
    mels = processor.feature_extractor(list(waves), sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
    return mels["input_features"], torch.from_numpy(np.stack(sounds)), torch.from_numpy(np.stack(words))


def _piece(rng: random.Random, pool: ClipPool, *, seconds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A waveform of the encoder's length with its labels: one clip and silence, or clip after clip."""
    size, length = seconds * SAMPLE_RATE_HZ, seconds * FRAMES_PER_S
    clips = [pool.draw(rng)]
    is_whole = rng.random() < WHOLE_SHARE
    while not is_whole and sum(len(clip.sounds) for clip in clips) < length:
        clips.append(pool.draw(rng))
    wave, sounds, words = (
        np.concatenate([getattr(clip, name) for clip in clips]) for name in ("wave", "sounds", "words")
    )
    fill = max(0, length - len(sounds))
    return (
        wave[:size],
        np.pad(sounds[:length], (0, fill), constant_values=len(vocabulary.SOUNDS)),
        np.pad(words[:length], (0, fill), constant_values=len(vocabulary.SPOKEN_WORDS)),
    )


def load_encoder(encoder: nn.Module, folder: Path) -> None:
    """Put a taught encoder's weights into a model's."""
    encoder.load_state_dict(load_file(folder / "encoder.safetensors"))
