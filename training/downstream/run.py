"""``python -m training downstream RECIPE [KEY=VALUE ...]``: fine-tune an adapter on a published task.

Writes to the recipe's output, and prints ``report.json`` as its last line:

    recipe.json          what ran; another recipe is refused there
    log.jsonl            one line per epoch
    val-003.npz          the validation split's predictions after epoch 3, for ``python -m eval score``
    epoch-003.safetensors  adapter and head of the best epochs
    test.npz             the test split's predictions, once, of the selected epoch
    report.json          which epoch and why, and what it cost

The epoch is selected on the validation split: by the task's own score where it has one, else by the loss.
``--published-protocol`` selects on the test split, as the published AVE and AVS figures do (adapters.md 0.9); such a
figure is not what unseen data would give, and the report says so.

A run that was killed goes on behind its last whole epoch, with the same result as if it had not been.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from favor.encoders import HOSTS
from favor.errors import ConfigurationError
from training import recipe as recipes
from training.downstream.clips import Batch, Clips, batch_of
from training.downstream.contract import Arrays, Split
from training.downstream.hosts import open_host
from training.downstream.model import FineTuned
from training.downstream.recipe import Optimisation, Plan, load

PUBLISHED = "PUBLISHED PROTOCOL: the epoch was SELECTED ON THE TEST SPLIT; the test score is optimistic"
HONEST = "selected on the validation split; the test split was predicted once"


@dataclass(frozen=True)
class Epoch:
    """How one epoch ended, counted from 1.

    Args:
        loss: of training. selection_loss, score: of the split that selects; no score where the task has none.
        seconds: of training and predicting.
    """

    number: int
    loss: float
    selection_loss: float
    score: float | None
    seconds: float

    @property
    def rank(self) -> tuple[float, float]:
        """More is better; of equal scores the lower loss."""
        return (0.0 if self.score is None else self.score, -self.selection_loss)


def fine_tune(plan: Plan, *, published_protocol: bool = False) -> dict[str, Any]:
    """Run a recipe to its end, from wherever an earlier run of the same output stopped; returns the report."""
    return _Run(plan, selects_on="test" if published_protocol else "val").report()


class _Run:
    """One fine-tuning: its model, its data and how far it is."""

    def __init__(self, plan: Plan, *, selects_on: Split) -> None:
        self.plan, self.given, self.selects_on = plan, plan.recipe, selects_on
        self.folder = Path(self.given.output)
        self.folder.mkdir(parents=True, exist_ok=True)
        _refuse_other_recipe(self.folder, {"selects_on": selects_on, **self.given.model_dump(mode="json")})
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(self.given.seed)
        self.host = open_host(self.given.host, plan.task, weights=self.given.host_weights)
        self.model = FineTuned(plan, self.host).to(self.device)
        self.optimizer = _optimizer(self.model, self.given.optimisation)
        self.epochs: list[Epoch] = []
        self.splits: dict[Split, Clips] = {}
        self._resume()

    def report(self) -> dict[str, Any]:
        """Train what is left to train, predict the test split once, and say how it went."""
        while not self._is_done():
            self._epoch()
        best = max(self.epochs, key=lambda epoch: epoch.rank)
        written = [file for file in self.folder.glob("test.*") if file.suffix != ".draft"]
        if not written:
            self.model.load(self._checkpoint(best.number))
            _, arrays = self._predict("test")
            written = [self._write("test", "test", arrays)]
        report = self._told(best, written[0])
        (self.folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        return report

    def _told(self, best: Epoch, test: Path) -> dict[str, Any]:
        trained = sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad)
        heads = sum(weight.numel() for weight in self.model.head.parameters())
        frozen = sum(weight.numel() for weight in self.model.parameters()) - trained
        return {
            "name": self.given.name,
            "task": self.given.task,
            "protocol": PUBLISHED if self.selects_on == "test" else HONEST,
            "selected_epoch": best.number,
            "selected_on": self.selects_on,
            "selected_by": "loss" if best.score is None else "score",
            "selection_score": best.score,
            "selection_loss": best.selection_loss,
            "epochs": len(self.epochs),
            "test_predictions": test.name,
            "has_pretrained_host": self.given.host_weights is not None or self.given.host not in HOSTS,
            "trained_parameters": trained,
            "adapter_parameters": trained - heads,
            "head_parameters": heads,
            "frozen_parameters": frozen,
            "seconds_per_epoch": round(sum(epoch.seconds for epoch in self.epochs) / len(self.epochs), 3),
            "peak_memory_mib": _peak_memory_mib(self.device),
            "device": self.device.type,
            "seed": self.given.seed,
        }

    def _is_done(self) -> bool:
        optimisation = self.given.optimisation
        if not self.epochs:
            return False
        best = max(self.epochs, key=lambda epoch: epoch.rank)
        waited = len(self.epochs) - best.number
        is_patient = optimisation.patience is None or waited < optimisation.patience
        return len(self.epochs) >= optimisation.epochs or not is_patient

    def _epoch(self) -> None:
        began, number = time.perf_counter(), len(self.epochs) + 1
        torch.manual_seed(_seed(self.given.seed, number))  # so that a resumed run draws as an uninterrupted one
        loss = self._train(number)
        selection_loss, arrays = self._predict(self.selects_on)
        score = self.plan.task.score(arrays, self._split(self.selects_on).examples)
        if self.selects_on == "val":  # test predictions are written once, for the selected epoch
            self._write(f"val-{number:03d}", "val", arrays)
        self.epochs.append(Epoch(number, loss, selection_loss, score, time.perf_counter() - began))
        self._save(number)
        line = json.dumps(vars(self.epochs[-1]))
        print(line, file=sys.stderr, flush=True)
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            print(line, file=log)

    def _train(self, number: int) -> float:
        """One pass over the training split; returns the mean loss of a clip."""
        optimisation, clips = self.given.optimisation, self._split("train")
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_lr"] * optimisation.rate_share(number - 1)
        draws = torch.Generator().manual_seed(_seed(self.given.seed, number))
        order = torch.randperm(len(clips), generator=draws).tolist()
        places = clips.places(order, draws if self.model.needs_other_video else None)
        self.model.train()
        total = 0.0
        per_step = optimisation.batch * optimisation.accumulation
        for start, (batch, size) in zip(range(0, len(places), optimisation.batch), self._batches(clips, places)):
            step_first = start - start % per_step
            in_step = min(per_step, len(places) - step_first)
            with self._autocast():
                loss = self.model.loss(batch)
            _refuse_nonsense(loss, number)
            (loss * (size / in_step)).backward()  # each clip of a step weighs the same, however it is parted
            total += float(loss.detach()) * size
            if start + size == step_first + in_step:
                if optimisation.max_grad_norm:
                    nn.utils.clip_grad_norm_(_trained(self.model), optimisation.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
        return total / len(places)

    @torch.no_grad()
    def _predict(self, split: Split) -> tuple[float, Arrays]:
        """Mean loss of a clip and the predictions of a whole split, in its order."""
        clips, total = self._split(split), 0.0
        parts: list[Arrays] = []
        self.model.eval()
        for batch, size in self._batches(clips, clips.places(range(len(clips)), None)):
            with self._autocast():
                _, output = self.model(batch)
                total += float(self.model.head.loss(output, batch.targets)) * size
            parts.append(self.model.head.predictions(output))
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return total / len(clips), self.plan.task.finished(arrays, clips.examples)

    def _batches(self, clips: Clips, places: list[tuple[int, int]]) -> Iterator[tuple[Batch, int]]:
        """Batches on the device, each with its number of clips."""
        size = self.given.optimisation.batch
        groups = [places[start : start + size] for start in range(0, len(places), size)]
        loader = DataLoader(
            clips,
            batch_sampler=groups,  # numbers with partners are places too
            collate_fn=partial(batch_of, pieces_per_row=self.host.pieces_per_row),
            num_workers=self.given.workers,
        )
        for batch, group in zip(loader, groups, strict=True):
            yield batch.to(self.device), len(group)

    def _split(self, split: Split) -> Clips:
        if split not in self.splits:
            cache = None if self.given.cache is None else Path(self.given.cache)
            if cache is not None:
                cache.mkdir(parents=True, exist_ok=True)
            examples = self.plan.task.examples(self.plan.files, split)
            self.splits[split] = Clips(
                examples, task=self.plan.task, files=self.plan.files, host=self.host, cache=cache
            )
        return self.splits[split]

    def _write(self, name: str, split: Split, arrays: Arrays) -> Path:
        return self.plan.task.write(self.folder / name, arrays, self._split(split).examples)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.given.optimisation.precision == "bf16")

    def _checkpoint(self, number: int) -> Path:
        return self.folder / f"epoch-{number:03d}.safetensors"

    def _save(self, number: int) -> None:
        """The epoch's checkpoint, then what going on needs; checkpoints that are no longer among the best go."""
        self.model.save(self._checkpoint(number))
        draft = self.folder / "resume.draft"
        state = {
            "epochs": [vars(epoch) for epoch in self.epochs],
            "model": self.model.state(),
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, draft)
        draft.replace(self.folder / "resume.pt")
        best = sorted(self.epochs, key=lambda epoch: epoch.rank, reverse=True)[: self.given.keep_best]
        for epoch in self.epochs:
            if epoch not in best:
                self._checkpoint(epoch.number).unlink(missing_ok=True)

    def _resume(self) -> None:
        file = self.folder / "resume.pt"
        if file.is_file():
            state = torch.load(file, weights_only=True, map_location=self.device)
            self.epochs = [Epoch(**epoch) for epoch in state["epochs"]]
            self.model.load_state(state["model"], name=file.name)
            self.optimizer.load_state_dict(state["optimizer"])


