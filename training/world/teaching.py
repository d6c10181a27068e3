"""The loop by which one part of a model is taught with dense labels: heads on top, a loss, a held-out batch to score.

What is taught is an ordinary module with two more methods, ``loss(*batch)`` and ``scores(*batch)``.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from training.recipe import Strict

Batch = tuple[Any, ...]


class Lesson(Strict):
    """How long and how fast.

    Args:
        output: folder of the run. seed: of everything random.
        steps, learning_rate, warmup_steps, weight_decay: AdamW, cosine down to nothing.
        batch, held_out_batch: what is learnt from in a step, and scored.
        precision: bf16 runs under autocast.
        score_every, save_every: in steps.
    """

    name: str = "lesson"
    summary: str = ""
    output: str
    seed: int = 0
    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    learning_rate: float = Field(default=1.5e-3, gt=0)
    warmup_steps: int = 100
    weight_decay: float = 0.01
    precision: Literal["bf16", "fp32"] = "bf16"
    score_every: int = 250
    save_every: int = 500
    held_out_batch: int = 256


class Pupil(Protocol):
    """What is taught, with its heads."""

    def loss(self, *batch: Any) -> Tensor: ...

    def scores(self, *batch: Any) -> dict[str, float]: ...


def teach(lesson: Lesson, heads: nn.Module, batch_of: Callable[[str, int, int], Batch]) -> dict[str, float]:
    """Train ``heads`` and all below them; goes on from where an earlier run of the same output stopped.

    Args:
        heads: a :class:`Pupil`.
        batch_of: (split, step, size) to a batch; the split is ``train``, or ``test`` for the held-out batch.

    Returns:
        The last scores, which are also in ``OUTPUT/scores.json``.
    """
    folder = Path(lesson.output)
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(
        heads.parameters(), lr=lesson.learning_rate, betas=(0.9, 0.98), weight_decay=lesson.weight_decay
    )
    step = _resume(folder, heads, optimizer)
    held_out = batch_of("test", 0, lesson.held_out_batch)
    scores: dict[str, float] = {}
    log = _Log(folder, first_step=step)
    while step < lesson.steps:
        for group in optimizer.param_groups:
            group["lr"] = lesson.learning_rate * _share(step, lesson)
        batch = batch_of("train", step, lesson.batch)
        with _autocast(lesson):
            loss = heads.loss(*batch)  # type: ignore[operator]
        loss.backward()
        nn.utils.clip_grad_norm_(heads.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        log.losses.append(float(loss.detach()))
        step += 1
        is_last = step == lesson.steps
        if is_last or step % lesson.score_every == 0:
            scores = _score(heads, held_out, lesson)
            log.write(step, scores)
        if is_last or step % lesson.save_every == 0:
            _save(folder, heads, optimizer, step)
    if scores:
        (folder / "scores.json").write_text(json.dumps(scores, indent=1), encoding="utf-8")
    return scores


class _Log:
    """One line per score, on stdout and in ``log.jsonl``."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        self.path = folder / "log.jsonl"
        self.first_step, self.began = first_step, time.perf_counter()
        self.losses: list[float] = []

    def write(self, step: int, scores: dict[str, float]) -> None:
        line = {"step": step, "loss": sum(self.losses) / len(self.losses), **scores}
        line["steps_per_s"] = (step - self.first_step) / (time.perf_counter() - self.began)
        with self.path.open("a", encoding="utf-8") as file:
            print(json.dumps({key: round(value, 4) for key, value in line.items()}), file=file)
        print(" ".join(f"{key} {value:.4g}" for key, value in line.items()), flush=True)
        self.losses.clear()


def _share(step: int, lesson: Lesson) -> float:
    """Share of the learning rate: linear warm-up, cosine to zero."""
    if step < lesson.warmup_steps:
        return (step + 1) / lesson.warmup_steps
    done = (step - lesson.warmup_steps) / max(1, lesson.steps - lesson.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


def _score(heads: nn.Module, held_out: Batch, lesson: Lesson) -> dict[str, float]:
    heads.eval()
    with _autocast(lesson):
        scores: dict[str, float] = heads.scores(*held_out)  # type: ignore[operator]
    heads.train()
    return scores


def _autocast(lesson: Lesson) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=lesson.precision == "bf16")


def _save(folder: Path, heads: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    draft = folder / "resume.draft"
    torch.save({"step": step, "heads": heads.state_dict(), "optimizer": optimizer.state_dict()}, draft)
    draft.replace(folder / "resume.pt")


def _resume(folder: Path, heads: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    saved = folder / "resume.pt"
    if not saved.is_file():
        return 0
    state = torch.load(saved, weights_only=True)
    heads.load_state_dict(state["heads"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
