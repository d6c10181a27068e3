"""``python -m training assemble RECIPE.yaml``: a FAVOR out of taught encoders, a tokenizer, and the rest untaught.

What it writes is an ordinary model folder: `encode` runs its encoders, `run` trains the rest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from favor import presets
from favor.modeling import FavorForConditionalGeneration
from favor.processor import FavorProcessor
from training.recipe import Strict, load_settings, recipe_arguments
from training.world import tokenizer
from training.world.perception import load_encoder


class Assembly(Strict):
    """One model.

    Args:
        model: the preset whose shape it has. vision, audio: outputs of `perceive`.
        output: the folder to write. seed: of the weights that are still untaught, and of the tokenizer.
    """

    name: str = "assembly"
    summary: str = ""
    model: str
    vision: str
    audio: str
    output: str
    seed: int = 0


add_arguments = recipe_arguments


def run(options: argparse.Namespace) -> int:
    """Put the model together and save it."""
    assemble(load_settings(Assembly, options.recipe, options.overrides))
    return 0


def assemble(recipe: Assembly) -> tuple[FavorForConditionalGeneration, FavorProcessor]:
    """Model and processor, as written to the output folder."""
    model, processor = untaught(recipe.model, seed=recipe.seed)
    load_encoder(model.vision, Path(recipe.vision))
    load_encoder(model.audio, Path(recipe.audio))
    model.save_pretrained(recipe.output)
    processor.save_pretrained(recipe.output)
    return model, processor


def untaught(preset: str, *, seed: int) -> tuple[FavorForConditionalGeneration, FavorProcessor]:
    """Random weights with a tokenizer of the world's words."""
    model, processor = presets.untrained(preset, seed=seed)
    processor.tokenizer = tokenizer.learn(model.config.text_config.vocab_size, seed=seed)
    placeholder = processor.tokenizer.convert_tokens_to_ids(tokenizer.PLACEHOLDER)
    assert placeholder == model.config.placeholder_token_id, (placeholder, model.config.placeholder_token_id)
    model.generation_config.suppress_tokens = [0, placeholder]
    return model, processor