def _optimizer(model: FineTuned, given: Optimisation) -> torch.optim.Optimizer:
    """Adapter and head with learning rates of their own; ``full_lr`` is a group's rate before any decay."""
    rates = (
        (model.adapter_parameters(), given.adapter_learning_rate),
        (list(model.head.parameters()), given.head_learning_rate),
    )
    groups = [{"params": weights, "lr": rate, "full_lr": rate} for weights, rate in rates if weights]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[given.name]
    return kind(groups, betas=given.betas, weight_decay=given.weight_decay)


def _trained(model: FineTuned) -> list[nn.Parameter]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def _seed(seed: int, epoch: int) -> int:
    return (1_000_003 * seed + epoch) % 2**63


def _refuse_nonsense(loss: torch.Tensor, epoch: int) -> None:
    if not math.isfinite(float(loss.detach())):
        raise ConfigurationError(
            f"the loss is {float(loss.detach())} in epoch {epoch}",
            allowed="a finite loss",
            advice="Lower the learning rates, or set max_grad_norm or precision: fp32",
        )


def _refuse_other_recipe(folder: Path, given: dict[str, Any]) -> None:
    """An output holds one run; write its recipe down if it is new."""
    file = folder / "recipe.json"
    if not file.is_file():
        file.write_text(json.dumps(given, indent=1), encoding="utf-8")
        return
    began = json.loads(file.read_text(encoding="utf-8"))
    other = sorted(key for key in given.keys() | began.keys() if given.get(key) != began.get(key))
    if other:
        raise ConfigurationError(
            f"{folder.name!r} holds a run with other {', '.join(other)}",
            allowed="the recipe and the protocol that the run began with",
            advice="Choose another output",
        )


def _peak_memory_mib(device: torch.device) -> int:
    """Of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    return peak // (2**20 if sys.platform == "darwin" else 2**10)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    recipes.recipe_arguments(parser)
    parser.add_argument(
        "--published-protocol",
        action="store_true",
        help="select the epoch on the test split, as published figures do; the report says so",
    )


def run(options: argparse.Namespace) -> int:
    """Fine-tune; the last line on stdout is the report."""
    if options.published_protocol:
        print(f"WARNING: {PUBLISHED}", file=sys.stderr)
    print(json.dumps(fine_tune(load(options.recipe, options.overrides), published_protocol=options.published_protocol)))
    return 0
