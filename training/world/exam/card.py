"""The scores of a model card: written as a table, and held against a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from favor.errors import ConfigurationError
from training.world.question import TASKS

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


def to_markdown(scores: Mapping[str, Any], *, model: str) -> str:
    """The scores of ``--json`` as a table, with what made them."""
    lines = [
        f"`python -m training examine {Path(model).name} --seed {scores['seed']}`; n questions, 95 % interval by",
        "drawing clips anew. *Majority*: the most frequent answer in training. *Unskilled*: one of the things that one",
        "would choose from without the skill. *Text only*: no clip. *Other sound*: the sound of another clip.",
        "",
        "| task | n | right | 95 % | majority | unskilled | text only | other sound |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task, line in scores["tasks"].items():
        cells = [TASKS[task], line["n"], f"**{line['score']:.3f}**", f"{line['low']:.3f}-{line['high']:.3f}"]
        beside = ("majority", "unskilled", "text_only", "mismatched_sound")
        cells += ["-" if line.get(name) is None else f"{line[name]:.3f}" for name in beside]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    binding = ", ".join(
        f"{task} {scores['novel'][task]['score']:.3f} ({scores['seen'][task]['score']:.3f})"
        for task in scores["novel"]
        if task in scores["seen"]
    )
    wordings = scores["wordings"]
    lines += [
        "",
        f"Mean over tasks **{scores['mean']:.3f}**. Word error rate: "
        + ", ".join(f"{task} {rate:.3f}" for task, rate in scores["wer"].items())
        + f". Combinations of colour, shape and sound never met in training (and known ones): {binding}. "
        + f"Questions worded as in training {wordings['train']['score']:.3f}, "
        + f"otherwise {wordings['test']['score']:.3f}. Taken for questions outside the world: "
        + (", ".join(f"{task} {share:.3f}" for task, share in scores["refused"].items()) or "none")
        + ".",
    ]
    return "\n".join(lines)


def _half(scores: Mapping[str, float]) -> float:
    return (float(scores["high"]) - float(scores["low"])) / 2
