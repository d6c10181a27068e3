"""What the training loop needs of an engine, and the processes it runs on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.recipe import Optimisation
from training.trained import Inputs, LossSums, TrainedModel


@dataclass(frozen=True)
class Ranks:
    """This process among all: as torchrun and DeepSpeed's launcher tell it through the environment."""

    rank: int
    world_size: int
    device: torch.device

    @classmethod
    def join(cls) -> Ranks:
        """Join the process group, if there is one to join."""
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        rank, local = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
        has_gpu = torch.cuda.is_available()
        if has_gpu:
            torch.cuda.set_device(local)
        if world_size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if has_gpu else "gloo")
        return cls(rank, world_size, torch.device("cuda", local) if has_gpu else torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """Sums over all processes, in float64."""
        return self._reduced(values, "sum")

    def largest(self, value: float) -> float:
        """The largest over all processes: how one process's wish becomes everybody's."""
        return self._reduced([value], "max")[0]

    def wait(self) -> None:
        """Until every process is here."""
        if self.world_size > 1:
            dist.barrier()

    def _reduced(self, values: Sequence[float], how: str) -> list[float]:
        if self.world_size == 1:
            return [float(value) for value in values]
        numbers = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        dist.all_reduce(numbers, dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX)
        return numbers.tolist()


@dataclass(frozen=True)
class LossScale:
    """What turns sums into the loss of the whole step, over all micro-batches of all processes.

    Args:
        per_token: 1 / target tokens of the step. per_window: lambda / windows of the step.
    """

    per_token: float
    per_window: float

    def loss(self, sums: LossSums) -> Tensor:
        """This micro-batch's share of the step's loss."""
        return sums.language * self.per_token + sums.diversity * self.per_window


class Engine(Protocol):
    """Runs forward, backward and optimiser step. Its losses and weights do not depend on which engine it is."""

    model: TrainedModel
    ranks: Ranks

    def backward(self, inputs: Inputs, scale: LossScale, *, is_last: bool) -> LossSums:
        """One micro-batch; gradients are exchanged behind the last of a step."""
        ...

    def step(self, learning_rate_share: float) -> float:
        """Clip and update with this share of the recipe's learning rates; the gradient norm before clipping."""
        ...

    def evaluate(self, inputs: Inputs) -> LossSums:
        """Losses without gradients, dropout off."""
        ...

    def trained_tensors(self) -> dict[str, Tensor]:
        """Every trained parameter whole, on the CPU, by name; every process must call it."""
        ...

    def save_optimizer(self, folder: Path) -> None:
        """Write this process's part of the optimiser; every process must call it."""
        ...

    def load_optimizer(self, folder: Path) -> None:
        """Read it back; the trained weights have been loaded already."""
        ...


def parameter_groups(model: nn.Module, options: Optimisation) -> list[dict[str, object]]:
    """Trained parameters in groups: connector and the rest, with and without weight decay (none on vectors)."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((".connector." in name, parameter.dim() > 1), []).append(parameter)
    connector_rate = options.connector_learning_rate or options.learning_rate
    return [
        {
            "params": parameters,
            "lr": connector_rate if is_connector else options.learning_rate,
            "full_lr": connector_rate if is_connector else options.learning_rate,
            "weight_decay": options.weight_decay if is_matrix else 0.0,
        }
        for (is_connector, is_matrix), parameters in groups.items()
    ]


def set_learning_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["full_lr"] * share
