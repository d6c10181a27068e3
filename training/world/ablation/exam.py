"""The paper that all variants sit: short clips, the tasks that tell them apart, as many questions of each task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from favor.checkpoint import load_folder
from favor.sync import STEP_S
from training.world.exam.answering import encode_paper
from training.world.exam.conditions import Streams
from training.world.exam.paper import Item, Paper, set_paper
from training.world.exam.probe import majority_answer
from training.world.question import Question
from training.world.questions import FAMILIES, score
from training.world.scene import Kind

from .variants import MAX_STEPS

KINDS: tuple[Kind, ...] = ("video", "match", "cause")
"""Clips with a picture that moves, and sound."""

GROUPS = {
    "sync": ("avssd", "avm", "while"),
    "temporal": ("after", "order", "count", "cause"),
    "perception": ("video_qa",),
}
"""What the tasks ask for: streams step by step, time, or the picture alone."""

TASKS = tuple(task for group in GROUPS.values() for task in group)

_SEED = 31


@dataclass(frozen=True)
class Sitting:
    """A paper with what the encoders make of its clips."""

    paper: Paper
    features: tuple[Streams, ...]


def prepare(folder: Path, model_folder: str, *, questions_per_task: int) -> None:
    """Make the features of the paper, if they are not there yet."""
    path = _file(folder, questions_per_task)
    if path.exists():
        return
    paper = restricted_paper(questions_per_task)
    model, processor = load_folder(model_folder)
    kept = [
        (clip.visual.bfloat16(), clip.audio.bfloat16(), clip.num_audio_steps, clip.is_image)
        for clip in encode_paper(model, processor, paper)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(kept, path)


def read(folder: Path, *, questions_per_task: int) -> Sitting:
    """The paper, always the same, and what ``prepare`` made: features as bfloat16 left them, as training sees them."""
    kept = torch.load(_file(folder, questions_per_task), weights_only=True)
    features = tuple(Streams(seen.float(), heard.float(), steps, still) for seen, heard, steps, still in kept)
    return Sitting(restricted_paper(questions_per_task), features)


def restricted_paper(questions_per_task: int) -> Paper:
    """About equally many questions of each task, spread over its families; clips serve several tasks."""
    papers = []
    for task in TASKS:
        families = [name for name in FAMILIES if FAMILIES[name].task == task]
        number = math.ceil(questions_per_task / len(families))
        papers.append(
            set_paper(_SEED, num_questions=number, families=families, max_seconds=MAX_STEPS * STEP_S, kinds=KINDS)
        )
    return _joined(papers)


def shares(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, float]:
    """Right answers: by task, by group (the mean of its tasks), and ``mean`` over all tasks."""
    are_right: dict[str, list[bool]] = {}
    for question, said in zip(questions, answers, strict=True):
        are_right.setdefault(question.task, []).append(score(question, said))
    return with_groups({task: float(np.mean(are_right[task])) for task in TASKS if task in are_right})


def with_groups(tasks: Mapping[str, float]) -> dict[str, float]:
    """Add the means."""
    groups = {
        name: float(np.mean([tasks[task] for task in group if task in tasks]))
        for name, group in GROUPS.items()
        if any(task in tasks for task in group)
    }
    return {**tasks, **groups, "mean": float(np.mean(list(tasks.values())))}


def without_skill(paper: Paper) -> dict[str, float]:
    """Shares of always giving a family's most frequent answer."""
    asked = [item.question for item in paper.items]
    return shares(asked, [majority_answer(question.family) for question in asked])


def _joined(papers: Sequence[Paper]) -> Paper:
    """One paper; a clip that several have is there once."""
    clips = {clip.scene.seed: clip for paper in papers for clip in paper.clips}
    numbers = {seed: number for number, seed in enumerate(clips)}
    items = tuple(
        Item(numbers[paper.clips[item.clip].scene.seed], item.question, item.wording)
        for paper in papers
        for item in paper.items
    )
    return Paper(_SEED, tuple(clips.values()), items)


def _file(folder: Path, questions_per_task: int) -> Path:
    return folder / f"features-{questions_per_task}.pt"
