"""The model a recipe begins on: a preset or a model folder, with the recipe's changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, PreTrainedModel

from favor import presets
from favor.checkpoint import OWN_CODE_ONLY, load_folder, reading
from favor.configuration import FavorConfig, LoraOptions
from favor.connector import Connector
from favor.errors import ConfigurationError
from favor.lora import add_lora, merge_lora
from favor.modeling import FavorForConditionalGeneration
from favor.presets import Preset
from favor.processor import FavorProcessor
from training.recipe import Recipe

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""What a recipe's precision is called in torch."""

_PROCESSOR_SETTINGS = ("num_query_tokens", "window_steps", "align", "length_rule")
"""Settings of the connector that a processor repeats."""


def base_config(recipe: Recipe) -> FavorConfig:
    """Its configuration; reads no weights."""
    folder = _folder(recipe.model)
    if folder is None:
        config = FavorConfig(**_changed(recipe).config)
        config.adapter_config = recipe.adapter or config.adapter_config
        return config
    with reading(folder):
        settings = AutoConfig.from_pretrained(folder, **OWN_CODE_ONLY).to_dict()
        settings["connector_config"] |= recipe.model_changes
        config = FavorConfig(**settings)
    config.lora_config = _lora(recipe, config.lora_config)
    config.adapter_config = recipe.adapter or config.adapter_config
    return config


def base_model(recipe: Recipe) -> tuple[FavorForConditionalGeneration, FavorProcessor]:
    """Model (evaluation mode, CPU) and processor, with LoRA in the language model exactly where the recipe wants it.

    Raises:
        FavorError: no such model, weights that do not fit, or changes that a trained connector cannot follow.
    """
    folder = _folder(recipe.model)
    if folder is None:
        model, processor = _assembled(_changed(recipe), DTYPES[recipe.optimisation.precision])
    else:
        model, processor = _from_folder(folder, recipe)
    if recipe.adapter is not None:
        with torch.random.fork_rng(devices=[]):  # all processes begin on the same, and go on as they were
            torch.manual_seed(recipe.seed)
            model.put_adapter(recipe.adapter)
    processor.max_seconds = recipe.data.max_seconds
    return model, processor


def use_fastest_attention(
    model: FavorForConditionalGeneration, *, device: torch.device, precision: Literal["bf16", "fp16", "fp32"]
) -> None:
    """In bfloat16 on a CPU let Hugging Face's layers multiply and add as written ("eager").

    PyTorch's fused kernel takes 1.4 to 7.8 times as long there, forward and backward (`python -m
    benchmarks.attention`); everywhere else it is the faster one, and stays.
    """
    if device.type == "cpu" and precision == "bf16":
        for module in model.modules():
            if isinstance(module, PreTrainedModel) and module is not model:
                module.config._attn_implementation = "eager"


def put_connector(model: FavorForConditionalGeneration, processor: FavorProcessor, connector: Connector) -> None:
    """Give a model, and the processor that counts its soft tokens, another connector."""
    model.connector, model.config.connector_config = connector, connector.config
    for name in _PROCESSOR_SETTINGS:
        setattr(processor, name, getattr(connector.config, name))


def _folder(name: str) -> Path | None:
    """Where trained weights of a model lie; None for a preset that begins without."""
    if name in presets.names():
        return presets.folder(name) if presets.describe(name).is_trained else None
    return Path(name) if Path(name).is_dir() else None  # what is neither, assembling refuses


def _changed(recipe: Recipe) -> Preset:
    preset = presets.describe(recipe.model)
    connector = {**preset.config.get("connector_config", {}), **recipe.model_changes}
    lora = _lora(recipe, preset.config.get("lora_config"))
    return replace(preset, config={**preset.config, "connector_config": connector, "lora_config": lora})


def _lora(recipe: Recipe, given: Any) -> Any:
    match recipe.parts.llm:
        case "full":
            return None
        case "lora":
            return LoraOptions() if given is None else given
        case _:
            return given


def _assembled(preset: Preset, dtype: torch.dtype) -> tuple[FavorForConditionalGeneration, FavorProcessor]:
    """Released weights in the recipe's precision on any machine, so that their hashes are the same on all."""
    if preset.weights:
        from favor.presets import released

        return released.assemble(preset, dtype=dtype)
    from favor.presets import random_weights

    return random_weights.assemble(preset)


def _from_folder(folder: Path, recipe: Recipe) -> tuple[FavorForConditionalGeneration, FavorProcessor]:
    model, processor = load_folder(folder)
    _change_connector(model, processor, recipe.model_changes)
    wanted = _lora(recipe, model.config.lora_config)
    if wanted is None:
        merge_lora(model.language_model)
    elif model.config.lora_config is None:
        add_lora(model.language_model, wanted)
    model.config.lora_config = wanted
    return model.eval(), processor


def _change_connector(model: FavorForConditionalGeneration, processor: FavorProcessor, changes: dict[str, Any]) -> None:
    """Apply settings that leave the shapes of a trained connector as they are."""
    if not changes:
        return
    old = model.config.connector_config
    new = type(old)(**{**old.to_dict(), **changes})
    fresh = type(model.connector)(new, llm_width=model.config.text_config.hidden_size)
    shapes = [{name: value.shape for name, value in each.state_dict().items()} for each in (model.connector, fresh)]
    if shapes[0] != shapes[1]:
        raise ConfigurationError(
            f"model_changes {changes} give the connector other shapes than its trained weights have",
            allowed="changes of settings such as dropout, causal_direction or diversity_weight",
            advice="Begin from a preset, whose connector is fresh",
        )
    fresh.load_state_dict(model.connector.state_dict())
    put_connector(model, processor, fresh)
