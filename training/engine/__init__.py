"""Engines: the same step on one process, on many with DDP, or with DeepSpeed ZeRO."""

from __future__ import annotations

from favor.errors import ConfigurationError
from training.engine.base import Engine, Ranks
from training.engine.plain import PlainEngine
from training.recipe import Recipe
from training.trained import TrainedModel

__all__ = ["Engine", "Ranks", "start"]


def start(model: TrainedModel, recipe: Recipe, ranks: Ranks) -> Engine:
    """The engine a recipe asks for.

    Raises:
        ConfigurationError: it does not fit the number of processes or the device.
        MissingDependencyError: DeepSpeed is not installed.
    """
    name = recipe.engine.name
    if name == "plain" and ranks.world_size > 1:
        raise ConfigurationError(
            f"engine.name is 'plain' and there are {ranks.world_size} processes",
            allowed="1 process, or ddp or deepspeed",
            advice="Set engine.name=ddp or engine.name=deepspeed",
        )
    if recipe.optimisation.precision == "fp16" and ranks.device.type == "cpu":
        raise ConfigurationError(
            "optimisation.precision is 'fp16' on a CPU",
            allowed="bf16 or fp32",
            advice="Set optimisation.precision=fp32",
        )
    if name == "deepspeed":
        from training.engine.zero import ZeroEngine

        return ZeroEngine(model, recipe, ranks)
    return PlainEngine(model, recipe, ranks)
