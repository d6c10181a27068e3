"""``python -m eval score TASK --truth FILE --predictions FILE``: figures of a downstream task.

The last line of the output is one JSON object; with ``--json`` it is the only one. What the files hold stands in
:mod:`eval.scoring`. Exit status: 0 done; 2 something given cannot be used (one line on stderr says what).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval import scoring
from favor.errors import FavorError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        figures = options.score(options)
    except FavorError as error:
        print(f"error ({error.code}): {error}", file=sys.stderr)
        return 2
    if not options.json:
        _print_table(figures)
    print(json.dumps({"task": options.task, **figures}, allow_nan=False))
    return 0


def _print_table(figures: Mapping[str, Any]) -> None:
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:<{width}}  {f'{100 * value:6.2f} %' if isinstance(value, float) else value}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eval", description="Score predictions, without a model.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    score = commands.add_parser("score", help="score predictions of a downstream task")
    tasks = score.add_subparsers(required=True, dest="task", metavar="TASK")

    task = _task(tasks, "ave", "audio-visual event localisation: segment accuracy")
    task.add_argument("--split", type=Path, metavar="FILE", help="row numbers to score (default: all)")
    task.set_defaults(score=lambda given: scoring.score_ave(given.truth, given.predictions, split=given.split))

    task = _task(tasks, "avvp", "audio-visual video parsing: segment and event F-scores")
    task.add_argument("--audio", type=Path, required=True, metavar="FILE", help="dense truth of what is heard")
    task.add_argument("--visual", type=Path, required=True, metavar="FILE", help="dense truth of what is seen")
    task.set_defaults(
        score=lambda given: scoring.score_avvp(given.truth, given.predictions, audio=given.audio, visual=given.visual)
    )

    task = _task(tasks, "avs", "audio-visual segmentation: mIoU and F-score")
    task.add_argument("--per-batch", type=int, metavar="CLIPS", help="average over batches, as published (default: no)")
    task.set_defaults(score=lambda given: scoring.score_avs(given.truth, given.predictions, per_batch=given.per_batch))

    task = _task(tasks, "avqa", "questions about music: accuracy by type")
    task.set_defaults(score=lambda given: scoring.score_avqa(given.truth, given.predictions))

    task = _task(tasks, "avr", "text-to-video retrieval: recall at 1, 5 and 10", needs_truth=False)
    task.set_defaults(score=lambda given: scoring.score_avr(given.truth, given.predictions))
    return parser


def _task(tasks: Any, name: str, summary: str, *, needs_truth: bool = True) -> argparse.ArgumentParser:
    task: argparse.ArgumentParser = tasks.add_parser(name, help=summary, description=summary)
    task.add_argument("--truth", type=Path, required=needs_truth, metavar="FILE", help="the official annotations")
    task.add_argument("--predictions", type=Path, required=True, metavar="FILE", help="see eval.scoring")
    task.add_argument("--json", action="store_true", help="only the JSON object")
    return task


if __name__ == "__main__":
    sys.exit(main())
