"""``python -m training encode RECIPE.yaml``: what the trained encoders make of the world's clips, kept in shards.

Clip n of a folder is drawn from a seed of its own; so the shards can be made by any number of processes, and whoever
trains on them draws the scene again to ask about it.

Shapes: C clips, F frames and S audio steps of all clips of a shard, P visual tokens of a frame.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from favor.checkpoint import load_folder
from favor.errors import ConfigurationError
from favor.media import SAMPLE_RATE_HZ
from favor.modeling import FavorForConditionalGeneration
from favor.processor import FavorProcessor
from favor.sync import AUDIO_FRAMES_PER_STEP, STEP_S, num_audio_chunks, num_steps, step_centres_s
from training.base_model import use_fastest_attention
from training.recipe import load_settings, recipe_arguments
from training.world import picture, scenes, sound
from training.world.scene import Scene
from training.world.shards import KINDS, ClipFeatures, Encode, Shards, claim, shard_path, write_shard
from training.world.splits import seed_of_clip

__all__ = [
    "ClipFeatures",
    "Encode",
    "Encoded",
    "RawClip",
    "Shards",
    "add_arguments",
    "encode",
    "encode_clips",
    "log_mels",
    "pixel_values",
    "raw_clip",
    "refuse_instructions",
    "run",
    "scene_of",
    "seed_of",
]

FRAME_JITTER_S = 0.1
"""Training frames are drawn up to so long before or after the middle of their steps: no real file hits it exactly."""

CLIPS_AT_ONCE = 32


class RawClip(NamedTuple):
    """A clip before the encoders: (F, size, size, 3) uint8 and (samples,) float32; either may be of length 0."""

    scene: Scene
    frames: np.ndarray
    waveform: np.ndarray

    @property
    def num_audio_steps(self) -> int:
        return num_steps(len(self.waveform) / SAMPLE_RATE_HZ)


class Encoded(NamedTuple):
    """A clip behind them: (F, P, width) and (S, 25, audio width)."""

    visual: Tensor
    audio: Tensor


add_arguments = recipe_arguments


def run(options: argparse.Namespace) -> int:
    """Make the shards that are missing; under torchrun every process makes its part of them."""
    encode(load_settings(Encode, options.recipe, options.overrides))
    return 0


def encode(recipe: Encode) -> None:
    """Make the shards of this process that are not there yet.

    Raises:
        ConfigurationError: the folder holds features of another model, or of other clips.
    """
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    model, processor = load_folder(recipe.model)
    refuse_instructions(processor)
    folder = Path(recipe.output)
    folder.mkdir(parents=True, exist_ok=True)
    claim(folder, recipe, model)
    use_fastest_attention(model, device=device, precision=recipe.precision)
    model.vision.to(device)
    model.audio.to(device)
    mine = [number for number in range(rank, recipe.num_shards, world_size) if not shard_path(folder, number).exists()]
    began, done = time.perf_counter(), 0
    for number in mine:
        clips = range(number * recipe.shard_clips, min((number + 1) * recipe.shard_clips, recipe.clips))
        write_shard(shard_path(folder, number), _tensors(recipe, model, processor, clips, device))
        done += len(clips)
        rate = done / (time.perf_counter() - began)
        print(f"{folder.name}: shard {number + 1} of {recipe.num_shards}, {rate:.1f} clips/s", file=sys.stderr)


def refuse_instructions(processor: FavorProcessor) -> None:
    """Features that depend on the question cannot be made before it is asked.

    Raises:
        ConfigurationError: the model's image Q-Former reads the question.
    """
    if processor.is_instruction_aware:
        raise ConfigurationError(
            "the model's image encoder reads the question",
            allowed="a model with is_instruction_aware: false, such as favor-mini",
            advice="Take another model",
        )


def seed_of(recipe: Encode, number: int) -> int:
    """Seed of the clip's scene."""
    return seed_of_clip(recipe.seed, recipe.split, number)


def scene_of(recipe: Encode, number: int) -> Scene:
    """The scene of a clip."""
    seed = seed_of(recipe, number)
    kind = None
    if recipe.kinds is not None:
        kind = random.Random(seed).choices(list(recipe.kinds), list(recipe.kinds.values()))[0]
    return scenes.make(seed, kind=kind, split=recipe.split)


