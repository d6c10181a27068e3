"""``python -m training publish RECIPE.yaml``: what a run has learnt as a model folder, in the shipped precision."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

import torch

from training import export
from training.recipe import Strict, load_settings, recipe_arguments

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Publication(Strict):
    """One model folder.

    Args:
        source: a run's folder. output: the folder to write.
        llm: ``merged`` merges LoRA, ``adapter`` keeps it apart.
        precision: of all weights in the file.
    """

    name: str = "publication"
    summary: str = ""
    source: str
    output: str
    seed: int = 0
    llm: Literal["merged", "adapter"] = "merged"
    precision: Literal["bf16", "fp32"] = "bf16"


add_arguments = recipe_arguments


def run(options: argparse.Namespace) -> int:
    """Write the folder."""
    publish(load_settings(Publication, options.recipe, options.overrides))
    return 0


def publish(recipe: Publication) -> Path:
    """The folder: config.json, model.safetensors and the processor's files."""
    model, processor = export.trained_model(recipe.source)
    if recipe.llm == "merged":
        export.merge_llm(model)
    folder = Path(recipe.output)
    model.to(DTYPES[recipe.precision]).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
