"""Means over seeds with their intervals, each variant beside ``full``; as JSON and as a section of a Markdown file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import numpy as np

from .measures import GROUPS, MEASURES
from .variants import VARIANTS

COLUMNS = {
    "all": "all",
    "picture": "picture",
    "sound": "sound",
    "binding": "binding",
    "query_cosine": "query cosine",
    "seconds": "CPU seconds",
}
"""What the first table shows of every run, and what it calls it."""

_FULL = "full"
HEADER = "# Results\n\nEach section names the command that wrote it, the machine and the date.\n"
_COMPARED = ("all", *GROUPS)
_SINGLE = [name for name in MEASURES if name not in COLUMNS]
_ESTIMATED = (*COLUMNS, *_SINGLE)
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
            values={name: estimate([run[name] for run in runs.values()]) for name in _ESTIMATED},
            differences=_differences(runs, full),
            tokens_per_clip=first[variant]["tokens_per_clip"],
            trained_weights=first[variant]["trained_weights"],
        )
        for variant, runs in by_variant.items()
    ]


def measures(scores: dict[str, Any]) -> dict[str, float]:
    """All numbers of a run that have means and intervals."""
    found = scores["shares"] | {"query_cosine": scores["query_cosine"], "seconds": scores["seconds"]["training"]}
    return {name: found[name] for name in _ESTIMATED}


def to_json(table: Sequence[Row], scores: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """Everything, down to every run's scores."""
    return json.dumps({**facts, "variants": [asdict(row) for row in table], "runs": list(scores)}, indent=1) + "\n"


def to_markdown(table: Sequence[Row], scores: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The section between the markers."""
    seeds = max(row.values["all"].n for row in table)
    steps = sorted({one["run"]["steps"] for one in scores})
    lines = [
        "## What each choice of the connector is worth",
        "",
        f"`{facts['command']}`, {facts['machine']}, {date.today().isoformat()}.",
        "",
        "How exactly the steps of a clip (0.5 s each) can be read off its soft tokens. Connector and a small reader, "
        f"the same for all variants, are taught together for {', '.join(map(str, steps))} steps of {facts['batch']} "
        f"clips of at most 10 s, and measured on {facts['held_out']['clips']} test clips with "
        f"{facts['held_out']['steps']} steps; seeds: {seeds} at most, a seed has the same data, order and reader for "
        "all variants. **This is a proxy**: what the soft tokens hold, not what a language model makes of them. Mean "
        "over seeds ± half of the 95 % t-interval, which holds what differs from seed to seed and not the choice of "
        "clips. These are short trainings: they tell which choice learns faster, not where it ends.",
        "",
        *_table(["variant", "seeds", *COLUMNS.values(), "tokens a clip"], [_cells(row) for row in table]),
        *_skill(facts["without_skill"], ("all", *GROUPS), before="| | ", after=" | | | |"),
        "",
        "Paired over seeds; **bold**: 0 is outside the interval; by chance alone it is so once in twenty times.",
        "",
        *_table(
            ["variant", *(f"{name}, less full" for name in _COMPARED)],
            [_changes(row) for row in table if row.differences],
        ),
        "",
        "Measure by measure, means over seeds:",
        "",
        *_table(
            ["variant", *(name.replace("_", " ") for name in _SINGLE)],
            [[row.title, *(f"{row.values[name].mean:.3f}" for name in _SINGLE)] for row in table],
        ),
        *_skill(facts["without_skill"], _SINGLE, before="| ", after=" |"),
        "",
        "- Picture is the mean of objects (steps in which every thing's presence and shape are right), zones (the "
        "fifth of width and of height), motions, and of the comings, leavings and flashes that are found in the very "
        "step. Sound is the mean of sounds (steps in which all are right), beginnings found in the very step, and "
        "words. Binding: of the steps in which a sound begins while a thing flashes, those where which sound and which "
        "thing's colour are both right. All: the mean of these ten.",
        "- What a variant without a stream cannot know counts as wrong, and so does its binding.",
        "- Query cosine: between the queries of a window, 1 where they have collapsed; CPU seconds: of one thread's "
        "training, so what else ran on the machine hardly counts.",
        "- Clips have at most 20 steps, so the window of 10 s is the window over the whole clip. Windows have 2 tokens "
        "a step; a clip's last window is filled up, so tokens differ a little. `no causal block` has fewer weights.",
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
    if not seeds:
        return {}
    return {name: estimate([runs[seed][name] - full[seed][name] for seed in seeds]) for name in _ESTIMATED}


def _cells(row: Row) -> list[str]:
    values = [shown(row.values[name], digits=0 if name == "seconds" else 3) for name in COLUMNS]
    return [row.title, str(row.values["all"].n), *values, f"{row.tokens_per_clip:.1f}"]


def _changes(row: Row) -> list[str]:
    return [row.title, *(shown(row.differences[name], is_difference=True) for name in _COMPARED)]


def _table(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *cells]
    return [f"| {' | '.join(line)} |" for line in lines]


def _skill(found: dict[str, float] | None, names: Sequence[str], *, before: str, after: str) -> list[str]:
    """The line below a table; none where only variants without a stream have finished."""
    if found is None:
        return []
    return [f"| always what is most frequent {before}{' | '.join(f'{found[name]:.3f}' for name in names)}{after}"]
