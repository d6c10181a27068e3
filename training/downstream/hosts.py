"""The encoders of a recipe with all that they want to be given: what frames and sound must look like for them.

Shapes: T segments of a clip; S samples at 16 kHz; R rows of sound that an ear takes at once, each of P pieces; a
segment hears n pieces.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import WhisperFeatureExtractor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from favor import presets
from favor.adapters.choices import require_choice
from favor.checkpoint import load_exactly, load_folder
from favor.encoders import HOSTS, Host, LayeredEncoder
from favor.encoders.spectrogram import (
    SWIN_AVE,
    SWIN_AVQA,
    SWIN_AVS,
    VIT_AVE,
    FilterBankImage,
    filter_bank_image,
    hts_at_log_mel,
)
from favor.errors import CheckpointError, ConfigurationError
from favor.media import SAMPLE_RATE_HZ
from favor.sync import AUDIO_FRAMES_PER_STEP, STEP_S, num_steps
from training.downstream.contract import Task

FILTER_BANKS = {"ave": SWIN_AVE, "avs": SWIN_AVS, "avqa": SWIN_AVQA}
"""By a task's ``filter_bank``."""


class Heard(NamedTuple):
    """The sound of one clip.

    Args:
        rows: (R, ...) what the ear takes.
        pieces: (T, n) int64, which of the R * P pieces each segment hears.
        num_real: pieces that hold sound; what is behind them is padding.
    """

    rows: Tensor
    pieces: Tensor
    num_real: int


Hearing = Callable[[np.ndarray, int], Heard]
"""(waveform (S,), T) -> Heard."""


@dataclass(frozen=True)
class OpenHost:
    """Both encoders, ready to be given clips.

    Args:
        visual, audio: frozen; may be one object.
        frame_size: pixels. mean, std: of the three colours.
        hear: from a waveform to the ear's rows.
        audio_tokens: of a piece, None if the ear's own shape tells. pieces_per_row: P.
    """

    visual: LayeredEncoder
    audio: LayeredEncoder
    frame_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hear: Hearing
    audio_tokens: int | None = None
    pieces_per_row: int = 1

    def look(self, frames: np.ndarray) -> Tensor:
        """(T, size, size, 3) uint8 to normalised (T, 3, size, size)."""
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std


def open_host(name: str, task: Task, *, weights: str | None = None) -> OpenHost:
    """The host of a recipe.

    Args:
        name: of HOSTS, or a FAVOR model's.
        weights: a folder for a named host; without it its weights are random, and stderr says so.

    Raises:
        ConfigurationError: no such host, or weights for a model that has its own.
        CheckpointError: weights that are not exactly the encoders'.
    """
    if name not in HOSTS:
        if not Path(name).is_dir():
            require_choice("the host", name, (*HOSTS, *presets.names()))
        if weights is not None:
            raise ConfigurationError(
                f"host_weights for {Path(name).name!r}, which is a model with weights of its own",
                allowed=f"host_weights with {', '.join(HOSTS)}",
                advice="Leave host_weights out",
            )
        return _of_favor_model(name, task)
    opened = _NAMED[name](HOSTS[name], task)
    if weights is None:
        print(
            f"WARNING: the encoders of {name} have RANDOM WEIGHTS: nothing published can come of this run. "
            "Give host_weights.",
            file=sys.stderr,
        )
    else:
        load_weights(opened, Path(weights))
    return opened


def load_weights(host: OpenHost, folder: Path) -> None:
    """Pretrained weights, named as in transformers, into both encoders; exactly all of them."""
    encoders = {"visual": host.visual} | ({} if host.audio is host.visual else {"audio": host.audio})
    for name, encoder in encoders.items():
        file = folder / f"{name}.safetensors"
        if not file.is_file():
            raise CheckpointError(
                f"host_weights have no {file.name}",
                allowed=" and ".join(f"{each}.safetensors" for each in encoders),
                advice="Write each encoder's state_dict to its file",
            )
        load_exactly(encoder.model, load_file(file), name=file.name)  # type: ignore[arg-type]  # every one has a model


def segment_starts(num_samples: int, num_segments: int, length: int) -> list[int]:
    """Where pieces of ``length`` samples begin, at equal distances, the last one ending with the sound (2.4)."""
    return np.linspace(0, max(0, num_samples - length), num_segments).round().astype(int).tolist()


def hears_pictures(form: FilterBankImage, sound_s: float) -> Hearing:
    """Each segment's sound as a picture of its filter banks."""
    return _each_segment(lambda piece: filter_bank_image(piece, form), sound_s)


def hears_log_mel(sound_s: float) -> Hearing:
    """Each segment's sound as HTS-AT hears it. Media come at 16 kHz, so nothing above 8 kHz is there to be heard."""
    return _each_segment(lambda piece: hts_at_log_mel(doubled_rate(piece)), sound_s)


