"""A share with its interval, and the word error rate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 1000


@dataclass(frozen=True)
class Score:
    """A share of ``n`` items that are right, and its 95 % confidence interval."""

    score: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float]:
        """JSON-ready; four decimals."""
        return {"score": round(self.score, 4), "low": round(self.low, 4), "high": round(self.high, 4), "n": self.n}


def share(are_right: Sequence[bool], clips: Sequence[int]) -> Score:
    """The share that is right; its interval by drawing clips anew, since questions about one clip go together.

    Args:
        are_right: of every item, one or more. clips: whose it is.
    """
    _, places = np.unique(np.asarray(clips), return_inverse=True)
    right = np.bincount(places, weights=np.asarray(are_right, dtype=float))
    asked = np.bincount(places)
    drawn = np.random.default_rng(0).integers(len(asked), size=(_RESAMPLES, len(asked)))
    low, high = np.quantile(right[drawn].sum(axis=1) / asked[drawn].sum(axis=1), (0.025, 0.975))
    return Score(float(np.mean(are_right)), float(low), float(high), len(are_right))


def word_error_rate(said: Sequence[str], right: Sequence[str]) -> float:
    """Words to put in, take out or replace, over all words that are right."""
    pairs = [(_words(ours), _words(theirs)) for ours, theirs in zip(said, right, strict=True)]
    return sum(edits(ours, theirs) for ours, theirs in pairs) / sum(len(theirs) for _, theirs in pairs)


def edits(said: Sequence[object], right: Sequence[object]) -> int:
    """Levenshtein's distance, in words or whatever else the sequences hold."""
    row = list(range(len(right) + 1))
    for number, ours in enumerate(said, start=1):
        before, row[0] = row[0], number
        for place, theirs in enumerate(right, start=1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (ours != theirs))
    return row[-1]


def _words(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9' ]+", " ", text.lower()).split()
