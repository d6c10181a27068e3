"""Text-to-video retrieval on VALOR-32K: recall at 1, 5 and 10.

The similarities are taken as they are: no dual softmax, which looks at all test queries at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eval.metrics.arguments import finite, numbers


@dataclass(frozen=True)
class RetrievalScores:
    """Shares of texts whose video is among the first 1, 5 and 10; ``mean`` is the mean of the three ("Avg")."""

    recall_at_1: float
    recall_at_5: float
    recall_at_10: float
    mean: float


def scores(similarities: ArrayLike, true_videos: ArrayLike | None = None) -> RetrievalScores:
    """Recalls of a similarity matrix.

    Args:
        similarities: (texts, videos), higher is closer.
        true_videos: (texts,) the column of each text's video; without it text i belongs to video i.
    """
    found = ranks(similarities, true_videos)
    at_1, at_5, at_10 = (float(np.mean(found < first)) for first in (1, 5, 10))
    return RetrievalScores(at_1, at_5, at_10, mean=(at_1 + at_5 + at_10) / 3)


def ranks(similarities: ArrayLike, true_videos: ArrayLike | None = None) -> NDArray[np.int64]:
    """(texts,) how many other videos come before the true one; equal similarities count against the model."""
    closeness = finite("similarities", similarities, ("texts", "videos"))
    texts, videos = closeness.shape
    columns = np.arange(texts) if true_videos is None else true_videos
    own = numbers("true_videos", columns, (texts,), below=videos)
    of_true = closeness[np.arange(texts), own]
    return (closeness >= of_true[:, None]).sum(axis=1) - 1  # without the true one itself
