"""Named models: each ``NAME.yaml`` beside this file is one.

    describe(name)   the preset as written
    config(name)     its FavorConfig; reads no other file, touches no network
    build(name)      model and processor; here, and only here, the names of released weights are resolved

``tiny`` needs no files at all: seeded random weights and tokenizers made on the spot.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from favor.errors import ConfigurationError

if TYPE_CHECKING:  # the names are wanted where nothing heavy is loaded: a command's --help, a server that only echoes
    from favor.configuration import FavorConfig

DEFAULT = "favor-mini"
"""The model that answers where none is named."""

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Preset:
    """A preset as written.

    Args:
        name: its name.
        summary: one line on what it is.
        config: arguments of FavorConfig.
        weights: hub names or folders of released weights by part (instructblip, whisper, llm); empty for random ones.
        seed: of the random weights.
        is_trained: trained weights come with FAVOR, in a folder of the preset's name beside it.
        processor: further arguments of FavorProcessor.
    """

    name: str
    summary: str
    config: dict[str, Any]
    weights: dict[str, str]
    seed: int = 0
    is_trained: bool = False
    processor: dict[str, Any] | None = None

    @property
    def has_random_weights(self) -> bool:
        """Do its words mean nothing?"""
        return not (self.is_trained or self.weights)


def names() -> list[str]:
    """All presets."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


@cache
def describe(name: str) -> Preset:
    """Read one preset.

    Raises:
        ConfigurationError: no such preset, or an unknown key in it.
    """
    path = _FOLDER / f"{name}.yaml"
    if name not in names():
        given = Path(name).name
        nearest = difflib.get_close_matches(given, names(), n=1, cutoff=0.0)
        raise ConfigurationError(
            f"there is no preset or folder {given!r}",
            allowed=f"{', '.join(names())}, or an existing model folder",
            advice=f"Did you mean {nearest[0]!r}",
        )
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    unknown = set(settings) - {field.name for field in fields(Preset)}
    if unknown:
        raise ConfigurationError(
            f"preset {name} has the unknown keys {sorted(unknown)}",
            allowed=", ".join(field.name for field in fields(Preset)),
            advice="Remove them",
        )
    return Preset(name=name, **settings)


def config(name: str) -> FavorConfig:
    """The preset's configuration."""
    from favor.configuration import FavorConfig

    return FavorConfig(**describe(name).config)


def folder(name: str) -> Path:
    """Where a trained preset's weights lie.

    Raises:
        ConfigurationError: none come with it.
    """
    if not describe(name).is_trained:
        raise ConfigurationError(
            f"no trained weights come with {name}",
            allowed=", ".join(each for each in names() if describe(each).is_trained) or "a model folder",
            advice="Give a model folder",
        )
    return _FOLDER / name


def build(name: str) -> tuple[Any, Any]:
    """Model (evaluation mode, CPU) and processor of a preset."""
    preset = describe(name)
    if preset.is_trained:
        import torch

        from favor.checkpoint import load_folder

        return load_folder(folder(name), dtype=torch.float32)
    if preset.weights:
        from favor.presets import released

        return released.assemble(preset)
    from favor.presets import random_weights

    return random_weights.assemble(preset)


def untrained(name: str, *, seed: int | None = None) -> tuple[Any, Any]:
    """Model and processor of a preset with random weights, whatever weights it has; where training begins.

    ``seed`` is the preset's own by default.
    """
    from favor.presets import random_weights

    preset = describe(name)
    return random_weights.assemble(preset if seed is None else replace(preset, seed=seed))


def clip_reader(name: str, **options: Any) -> Any:
    """What decodes clips for a preset, without its weights; ``options`` go to :class:`favor.media.MediaOptions`."""
    from favor.clips import ClipReader
    from favor.media import MediaOptions

    fitting = config(name)
    given = {**(describe(name).processor or {}), **options}
    return ClipReader.for_config(fitting, MediaOptions(frame_size=fitting.vision_config.image_size, **given))
