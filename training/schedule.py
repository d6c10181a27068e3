"""The learning rate as a function of the step alone: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from training.recipe import Optimisation


def learning_rate_share(step: int, options: Optimisation) -> float:
    """Share of the full learning rate at a step counted from 0: linear warm-up, then the schedule down to its floor."""
    if step < options.warmup_steps:
        return (step + 1) / options.warmup_steps
    if options.schedule == "constant":
        return 1.0
    done = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
    falling = 0.5 * (1 + math.cos(math.pi * done)) if options.schedule == "cosine" else 1 - done
    floor = options.min_learning_rate_share
    return floor + (1 - floor) * falling
