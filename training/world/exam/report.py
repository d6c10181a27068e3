"""A marked paper: shares right by task and by family, each beside what one scores without the skill."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.world.question import TASKS, Question
from training.world.questions import REFUSALS, normalise, score

from .conditions import Condition, items_for
from .paper import Item, Paper
from .probe import majority_answer
from .scores import Score, share, word_error_rate

TRANSCRIBED = ("asr", "avsr")
"""Tasks with a word error rate."""

BINDING = ("avssd", "avm", "while", "after")
"""Tasks that are reported for held-out combinations and for known ones apart."""

COLUMNS: dict[Condition, str] = {
    "none": "text_only",
    "mismatched_sound": "mismatched_sound",
    "sound": "sound_only",
    "picture": "picture_only",
}
"""Condition -> what its score is called in a report."""


@dataclass(frozen=True)
class Line:
    """What is said of a task, or of a family.

    Args:
        score: with all there is to see and hear.
        majority: of always giving the answer that is most frequent in training.
        unskilled: of guessing among the things that one would choose from without the skill, where there are several;
            None where there never are, as in transcribing.
        others: score under each other condition, by its name in COLUMNS; None where it asked nothing.
    """

    score: Score
    majority: float
    unskilled: float | None
    others: dict[str, float | None]

    def to_dict(self) -> dict[str, float | None]:
        """JSON-ready; four decimals."""
        return {
            **self.score.to_dict(),
            "majority": round(self.majority, 4),
            "unskilled": _rounded(self.unskilled),
            **{name: _rounded(value) for name, value in self.others.items()},
        }


@dataclass(frozen=True)
class Report:
    """All scores of a paper.

    Args:
        tasks, families: a line for each.
        novel, seen: BINDING tasks in clips with combinations that training never meets, and in the others.
        wordings: all items as training words them, and as it never does.
        refused: shares of a task's questions that were taken for questions outside the world; where there are any.
        wer: word error rate of TRANSCRIBED tasks.
        when_error_s: mean distance of a time from the right one, over answers that name one; None if none does.
        seconds: that the exam took.
    """

    seed: int
    tasks: dict[str, Line]
    families: dict[str, Line]
    novel: dict[str, Score]
    seen: dict[str, Score]
    wordings: dict[str, Score]
    refused: dict[str, float]
    wer: dict[str, float]
    when_error_s: float | None
    seconds: float

    @property
    def mean(self) -> float:
        """Over the tasks."""
        return float(np.mean([line.score.score for line in self.tasks.values()]))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "seed": self.seed,
            "mean": round(self.mean, 4),
            "tasks": _dicts(self.tasks),
            "wer": {task: round(rate, 4) for task, rate in self.wer.items()},
            "when_error_s": None if self.when_error_s is None else round(self.when_error_s, 2),
            "novel": _dicts(self.novel),
            "seen": _dicts(self.seen),
            "wordings": _dicts(self.wordings),
            "refused": {task: round(share, 4) for task, share in self.refused.items()},
            "families": _dicts(self.families),
            "seconds": round(self.seconds, 1),
        }


def report(paper: Paper, answers: Mapping[Condition, Sequence[str]], *, seconds: float = 0.0) -> Report:
    """Mark a paper.

    Args:
        answers: of each condition, in the order of ``items_for(paper, condition)``; ``both`` is among them.
        seconds: that it took to get them.
    """
    marked = {condition: _mark(paper, condition, texts) for condition, texts in answers.items()}
    normal = marked["both"]
    wer = {}
    for task in TRANSCRIBED:
        transcripts = [mark for mark in normal if mark.question.task == task]
        wer[task] = word_error_rate([mark.said for mark in transcripts], [m.question.answer for m in transcripts])
    binding = {task: [mark for mark in normal if mark.question.task == task] for task in BINDING}
    return Report(
        seed=paper.seed,
        tasks={task: _line(marked, [name for name in paper.families if name.split(".")[0] == task]) for task in TASKS},
        families={name: _line(marked, [name]) for name in paper.families},
        novel=_shares({task: [mark for mark in marks if mark.is_novel] for task, marks in binding.items()}),
        seen=_shares({task: [mark for mark in marks if mark.is_novel is False] for task, marks in binding.items()}),
        wordings=_shares({name: [m for m in normal if m.item.wording == name] for name in ("train", "test")}),
        refused=_refused(normal),
        wer=wer,
        when_error_s=_error_s([mark for mark in normal if mark.question.task == "when"]),
        seconds=seconds,
    )


@dataclass(frozen=True)
class _Mark:
    """An item with its answer."""

    item: Item
    said: str
    is_right: bool
    is_novel: bool | None

    @property
    def question(self) -> Question:
        return self.item.question


def _mark(paper: Paper, condition: Condition, answers: Sequence[str]) -> list[_Mark]:
    items = [paper.items[number] for number in items_for(paper, condition)]
    return [
        _Mark(item, said, score(item.question, said), paper.clips[item.clip].is_novel)
        for item, said in zip(items, answers, strict=True)
    ]


def _line(marked: Mapping[Condition, Sequence[_Mark]], families: Sequence[str]) -> Line:
    marks = {condition: [m for m in some if m.question.family in families] for condition, some in marked.items()}
    asked = [mark.question for mark in marks["both"]]
    guesses = [_guessing(question) for question in asked if len(question.unskilled) > 1]
    others = {
        name: float(np.mean([mark.is_right for mark in marks[condition]])) if marks[condition] else None
        for condition, name in COLUMNS.items()
        if condition in marks
    }
    return Line(
        score=_share(marks["both"]),
        majority=float(np.mean([score(question, majority_answer(question.family)) for question in asked])),
        unskilled=float(np.mean(guesses)) if guesses else None,
        others=others,
    )


def _guessing(question: Question) -> float:
    """Share of the unskilled answers that are right: one of them, but for times, which may be a second off."""
    return float(np.mean([score(question, guess) for guess in question.unskilled]))


def _share(marks: Sequence[_Mark]) -> Score:
    return share([mark.is_right for mark in marks], [mark.item.clip for mark in marks])


def _shares(groups: Mapping[str, Sequence[_Mark]]) -> dict[str, Score]:
    """A very short paper may leave a group empty."""
    return {name: _share(marks) for name, marks in groups.items() if marks}


def _refused(marks: Sequence[_Mark]) -> dict[str, float]:
    refusals = {normalise(text) for text in REFUSALS}
    shares = {
        task: float(np.mean([normalise(mark.said) in refusals for mark in marks if mark.question.task == task]))
        for task in dict.fromkeys(mark.question.task for mark in marks)
    }
    return {task: share for task, share in shares.items() if share}


def _error_s(marks: Sequence[_Mark]) -> float | None:
    errors = []
    for mark in marks:
        times = re.findall(r"\d+(?:\.\d+)?", mark.said)
        if len(times) == 1:
            errors.append(abs(float(times[0]) - float(mark.question.answer)))
    return float(np.mean(errors)) if errors else None


def _dicts(entries: Mapping[str, Line | Score]) -> dict[str, dict[str, Any]]:
    return {name: entry.to_dict() for name, entry in entries.items()}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
