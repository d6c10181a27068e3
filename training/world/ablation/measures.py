"""What is measured of a variant: shares of the held-out clips' steps that are told exactly, and their means.

Shapes: F steps with a frame, A steps with sound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from favor.errors import ConfigurationError
from training.world.happenings import UNKNOWN
from training.world.shards import StreamName
from training.world.steps import StepTarget, Told, shares

GROUPS = {
    "picture": ("objects", "zones", "motions", "comes_found", "leaves_found", "flashes_found"),
    "sound": ("sounds", "begins_found", "words"),
    "binding": ("binding",),
}
"""What it takes to tell: one stream, or both at the same step."""

MEASURES = tuple(measure for group in GROUPS.values() for measure in group)


def measured(found: Mapping[str, float], *, lost: StreamName | None = None) -> dict[str, float]:
    """The measures, the means of the groups, and ``all``, the mean of all measures.

    Args:
        found: of :func:`training.world.steps.shares`.
        lost: the stream that was not there; what it takes to tell counts as wrong, and so does binding.

    Raises:
        ConfigurationError: the clips hold nothing that a measure asks for.
    """
    unknowable = (*GROUPS[lost], *GROUPS["binding"]) if lost else ()
    each = {name: 0.0 if name in unknowable else found[name] for name in MEASURES}
    empty = [name for name, share in each.items() if math.isnan(share)]
    if empty:
        raise ConfigurationError(
            f"the held-out clips hold nothing to measure {', '.join(empty)} with",
            allowed="clips in which it all happens",
            advice="Give --val more clips",
        )
    means = {group: float(np.mean([each[name] for name in names])) for group, names in GROUPS.items()}
    return {**each, **means, "all": float(np.mean(list(each.values())))}


def without_skill(target: StepTarget) -> dict[str, float]:
    """Measures of telling in every step what is most frequent there."""
    true = Told.truth(target)
    usual = Told(*(_most_frequent(column) for column in true))
    return measured(shares(usual, target))


def _most_frequent(column: Tensor) -> Tensor:
    """(rows, ...) to the same shape: in every row what most rows hold, as far as they hold anything."""
    flat = column.flatten(1)
    usual = [each[each != UNKNOWN].mode().values if (each != UNKNOWN).any() else each[0] for each in flat.unbind(1)]
    return torch.stack(usual).view(column.shape[1:]).expand_as(column)
