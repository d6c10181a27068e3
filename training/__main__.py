"""``python -m training COMMAND``: everything from checking data to a model that serves.

Exit status: 0 done, or saved on a signal; 1 problems were found; 2 something given cannot be
used (one line on stderr says what).
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from favor.errors import FavorError

COMMANDS = {
    "run": ("training.run", "train as a recipe says"),
    "check": ("training.data.check", "read every item of a data file and report what is wrong"),
    "perceive": ("training.world.perception", "teach an encoder to see or hear the generated world"),
    "clips": ("training.world.clips", "write clips of the generated world as media files with a data file"),
    "encode": ("training.world.features", "keep what the encoders make of the generated world's clips"),
    "assemble": ("training.world.assemble", "put taught encoders and an untaught language model together"),
    "showcase": ("training.world.showcase", "write the demo's clip and the picture of it"),
    "connect": ("training.world.connect", "teach a connector what is seen and heard in each step of a window"),
    "publish": ("training.world.publish", "write what a run has learnt as a model folder, in bf16"),
    "examine": ("training.world.exam.command", "ask a model about clips of the generated world that it never met"),
    "ablate": ("training.world.ablation.command", "compare connectors that differ in one choice by their soft tokens"),
    "downstream": ("training.downstream.run", "fine-tune an adapter on a published audio-visual task"),
    "cache": ("training.cache", "compute and keep the frozen encoders' features"),
    "downstream-data": (
        "training.world.official.command",
        "write the generated world in a downstream task's official format",
    ),
    "plan": ("training.plan", "memory, steps and time of a recipe, without a GPU"),
    "merge": ("training.export", "merge LoRA into the language model"),
    "export": ("training.export", "write a folder that favor, serving and vLLM load"),
    "preflight": ("training.preflight", "check that all nodes agree and can talk before a long run"),
}
"""Command -> the module with its ``add_arguments`` and ``run``, and what it does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    given = [word for word in given if not word.startswith("--local_rank=")]  # DeepSpeed's launcher; also in LOCAL_RANK
    parser = argparse.ArgumentParser(prog="python -m training", description="Fine-tune FAVOR.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if given[:1] == [name]:  # import only what is asked for
            _load(module, name).add_arguments(command)
    options, rest = parser.parse_known_args(given)
    if any(word.startswith("-") or "=" not in word for word in rest) or (rest and not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # overrides that came behind an option
        options.overrides = [*options.overrides, *rest]
    try:
        return int(_load(COMMANDS[options.command][0], options.command).run(options))
    except FavorError as error:
        print(f"error ({error.code}): {error}", file=sys.stderr)
        return 2


class _Command:
    """A command of a module; where a module has several, their functions carry the command's name."""

    def __init__(self, module: Any, name: str) -> None:
        has_several = hasattr(module, f"run_{name}")
        self.add_arguments = getattr(module, f"add_{name}_arguments") if has_several else module.add_arguments
        self.run = getattr(module, f"run_{name}") if has_several else module.run


def _load(module: str, name: str) -> _Command:
    return _Command(importlib.import_module(module), name)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        os._exit(status)  # gloo may abort a process while it is taken down, long after all work is done
    sys.exit(status)
