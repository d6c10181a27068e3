"""Checkpoints: what was trained, the optimiser, and everything needed to go on exactly; nothing frozen.

    RUN/recipe.yaml              the resolved recipe
    RUN/base.json                what the frozen weights are, by hash
    RUN/checkpoints/step-000500/
        connector.safetensors    trained tensors of the connector
        adapter/                 LoRA of the language model, as PEFT writes it
        adapter.safetensors      the adapter between the encoders, if there is one
        vision.safetensors ...   any other part that learns
        optimizer/               the engine's own files
        rng-00000.safetensors    random state of each process
        state.json               step, sampler position, counters

A checkpoint is written under another name, flushed to disk and renamed. So a folder called ``step-*`` is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from favor.errors import CheckpointError
from favor.feature_cache import tensors_hash
from favor.lora import peft_names, peft_settings
from favor.modeling import FavorForConditionalGeneration
from training.engine.base import Engine, Ranks
from training.parts import PREFIXES

_STEP = "step-"


@dataclass(frozen=True)
class RunState:
    """Where a run stands.

    Args:
        step: optimiser steps done.
        sampler: state of the data stream. world_size, engine: what the optimiser's files were written by.
        num_tokens: target tokens learnt from so far.
        best: lowest validation loss (training loss without validation data) of a checkpoint so far, and its step.
    """

    step: int
    sampler: dict[str, Any]
    world_size: int
    engine: str
    num_tokens: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, run: Path, *, keep_last: int, keep_best: bool) -> None:
        self.folder = run / "checkpoints"
        self.keep_last = keep_last
        self.keep_best = keep_best

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        return max(self.folder.glob(f"{_STEP}*"), default=None, key=lambda path: path.name)

    def save(self, engine: Engine, state: RunState) -> Path:
        """Write one; every process must call it. Older ones that need not be kept are deleted afterwards."""
        final = self.folder / f"{_STEP}{state.step:08d}"
        draft = self.folder / f".draft-{final.name}"
        ranks = engine.ranks
        if ranks.is_main:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
        ranks.wait()
        engine.save_optimizer(draft / "optimizer")
        save_file(_random_state(ranks), draft / f"rng-{ranks.rank:05d}.safetensors")
        tensors = engine.trained_tensors()
        if ranks.is_main:
            write_parts(draft, tensors, engine.model.model)
            (draft / "state.json").write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
        ranks.wait()
        if ranks.is_main:
            _flush(draft)
            if final.exists():
                shutil.rmtree(final)
            draft.rename(final)
            _flush_folder(self.folder)
            self._delete_old(state)
        ranks.wait()
        return final

    def _delete_old(self, state: RunState) -> None:
        kept = sorted(self.folder.glob(f"{_STEP}*"), key=lambda path: path.name)[-self.keep_last :]
        best = self.folder / f"{_STEP}{state.best_step or 0:08d}"
        for path in self.folder.glob(f"{_STEP}*"):
            if path not in kept and not (self.keep_best and path == best):
                gone = path.with_name(f".deleted-{path.name}")
                path.rename(gone)
                shutil.rmtree(gone)
        for rest in [*self.folder.glob(".draft-*"), *self.folder.glob(".deleted-*")]:
            shutil.rmtree(rest, ignore_errors=True)


def read_state(checkpoint: Path) -> RunState:
    """The state of a checkpoint.

    Raises:
        CheckpointError: there is none that can be read.
    """
    try:
        return RunState(**json.loads((checkpoint / "state.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{checkpoint.name!r} has no readable state.json", allowed="a checkpoint folder", advice="Check the name"
        ) from error


def write_parts(folder: Path, tensors: Mapping[str, Tensor], model: FavorForConditionalGeneration) -> None:
    """Trained tensors, part by part; LoRA of the language model in PEFT's layout."""
    lora = {name: value for name, value in tensors.items() if name.startswith("language_model.") and "lora_" in name}
    if lora:
        (folder / "adapter").mkdir()
        named = {ours: lora[f"language_model.{name}"] for name, ours in peft_names(model.language_model).items()}
        save_file(named, folder / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
        text = json.dumps(peft_settings(model.config.lora_config), indent=1)
        (folder / "adapter" / "adapter_config.json").write_text(text, encoding="utf-8")
    for part, prefix in PREFIXES.items():
        own = {
            n.removeprefix(prefix): v.contiguous() for n, v in tensors.items() if n.startswith(prefix) and n not in lora
        }
        if own:
            save_file(own, folder / f"{_file_stem(part)}.safetensors")


def read_parts(folder: Path, model: FavorForConditionalGeneration) -> dict[str, Tensor]:
    """All trained tensors of a checkpoint by their names in the model."""
    tensors: dict[str, Tensor] = {}
    adapter = folder / "adapter" / "adapter_model.safetensors"
    if adapter.is_file():
        saved = load_file(adapter)
        tensors |= {f"language_model.{n}": saved[ours] for n, ours in peft_names(model.language_model).items()}
    for part, prefix in PREFIXES.items():
        path = folder / f"{_file_stem(part)}.safetensors"
        if path.is_file():
            tensors |= {prefix + name: value for name, value in load_file(path).items()}
    return tensors


def load_parts(folder: Path, model: FavorForConditionalGeneration) -> None:
    """Put a checkpoint's trained tensors into a model.

    Raises:
        CheckpointError: a tensor that the model has not, or of another shape.
    """
    own = dict(model.named_parameters())
    for name, value in read_parts(folder, model).items():
        if name not in own or own[name].shape != value.shape:
            raise CheckpointError(
                f"{folder.name!r} holds {name} of shape {tuple(value.shape)}",
                allowed=f"shape {tuple(own[name].shape)}" if name in own else "a parameter of the model",
                advice="Use the recipe that the checkpoint was trained with",
            )
        own[name].data.copy_(value)


def base_hashes(model: FavorForConditionalGeneration) -> dict[str, str]:
    """Hashes of the weights that do not learn, part by part; taken before training touches anything."""
    modules: dict[str, nn.Module] = {"vision": model.vision, "audio": model.audio, "llm": model.language_model}
    if model.adapter is not None:  # a run from before adapters has no word about one
        modules["adapter"] = model.adapter
    return {part: tensors_hash(_frozen_tensors(module)) for part, module in modules.items()}


def refuse_other_base(run: Path, hashes: Mapping[str, str]) -> None:
    """Compare with the run's ``base.json``; write it if the run is new.

    Raises:
        CheckpointError: the run began on other frozen weights.
    """
    path = run / "base.json"
    if not path.exists():
        path.write_text(json.dumps(dict(hashes), indent=1), encoding="utf-8")
        return
    began_on = json.loads(path.read_text(encoding="utf-8"))
    other = [part for part, value in hashes.items() if began_on.get(part) != value]
    if other:
        raise CheckpointError(
            f"the frozen weights of {', '.join(other)} differ from those the run in {run.name!r} began on",
            allowed="the same base model",
            advice="Use the base the run began on, or another output folder",
        )


def _frozen_tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in module.named_parameters() if not parameter.requires_grad}


def restore_random_state(checkpoint: Path, ranks: Ranks) -> None:
    """Go on with the random numbers where this process stopped."""
    state = load_file(checkpoint / f"rng-{ranks.rank:05d}.safetensors")
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def _random_state(ranks: Ranks) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if ranks.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _file_stem(part: str) -> str:
    return "connector" if part == "sync" else part


def _flush(folder: Path) -> None:
    """Everything below a folder onto the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        _flush_folder(path)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
