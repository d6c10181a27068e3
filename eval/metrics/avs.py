"""AVSBench: mean IoU and F-score of masks of what sounds (Zhou et al., ECCV 2022).

The published figures are averages of per-batch figures, every batch weighing the same: an F-score then is the mean of
each batch's best threshold, so it rises as batches shrink, and a short last batch counts as much as a full one. Here
``per_batch=None`` takes all frames together, one threshold for all; a number takes that many *clips* per batch, in
order, which is the published protocol (4 clips, so 20 frames, in the released test script).

Shapes: N clips, F masked frames per clip, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eval.metrics.arguments import ScoringError, marks, shares

BETA_SQUARED = 0.3
NUM_THRESHOLDS = 255
THRESHOLDS = np.linspace(0.0, 1.0 - 1e-10, NUM_THRESHOLDS)
"""From 0 to just below 1; in double precision, so that the last is not 1."""

MASK_THRESHOLD = 0.5
"""A pixel sounds when its probability is above this."""


@dataclass(frozen=True)
class AvsScores:
    """``per_batch`` is the rule that the two figures follow: None is global."""

    miou: float
    f_score: float
    per_batch: int | None


def scores(probabilities: ArrayLike, truth: ArrayLike, *, per_batch: int | None = None) -> AvsScores:
    """Both figures.

    Args:
        probabilities: (N, F, H, W), after the sigmoid.
        truth: (N, F, H, W) of 0 and 1.
        per_batch: clips per batch, or None for all frames together.

    Raises:
        ScoringError: also if no frame at all has a true mask and ``per_batch`` is None: the F-score is undefined.
    """
    predicted, masks = np.asarray(probabilities), np.asarray(truth)
    _check_shapes(predicted, masks)
    if per_batch is not None and per_batch < 1:
        raise ScoringError(f"per_batch is {per_batch}", allowed="None, or clips from 1 on", advice="Correct it")
    # One clip at a time: a test set in double precision, several times over, would not fit a small machine.
    ious = np.concatenate([frame_ious(clip[None], mask[None]) for clip, mask in zip(predicted, masks)])
    curves = np.concatenate([frame_f_curves(clip[None], mask[None]) for clip, mask in zip(predicted, masks)])
    if per_batch is None and np.isnan(curves).all():
        raise ScoringError("no frame has a true mask", allowed="at least one", advice="Score mIoU alone")
    batches = list(_batches(len(masks), per_batch))
    return AvsScores(
        miou=float(np.mean([ious[batch].mean() for batch in batches])),
        f_score=float(np.mean([_best(curves[batch]) for batch in batches])),
        per_batch=per_batch,
    )


def frame_ious(probabilities: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """(N, F) intersection over union of every frame.

    A frame with an empty truth is scored on its background: pixels predicted silent over all pixels.
    """
    predicted, masks = _checked(probabilities, truth)
    sounds = predicted > MASK_THRESHOLD
    shared = (sounds & masks).sum(axis=(2, 3))  # (N, F)
    union = (sounds | masks).sum(axis=(2, 3))
    is_empty = ~masks.any(axis=(2, 3))
    shared = np.where(is_empty, (~sounds).sum(axis=(2, 3)), shared)
    union = np.where(is_empty, masks.shape[2] * masks.shape[3], union)
    return shared / (union + 1e-7)


def frame_f_curves(probabilities: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """(N, F, 255) F-score of every frame at every threshold; NaN for a frame with an empty truth, which is left out.

    F = (1 + b2) P R / (b2 P + R), b2 = 0.3, a pixel sounding when its probability is at or above the threshold.
    """
    predicted, masks = _checked(probabilities, truth)
    curves = np.full((*masks.shape[:2], NUM_THRESHOLDS), np.nan)
    for clip, frame in np.argwhere(masks.any(axis=(2, 3))):
        curves[clip, frame] = _f_curve(predicted[clip, frame].ravel(), masks[clip, frame].ravel())
    return curves


def _f_curve(probabilities: NDArray[np.float64], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(255,): pixels are sorted into the 255 thresholds once, instead of being compared 255 times."""
    passed = np.searchsorted(THRESHOLDS, probabilities, side="right")  # thresholds that a pixel reaches, 1 to 255
    positives = _reaching(passed)
    hits = _reaching(passed[truth])
    precision = hits / np.maximum(positives, 1)
    recall = hits / truth.sum()
    below = BETA_SQUARED * precision + recall
    return np.where(below > 0, (1 + BETA_SQUARED) * precision * recall / np.where(below > 0, below, 1.0), 0.0)


def _reaching(passed: NDArray[np.int64]) -> NDArray[np.int64]:
    """(255,) how many pixels reach each threshold."""
    histogram = np.bincount(passed, minlength=NUM_THRESHOLDS + 1)
    return np.cumsum(histogram[::-1])[::-1][1:]


def _best(curves: NDArray[np.float64]) -> float:
    """The best threshold of the mean curve; 0 for a batch in which no frame has a true mask, as published."""
    counted = curves[~np.isnan(curves).any(axis=-1)]  # (frames, 255)
    return float(counted.mean(axis=0).max()) if len(counted) else 0.0


def _batches(clips: int, per_batch: int | None) -> Iterator[slice]:
    size = clips if per_batch is None else per_batch
    return (slice(start, start + size) for start in range(0, clips, size))


def _check_shapes(predicted: NDArray[Any], masks: NDArray[Any]) -> None:
    if predicted.shape != masks.shape or masks.ndim != 4 or not masks.size:
        raise ScoringError(
            f"probabilities are of shape {predicted.shape}, the truth of {masks.shape}",
            allowed="(clips, frames, height, width), the same for both",
            advice="Correct the predictions or the truth",
        )


def _checked(probabilities: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    masks = marks("truth", truth, ("clips", "frames", "height", "width"))
    return shares("probabilities", probabilities, masks.shape), masks
