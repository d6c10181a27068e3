"""Means over seeds with their intervals, each variant beside ``full``; as JSON and as a section of a Markdown file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import numpy as np

from .variants import VARIANTS

MEASURES = {
    "mean": "all tasks",
    "sync": "sync",
    "temporal": "temporal",
    "perception": "perception",
    "timeline_loss": "timeline loss",
    "query_cosine": "query cosine",
    "seconds": "CPU seconds",
}
"""What is measured of every run, and what the report calls it."""

_FULL = "full"
HEADER = "# Results\n\nEach section names the command that wrote it, the machine and the date.\n"
_COMPARED = ("mean", "sync", "temporal")
# Student's t, two-sided 95 %, for 1 to 15 degrees of freedom; beyond, the last is a little too wide.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
_T_BEYOND = 2.131


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` seeds; ``half`` is half of its 95 % interval, None with a single seed."""

    mean: float
    half: float | None
    n: int

    @property
    def is_clear(self) -> bool:
        """Is 0 outside the interval?"""
        return self.half is not None and abs(self.mean) > self.half


@dataclass(frozen=True)
class Row:
    """A variant: every measure, and the differences from ``full`` over the seeds that both have."""

    variant: str
    values: dict[str, Estimate]
    differences: dict[str, Estimate]
    tokens_per_clip: float
    trained_weights: int

    @property
    def title(self) -> str:
        return VARIANTS[self.variant].title


def estimate(values: Sequence[float]) -> Estimate:
    """Mean with the t-interval."""
    number = len(values)
    half = None
    if number > 1:
        t = _T[number - 2] if number - 2 < len(_T) else _T_BEYOND
        half = float(t * np.std(values, ddof=1) / np.sqrt(number))
    return Estimate(float(np.mean(values)), half, number)


def rows(scores: Sequence[dict[str, Any]]) -> list[Row]:
    """One for every variant that has a finished run."""
    by_variant: dict[str, dict[int, dict[str, float]]] = {}
    for one in scores:
        by_variant.setdefault(one["run"]["variant"], {})[one["run"]["seed"]] = measures(one)
    first = {one["run"]["variant"]: one for one in reversed(scores)}
    full = by_variant.get(_FULL, {})
    return [
        Row(
            variant,
            values={name: estimate(_column(runs.values(), name)) for name in MEASURES if _column(runs.values(), name)},
            differences=_differences(runs, full),
            tokens_per_clip=first[variant]["tokens_per_clip"],
            trained_weights=first[variant]["trained_weights"],
        )
        for variant, runs in by_variant.items()
    ]


def measures(scores: dict[str, Any]) -> dict[str, float]:
    """A run's measures; a timeline loss only where there were validation clips."""
    found = {name: scores["shares"][name] for name in ("mean", "sync", "temporal", "perception")}
    found |= {"query_cosine": scores["query_cosine"], "seconds": scores["seconds"]["training"]}
    return found if scores["timeline_loss"] is None else found | {"timeline_loss": scores["timeline_loss"]}


def to_json(table: Sequence[Row], scores: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """Everything, down to every run's scores."""
    return json.dumps({**facts, "variants": [asdict(row) for row in table], "runs": list(scores)}, indent=1) + "\n"


def to_markdown(table: Sequence[Row], scores: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The section between the markers."""
    seeds = max(row.values["mean"].n for row in table)
    steps = sorted({one["run"]["steps"] for one in scores})
    heads = ["variant", "seeds", *MEASURES.values(), "tokens a clip"]
    changes = ["variant", *(f"{MEASURES[name]}, less full" for name in _COMPARED)]
    lines = [
        "## What each choice of the connector is worth",
        "",
        f"`{facts['command']}`, {facts['machine']}, {date.today().isoformat()}.",
        "",
        f"Small models on the generated world, clips of at most 10 s, {', '.join(map(str, steps))} steps of 8 clips, "
        f"seeds: {seeds} at most; a seed has the same data, order and language model for all variants. Shares of right "
        f"answers to {facts['questions']} questions about {facts['clips']} test clips; mean over seeds ± half of the "
        "95 % t-interval, which holds what differs from seed to seed and not the choice of questions. These are short "
        "trainings: they tell which choice learns faster, not where it ends.",
        "",
        *_table(heads, [_cells(row) for row in table]),
        f"| always the most frequent answer | | {_skill(facts['without_skill'])} | | | | |",
        "",
        "Paired over seeds; **bold**: 0 is outside the interval; by chance alone it is so once in twenty times.",
        "",
        *_table(changes, [_changes(row) for row in table if row.differences]),
        "",
        "- sync: which object sounds, does the sound match, what is seen or heard while; temporal: after, order, "
        "count, cause; perception: questions about the picture alone.",
        "- Timeline loss: cross-entropy per token of telling all events of a test clip; query cosine: between the "
        "queries of a window, 1 where they have collapsed; CPU seconds: of one thread's training, so what else ran "
        "on the machine hardly counts.",
        "- Clips have at most 20 steps, so the window of 10 s is the window over the whole clip. Windows have 2 tokens "
        "a step; a clip's last window is filled up, so tokens differ a little. `no causal block` has fewer weights.",
        *_mismatched(scores),
        "",
        "![Variants with intervals](../docs/ablation.png)",
        "![Diversity lambda](../docs/ablation_lambda.png)",
    ]
    return "\n".join(lines)


def shown(value: Estimate, *, digits: int = 3, is_difference: bool = False) -> str:
    """``0.512 ± 0.021``."""
    text = f"{value.mean:{'+' if is_difference else ''}.{digits}f}"
    text += "" if value.half is None else f" ± {value.half:.{digits}f}"
    return f"**{text}**" if is_difference and value.is_clear else text


def _differences(runs: dict[int, dict[str, float]], full: dict[int, dict[str, float]]) -> dict[str, Estimate]:
    seeds = [] if runs is full else sorted(set(runs) & set(full))
    pairs = {
        name: [runs[seed][name] - full[seed][name] for seed in seeds if name in runs[seed] and name in full[seed]]
        for name in MEASURES
    }
    return {name: estimate(values) for name, values in pairs.items() if values}


def _column(runs: Any, name: str) -> list[float]:
    return [run[name] for run in runs if name in run]


def _cells(row: Row) -> list[str]:
    shown_values = [
        shown(row.values[name], digits=0 if name == "seconds" else 3) if name in row.values else "-"
        for name in MEASURES
    ]
    return [row.title, str(row.values["mean"].n), *shown_values, f"{row.tokens_per_clip:.1f}"]


def _changes(row: Row) -> list[str]:
    return [row.title, *(shown(row.differences[name], is_difference=True) for name in _COMPARED)]


def _table(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *cells]
    return [f"| {' | '.join(line)} |" for line in lines]


def _skill(shares: dict[str, float]) -> str:
    return " | ".join(f"{shares[name]:.3f}" for name in ("mean", "sync", "temporal", "perception"))


def _mismatched(scores: Sequence[dict[str, Any]]) -> list[str]:
    """How much the full model listens: the same questions with the sound of another clip."""
    found = [one["mismatched_sound"] for one in scores if "mismatched_sound" in one]
    if not found:
        return []
    parts = []
    for name in ("sync", "perception"):
        other, own = (estimate([one[which][name] for one in found]) for which in ("mismatched_sound", "both"))
        parts.append(f"{name} {shown(other)} for {shown(own)}")
    return [f"- `full` with the sound of another clip, on a third of the questions: {', '.join(parts)}."]
