"""AVE: the share of one-second segments whose class is right, background being a class (Tian et al., ECCV 2018).

Shapes: N clips, T = 10 segments, 28 classes and background (28).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eval.metrics.arguments import finite, numbers
from favor.downstream.ave import BACKGROUND, NUM_CLASSES, NUM_SEGMENTS

EVENT_THRESHOLD = 0.5
"""A segment is an event when its probability is above this (CMBS)."""


@dataclass(frozen=True)
class AveOracles:
    """What is reached without any skill at the other half of the task; on the official test split 17.8 % and 82.2 %."""

    all_background: float
    perfect_class_without_localisation: float


def labels_of_scores(scores: ArrayLike) -> NDArray[np.int64]:
    """(N, T, 29) scores -> (N, T) classes; the first of equal scores wins."""
    return np.argmax(finite("scores", scores, ("clips", NUM_SEGMENTS, NUM_CLASSES + 1)), axis=-1)


def labels_of_events(events: ArrayLike, classes: ArrayLike) -> NDArray[np.int64]:
    """Heads as CMBS has: which segments are an event, and one class for the whole clip.

    Args:
        events: (N, T) probability of an event, after the sigmoid.
        classes: (N, 28) scores of the clip's class.

    Returns:
        (N, T) classes: the clip's best class where the event's probability is above 0.5, else background.
    """
    is_event = finite("events", events, ("clips", NUM_SEGMENTS)) > EVENT_THRESHOLD
    best = np.argmax(finite("classes", classes, (len(is_event), NUM_CLASSES)), axis=-1)
    return np.where(is_event, best[:, None], BACKGROUND)  # (N, T)


def segment_accuracy(predicted: ArrayLike, truth: ArrayLike) -> float:
    """Share of the N * T segments with the right class.

    Args:
        predicted: (N, T) classes, 28 for background.
        truth: (N, T) classes, 28 for background.
    """
    right = _labels("truth", truth)
    guess = numbers("predicted", predicted, right.shape, below=NUM_CLASSES + 1)
    return float(np.mean(guess == right))


def oracles(truth: ArrayLike) -> AveOracles:
    """Both oracles on (N, T) true classes; the second marks all segments with the clip's most frequent class."""
    right = _labels("truth", truth)
    per_class = np.stack([(right == label).sum(axis=1) for label in range(NUM_CLASSES)])  # (28, N)
    return AveOracles(
        all_background=float(np.mean(right == BACKGROUND)),
        perfect_class_without_localisation=float(per_class.max(axis=0).sum() / right.size),
    )


def _labels(name: str, values: ArrayLike) -> NDArray[np.int64]:
    return numbers(name, values, ("clips", NUM_SEGMENTS), below=NUM_CLASSES + 1)
