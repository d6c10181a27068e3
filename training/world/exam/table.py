"""A report as a table on stdout."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from training.world.question import TASKS

from .report import Line, Report
from .scores import Score

_OTHERS = {
    "text_only": "text only",
    "mismatched_sound": "other sound",
    "sound_only": "sound only",
    "picture_only": "picture only",
}


def print_report(report: Report, *, has_families: bool) -> None:
    """Tasks, or tasks and families, and the figures that stand beside them."""
    console = Console(highlight=False, markup=False, width=None if Console().is_terminal else 140)
    console.print(_table("task", report.tasks, TASKS))
    if has_families:
        console.print(_table("family", report.families, {}))
    binding = Table("task", "combinations never met", "known", box=None, pad_edge=False)
    for task in report.tasks:
        if task in report.novel or task in report.seen:
            binding.add_row(task, *(_share(scores.get(task)) for scores in (report.novel, report.seen)))
    console.print(binding)
    error = "none named" if report.when_error_s is None else f"{report.when_error_s:.2f} s off"
    console.print(f"mean over tasks {report.mean:.3f}; times {error}")
    console.print("word error rate: " + ", ".join(f"{task} {rate:.3f}" for task, rate in report.wer.items()))
    wordings = ", ".join(f"{name}'s {entry.score:.3f}" for name, entry in report.wordings.items())
    console.print(f"wording: {wordings}")
    refused = ", ".join(f"{task} {share:.3f}" for task, share in report.refused.items())
    console.print(f"taken for questions outside the world: {refused or 'none'}")


def _share(score: Score | None) -> str:
    return "-" if score is None else f"{score.score:.3f} of {score.n}"


def _table(name: str, lines: Mapping[str, Line], summaries: Mapping[str, str]) -> Table:
    others = list(dict.fromkeys(other for line in lines.values() for other in line.others))
    table = Table(box=None, pad_edge=False)
    table.add_column(name)
    if summaries:
        table.add_column("what is asked")
    for title in ("n", "right", "95 %", "majority", "unskilled", *(_OTHERS[other] for other in others)):
        table.add_column(title, justify="right")
    for key, line in lines.items():
        score = line.score
        cells = [f"{score.n}", f"{score.score:.3f}", f"{score.low:.3f}-{score.high:.3f}"]
        beside = (line.majority, line.unskilled, *(line.others[other] for other in others))
        cells += ["-" if value is None else f"{value:.3f}" for value in beside]
        table.add_row(key, *([summaries[key]] if summaries else []), *cells)
    return table
