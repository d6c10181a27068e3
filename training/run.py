"""``python -m training run RECIPE.yaml key=value ...``; under torchrun or DeepSpeed's launcher on many processes.

A recipe with ``stages`` runs them one after the other and starts their processes itself (``training.stages``).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from favor.errors import ConfigurationError
from training import recipe, stages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help=f"a YAML file, or one of {', '.join(recipe.names())}")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings that differ, as section.key=value; of a recipe with stages seed, output or STAGE.section.key",
    )
    parser.add_argument(
        "--resume",
        choices=("auto", "never"),
        default="auto",
        help="auto goes on from the newest checkpoint of the output folder, if there is one (default)",
    )
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--only", metavar="STAGE", help="run this stage of a recipe with stages")
    some.add_argument("--until", metavar="STAGE", help="run the stages up to this one")


def run(options: argparse.Namespace) -> int:
    """Train; 0 at the end, and also when a signal ended the run behind a checkpoint."""
    if recipe.is_staged(options.recipe):
        return _run_stages(options)
    if options.only or options.until:
        raise ConfigurationError(
            f"the recipe {options.recipe!r} has no stages",
            allowed="--only and --until with stages",
            advice="Leave it out",
        )
    import torch.distributed as dist

    from training import trainer

    trainer.run(recipe.load(options.recipe, options.overrides), is_resuming=options.resume == "auto")
    if dist.is_initialized():
        dist.barrier()  # __main__ then leaves at once
    return 0


def _run_stages(options: argparse.Namespace) -> int:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigurationError(
            f"the recipe {options.recipe!r} has stages and stands under a launcher",
            allowed="one process, which starts those of the stages itself",
            advice="Run python -m training run without torchrun",
        )
    staged = stages.load(options.recipe, options.overrides)
    folder = Path(staged.output)
    if options.resume == "never" and folder.exists() and any(folder.iterdir()):
        raise ConfigurationError(
            "--resume never was given and the output folder is not empty",
            allowed="an empty or new folder",
            advice="Set output=ANOTHER, or delete what is there",
        )
    return stages.run(stages.jobs(staged), only=options.only, until=options.until)
