"""Which samples come in which optimiser step: a function of (seed, epoch, position) and nothing else.

**Epoch.** Source i has the share p_i = weight_i / sum of weights of all samples. An epoch is the shortest run of whole
steps in which every sample of every source is used at least once in these shares: max_i(n_i / p_i) samples, rounded up
to whole steps. So the source that is largest for its weight is gone through about once, and the others as often as
their shares ask for. A source continues in the next epoch where it stopped: no sample of it comes a third time before
each has come twice, however long the run.

**Position** counts samples of all ranks in the epoch; it is a multiple of a step's samples.

**Length grouping.** The epoch's shuffled order is cut into chunks of up to 64 steps (at least four chunks an epoch
where there are so many). A chunk's samples are sorted by length and cut into steps, and the steps are shuffled. All
micro-batches of a step, of all ranks, so hold samples of similar length: little padding, and no rank waits for another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import numpy as np

from training.data.shuffling import hashed, shuffled

STEPS_PER_CHUNK = 64
CHUNKS_PER_EPOCH = 4

_SLOTS, _PASSES, _STEPS = range(3)  # what a hash is for


@dataclass(frozen=True)
class Pick:
    """One sample of the stream: record ``record`` of source ``source``, at ``slot`` of the shuffled epoch."""

    source: int
    record: int
    epoch: int
    slot: int


class Sampler:
    """Picks of every step.

    Args:
        sizes: records of each source. weights: of each source.
        seed: of every order.
        samples_per_step: of all ranks together.
        length_of: a pick's length for grouping; None leaves the shuffled order.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float],
        *,
        seed: int,
        samples_per_step: int,
        length_of: Callable[[Pick], float] | None = None,
    ) -> None:
        assert len(sizes) == len(weights) > 0, (sizes, weights)
        self.seed, self.samples_per_step = seed, samples_per_step
        self._sizes, self._length_of = sizes, length_of
        total = sum(map(_exact, weights))
        shares = [_exact(weight) / total for weight in weights]
        needed = max(ceil(size / share) for size, share in zip(sizes, shares, strict=True))
        self.steps_per_epoch = ceil(needed / samples_per_step)
        self._quotas = _quotas(shares, self.samples_per_epoch)
        self._borders = np.cumsum(self._quotas)
        steps_per_chunk = max(1, min(STEPS_PER_CHUNK, self.steps_per_epoch // CHUNKS_PER_EPOCH))
        self._chunk_size = samples_per_step * (steps_per_chunk if length_of is not None else 1)
        self._cached: tuple[tuple[int, int], list[Pick]] | None = None

    @property
    def samples_per_epoch(self) -> int:
        return self.steps_per_epoch * self.samples_per_step

    def step(self, epoch: int, position: int) -> list[Pick]:
        """The picks of the step that begins at ``position``, for all ranks."""
        assert position in range(0, self.samples_per_epoch, self.samples_per_step), position
        start = position - position % self._chunk_size
        if self._cached is None or self._cached[0] != (epoch, start):
            self._cached = ((epoch, start), self._chunk(epoch, start))
        return self._cached[1][position - start : position - start + self.samples_per_step]

    def steps(self, epoch: int, position: int) -> Iterator[list[Pick]]:
        """All steps from there on, without end."""
        while True:
            yield self.step(epoch, position)
            epoch, position = self.after(epoch, position)

    def after(self, epoch: int, position: int) -> tuple[int, int]:
        """Where the next step begins."""
        position += self.samples_per_step
        return (epoch, position) if position < self.samples_per_epoch else (epoch + 1, 0)

    def _chunk(self, epoch: int, start: int) -> list[Pick]:
        picks = self._picks(epoch, start, min(start + self._chunk_size, self.samples_per_epoch))
        if self._length_of is None:
            return picks
        order = np.argsort([self._length_of(pick) for pick in picks], kind="stable")
        num_steps = len(picks) // self.samples_per_step
        places = shuffled(np.arange(num_steps), num_steps, key=hashed(self.seed, _STEPS, epoch, start))
        steps = order.reshape(num_steps, self.samples_per_step)[places]
        return [picks[place] for place in steps.ravel()]

    def _picks(self, epoch: int, start: int, stop: int) -> list[Pick]:
        """Picks at [start, stop) of the epoch's shuffled order."""
        places = np.arange(start, stop)
        slots = shuffled(places, self.samples_per_epoch, key=hashed(self.seed, _SLOTS, epoch))
        sources = np.searchsorted(self._borders, slots, side="right")
        records = np.zeros_like(slots)
        for source in np.unique(sources):
            mine = sources == source
            quota = int(self._quotas[source])
            turns = epoch * quota + slots[mine] - (int(self._borders[source]) - quota)
            records[mine] = self._records(int(source), turns)
        rows = zip(sources.tolist(), records.tolist(), places.tolist(), strict=True)
        return [Pick(source, record, epoch, place) for source, record, place in rows]

    def _records(self, source: int, turns: np.ndarray) -> np.ndarray:
        """Records of a source at its ``turns``: pass after pass over all of it, each in an order of its own."""
        size = self._sizes[source]
        passes, places = np.divmod(turns, size)
        records = np.zeros_like(turns)
        for number in np.unique(passes):
            mine = passes == number
            key = hashed(self.seed, _PASSES, source, int(number))
            records[mine] = shuffled(places[mine], size, key=key)
        return records


def _exact(weight: float) -> Fraction:
    return Fraction(weight).limit_denominator(10**6) or Fraction(weight)


def _quotas(shares: Sequence[Fraction], total: int) -> np.ndarray:
    """Whole numbers in these shares that add up to ``total``: rounded down, the largest remainders up."""
    exact = [share * total for share in shares]
    quotas = [int(number) for number in exact]
    by_remainder = sorted(range(len(exact)), key=lambda place: quotas[place] - exact[place])
    for place in by_remainder[: total - sum(quotas)]:
        quotas[place] += 1
    return np.array(quotas, dtype=np.int64)
