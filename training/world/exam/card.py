"""Is a model as good as its card says?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from favor.errors import ConfigurationError

from .report import Report

RULE = "a task fails where its score is below the card's by more than half of both confidence intervals together"
"""The two halves are added, not squared: with 17 tasks one in about twenty honest runs fails somewhere, not one in
three."""


def read_card(path: Path) -> dict[str, Any]:
    """What ``--json`` wrote.

    Raises:
        ConfigurationError: it is not that.
    """
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        for scores in card["tasks"].values():
            _half(scores)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigurationError(
            f"{path.name} is no model card's scores ({type(error).__name__})",
            allowed="a file that python -m training examine --json wrote",
            advice="Give such a file",
        ) from error
    return card


def failures(report: Report, card: Mapping[str, Any]) -> list[str]:
    """A line for every task that is worse than the card says, by RULE."""
    lines = []
    for task, promised in card["tasks"].items():
        if task not in report.tasks:
            lines.append(f"{task}: the card has {promised['score']:.3f}, and nothing was asked")
            continue
        found = report.tasks[task].score.to_dict()
        allowed = _half(promised) + _half(found)
        if found["score"] < promised["score"] - allowed:
            lines.append(
                f"{task}: {found['score']:.3f} is more than {allowed:.3f} below the card's {promised['score']:.3f}"
            )
    return lines


def _half(scores: Mapping[str, float]) -> float:
    return (float(scores["high"]) - float(scores["low"])) / 2
