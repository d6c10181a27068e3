"""Bad samples counted by source, and the end of the run when there are too many of them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from favor.errors import FavorError
from training.data.batches import TrainingBatch

MIN_SEEN = 100
"""Samples that must have been seen before a share says anything; a first step of bad samples alone says enough."""

NUM_KEYS_SHOWN = 10

logger = logging.getLogger("favor.training")


class TooManyBadSamplesError(FavorError):
    code = "too_many_bad_samples"


class Tally:
    """What one rank has seen and dropped.

    Args:
        max_bad_share: of all samples seen.
    """

    def __init__(self, max_bad_share: float) -> None:
        self._max_bad_share = max_bad_share
        self.seen: Counter[str] = Counter()
        self.bad: Counter[str] = Counter()
        self.first_keys: list[str] = []

    def add(self, batches: Sequence[TrainingBatch]) -> None:
        """Count the batches of one step, and log every dropped sample.

        Raises:
            TooManyBadSamplesError: with counts by source and the first keys.
        """
        is_first = not self.seen
        for batch in batches:
            self.seen.update(batch.sources)
            for sample in batch.dropped:
                self.seen[sample.source] += 1
                self.bad[sample.source] += 1
                if len(self.first_keys) < NUM_KEYS_SHOWN:
                    self.first_keys.append(sample.key)
                logger.warning("dropped the sample %s of %s: %s", sample.key, sample.source, sample.error)
        seen, bad = self.seen.total(), self.bad.total()
        if bad > self._max_bad_share * seen and (seen >= MIN_SEEN or (is_first and bad == seen)):
            raise self._error(seen, bad)

    def state(self) -> dict[str, Any]:
        return {"seen": dict(self.seen), "bad": dict(self.bad), "first_bad_keys": list(self.first_keys)}

    def load_state(self, state: dict[str, Any]) -> None:
        self.seen, self.bad = Counter(state["seen"]), Counter(state["bad"])
        self.first_keys = list(state["first_bad_keys"])

    def _error(self, seen: int, bad: int) -> TooManyBadSamplesError:
        counts = ", ".join(f"{source}: {number} of {self.seen[source]}" for source, number in self.bad.most_common())
        return TooManyBadSamplesError(
            f"{bad} of {seen} samples are bad ({counts}); the first are {', '.join(self.first_keys)}",
            allowed=f"a share of at most {self._max_bad_share:g} (data.max_bad_share)",
            advice="Run 'python -m training check' on the data, and train on the cleaned manifest",
        )
