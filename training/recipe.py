"""A recipe is one YAML file and says everything about one run.

``load(path, overrides)`` reads it, applies ``key.sub=value`` overrides from the command line and refuses unknown keys
with the nearest name. The resolved recipe is saved with the run.
"""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from favor.errors import ConfigurationError

PartMode = Literal["frozen", "lora", "full"]


class Strict(BaseModel):
    """Settings of which unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Parts(Strict):
    """What each part of the model does: stay as it is, learn by LoRA, or learn whole."""

    vision: PartMode = "frozen"
    audio: PartMode = "frozen"
    adapter: PartMode = "full"
    sync: PartMode = "full"
    llm: PartMode = "lora"


class Source(Strict):
    """One data file of a mixture; ``weight`` is its share of the samples relative to the others."""

    path: str
    format: Literal["messages", "sharegpt", "favor"] = "messages"
    media_root: str | None = None
    weight: float = Field(default=1.0, gt=0)


class Mixing(Strict):
    """Mixed-modality sampling of the paper's successor (favor.md 1.13): shares in [0, 1], all off by default.

    Args:
        unpaired_image_audio: share of image samples that get an unrelated sound beside them.
        unpaired_video_audio: share of video samples that get an unrelated sound, flagged absent or asked about.
        matching_questions: share of paired samples replaced by "do sound and picture belong together?".
    """

    unpaired_image_audio: float = Field(default=0.0, ge=0, le=1)
    unpaired_video_audio: float = Field(default=0.0, ge=0, le=1)
    matching_questions: float = Field(default=0.0, ge=0, le=1)


class World(Strict):
    """Questions about the clips of the generated world, asked anew at every visit (training/world).

    Args:
        features, val: folders of ``python -m training encode``, to learn from and to validate with.
        questions_per_clip: at one visit, all behind one copy of the clip's soft tokens.
        timeline_share: of the visits at which all events are to be told in order too.
        drop_sound, drop_picture: of the visits to clips with both at which one stream is left out, and only what the
            other one tells is asked.
        outside_share: of the micro-batches with one more row, of questions from outside the world.
        tasks, kinds, max_steps: only these tasks, only clips of these kinds and no longer, for ablations; None takes
            all.
        without: a stream that no clip has, though all is asked that would be with it, for ablations.
    """

    features: str
    val: str | None = None
    questions_per_clip: int = Field(default=7, gt=0)
    timeline_share: float = Field(default=0.6, ge=0, le=1)
    drop_sound: float = Field(default=0.05, ge=0, le=1)
    drop_picture: float = Field(default=0.05, ge=0, le=1)
    outside_share: float = Field(default=0.25, ge=0, le=1)
    tasks: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None
    max_steps: int | None = Field(default=None, gt=0)
    without: Literal["sound", "picture"] | None = None


class Data(Strict):
    """What is learnt from: a mixture of data files, or the generated world.

    Args:
        train, val: mixtures of sources.
        world: in their place.
        max_seconds: longest clip; a longer one is a bad sample.
        max_bad_share: share of bad samples above which the run stops.
        group_by_length: batches of similar audio-visual seconds and text tokens.
        workers: decoding processes per rank; 0 decodes in the training process.
        cache: folder of encoder features (``python -m training cache``); None encodes live.
    """

    train: tuple[Source, ...] = ()
    val: tuple[Source, ...] = ()
    world: World | None = None
    mixing: Mixing = Mixing()
    max_seconds: float = Field(default=60.0, gt=0)
    max_bad_share: float = Field(default=0.01, ge=0, le=1)
    group_by_length: bool = True
    workers: int = Field(default=2, ge=0)
    cache: str | None = None

    @model_validator(mode="after")
    def _has_one_origin(self) -> Data:
        if bool(self.train) == (self.world is not None):
            raise ValueError("exactly one of data.train and data.world")
        return self


class Optimisation(Strict):
    """How weights move.

    Args:
        steps: optimiser steps of the run.
        micro_batch: conversations per rank and forward pass. accumulation: forward passes per step.
        learning_rate: of LoRA and whole parts. connector_learning_rate: of the connector; None is the same.
        schedule: after the warm-up.
        max_grad_norm: 0 clips nothing.
        precision: of the forward pass; master weights stay float32.
    """

    steps: int = Field(gt=0)
    micro_batch: int = Field(default=1, gt=0)
    accumulation: int = Field(default=1, gt=0)
    learning_rate: float = Field(default=1e-4, gt=0)
    connector_learning_rate: float | None = Field(default=None, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    min_learning_rate_share: float = Field(default=0.0, ge=0, le=1)
    max_grad_norm: float = Field(default=1.0, ge=0)
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"


class Engine(Strict):
    """Who runs it.

    Args:
        name: ``plain`` (one process), ``ddp``, or ``deepspeed``.
        deepspeed: zero1, zero2, zero3, their ``-offload`` variants, or a path to a DeepSpeed JSON.
        checkpoint_activations: recompute activations in the backward pass (non-reentrant).
    """

    name: Literal["plain", "ddp", "deepspeed"] = "plain"
    deepspeed: str = "zero2"
    checkpoint_activations: bool = False


class Saving(Strict):
    """Checkpoints: every so many steps, the last few and the best kept."""

    every_steps: int = Field(default=500, gt=0)
    keep_last: int = Field(default=2, gt=0)
    keep_best: bool = True


class Logging(Strict):
    """Console and JSONL always; the rest on request."""

    every_steps: int = Field(default=10, gt=0)
    validate_every_steps: int = Field(default=500, gt=0)
    tensorboard: bool = True
    wandb_project: str | None = None
    trackio_project: str | None = None


class Recipe(Strict):
    """One run.

    Args:
        name, summary: what it is, and what it reproduces.
        model: a preset or a model folder. model_changes: settings of its connector_config that differ.
        adapter: a fresh one between the encoders, as ``adapter_config`` of the model's configuration:
            ``{name: lavish, task: ave, num_latents: 4}``; None keeps what the model has.
        output: folder of the run.
        seed: of everything random.
    """

    name: str
    summary: str
    model: str
    model_changes: dict[str, Any] = {}
    adapter: dict[str, Any] | None = None
    output: str
    seed: int = 0
    parts: Parts = Parts()
    data: Data
    optimisation: Optimisation
    engine: Engine = Engine()
    saving: Saving = Saving()
    logging: Logging = Logging()


Settings = TypeVar("Settings", bound=BaseModel)


def load(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file (or the name of one in training/recipes) and apply ``key.sub=value`` overrides (YAML values).

    Raises:
        ConfigurationError: no such file, an unknown key (the nearest is named), or a value that is not allowed.
    """
    return load_settings(Recipe, path, overrides)


