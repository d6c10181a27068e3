"""All runs of an ablation, each in a process of its own, some at a time; what has finished is not done again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from favor.errors import ConfigurationError
from training.stages import MALLOC

from .measures import GROUPS
from .single import SCORES, Run
from .variants import VARIANTS

_POLL_S = 0.2


@dataclass(frozen=True)
class _Started:
    run: Run
    process: subprocess.Popen[bytes]
    began: float


def carry_out(runs: Sequence[Run], *, processes: int) -> list[Run]:
    """Do those that have not finished, ``processes`` at a time; gives those that failed.

    Raises:
        ConfigurationError: one finished with other settings.
    """
    waiting = [run for run in runs if not has_finished(run)]
    number, failed = len(waiting), []
    started: list[_Started] = []
    before = signal.signal(signal.SIGTERM, _end)
    try:
        while waiting or started:
            while waiting and len(started) < processes:
                started.append(_start(waiting.pop(0)))
            time.sleep(_POLL_S)
            for one in [one for one in started if one.process.poll() is not None]:
                started.remove(one)
                failed += [one.run] if one.process.returncode else []
                _tell(one, f"{number - len(waiting) - len(started)} of {number}")
    finally:  # also where a signal ends it
        for one in started:
            one.process.terminate()
        signal.signal(signal.SIGTERM, before)
    return failed


def has_finished(run: Run) -> bool:
    """Whether the run's scores are there.

    Raises:
        ConfigurationError: they are, of a run with other settings.
    """
    path = Path(run.output) / SCORES
    if not path.exists():
        return False
    if Run.model_validate(json.loads(path.read_text(encoding="utf-8"))["run"]) == run:
        return True
    raise ConfigurationError(
        f"{run.variant} with seed {run.seed} has finished in this folder with other settings",
        allowed="the settings it finished with",
        advice="Choose another --out, or give the same --steps, --features, --val and --model",
    )


def read_scores(out: Path) -> list[dict[str, Any]]:
    """Of all runs that have finished, variant by variant, seed by seed."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in out.glob(f"*/*/{SCORES}")]
    names = list(VARIANTS)
    return sorted(found, key=lambda scores: (names.index(scores["run"]["variant"]), scores["run"]["seed"]))


def _end(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def _start(run: Run) -> _Started:
    folder = Path(run.output)
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted one left
    folder.mkdir(parents=True)
    settings = folder / "run.json"
    settings.write_text(run.model_dump_json(indent=1), encoding="utf-8")
    ours = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | (MALLOC if sys.platform == "linux" else {})
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "training.world.ablation.single", str(settings)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | ours,
        )
    return _Started(run, process, time.perf_counter())


def _tell(one: _Started, place: str) -> None:
    run, seconds = one.run, time.perf_counter() - one.began
    outcome = f"failed, see {run.variant}/seed-{run.seed}/log.txt"
    if not one.process.returncode:
        shares = json.loads((Path(run.output) / SCORES).read_text(encoding="utf-8"))["shares"]
        outcome = " ".join(f"{name} {shares[name]:.3f}" for name in ("all", *GROUPS))
    print(f"{place}: {run.variant} seed {run.seed}: {outcome} ({seconds:.0f} s)", file=sys.stderr, flush=True)
