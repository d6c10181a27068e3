"""AVSBench, S4 and MS3: which pixels of five frames sound.

The sound speaks through the adapters; ``fused_stages`` adds AVSBench's own fusion (TPAVI), which LAVISH's command
leaves out and AVSBench's and DG-SCT's use at all four stages. S4 has masks of the first frame only to train with, so
its loss is the cross-entropy of that frame; MS3 adds ``matching_weight`` times the audio-visual matching loss.

Masks are read as 0 and 1: MS3's are palette pictures, whose sounding pixels carry the number of a class; the released
loader turns number k into k / 255 and trains on that.

Predictions are "probabilities" (N, F, S, S) in half precision; ``write_truth`` writes the masks that
``python -m eval score avs`` compares them with.

Shapes: B clips, T frames of a clip, F of them with masks; S pixels of a side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from favor.downstream.annotations import Place
from favor.downstream.avsbench import NUM_FRAMES, AvsClip, Subset, read_clips
from favor.errors import ConfigurationError
from training.downstream.contract import Arrays, Example, Files, Head, Seen, Split, Streams, Targets, Task
from training.downstream.segmentation import (
    CHANNELS,
    STAGE_CHANNELS,
    SegmentationNetwork,
    Segmented,
    mask_loss,
    matching_loss,
    spread_stages,
)
from training.recipe import Strict

SIZE = 224
"""Pixels of a side of a mask; every one is of this size."""


class AvsFiles(Files):
    """``annotations``: the CSV of the set; ``root``: its data folder (``s4_data``, ``ms3_data``)."""

    annotations: str
    subset: Subset


class AvsHeadSettings(Strict):
    """``fused_stages``: of 0 to 3, where the decoder itself hears. ``matching_weight``: needs fused stages; published
    as 0.5 for MS3, but see :func:`matching_loss` for what it is multiplied with.
    ``channels``, ``stage_channels``: of the decoder.
    """

    fused_stages: tuple[int, ...] = ()
    matching_weight: float = 0.0
    channels: int = CHANNELS
    stage_channels: tuple[int, int, int, int] = STAGE_CHANNELS


class AvsHead(Head[Segmented]):
    """Stage outputs to masks."""

    def __init__(self, settings: AvsHeadSettings, streams: Streams, *, size: int = SIZE) -> None:
        super().__init__()
        if settings.matching_weight and not settings.fused_stages:
            raise ConfigurationError(
                f"matching_weight is {settings.matching_weight} without fused stages",
                allowed="0, or fused_stages [0, 1, 2, 3]",
                advice="Fuse where sound and picture are to match",
            )
        self.streams, self.matching_weight = streams, settings.matching_weight
        self.network = SegmentationNetwork(
            [shape.width for shape in spread_stages(streams.stages)],
            streams.audio.width,
            fused_stages=settings.fused_stages,
            size=size,
            channels=settings.channels,
            stage_channels=settings.stage_channels,
        )

    def forward(self, seen: Seen) -> Segmented:
        """Logits (B, T, S, S)."""
        _, sound = seen.pooled(self.streams)  # (B, T, E)
        stages = [
            (tokens[:, 1:] if shape.has_cls else tokens).unflatten(0, (-1, seen.num_segments))
            for tokens, shape in zip(seen.stages, self.streams.stages, strict=True)
        ]
        return self.network(spread_stages(stages), sound)

    def loss(self, output: Segmented, targets: Targets) -> torch.Tensor:
        """``targets["masks"]`` (B, F, S, S), 0 or 1."""
        loss = mask_loss(output.logits, targets["masks"])
        return loss + self.matching_weight * matching_loss(output) if self.matching_weight else loss

    def predictions(self, output: Segmented) -> Arrays:
        """ "probabilities" (B, T, S, S)."""
        return {"probabilities": output.logits.detach().float().sigmoid().half().cpu().numpy()}


@dataclass(frozen=True)
class MaskedClip:
    """A clip and the folder that its masks are in."""

    clip: AvsClip
    root: Path

    def masks(self) -> NDArray[np.uint8]:
        """(F, S, S) of 0 and 1."""
        return np.stack([read_mask(self.root / path) for path in self.clip.masks])


class AvsTask(Task):
    num_segments = NUM_FRAMES
    sound_s = 1.0
    filter_bank = "avs"
    needs_stages = True
    files = AvsFiles
    head_settings = AvsHeadSettings

    def examples(self, files: AvsFiles, split: Split) -> Sequence[Example]:
        clips = read_clips(files.annotations, subset=files.subset, split=split)
        root = Path(files.root)
        return [
            Example(clip.name, clip.sound, sound=clip.sound, frames=clip.frames, source=MaskedClip(clip, root))
            for clip in clips
        ]

    def build_head(self, settings: AvsHeadSettings, streams: Streams) -> AvsHead:
        return AvsHead(settings, streams)

    def targets(self, files: Any, example: Example) -> Mapping[str, NDArray[Any]]:
        return {"masks": example.source.masks()}

    def score(self, arrays: Arrays, examples: Sequence[Example]) -> float:
        """Mean IoU of all frames; a frame where nothing sounds is scored on its silent pixels (adapters.md 7.3)."""
        ious = [
            _iou(probabilities > 0.5, mask > 0)
            for clip, example in zip(arrays["probabilities"], examples, strict=True)
            for probabilities, mask in zip(clip, example.source.masks())
        ]
        return float(np.mean(ious))


def read_mask(path: Path, *, size: int = SIZE) -> NDArray[np.uint8]:
    """(S, S) of 0 and 1: every pixel that is not black, or not of number 0 in a palette, sounds.

    Raises:
        AnnotationError: no picture, or one of another size.
    """
    place = Place(path.name)
    try:
        with Image.open(path) as picture:
            plain = picture if picture.mode in ("1", "L", "P", "I", "I;16") else picture.convert("RGB")
            pixels = np.asarray(plain)
    except OSError as error:
        raise place.error(f"no readable picture ({type(error).__name__})", allowed="a PNG mask") from None
    if pixels.shape[:2] != (size, size):
        raise place.error(f"{pixels.shape[1]} x {pixels.shape[0]} pixels", allowed=f"{size} x {size}")
    is_sounding: NDArray[np.bool_] = pixels.reshape(size, size, -1) > 0  # (S, S, bands)
    return np.any(is_sounding, axis=2).astype(np.uint8)


def write_truth(path: Path, examples: Sequence[Example]) -> None:
    """Write the masks of a split, the truth of ``python -m eval score avs``."""
    np.savez_compressed(path, masks=np.stack([example.source.masks() for example in examples]))


def _iou(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    if not truth.any():
        return float((~predicted).mean())
    return float((predicted & truth).sum() / (predicted | truth).sum())


TASK = AvsTask()
