"""``python -m training run RECIPE.yaml key=value ...``; under torchrun or DeepSpeed's launcher on many processes."""

from __future__ import annotations

import argparse

import torch.distributed as dist

from training import recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help=f"a YAML file, or one of {', '.join(recipe.names())}")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that differ, as section.key=value")
    parser.add_argument(
        "--resume",
        choices=("auto", "never"),
        default="auto",
        help="auto goes on from the newest checkpoint of the output folder, if there is one (default)",
    )


def run(options: argparse.Namespace) -> int:
    """Train; 0 at the end, and also when a signal ended the run behind a checkpoint."""
    from training import trainer

    trainer.run(recipe.load(options.recipe, options.overrides), is_resuming=options.resume == "auto")
    if dist.is_initialized():
        dist.barrier()  # __main__ then leaves at once
    return 0
