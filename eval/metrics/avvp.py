"""AVVP: F-scores of what is heard (A), seen (V) and both at once (AV), on LLP (Tian et al., ECCV 2020).

Per clip an F-score is computed for each class that is predicted or true, from that class's counts in the clip, and
averaged over those classes; a clip with no class at all counts 1. The clips' figures are averaged.

Two things are counted: one-second segments, and events, which are unbroken runs of segments. A predicted event is a
true positive if any true event overlaps it with IoU >= 0.5, else a false positive; a true event is a false negative if
no predicted event does. As in the reference nothing keeps two events from matching the same one; but two runs with a
gap between them cannot both reach IoU 0.5 with a third, so a one-to-one matching would count the same.

Shapes: N clips, T segments, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eval.metrics.arguments import marks, shares
from favor.downstream.llp import CLASSES, NUM_SEGMENTS

THRESHOLD = 0.5
"""A probability from here on is a yes."""

Run = tuple[int, int]
"""An event: segments [first, end)."""


@dataclass(frozen=True)
class AvvpScores:
    """F-scores from 0 to 1.

    ``type_av`` is the mean of audio, visual and audio_visual; ``event_av`` takes the counts of audio and visual
    together, class by class.
    """

    audio: float
    visual: float
    audio_visual: float
    type_av: float
    event_av: float


@dataclass(frozen=True)
class _Counts:
    """(N, K) true positives, false positives and false negatives."""

    hits: NDArray[np.int64]
    false_alarms: NDArray[np.int64]
    misses: NDArray[np.int64]

    def __add__(self, other: _Counts) -> _Counts:
        return _Counts(self.hits + other.hits, self.false_alarms + other.false_alarms, self.misses + other.misses)

    def f_score(self) -> float:
        """Mean over clips of the mean over the classes present."""
        total = 2 * self.hits + self.false_alarms + self.misses  # (N, K)
        is_present = total > 0
        per_class = np.where(is_present, 2 * self.hits / np.maximum(total, 1), 0.0)
        present = is_present.sum(axis=1)  # (N,)
        return float(np.mean(np.where(present > 0, per_class.sum(axis=1) / np.maximum(present, 1), 1.0)))


def decided(probabilities: ArrayLike, clip_probabilities: ArrayLike | None = None) -> NDArray[np.bool_]:
    """What a model says is there.

    Args:
        probabilities: (N, 10, 25) of one modality's segments.
        clip_probabilities: (N, 25) of the whole clip; a class it puts below 0.5 is nowhere, as in the reference.

    Returns:
        (N, 10, 25) booleans.
    """
    yes = shares("probabilities", probabilities, ("clips", NUM_SEGMENTS, len(CLASSES))) >= THRESHOLD
    if clip_probabilities is None:
        return yes
    clip = shares("clip_probabilities", clip_probabilities, (len(yes), len(CLASSES))) >= THRESHOLD
    return yes & clip[:, None, :]


def segment_scores(*, audio: ArrayLike, visual: ArrayLike, true_audio: ArrayLike, true_visual: ArrayLike) -> AvvpScores:
    """F-scores over segments; every argument is (N, T, K) of 0 and 1."""
    heard, seen, truly_heard, truly_seen = _checked(audio, visual, true_audio, true_visual)
    return _scores(
        _segment_counts(heard, truly_heard),
        _segment_counts(seen, truly_seen),
        _segment_counts(heard & seen, truly_heard & truly_seen),
    )


def event_scores(*, audio: ArrayLike, visual: ArrayLike, true_audio: ArrayLike, true_visual: ArrayLike) -> AvvpScores:
    """F-scores over events; every argument is (N, T, K) of 0 and 1."""
    heard, seen, truly_heard, truly_seen = _checked(audio, visual, true_audio, true_visual)
    return _scores(
        _event_counts(heard, truly_heard),
        _event_counts(seen, truly_seen),
        _event_counts(heard & seen, truly_heard & truly_seen),
    )


def runs(sequence: ArrayLike) -> list[Run]:
    """Unbroken runs of a sequence of yes and no: [0, 1, 1, 0, 1] -> [(1, 3), (4, 5)]."""
    edges = np.flatnonzero(np.diff(np.asarray(sequence, dtype=np.int8), prepend=0, append=0))
    return [(int(first), int(end)) for first, end in edges.reshape(-1, 2)]


def _scores(audio: _Counts, visual: _Counts, audio_visual: _Counts) -> AvvpScores:
    a, v, av = audio.f_score(), visual.f_score(), audio_visual.f_score()
    return AvvpScores(a, v, av, type_av=(a + v + av) / 3, event_av=(audio + visual).f_score())


def _segment_counts(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> _Counts:
    return _Counts((predicted & truth).sum(axis=1), (predicted & ~truth).sum(axis=1), (~predicted & truth).sum(axis=1))


def _event_counts(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> _Counts:
    clips, _, classes = predicted.shape
    counts = np.zeros((3, clips, classes), dtype=np.int64)
    for clip, label in np.argwhere((predicted | truth).any(axis=1)):
        counts[:, clip, label] = _matched(runs(predicted[clip, :, label]), runs(truth[clip, :, label]))
    return _Counts(*counts)


def _matched(predicted: list[Run], truth: list[Run]) -> tuple[int, int, int]:
    hits = sum(any(_overlap(event, true) for true in truth) for event in predicted)
    found = sum(any(_overlap(event, true) for event in predicted) for true in truth)
    return hits, len(predicted) - hits, len(truth) - found


def _overlap(one: Run, other: Run) -> bool:
    """Whether two events' IoU is at least 0.5, in whole numbers."""
    shared = max(0, min(one[1], other[1]) - max(one[0], other[0]))
    union = (one[1] - one[0]) + (other[1] - other[0]) - shared
    return 2 * shared >= union


def _checked(*arrays: ArrayLike) -> list[NDArray[np.bool_]]:
    names = ("audio", "visual", "true_audio", "true_visual")
    shape = marks(names[0], arrays[0], ("clips", "segments", "classes")).shape
    return [marks(name, array, shape) for name, array in zip(names, arrays)]
