"""``python -m training encode RECIPE.yaml``: what the trained encoders make of the world's clips, kept in shards.

Clip n of a folder is drawn from a seed of its own; so the shards can be made by any number of processes, and whoever
trains on them draws the scene again to ask about it.

Shapes: C clips, F frames and S audio steps of all clips of a shard, P visual tokens of a frame.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from favor.checkpoint import load_folder
from favor.errors import ConfigurationError
from favor.feature_cache import weights_hash
from favor.media import SAMPLE_RATE_HZ
from favor.modeling import FavorForConditionalGeneration
from favor.processor import FavorProcessor
from favor.sync import AUDIO_FRAMES_PER_STEP, STEP_S, num_audio_chunks, num_steps, step_centres_s
from training.base_model import use_fastest_attention
from training.data.shuffling import hashed
from training.recipe import Strict, load_settings
from training.world import picture, scenes, sound
from training.world.scene import Kind, Scene
from training.world.splits import Split

FRAME_JITTER_S = 0.1
"""Training frames are drawn up to so long before or after the middle of their steps: no real file hits it exactly."""

CLIPS_AT_ONCE = 32
_KINDS: tuple[Kind, ...] = get_args(Kind)
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that differ")


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
    _claim(folder, recipe, model)
    use_fastest_attention(model, device=device, precision=recipe.precision)
    model.vision.to(device)
    model.audio.to(device)
    mine = [number for number in range(rank, recipe.num_shards, world_size) if not _shard(folder, number).exists()]
    began, done = time.perf_counter(), 0
    for number in mine:
        clips = range(number * recipe.shard_clips, min((number + 1) * recipe.shard_clips, recipe.clips))
        _replace(_shard(folder, number), _tensors(recipe, model, processor, clips, device))
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


def encoders_hash(model: FavorForConditionalGeneration) -> str:
    """Of all weights of both encoders: features fit no others."""
    return weights_hash(model.vision, weights_hash(model.audio, None))


def seed_of(recipe: Encode, number: int) -> int:
    """Seed of the clip's scene; the splits' seeds are as independent as those of two clips."""
    return hashed(recipe.seed, ("train", "test").index(recipe.split), number) >> 16


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


class Shards:
    """A folder of features, mapped into memory: reading a clip copies nothing but its own features."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.recipe, self.encoders = _read_index(self.folder)
        missing = [n for n in range(self.recipe.num_shards) if not _shard(self.folder, n).exists()]
        if missing:
            raise ConfigurationError(
                f"{self.folder.name} lacks {len(missing)} of its {self.recipe.num_shards} shards",
                allowed="a folder that is complete",
                advice="Run python -m training encode again; it makes what is missing",
            )
        opened = [_load_shard(_shard(self.folder, number)) for number in range(self.recipe.num_shards)]
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
        return scenes.make(int(self.seeds[number]), kind=_KINDS[self.kinds[number]], split=self.recipe.split)

    def of_kinds(self, kinds: Sequence[str] | None) -> np.ndarray:
        """Numbers of the clips of these kinds; None takes all.

        Raises:
            ConfigurationError: there is no such kind, or no clip of them.
        """
        if kinds is None:
            return np.arange(len(self))
        found = np.flatnonzero(np.isin(self.kinds, [_KINDS.index(kind) for kind in kinds if kind in _KINDS]))
        if not set(kinds) <= set(_KINDS) or not len(found):
            raise ConfigurationError(
                f"{self.folder.name} is asked for clips of the kinds {', '.join(kinds)}",
                allowed=f"kinds that it holds, of {', '.join(_KINDS)}",
                advice="Correct data.world.kinds",
            )
        return found

    def refuse_other_encoders(self, model: FavorForConditionalGeneration) -> None:
        """Features mean nothing to a model with other encoders.

        Raises:
            ConfigurationError: they were made by others.
        """
        if encoders_hash(model) != self.encoders:
            raise ConfigurationError(
                f"the features in {self.folder.name} were made by other encoders than the model's",
                allowed="features of the very same weights",
                advice="Make them again with python -m training encode",
            )


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
        "kinds": torch.tensor([_KINDS.index(scene.kind) for scene in made]),
        "seeds": torch.tensor([scene.seed for scene in made]),
    }


def _pieces(numbers: range, size: int) -> Iterator[range]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.safetensors"


def _replace(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a file that is either whole or not there."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, unfinished)
    unfinished.replace(path)


def _claim(folder: Path, recipe: Encode, model: FavorForConditionalGeneration) -> None:
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
