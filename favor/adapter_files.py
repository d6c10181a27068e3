"""Adapters as small folders of their own: trained once, then put into any model with the same encoders.

    FOLDER/adapter.safetensors    every weight of the adapter
    FOLDER/adapter_config.json    its settings, FAVOR's version, and what encoders it was trained in, by hash

An adapter is trained inside two frozen encoders and means nothing inside others, so others are refused. The hash is of
the weights in bfloat16: whether a model was loaded in that or in float32 makes no difference.

    favor.adapter_files.save_adapter(model, folder)
    favor.adapter_files.load_adapter(model, folder)    # in the place of any that is there
    model.put_adapter(None)                            # and out again: the model answers as before

To change between several without reading files again, keep what :func:`read_adapter` gives and hand it to ``use``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from favor import __version__
from favor.checkpoint import load_exactly
from favor.encoders import JointEncoder
from favor.errors import CheckpointError, ConfigurationError
from favor.feature_cache import tensors_hash
from favor.modeling import FavorForConditionalGeneration

WEIGHTS, SETTINGS = "adapter.safetensors", "adapter_config.json"

_KEYS = {"adapter", "encoders", "favor_version"}
_ENCODERS = ("vision", "audio")


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter that fits a model and can be put into it at any time.

    Args:
        name: of its folder. settings: as ``adapter_config`` of the model's configuration. layers: made for the model's
            encoders, on their device.
    """

    name: str
    settings: dict[str, Any]
    layers: JointEncoder

    def use(self, model: FavorForConditionalGeneration) -> None:
        """Put it into the model that it was read for, in the place of any that is there; takes no time."""
        self.layers.train(model.training)
        model.use_adapter(self.layers, dict(self.settings))


def save_adapter(model: FavorForConditionalGeneration, folder: str | Path) -> None:
    """Write the model's adapter, and nothing else of it.

    Raises:
        ConfigurationError: the model has none.
    """
    if model.adapter is None:
        raise ConfigurationError(
            "the model has no adapter between its encoders",
            allowed="a model with adapter_config",
            advice="Train one: set adapter in a recipe",
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in model.adapter.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    told = {"favor_version": __version__, "adapter": model.config.adapter_config, "encoders": encoder_hashes(model)}
    (folder / SETTINGS).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def load_adapter(model: FavorForConditionalGeneration, folder: str | Path) -> None:
    """Put a saved adapter into a model, in the place of any that is there.

    Raises:
        CheckpointError: as :func:`read_adapter`. Then the model is as it was.
    """
    read_adapter(model, folder).use(model)


def read_adapter(
    model: FavorForConditionalGeneration, folder: str | Path, *, hashes: Mapping[str, str] | None = None
) -> LoadedAdapter:
    """A saved adapter for a model, which goes on without it.

    Args:
        hashes: :func:`encoder_hashes` of the model, where they are known already; large encoders take seconds.

    Raises:
        CheckpointError: no such folder, an adapter that was trained in other encoders, or weights that do not fit its
            settings exactly.
    """
    folder = Path(folder).absolute()
    told = _read_settings(folder)
    _refuse_other_encoders(folder.name, told["encoders"], encoder_hashes(model) if hashes is None else hashes)
    try:
        layers = model.fresh_adapter(told["adapter"])
    except ConfigurationError as error:
        raise CheckpointError(
            f"{folder.name!r}: {error.given}", allowed=error.allowed, advice="Use the FAVOR that wrote it"
        ) from error
    load_exactly(layers, _read_weights(folder), name=folder.name)
    return LoadedAdapter(folder.name, told["adapter"], layers)


def encoder_hashes(model: FavorForConditionalGeneration) -> dict[str, str]:
    """SHA-256 of each encoder's weights in bfloat16."""
    return {name: tensors_hash(_in_bfloat16(getattr(model, name))) for name in _ENCODERS}


def _in_bfloat16(encoder: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().to(torch.bfloat16) for name, value in encoder.state_dict().items()}


def _read_settings(folder: Path) -> dict[str, Any]:
    try:
        told = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _no_adapter(folder, f"it has no {SETTINGS} that can be read") from error
    is_whole = isinstance(told, dict) and set(told) == _KEYS
    if not is_whole or not all(isinstance(told[name], dict) for name in ("adapter", "encoders")):
        raise _no_adapter(folder, f"its {SETTINGS} is not FAVOR's: LoRA has a file of this name too")
    return told


def _read_weights(folder: Path) -> dict[str, Tensor]:
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _no_adapter(folder, f"it has no {WEIGHTS} that can be read") from error


def _no_adapter(folder: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{folder.name!r} is not an adapter's folder: {reason}",
        allowed=f"a folder with {SETTINGS} and {WEIGHTS}",
        advice="Write one with python -m training export RUN OUT --part adapter",
    )


def _refuse_other_encoders(name: str, trained_in: Mapping[str, str], own: Mapping[str, str]) -> None:
    other = [encoder for encoder in _ENCODERS if trained_in.get(encoder) != own[encoder]]
    if other:
        raise CheckpointError(
            f"the adapter {name!r} was trained in other encoders than the model's ({', '.join(other)})",
            allowed="a model with the very same encoders",
            advice="Use the model that it was trained in",
        )
