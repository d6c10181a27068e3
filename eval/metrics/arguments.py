"""What every metric checks first: shapes, finite numbers, labels in range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from favor.errors import FavorError

Length = int | str
"""A length that must be met, or the name of one that may be anything but 0."""


class ScoringError(FavorError):
    """Predictions or truth that cannot be scored."""

    code = "invalid_scores"


def finite(name: str, values: ArrayLike, shape: Sequence[Length]) -> NDArray[np.float64]:
    """``values`` as floats of this shape, none of them NaN or infinite."""
    array = _shaped(name, values, shape)
    if array.dtype.kind not in "fiub":
        raise _error(name, f"of the type {array.dtype}", "numbers")
    if not np.isfinite(array).all():
        raise _error(name, "with NaN or infinite values", "finite numbers")
    return array.astype(np.float64)


def shares(name: str, values: ArrayLike, shape: Sequence[Length]) -> NDArray[np.float64]:
    """``values`` as floats from 0 to 1."""
    array = finite(name, values, shape)
    if array.min() < 0 or array.max() > 1:
        raise _error(name, f"from {array.min():.4g} to {array.max():.4g}", "0 to 1; apply the sigmoid first")
    return array


def marks(name: str, values: ArrayLike, shape: Sequence[Length]) -> NDArray[np.bool_]:
    """``values`` as booleans; numbers must be 0 or 1."""
    array = _shaped(name, values, shape)
    if array.dtype.kind not in "fiub" or not ((array == 0) | (array == 1)).all():
        raise _error(name, "with other values than 0 and 1", "0 and 1, or booleans")
    return array.astype(bool)


def numbers(name: str, values: ArrayLike, shape: Sequence[Length], *, below: int) -> NDArray[np.int64]:
    """``values`` as whole numbers from 0 to ``below - 1``."""
    array = _shaped(name, values, shape)
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= below:
        raise _error(name, "with values out of range or not whole", f"whole numbers from 0 to {below - 1}")
    return array.astype(np.int64)


def _shaped(name: str, values: ArrayLike, shape: Sequence[Length]) -> NDArray[Any]:
    array = np.asarray(values)
    fits = array.ndim == len(shape) and all(
        given == length if isinstance(length, int) else given > 0 for given, length in zip(array.shape, shape)
    )
    if not fits:
        raise _error(name, f"of shape {array.shape}", f"({', '.join(str(length) for length in shape)})")
    return array


def _error(name: str, given: str, allowed: str) -> ScoringError:
    return ScoringError(f"{name} is an array {given}", allowed=allowed, advice="Correct the predictions or the truth")