def load_settings(kind: type[Settings], path: str | Path, overrides: list[str] | None = None) -> Settings:
    """The same for a recipe of another command."""
    file = find(Path(path))
    settings = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    if "stages" in settings:
        raise ConfigurationError(
            f"the recipe {file.name} has stages", allowed="a single run", advice="Use python -m training run"
        )
    for override in overrides or []:
        apply(settings, override)
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        raise refusal(kind, file.name, error) from None


def recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of a command that reads one recipe, whichever kind."""
    parser.add_argument("recipe", help="a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that differ")


def save(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe; ``load`` reads it back equal."""
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def names() -> list[str]:
    """Recipes that come with FAVOR."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def is_staged(path: str | Path) -> bool:
    """Whether a recipe has ``stages`` (``training.stages``) in place of a single run."""
    settings = yaml.safe_load(find(Path(path)).read_text(encoding="utf-8"))
    return isinstance(settings, dict) and "stages" in settings


_FOLDER = Path(__file__).parent / "recipes"


def find(path: Path) -> Path:
    """The file of a recipe; refuses a name that there is not, with the nearest."""
    for candidate in (path, _FOLDER / f"{path}.yaml"):
        if candidate.is_file():
            return candidate
    nearest = difflib.get_close_matches(path.stem, names(), n=1, cutoff=0.0)
    raise ConfigurationError(
        f"there is no recipe {path.name!r}",
        allowed=f"a YAML file, or one of {', '.join(names())}",
        advice=f"Did you mean {nearest[0]!r}" if nearest else "Check the name",
    )


def apply(settings: dict[str, Any], override: str) -> None:
    """Change settings as ``key.sub=value`` says."""
    key, found, value = override.partition("=")
    if not found or not key:
        raise ConfigurationError(
            f"the override {override!r} has no '='", allowed="key.sub=value", advice="Write for example seed=1"
        )
    *parents, last = key.split(".")
    for parent in parents:
        settings = settings.setdefault(parent, {})
        if not isinstance(settings, dict):
            raise ConfigurationError(
                f"{key!r} goes below {parent!r}, which is a value", allowed="a key of a section", advice="Shorten it"
            )
    settings[last] = yaml.safe_load(value)


def refusal(kind: type[BaseModel], file: str, error: ValidationError) -> ConfigurationError:
    """What is wrong with a file of this kind, and for an unknown key the nearest."""
    problems = error.errors(include_url=False)
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]  # explains a missing one
    problem = (unknown or problems)[0]
    place = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        known = _keys_beside(kind, problem["loc"])
        nearest = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.0)
        return ConfigurationError(
            f"{file} has the unknown key {place!r}",
            allowed=", ".join(known),
            advice=f"Did you mean {nearest[0]!r}" if nearest else "Remove it",
        )
    return ConfigurationError(
        f"{file}: {place} is {problem['input']!r}"[:300], allowed=problem["msg"], advice=f"Correct {place}"
    )


def _keys_beside(kind: type[BaseModel], place: tuple[str | int, ...]) -> list[str]:
    """Keys of the section in which the unknown key stands."""
    section: Any = kind
    for step in place[:-1]:
        if isinstance(step, str):
            section = section.model_fields[step].annotation
            section = getattr(section, "__args__", (section,))[0]
    return sorted(section.model_fields)