def raw_clip(scene: Scene, *, size: int, jitter_s: float = 0.0) -> RawClip:
    """Draw and play a scene: a frame for each step, pictures ``size`` pixels wide; a still has one frame."""
    frames = np.zeros((0, size, size, 3), dtype=np.uint8)
    if scene.has_picture:
        rng = random.Random(scene.seed)
        centres = [0.0] if scene.is_still else step_centres_s(num_steps(scene.seconds))
        times = [min(max(centre + rng.uniform(-jitter_s, jitter_s), 0.0), scene.seconds) for centre in centres]
        frames = picture.draw(scene, times, size)
    waveform = sound.play(scene) if scene.has_sound else np.zeros(0, dtype=np.float32)
    return RawClip(scene, frames, waveform)


@torch.no_grad()
def encode_clips(
    model: FavorForConditionalGeneration,
    processor: FavorProcessor,
    clips: Sequence[RawClip],
    *,
    device: torch.device,
    precision: Literal["bf16", "fp32"],
) -> list[Encoded]:
    """The frozen encoders' outputs, in bfloat16 on the CPU; of sound only the steps that there are."""
    config = model.config
    chunk_steps = config.audio_chunk_steps
    pixels = pixel_values(np.concatenate([clip.frames for clip in clips]), processor).to(device)
    mels = log_mels([clip.waveform for clip in clips], processor).to(device)
    nothing = torch.zeros(len(pixels), 0, dtype=torch.long, device=device)
    visual = torch.zeros(0, config.num_image_query_tokens, config.qformer_config.hidden_size)
    audio = torch.zeros(0, AUDIO_FRAMES_PER_STEP, config.audio_config.d_model)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        if len(pixels):
            visual = model.vision(pixels, nothing, nothing)
        if len(mels):
            audio = model.get_audio_features(mels)
    frames = visual.to("cpu", torch.bfloat16).split([len(clip.frames) for clip in clips])
    lengths = [num_audio_chunks(clip.num_audio_steps, chunk_steps) * chunk_steps for clip in clips]
    steps = audio.to("cpu", torch.bfloat16).split(lengths)
    return [Encoded(frame, step[: clip.num_audio_steps]) for clip, frame, step in zip(clips, frames, steps)]


def pixel_values(frames: np.ndarray, processor: FavorProcessor) -> Tensor:
    """What the processor's image processor gives for (F, size, size, 3) uint8, some hundred times faster."""
    settings = processor.image_processor
    assert settings.do_rescale, "released BLIP's image processor makes 0-255 to 0-1"
    assert settings.do_normalize, "and subtracts a mean"
    std = torch.tensor(settings.image_std)
    scale, shift = settings.rescale_factor / std, torch.tensor(settings.image_mean) / std
    return torch.from_numpy(frames).permute(0, 3, 1, 2) * scale[:, None, None] - shift[:, None, None]  # (F, 3, s, s)


def log_mels(waveforms: Sequence[np.ndarray], processor: FavorProcessor) -> Tensor:
    """What the processor makes of the waveforms' sound: (chunks of all, mels, frames of a chunk).

    One at a time: a spectrogram that stays in the processor's cache takes half as long as many together.
    """
    extractor = processor.feature_extractor
    size, steps = extractor.n_samples, round(extractor.chunk_length / STEP_S)
    pieces = [
        waveform[place * size : (place + 1) * size]
        for waveform in waveforms
        for place in range(num_audio_chunks(num_steps(len(waveform) / SAMPLE_RATE_HZ), steps))
    ]
    if not pieces:
        return torch.zeros(0, extractor.feature_size, extractor.nb_max_frames)
    mels = [extractor(piece, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")["input_features"] for piece in pieces]
    return torch.cat(mels)


def _tensors(
    recipe: Encode,
    model: FavorForConditionalGeneration,
    processor: FavorProcessor,
    numbers: range,
    device: torch.device,
) -> dict[str, Tensor]:
    """A shard."""
    size = processor.image_processor.size["height"]
    jitter_s = FRAME_JITTER_S if recipe.split == "train" else 0.0
    features: list[Encoded] = []
    made: list[Scene] = []
    for some in _pieces(numbers, CLIPS_AT_ONCE):
        clips = [raw_clip(scene_of(recipe, number), size=size, jitter_s=jitter_s) for number in some]
        features += encode_clips(model, processor, clips, device=device, precision=recipe.precision)
        made += [clip.scene for clip in clips]
    return {
        "visual": torch.cat([clip.visual for clip in features]),
        "audio": torch.cat([clip.audio for clip in features]),
        "num_frames": torch.tensor([len(clip.visual) for clip in features]),
        "num_audio_steps": torch.tensor([len(clip.audio) for clip in features]),
        "is_image": torch.tensor([scene.is_still for scene in made]),
        "kinds": torch.tensor([KINDS.index(scene.kind) for scene in made]),
        "seeds": torch.tensor([scene.seed for scene in made]),
    }


def _pieces(numbers: range, size: int) -> Iterator[range]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
