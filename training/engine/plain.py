"""Plain PyTorch on one process, or on many through DistributedDataParallel."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.engine.base import LossScale, Ranks, parameter_groups, set_learning_rate
from training.recipe import Recipe
from training.trained import Inputs, LossSums, TrainedModel

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class PlainEngine:
    """Trained weights in float32, forward pass under autocast; DDP averages gradients behind the last micro-batch."""

    def __init__(self, model: TrainedModel, recipe: Recipe, ranks: Ranks) -> None:
        self.ranks = ranks
        self.options = recipe.optimisation
        self.dtype = DTYPES[self.options.precision]
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else self.dtype)
        self.model = model.to(ranks.device).train()
        self.runner: nn.Module = self.model
        if ranks.world_size > 1:
            self.runner = DistributedDataParallel(self.model, gradient_as_bucket_view=True)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, self.options),
            betas=self.options.betas,
            eps=self.options.eps,
            fused=ranks.device.type == "cpu" or None,  # PyTorch's own choice is fast on a GPU, and slow here
        )
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=self.options.precision == "fp16")

    def backward(self, inputs: Inputs, scale: LossScale, *, is_last: bool) -> LossSums:
        waits = isinstance(self.runner, DistributedDataParallel) and not is_last
        with self.runner.no_sync() if waits else nullcontext():  # type: ignore[operator]
            with self._autocast():
                sums = self.runner(inputs)
            # DDP takes the mean over processes; the step's loss is their sum.
            self.scaler.scale(scale.loss(sums) * self.ranks.world_size).backward()
        return sums

    def step(self, learning_rate_share: float) -> float:
        set_learning_rate(self.optimizer, learning_rate_share)
        self.scaler.unscale_(self.optimizer)
        limit = self.options.max_grad_norm or float("inf")
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, limit)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    @torch.no_grad()
    def evaluate(self, inputs: Inputs) -> LossSums:
        self.model.eval()
        with self._autocast():
            sums = self.model(inputs)
        self.model.train()
        return sums

    def trained_tensors(self) -> dict[str, Tensor]:
        return {name: p.detach().cpu() for name, p in self.model.model.named_parameters() if p.requires_grad}

    def save_optimizer(self, folder: Path) -> None:
        if self.ranks.is_main:
            folder.mkdir()
            torch.save(
                {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}, folder / "adamw.pt"
            )

    def load_optimizer(self, folder: Path) -> None:
        state = torch.load(folder / "adamw.pt", map_location=self.ranks.device, weights_only=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.ranks.device.type, self.dtype, enabled=self.options.precision != "fp32")
