"""Which weights learn: each part of the model is ``frozen``, learns by ``lora`` or learns ``full``."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from torch import nn

from favor.configuration import LoraOptions
from favor.errors import ConfigurationError
from favor.lora import add_lora
from favor.modeling import FavorForConditionalGeneration
from training.recipe import PartMode, Parts

ENCODER_LORA_TARGETS = {
    "vision": ("qkv", "projection", "attention.query", "attention.value"),
    "audio": ("q_proj", "v_proj"),
    "sync": ("query", "key", "value", "output"),
}
"""Linears that get LoRA in the parts that have no ``lora_config`` of their own."""

PREFIXES = {
    "vision": "vision.",
    "audio": "audio.",
    "adapter": "adapter.",
    "sync": "connector.",
    "llm": "language_model.",
}
"""Beginning of the parameter names of each part."""


@dataclass(frozen=True)
class PartSize:
    """What one part weighs."""

    name: str
    mode: PartMode
    num_tensors: int
    num_parameters: int
    num_trained: int
    dtypes: str
    num_bytes: int


def apply(model: FavorForConditionalGeneration, parts: Parts) -> None:
    """Set what learns in a built model.

    Raises:
        ConfigurationError: nothing would learn, or the LLM has no LoRA to learn.
    """
    _set_encoder(model.vision, "vision", parts.vision)
    _set_encoder(model.audio, "audio", parts.audio)
    if model.adapter is not None:
        if parts.adapter == "lora":
            raise ConfigurationError(
                "parts.adapter is 'lora'", allowed="frozen, full", advice="An adapter is small: let it learn in full"
            )
        _set_mode(model.adapter, "adapter", parts.adapter)
    _set_mode(model.connector, "sync", parts.sync)
    if parts.llm == "lora":
        if model.config.lora_config is None:
            raise ConfigurationError(
                "parts.llm is 'lora' and the model has no LoRA",
                allowed="a configuration with lora_config",
                advice="Build the model with training.base_model, which adds it",
            )
        for name, parameter in model.language_model.named_parameters():
            parameter.requires_grad_("lora_" in name)
    else:
        model.language_model.requires_grad_(parts.llm == "full")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigurationError(
            "every part is frozen", allowed="at least one part that learns", advice="Set parts.sync or parts.llm"
        )


def part_of(parameter_name: str) -> str:
    """The part a parameter belongs to."""
    return next(part for part, prefix in PREFIXES.items() if parameter_name.startswith(prefix))


def sizes(model: nn.Module, parts: Parts) -> list[PartSize]:
    """Size of every part that a model, still whole, has: not every one has an adapter."""
    found = []
    for part, prefix in PREFIXES.items():
        own = [p for name, p in model.named_parameters() if name.startswith(prefix)]
        if not own:
            continue
        found.append(
            PartSize(
                name=part,
                mode=getattr(parts, part),
                num_tensors=len(own),
                num_parameters=sum(p.numel() for p in own),
                num_trained=sum(p.numel() for p in own if p.requires_grad),
                dtypes=", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in own})),
                num_bytes=sum(p.numel() * p.element_size() for p in own),
            )
        )
    return found


def print_table(rows: list[PartSize]) -> None:
    """The parts as a table on stdout."""
    table = Table("part", "mode", "tensors", "parameters", "trained", "dtype", "MiB", box=None, pad_edge=False)
    for row in rows:
        table.add_row(
            row.name,
            row.mode,
            str(row.num_tensors),
            f"{row.num_parameters:,}",
            f"{row.num_trained:,}",
            row.dtypes,
            f"{row.num_bytes / 2**20:,.1f}",
        )
    Console(highlight=False, markup=False).print(table)


def _set_encoder(encoder: nn.Module, part: str, mode: PartMode) -> None:
    if mode == "frozen":
        encoder.freeze()  # type: ignore[operator]
        return
    encoder.unfreeze()  # type: ignore[operator]
    _set_mode(encoder, part, mode)


def _set_mode(module: nn.Module, part: str, mode: PartMode) -> None:
    if mode == "lora":
        add_lora(module, LoraOptions(target_modules=ENCODER_LORA_TARGETS[part]))
    else:
        module.requires_grad_(mode == "full")
