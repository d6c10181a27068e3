"""DeepSpeed ZeRO stages 1 to 3, with the real package; launched by torchrun or by DeepSpeed's own launcher."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from favor.encoders import JointEncoder
from favor.errors import ConfigurationError, MissingDependencyError
from training.engine.base import LossScale, Ranks, parameter_groups, set_learning_rate
from training.recipe import Recipe
from training.trained import Inputs, LossSums, TrainedModel

_PRESETS = Path(__file__).parent / "deepspeed"
_TAG = "zero"


class ZeroEngine:
    """A DeepSpeed engine. Everything in it is in the recipe's precision; DeepSpeed keeps the float32 masters."""

    def __init__(self, model: TrainedModel, recipe: Recipe, ranks: Ranks) -> None:
        deepspeed = _import_deepspeed(ranks)
        self.ranks = ranks
        self.model = model.to(ranks.device).train()
        config = zero_config(recipe, ranks)
        if self.model.model.adapter is not None:
            _refuse_learning_encoders(self.model)
            _keep_whole(self.model.model.adapter)
        groups = parameter_groups(model, recipe.optimisation)
        options = recipe.optimisation
        client = None
        if "optimizer" not in config:
            client = torch.optim.AdamW(groups, lr=options.learning_rate, betas=options.betas, eps=options.eps)
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=self.model, optimizer=client, model_parameters=None if client else groups, config=config
        )
        self.gathered = deepspeed.zero.GatheredParameters

    def backward(self, inputs: Inputs, scale: LossScale, *, is_last: bool) -> LossSums:
        self.engine.set_gradient_accumulation_boundary(is_last)
        sums = self.engine(inputs)
        # ZeRO takes the mean over processes; the step's loss is their sum.
        self.engine.backward(scale.loss(sums) * self.ranks.world_size, scale_wrt_gas=False)
        if not is_last:
            self.engine.step()  # counts the micro-batch; updates nothing before the boundary
        return sums

    def step(self, learning_rate_share: float) -> float:
        set_learning_rate(self.optimizer, learning_rate_share)
        self.engine.step()
        return float(self.engine.get_global_grad_norm() or 0.0)

    @torch.no_grad()
    def evaluate(self, inputs: Inputs) -> LossSums:
        self.engine.eval()
        sums = self.engine(inputs)
        self.engine.train()
        return sums

    def trained_tensors(self) -> dict[str, Tensor]:
        trained = {name: p for name, p in self.model.model.named_parameters() if p.requires_grad}
        found = {}
        for name, parameter in trained.items():
            with self.gathered([parameter]):
                found[name] = parameter.detach().float().cpu().clone()
        return found

    def save_optimizer(self, folder: Path) -> None:
        self.engine.save_checkpoint(str(folder), tag=_TAG, save_latest=False, exclude_frozen_parameters=True)

    def load_optimizer(self, folder: Path) -> None:
        path, _ = self.engine.load_checkpoint(str(folder), tag=_TAG, load_module_strict=False)
        assert path is not None, "DeepSpeed found no state in its folder"


def zero_config(recipe: Recipe, ranks: Ranks) -> dict[str, Any]:
    """The DeepSpeed configuration of a recipe: its preset (or JSON file) with the recipe's numbers filled in."""
    options = recipe.optimisation
    path = _PRESETS / f"{recipe.engine.deepspeed}.json"
    if not path.is_file():
        path = Path(recipe.engine.deepspeed)
    if not path.is_file():
        raise ConfigurationError(
            f"there is no DeepSpeed preset or file {recipe.engine.deepspeed!r}",
            allowed=", ".join(sorted(preset.stem for preset in _PRESETS.glob("*.json"))) + ", or a JSON file",
            advice="Correct engine.deepspeed",
        )
    config = json.loads(path.read_text(encoding="utf-8"))
    return config | {
        "train_micro_batch_size_per_gpu": options.micro_batch,
        "gradient_accumulation_steps": options.accumulation,
        "train_batch_size": options.micro_batch * options.accumulation * ranks.world_size,
        "gradient_clipping": options.max_grad_norm,
        "bf16": {"enabled": options.precision == "bf16"},
        "fp16": {"enabled": options.precision == "fp16"},
        "zero_allow_untested_optimizer": True,
    }


def _refuse_learning_encoders(model: TrainedModel) -> None:
    """Encoders with an adapter inside run as a process's own clips demand, and ZeRO wants one order on all.

    Raises:
        ConfigurationError: one of them is to learn.
    """
    if not (model.model.vision.is_frozen and model.model.audio.is_frozen):
        raise ConfigurationError(
            "an adapter inside encoders that learn, with DeepSpeed",
            allowed="parts.vision=frozen and parts.audio=frozen, or another engine",
            advice="Set engine.name=ddp, or leave the encoders frozen",
        )


def _keep_whole(adapter: JointEncoder) -> None:
    """Let ZeRO-3 gather an adapter in one piece: which of its layers run depends on a process's own clips.

    Gradients of such a piece are summed when those of its inputs are known; so these are asked for.
    """
    from deepspeed.utils import set_z3_leaf_module

    set_z3_leaf_module(adapter, True)
    adapter.register_forward_pre_hook(_with_gradients)


def _with_gradients(_: JointEncoder, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Frames and sound that have gradients, and the rest."""
    if not torch.is_grad_enabled():
        return inputs
    frames, sound, *rest = inputs
    return frames.detach().requires_grad_(), sound.detach().requires_grad_(), *rest


def _import_deepspeed(ranks: Ranks) -> Any:
    if ranks.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("RANK", str(ranks.rank))
    os.environ.setdefault("WORLD_SIZE", str(ranks.world_size))
    os.environ.setdefault("LOCAL_RANK", "0")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29511")
    try:
        import deepspeed
    except ImportError as error:
        raise MissingDependencyError(
            "engine.name is 'deepspeed' and DeepSpeed is not installed",
            allowed="deepspeed, as pinned in requirements.txt",
            advice="Run ./install.sh cpu train, or ./install.sh cuda train",
        ) from error
    return deepspeed
