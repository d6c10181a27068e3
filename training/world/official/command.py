"""``python -m training downstream-data TASK OUT --clips N --seed S``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from favor.errors import ConfigurationError
from training.world.files import write_mp4

from . import ave, avqa, avs, avvp, cast

SIZE = 224
"""Pixels of a picture's side: that of AVSBench's frames and masks."""

_PLAN = "plan.json"


@dataclass(frozen=True)
class Task:
    """How a task's clips are planned and written.

    Args:
        plan: (number of clips, seed) -> clips. media_path: where a clip's mp4 stands in the folder.
        write_annotations: (clips, folder). write_beside: (clip, folder, size), files besides a clip's mp4.
    """

    plan: Callable[[int, int], list[Any]]
    media_path: Callable[[Any], Path]
    write_annotations: Callable[[Sequence[Any], Path], None]
    write_beside: Callable[[Any, Path, int], None] | None = None
    least_clips: int = cast.LEAST_CLIPS


TASKS = {
    "ave": Task(ave.plan, ave.media_path, ave.write_annotations, least_clips=ave.LEAST_CLIPS),
    "avvp": Task(avvp.plan, avvp.media_path, avvp.write_annotations),
    "avs-s4": Task(avs.plan_s4, avs.media_path, avs.write_annotations, avs.write_beside),
    "avs-ms3": Task(avs.plan_ms3, avs.media_path, avs.write_annotations, avs.write_beside),
    "avqa": Task(avqa.plan, avqa.media_path, avqa.write_annotations),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", choices=TASKS, help="whose official format to write")
    parser.add_argument("folder", type=Path, metavar="OUT", help="folder to write to, or to go on with")
    parser.add_argument("--clips", type=int, required=True, help="how many: 70 %% train, 10 %% val, 20 %% test")
    parser.add_argument("--seed", type=int, default=0, help="what the clips are drawn from (default 0)")
    parser.add_argument("--size", type=int, default=SIZE, help=f"pixels of a picture's side (default {SIZE})")
    parser.add_argument("--processes", type=int, default=1, help="that write clips at the same time (default 1)")


def run(options: argparse.Namespace) -> int:
    """Write the annotations, then every clip that is not there yet."""
    _check(options)
    task, folder = TASKS[options.task], options.folder
    _claim(folder, {name: getattr(options, name) for name in ("task", "clips", "seed", "size")})
    clips = task.plan(options.clips, options.seed)
    task.write_annotations(clips, folder)
    write = partial(write_clip, options.task, folder=folder, size=options.size)
    missing = [clip for clip in clips if not (folder / task.media_path(clip)).exists()]
    print(f"{len(clips)} clips, {len(clips) - len(missing)} of them there already", flush=True)
    if options.processes == 1:
        for clip in missing:
            write(clip)
    else:
        with get_context("spawn").Pool(options.processes) as pool:
            for _ in pool.imap_unordered(write, missing):
                pass
    print(f"wrote {len(missing)} clips", flush=True)
    return 0


def write_clip(task: str, clip: Any, *, folder: Path, size: int) -> None:
    """The clip's files; its mp4 last and whole, for it says that the others are there."""
    chosen = TASKS[task]
    if chosen.write_beside is not None:
        chosen.write_beside(clip, folder, size)
    path = folder / chosen.media_path(clip)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    write_mp4(clip.scene, unfinished, size=size)
    unfinished.replace(path)


def _check(options: argparse.Namespace) -> None:
    least = TASKS[options.task].least_clips
    for name, lowest, highest in (("clips", least, 999_999), ("size", 32, 1024), ("processes", 1, 256)):
        given = getattr(options, name)
        if not lowest <= given <= highest:
            raise ConfigurationError(
                f"--{name} {given} for {options.task}",
                allowed=f"{lowest} to {highest}",
                advice="Give a number of these",
            )


def _claim(folder: Path, wanted: dict[str, Any]) -> None:
    """A folder holds the clips of one plan, which is told beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _PLAN
    if not path.exists():
        path.write_text(json.dumps(wanted) + "\n")
    elif (found := json.loads(path.read_text())) != wanted:
        raise ConfigurationError(
            f"the folder holds {found}, and {wanted} was asked for",
            allowed="a new folder, or one of the same task, clips, seed and size",
            advice="Name another folder, or give the same arguments to go on",
        )
