"""The choices that are compared. All else is the same for all: encoders, data and its order, reader, steps."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from favor.errors import ConfigurationError
from training.world.scene import Kind
from training.world.shards import StreamName

MAX_STEPS = 20
"""Of the clips: 10 s. So one window of 20 steps is a window over the whole clip."""

MAX_TOKENS = 2 * MAX_STEPS
"""Soft tokens of a clip of that length, whatever the variant."""

KINDS: tuple[Kind, ...] = ("video", "match", "cause", "noisy_speech")
"""Clips with both streams: pictures that move, and one that does not, with words."""

BASE: dict[str, Any] = {
    "window_steps": 10,
    "num_query_tokens": 20,
    "causal_direction": "past",
    "align": "sync",
    "diversity_weight": 0.1,
    "diversity_reduction": "mean",
}
"""The connector of ``full``: favor-mini's with 20 queries to a window, 2 to a step, as any window can have."""


@dataclass(frozen=True)
class Variant:
    """One model.

    Args:
        title: what it is called in the report.
        changes: settings of its connector that differ from BASE.
        without: the stream that it never gets, neither in training nor when it is measured.
    """

    title: str
    changes: dict[str, Any] = field(default_factory=dict)
    without: StreamName | None = None

    @property
    def connector(self) -> dict[str, Any]:
        return BASE | self.changes


def _window(steps: int) -> dict[str, Any]:
    return {"window_steps": steps, "num_query_tokens": 2 * steps}


VARIANTS: dict[str, Variant] = {
    "full": Variant("full (past, 5 s windows, synchronised, lambda 0.1)"),
    "no_causal": Variant("no causal block", {"causal_direction": "none"}),
    "reversed": Variant("causal block looks ahead (released code)", {"causal_direction": "future"}),
    "window_1": Variant("windows of 0.5 s", _window(1)),
    "window_5": Variant("windows of 2.5 s", _window(5)),
    "window_20": Variant("one window over the clip (10 s)", _window(MAX_STEPS)),
    "concat": Variant("streams one after the other, unsynchronised", {"align": "concat", "num_query_tokens": 10}),
    "multi_resolution": Variant("two resolutions, 0.5 s and 5 s", {"fine_window_steps": 1, "num_fine_query_tokens": 2}),
    "lambda_0": Variant("diversity lambda 0", {"diversity_weight": 0.0}),
    "lambda_0.001": Variant("diversity lambda 0.001", {"diversity_weight": 0.001}),
    "lambda_0.01": Variant("diversity lambda 0.01", {"diversity_weight": 0.01}),
    "lambda_1": Variant("diversity lambda 1", {"diversity_weight": 1.0}),
    "sound_only": Variant("sound only", without="picture"),
    "picture_only": Variant("picture only", without="sound"),
}


def chosen(names: Sequence[str]) -> list[str]:
    """These, in the order of VARIANTS.

    Raises:
        ConfigurationError: there is no such variant.
    """
    for name in names:
        if name not in VARIANTS:
            nearest = difflib.get_close_matches(name, VARIANTS, n=1, cutoff=0.0)[0]
            raise ConfigurationError(
                f"there is no variant {name!r}", allowed=", ".join(VARIANTS), advice=f"Did you mean {nearest!r}"
            )
    return [name for name in VARIANTS if name in names]
