"""``python -m training ablate``: teach and measure all variants, then write the table and the pictures.

Runs that have finished are kept; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from favor import presets
from favor.errors import ConfigurationError
from favor.terminal import quiet_libraries
from training.markdown import put_section
from training.stages import hardware
from training.world.assemble import untaught
from training.world.features import Encode, encode
from training.world.splits import Split

from . import plots, study, summary
from .single import BATCH, Run
from .variants import KINDS, VARIANTS, chosen

STEPS = 900
"""Some four minutes of training on one core of the machine that favor-mini was made on."""

TRAINING_CLIPS, HELD_OUT_CLIPS = 16384, 1024
"""Clips whose features are made where none are given; about half of them are short enough."""

_ROOT = Path(__file__).parents[3]
_SMOKE_STEPS, _SMOKE_CLIPS = 6, 48


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--features", type=Path, help="of encode (default: made by favor-mini's encoders, in --out)")
    parser.add_argument("--model", type=Path, help="whose encoders made them (default: start, beside the features)")
    parser.add_argument(
        "--val", type=Path, help="features of test clips (default: held-out-clips beside, or made in --out)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="of the runs (default: %(default)s)")
    parser.add_argument("--report", type=Path, default=_ROOT, help="where benchmarks/ and docs/ are written")
    parser.add_argument("--steps", type=_positive, default=STEPS, help="of every run (default: %(default)s)")
    parser.add_argument("--seeds", type=_positive, default=3, help="runs of every variant (default: %(default)s)")
    parser.add_argument("--processes", type=_positive, default=2, help="runs at a time (default: %(default)s)")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="comma-separated (default: all)")
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--smoke", action="store_true", help="two variants, six steps, clips made on the spot, in --out")
    some.add_argument("--report-only", action="store_true", help="only write the report of what has finished")


def run(options: argparse.Namespace) -> int:
    """Do what is missing and report; 1 where a run failed."""
    quiet_libraries()
    if options.smoke:
        _make_smoke(options)
    failed: list[Run] = []
    if not options.report_only:
        _fill_in(options)
        failed = study.carry_out(_runs(options), processes=options.processes)
    scores = study.read_scores(options.out)
    if not scores:
        raise ConfigurationError(
            f"no run has finished in {options.out.name}", allowed="finished runs", advice="Leave out --report-only"
        )
    _report(options.out, options.report, scores)
    return 1 if failed else 0


def _runs(options: argparse.Namespace) -> list[Run]:
    """Seed by seed, so that all variants have as many seeds wherever one stops."""
    return [
        Run(
            variant=variant,
            seed=seed,
            model=str(options.model),
            features=str(options.features),
            val=str(options.val),
            output=str(options.out / variant / f"seed-{seed}"),
            steps=options.steps,
        )
        for seed in range(1, options.seeds + 1)
        for variant in chosen(options.variants.split(","))
    ]


def _fill_in(options: argparse.Namespace) -> None:
    """What was not given: the default model's encoders, and features of theirs, made once."""
    folder = options.out / "features"
    if options.features is None:
        options.model = presets.folder("favor-mini")
        options.features = folder / "clips"
        _encode(options.model, options.features, "train", TRAINING_CLIPS)
    if options.model is None:
        options.model = options.features.parent / "start"
    if options.val is None:
        options.val = options.features.parent / "held-out-clips"
        if not (options.val / "shards.json").is_file():
            options.val = folder / "held-out-clips"
            _encode(options.model, options.val, "test", HELD_OUT_CLIPS)


def _make_smoke(options: argparse.Namespace) -> None:
    """Clips of untaught encoders, and the options that go with them."""
    folder = options.out / "smoke"
    shutil.rmtree(folder, ignore_errors=True)
    model, processor = untaught("favor-mini", seed=1)
    model.save_pretrained(folder / "start")
    processor.save_pretrained(folder / "start")
    _encode(folder / "start", folder / "clips", "train", _SMOKE_CLIPS)
    _encode(folder / "start", folder / "held-out-clips", "test", _SMOKE_CLIPS)
    options.features, options.model, options.val = folder / "clips", folder / "start", folder / "held-out-clips"
    options.steps, options.seeds, options.report = _SMOKE_STEPS, 1, options.out
    options.variants = "full,picture_only"


def _encode(model: Path, output: Path, split: Split, clips: int) -> None:
    kinds = dict.fromkeys(KINDS, 1.0)
    encode(Encode(model=str(model), output=str(output), clips=clips, split=split, kinds=kinds))


def _report(out: Path, to: Path, scores: list[dict[str, Any]]) -> None:
    facts = {
        "command": f"python -m training ablate --steps {scores[0]['run']['steps']}",
        "machine": hardware(),
        "batch": BATCH,
        "held_out": scores[0]["held_out"],
        "without_skill": next((one["without_skill"] for one in scores if "without_skill" in one), None),
    }
    table = summary.rows(scores)
    section = summary.to_markdown(table, scores, facts)
    put_section(to / "benchmarks" / "RESULTS.md", "ablation", section, header=summary.HEADER)
    (to / "benchmarks" / "ablation.json").write_text(summary.to_json(table, scores, facts), encoding="utf-8")
    plots.draw_bars(table, to / "docs" / "ablation.png")
    if not plots.draw_lambda(table, to / "docs" / "ablation_lambda.png"):
        print("no picture of lambda: only one weight has been tried", file=sys.stderr)
    print(section)
    print(json.dumps({row.variant: round(row.values["all"].mean, 4) for row in table}))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number
