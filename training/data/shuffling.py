"""Random numbers and orders that are functions of integers: no state, no tables, the same on every machine.

A place of an order is found without the places before it, which is what makes resuming O(1). numpy's generators are not
used because their streams may change between versions.
"""

from __future__ import annotations

import numpy as np

_MASK = (1 << 64) - 1
_ROUNDS = 6


def hashed(*numbers: int) -> int:
    """64 well-mixed bits of some integers (splitmix64's finaliser, chained)."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state ^ (number & _MASK)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
        state = (state ^ (state >> 31)) + 0x9E3779B97F4A7C15 & _MASK
    return state


def uniform(*numbers: int) -> float:
    """A number in [0, 1) from some integers."""
    return hashed(*numbers) / 2**64


def shuffled(places: np.ndarray, size: int, *, key: int) -> np.ndarray:
    """Entries at ``places`` of a random permutation of ``range(size)``; equal keys give equal permutations.

    A Feistel network permutes the next power of four; results outside the range are sent through again.

    Args:
        places: (N,) int64 in [0, size).

    Returns:
        (N,) int64 in [0, size), distinct for distinct places.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    entries = _feistel(places.astype(np.uint64), half, key)
    while (outside := entries >= size).any():
        entries[outside] = _feistel(entries[outside], half, key)
    return entries.astype(np.int64)


def _feistel(values: np.ndarray, half: np.uint64, key: int) -> np.ndarray:
    low = np.uint64((1 << int(half)) - 1)
    left, right = values >> half, values & low
    for number in range(_ROUNDS):
        left, right = right, left ^ (_mixed(right ^ np.uint64(hashed(key, number))) & low)
    return (left << half) | right


def _mixed(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
