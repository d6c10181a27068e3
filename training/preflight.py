"""``python -m training preflight RECIPE``: what would end a long run in its first minute, or worse, in its last.

On one process it checks this machine. Launched as the run will be (``torchrun ... -m training preflight RECIPE``) it
also checks that all processes agree on versions, data and recipe, and that they can talk: one sum over all of them,
within a time limit.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from favor.errors import FavorError
from training import recipe
from training.data import open_sources
from training.data.sources import fingerprint
from training.engine.base import Ranks
from training.recipe import Recipe

_PACKAGES = ("torch", "transformers", "peft", "safetensors", "av", "deepspeed")


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, whether all is well, and in words what was found."""

    name: str
    is_fine: bool
    text: str


def check_alone(given: Recipe, *, num_samples: int) -> list[Finding]:
    """What one process can check by itself: data, media, the output folder."""
    return [
        _checked("data", lambda: _data(given)),
        _checked(f"media of {num_samples} samples", lambda: _media(given, num_samples)),
        _checked("output folder", lambda: _output(Path(given.output))),
    ]


def check_together(given: Recipe, ranks: Ranks, *, timeout_s: float) -> list[Finding]:
    """What all processes check together; the same list on all of them, if they can talk."""
    reached = _checked("all-reduce", lambda: _all_reduce(ranks, timeout_s))
    if not reached.is_fine:
        return [reached]
    everybody: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(everybody, facts(given))
    return [reached, *agreements(everybody)]


def facts(given: Recipe) -> dict[str, str]:
    """What must be the same on every process."""
    found = {"python": platform.python_version(), "recipe": str(given.model_dump(mode="json"))}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    found["cuda"] = str(torch.version.cuda)
    found["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    try:
        found["data"] = fingerprint(open_sources([*given.data.train, *given.data.val]))
    except FavorError as error:
        found["data"] = str(error)
    return found


def agreements(everybody: list[dict[str, str]]) -> list[Finding]:
    """One finding for every fact; a disagreement names the processes that stand apart from the first."""
    findings = []
    for name, first in everybody[0].items():
        others = [rank for rank, own in enumerate(everybody) if own.get(name) != first]
        short = first if len(first) <= 40 else f"{first[:12]}..."
        text = f"{short} everywhere" if not others else f"{short} on process 0, something else on {_listed(others)}"
        findings.append(Finding(f"same {name}", not others, text))
    return findings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help=f"a YAML file, or one of {', '.join(recipe.names())}")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that differ, as section.key=value")
    parser.add_argument("--samples", type=int, default=20, help="samples to decode, spread over the data (%(default)s)")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for all to find each other (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Check and tell; 1 if anything is wrong, on any process."""
    given = recipe.load(options.recipe, options.overrides)
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    findings = check_alone(given, num_samples=options.samples)
    if world_size > 1:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        ranks = Ranks(rank, world_size, device if torch.cuda.is_available() else torch.device("cpu"))
        findings += check_together(given, ranks, timeout_s=options.timeout)
    for finding in findings:
        if rank == 0 or not finding.is_fine:
            place = f"[process {rank} on {platform.node()}] " if world_size > 1 else ""
            print(f"{'ok ' if finding.is_fine else 'BAD'} {place}{finding.name}: {finding.text}", flush=True)
    is_bad = not all(finding.is_fine for finding in findings)
    if dist.is_initialized():
        dist.destroy_process_group()
    return int(is_bad)


def _checked(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except (FavorError, OSError, RuntimeError) as error:
        return Finding(name, False, str(error).splitlines()[0] if str(error) else type(error).__name__)


def _data(given: Recipe) -> str:
    sources = open_sources([*given.data.train, *given.data.val])
    return ", ".join(f"{source.name} {len(source):,}" for source in sources)


def _media(given: Recipe, num_samples: int) -> str:
    """Decode samples spread evenly over every source."""
    from favor import presets
    from favor.clips import ClipReader
    from favor.media import MediaOptions
    from training.base_model import base_config

    config = base_config(given)
    settings = presets.describe(given.model).processor if given.model in presets.names() else None
    options = {**(settings or {}), "max_seconds": given.data.max_seconds}
    reader = ClipReader.for_config(config, MediaOptions(frame_size=config.vision_config.image_size, **options))
    sources = open_sources([*given.data.train, *given.data.val])
    each = max(1, num_samples // len(sources))
    num_clips = 0
    for source in sources:
        for place in range(min(each, len(source))):
            for part in source.read(place * len(source) // each if each < len(source) else place).media:
                reader.load(part)
                num_clips += 1
    return f"{num_clips} clips decoded"


def _output(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".preflight-{platform.node()}-{os.getpid()}"
    probe.write_bytes(b"x")
    probe.unlink()
    state = os.statvfs(folder)
    return f"writable, {state.f_bavail * state.f_frsize / 1e9:,.0f} GB free"


def _all_reduce(ranks: Ranks, timeout_s: float) -> str:
    """The sum over all processes, on the devices and over the network that training will use."""
    backend = "nccl" if ranks.device.type == "cuda" else "gloo"
    if ranks.device.type == "cuda":
        torch.cuda.set_device(ranks.device)
    if not dist.is_initialized():
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    one = torch.ones(1 << 20, device=ranks.device)
    work = dist.all_reduce(one, async_op=True)
    assert work is not None
    work.wait(timedelta(seconds=timeout_s))
    total = int(one[0].item())
    if total != ranks.world_size:
        raise RuntimeError(f"{backend} added {ranks.world_size} ones to {total}")
    return f"{ranks.world_size} processes over {backend}"


def _listed(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:8]))
    return f"{shown}, ..." if len(ranks) > 8 else shown
