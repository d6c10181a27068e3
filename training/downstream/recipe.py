"""Recipes of ``python -m training downstream``: one YAML file says everything about one fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from favor.adapters import options_of
from favor.adapters.contract import AdapterOptions
from favor.errors import ConfigurationError
from training import recipe as recipes
from training.downstream.contract import Task, task_named
from training.recipe import Strict

NO_ADAPTER = "none"
BASELINES = (NO_ADAPTER, "bottleneck", "lora")
"""What may stand in an adapter's place, to compare with: nothing, a bottleneck that sees its own stream alone, LoRA."""


class Optimisation(Strict):
    """How weights move.

    Args:
        name: of the optimiser.
        adapter_learning_rate, head_learning_rate: of what sits in the encoders, and of the head.
        decay, decay_every_epochs: both rates are multiplied by ``decay`` every so many epochs; None never.
        max_grad_norm: 0 clips nothing.
        batch: clips per forward pass. accumulation: passes per step.
        epochs: at most. patience: epochs without a better one after which the run ends; None goes on to the end.
        precision: of the forward pass; weights stay float32.
    """

    name: Literal["adam", "adamw"] = "adam"
    adapter_learning_rate: float = Field(gt=0)
    head_learning_rate: float = Field(gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.0, ge=0)
    decay: float = Field(default=1.0, gt=0, le=1)
    decay_every_epochs: int | None = Field(default=None, gt=0)
    max_grad_norm: float = Field(default=0.0, ge=0)
    batch: int = Field(gt=0)
    accumulation: int = Field(default=1, gt=0)
    epochs: int = Field(gt=0)
    patience: int | None = Field(default=None, gt=0)
    precision: Literal["bf16", "fp32"] = "fp32"

    def rate_share(self, epoch: int) -> float:
        """What is left of the learning rates in an epoch, counted from 0."""
        return 1.0 if self.decay_every_epochs is None else self.decay ** (epoch // self.decay_every_epochs)


class Lora(Strict):
    """LoRA on the encoders' queries and values, for ``adapter: lora``."""

    r: int = Field(default=8, gt=0)
    alpha: int = Field(default=8, gt=0)


class Downstream(Strict):
    """One fine-tuning.

    Args:
        task: ave, avvp, avs, avqa, avr or avc.
        host: a name of ``favor.encoders.HOSTS``, or a FAVOR model (a preset's name or a folder), whose ViT and Whisper
            are taken.
        host_weights: a folder with ``visual.safetensors`` and, for two encoders, ``audio.safetensors``, their tensors
            named as in transformers; None leaves a named host's weights random.
        adapter: its settings with a name, ``{name: lavish, task: ave}``, or none, bottleneck or lora.
        lora: of ``adapter: lora``.
        train_norms: the encoders' LayerNorms learn too (the released AVQA command, adapters.md 2.2), at the adapter's
            rate.
        head, data: settings of the task's head, and its files (``root``, ``suffix`` and annotations).
        output: folder of the run. cache: folder for decoded clips; None decodes at every visit.
        keep_best: checkpoints to keep. workers: decoding processes; 0 decodes in the training process.
        seed: of everything random.
    """

    name: str
    summary: str
    task: str
    host: str
    host_weights: str | None = None
    adapter: dict[str, Any] | Literal["none", "bottleneck", "lora"]
    lora: Lora = Lora()
    train_norms: bool = False
    head: dict[str, Any] = {}
    data: dict[str, Any]
    optimisation: Optimisation
    output: str
    cache: str | None = None
    keep_best: int = Field(default=1, gt=0)
    workers: int = Field(default=0, ge=0)
    seed: int = 0

    @model_validator(mode="after")
    def _lora_is_asked_for(self) -> Downstream:
        if "lora" in self.model_fields_set and self.adapter != "lora":
            raise ValueError("lora settings with adapter: lora alone")
        return self

    @property
    def adapter_options(self) -> AdapterOptions | None:
        """Of a named adapter; None for the baselines."""
        return options_of(self.adapter) if isinstance(self.adapter, dict) else None


class Plan:
    """A recipe whose task, files and head settings have been read.

    Raises:
        ConfigurationError: an unknown task, or a key that the task does not know.
    """

    def __init__(self, given: Downstream) -> None:
        self.recipe = given
        self.task: Task = task_named(given.task)
        self.files = _section(self.task.files, given.data, "data")
        self.head_settings = _section(self.task.head_settings, given.head, "head")
        _ = given.adapter_options  # refuses what it does not know, before anything is built


def load(path: str | Path, overrides: list[str] | None = None) -> Plan:
    """Read a recipe file, or the name of one in training/recipes (``downstream/ave-lavish-swinv2-l``).

    Raises:
        ConfigurationError: no such file, an unknown key (the nearest is named), or a value that is not allowed.
    """
    return Plan(recipes.load_settings(Downstream, path, overrides))


def _section(kind: type[Strict], given: dict[str, Any], name: str) -> Any:
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        refused: ConfigurationError = recipes.refusal(kind, f"the section {name}", error)
        raise refused from None
