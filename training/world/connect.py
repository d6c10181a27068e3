"""``python -m training connect RECIPE.yaml``: teach the connector with dense labels, before any language.

Of the queries of a window two belong to each of its steps: throw-away heads must read off the first what is seen in
that step, and off the second what is heard. So the soft tokens come to hold it all, in order of time, long before the
few words of an answer could teach them to, and a small language model finds things where they happen.

Shapes: W windows, k steps of a window, N = 2 k queries, H their width, S = W * k steps of all windows.
"""

from __future__ import annotations

import argparse
import random

import torch
from torch import Tensor, nn

from favor.checkpoint import load_folder
from favor.errors import ConfigurationError
from favor.modeling import FavorForConditionalGeneration
from training.base_model import use_fastest_attention
from training.recipe import load_settings, recipe_arguments
from training.world.shards import Shards, media_inputs
from training.world.steps import StepHeads, StepTarget, StepVectors, target_of
from training.world.teaching import Lesson, teach

QUERIES_PER_STEP = 2
"""One for what is seen, one for what is heard."""

_DIVERSITY_WEIGHT = 0.1


class Connection(Lesson):
    """One run.

    Args:
        model: a folder with taught encoders, as `assemble` writes it; the output is one more, with a taught connector.
        features, val: folders of `encode`, to learn from and to score.
        batch: clips.
    """

    model: str
    features: str
    val: str
    held_out_batch: int = 128


add_arguments = recipe_arguments


def run(options: argparse.Namespace) -> int:
    """Teach it and write the model folder."""
    connect(load_settings(Connection, options.recipe, options.overrides))
    return 0


def connect(recipe: Connection) -> dict[str, float]:
    """Teach the connector; the folder's scores are those of held-out clips."""
    torch.manual_seed(recipe.seed)
    model, processor = load_folder(recipe.model)
    use_fastest_attention(model, device=torch.device("cpu"), precision=recipe.precision)
    shards = {"train": Shards(recipe.features), "test": Shards(recipe.val)}
    for each in shards.values():
        each.refuse_other_encoders(model)
    steps = model.config.connector_config.window_steps

    def batch_of(split: str, step: int, number: int) -> tuple[dict[str, Tensor], StepTarget]:
        rng = random.Random(f"connect {split} {recipe.seed} {step}")
        drawn = rng.sample(range(len(shards[split])), min(number, len(shards[split])))
        clips = [shards[split].clip(place) for place in drawn]
        targets = [target_of(shards[split].scene(place), window_steps=steps) for place in drawn]
        return media_inputs(clips, chunk_steps=model.config.audio_chunk_steps), StepTarget.joined(targets)

    scores = teach(recipe, step_heads(model), batch_of)
    model.save_pretrained(recipe.output)
    processor.save_pretrained(recipe.output)
    return scores


class StepQueries(nn.Module):
    """The two queries of every step of a window: the first tells what is seen in it, the second what is heard."""

    def __init__(self, model: FavorForConditionalGeneration) -> None:
        super().__init__()
        config = model.config.connector_config
        if config.num_query_tokens != QUERIES_PER_STEP * config.window_steps:
            raise ConfigurationError(
                f"a window has {config.num_query_tokens} queries and {config.window_steps} steps",
                allowed=f"{QUERIES_PER_STEP} queries per step",
                advice="Set connector_config.num_query_tokens",
            )
        self.connector, self.window_steps = model.connector, config.window_steps
        self._soft_tokens = model.get_soft_tokens  # a bound method: the rest of the model is not taught

    def forward(self, media: dict[str, Tensor]) -> StepVectors:
        """(S, H) for each sense."""
        made = self._soft_tokens(**media)
        of_steps = made.queries.unflatten(1, (self.window_steps, QUERIES_PER_STEP)).flatten(0, 1)  # (S, 2, H)
        return StepVectors(of_steps[:, 0], of_steps[:, 1], made.diversity)


def step_heads(model: FavorForConditionalGeneration) -> StepHeads:
    """The model's connector, with heads on its queries."""
    width = model.config.connector_config.hidden_size
    return StepHeads(StepQueries(model), width=width, diversity_weight=_DIVERSITY_WEIGHT)