def hears_steps(extractor: WhisperFeatureExtractor, sound_s: float) -> Hearing:
    """The whole clip at once; a segment hears the half-second steps that it covers."""
    row_s, per_segment = float(extractor.chunk_length), max(1, round(sound_s / STEP_S))
    row_samples = round(row_s * SAMPLE_RATE_HZ)

    def hear(waveform: np.ndarray, num_segments: int) -> Heard:
        num_real = max(per_segment, num_steps(len(waveform) / SAMPLE_RATE_HZ))
        num_rows = math.ceil(num_real * STEP_S / row_s)
        chunks = [waveform[row * row_samples : (row + 1) * row_samples] for row in range(num_rows)]
        chunks = [chunk if len(chunk) else np.zeros(1, dtype=np.float32) for chunk in chunks]
        rows = extractor(chunks, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")["input_features"]
        first = torch.linspace(0, num_real - per_segment, num_segments).round().long()  # (T,)
        return Heard(rows, first[:, None] + torch.arange(per_segment), num_real)

    return hear


def doubled_rate(waveform: np.ndarray) -> np.ndarray:
    """16 kHz to 32 kHz, (S,) to (2 S,): the spectrum with nothing above it."""
    spectrum = np.fft.rfft(waveform)
    wide = np.zeros(len(waveform) + 1, dtype=spectrum.dtype)
    wide[: len(spectrum)] = spectrum
    return (2 * np.fft.irfft(wide, 2 * len(waveform))).astype(np.float32)


def _each_segment(picture: Callable[[np.ndarray], Tensor], sound_s: float) -> Hearing:
    length = round(sound_s * SAMPLE_RATE_HZ)

    def hear(waveform: np.ndarray, num_segments: int) -> Heard:
        waveform = np.pad(waveform, (0, max(0, length - len(waveform))))
        starts = segment_starts(len(waveform), num_segments, length)
        rows = torch.stack([picture(waveform[start : start + length]) for start in starts])
        return Heard(rows, torch.arange(num_segments)[:, None], num_segments)

    return hear


def _vit(host: Host, task: Task) -> OpenHost:
    """A spectrogram has 102 rows of 10 ms, also where a task's sound is longer: what is behind 1.02 s is cut off."""
    visual, audio = host.build()
    bank = FILTER_BANKS[task.filter_bank]
    form = VIT_AVE if task.filter_bank == "ave" else replace(VIT_AVE, mean=bank.mean, std=bank.std)
    return OpenHost(
        visual,
        audio,
        frame_size=224,
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        hear=hears_pictures(form, min(task.sound_s, 1.02)),
        audio_tokens=host.audio_tokens,
    )


def _swin(host: Host, task: Task) -> OpenHost:
    visual, audio = host.build()
    return OpenHost(
        visual,
        audio,
        frame_size=192,
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        hear=hears_pictures(FILTER_BANKS[task.filter_bank], task.sound_s),
    )


def _swin_and_hts_at(host: Host, task: Task) -> OpenHost:
    return replace(_swin(host, task), hear=hears_log_mel(task.sound_s))


def _whisper_and_eva(host: Host, task: Task) -> OpenHost:
    visual, audio = host.build()
    return OpenHost(
        visual,
        audio,
        frame_size=224,
        mean=tuple(OPENAI_CLIP_MEAN),
        std=tuple(OPENAI_CLIP_STD),
        hear=hears_steps(WhisperFeatureExtractor(feature_size=80), task.sound_s),
        audio_tokens=host.audio_tokens,
        pieces_per_row=round(30 / STEP_S),
    )


_NAMED: dict[str, Callable[[Host, Task], OpenHost]] = {
    "vit-b16": _vit,
    "vit-l16": _vit,
    "swinv2-b": _swin,
    "swinv2-l": _swin,
    "swinv2-l+htsat": _swin_and_hts_at,
    "whisper+eva": _whisper_and_eva,
}


def _of_favor_model(name: str, task: Task) -> OpenHost:
    """ViT and Whisper of a FAVOR model, in float32; the rest of it is let go."""
    folder = Path(name) if Path(name).is_dir() else presets.folder(name)
    model, processor = load_folder(folder, dtype=torch.float32)
    images, sounds = processor.image_processor, processor.feature_extractor
    return OpenHost(
        model.vision.vit,
        model.audio,
        frame_size=images.size["height"],
        mean=tuple(images.image_mean),
        std=tuple(images.image_std),
        hear=hears_steps(sounds, task.sound_s),
        audio_tokens=AUDIO_FRAMES_PER_STEP,
        pieces_per_row=model.config.audio_chunk_steps,
    )
