"""``python -m training cache RECIPE``: encode every clip of a recipe's data once and keep the features.

Goes on where it stopped: what is there already is only looked up. Several processes may share the work (``torchrun
--nproc-per-node 8 -m training cache RECIPE``), each with its own GPU and every n-th sample.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from favor.errors import ConfigurationError, FavorError
from favor.feature_cache import FeatureCache
from favor.processor import FavorProcessor
from training import parts, recipe
from training.base_model import DTYPES, base_model
from training.data import ManifestError, Sample, open_sources
from training.data.batches import encode, strict
from training.recipe import Recipe


@dataclass
class CacheReport:
    """What filling a cache met: clips found and encoded, and why samples were bad."""

    num_samples: int
    num_hits: int
    num_computed: int
    bad: list[str]


def open_cache(
    given: Recipe, *, device: torch.device, dtype: torch.dtype | None = None
) -> tuple[FeatureCache, FavorProcessor]:
    """The recipe's cache, which computes what is missing, and the processor to ask it with.

    Raises:
        ConfigurationError: the recipe names no folder for it, or trains an encoder.
    """
    if given.data.cache is None:
        raise ConfigurationError(
            "the recipe has no data.cache", allowed="a folder for the features", advice="Add data.cache=FOLDER"
        )
    model, processor = base_model(given)
    parts.apply(model, given.parts)
    model.vision.to(device)
    model.audio.to(device)
    processor = strict(processor, max_seconds=given.data.max_seconds)
    return FeatureCache.open(given.data.cache, model, processor, dtype=dtype), processor


def fill(cache: FeatureCache, processor: FavorProcessor, samples: Iterable[Sample | FavorError]) -> CacheReport:
    """Encode and keep all clips of ``samples`` (an error among them is a bad sample)."""
    report = CacheReport(0, 0, 0, [])
    for sample in samples:
        report.num_samples += 1
        if isinstance(sample, FavorError):
            report.bad.append(str(sample))
            continue
        try:
            encode([sample], processor, features=cache)
        except FavorError as error:
            report.bad.append(f"{sample.key}: {error}")
    report.num_hits, report.num_computed = cache.counts.hits, cache.counts.computed
    return report


def samples_of(given: Recipe, *, rank: int = 0, world_size: int = 1) -> Iterator[Sample | FavorError]:
    """Every ``world_size``-th sample of training and validation data; for a line that is none, its error."""
    place = 0
    for source in open_sources([*given.data.train, *given.data.val]):
        for number in range(len(source)):
            place += 1
            if (place - 1) % world_size != rank:
                continue
            try:
                yield source.read(number)
            except ManifestError as error:
                yield error
        source.close()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help=f"a YAML file, or one of {', '.join(recipe.names())}")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that differ, as section.key=value")
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="of the kept features (default: the encoders' own)")


def run(options: argparse.Namespace) -> int:
    """Fill the cache; 1 if there were bad samples."""
    given = recipe.load(options.recipe, options.overrides)
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    cache, processor = open_cache(given, device=device, dtype=DTYPES[options.dtype] if options.dtype else None)
    if any(given.data.mixing.model_dump().values()):
        print("note: data.mixing makes new clips and questions during training; those are not cached.", file=sys.stderr)
    total = _count(given)
    with _bar(is_shown=rank == 0 and sys.stderr.isatty()) as bar:
        task = bar.add_task("encoding", total=-(-(total - rank) // world_size))
        samples = _counted(samples_of(given, rank=rank, world_size=world_size), lambda: bar.advance(task))
        report = fill(cache, processor, samples)
    for problem in report.bad:
        print(f"bad: {problem}", file=sys.stderr)
    print(
        f"{Path(str(given.data.cache)).name}: {report.num_samples} samples, {report.num_hits} clips were there, "
        f"{report.num_computed} encoded, {len(report.bad)} bad samples"
    )
    return 1 if report.bad else 0


def _count(given: Recipe) -> int:
    sources = open_sources([*given.data.train, *given.data.val])
    total = sum(map(len, sources))
    for source in sources:
        source.close()
    return total


def _counted(samples: Iterable[Sample | FavorError], tell: Callable[[], None]) -> Iterator[Sample | FavorError]:
    for sample in samples:
        yield sample
        tell()


def _bar(*, is_shown: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not is_shown)
