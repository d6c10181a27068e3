"""MUSIC-AVQA: the share of right answers, by type and category (Li et al., CVPR 2022).

Two averages are in print under the same name. DG-SCT's weighs every question alike, AV-PEA's is the plain mean of the
three categories; on the official test set they are two points apart for the same answers. Never compare across them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from eval.metrics.arguments import ScoringError
from favor.downstream.music_avqa import TYPES

Type = tuple[str, str]
"""Category and type: ("Audio", "Counting")."""

Key = TypeVar("Key")


@dataclass(frozen=True)
class AvqaScores:
    """Shares of right answers. Types and categories without a question are left out.

    ``question_weighted`` is right answers over questions; ``plain_mean_of_categories`` is the mean of Audio, Visual and
    Audio-Visual, and None unless all three have questions.
    """

    by_type: Mapping[Type, float]
    by_category: Mapping[str, float]
    num_questions: Mapping[str, int]
    question_weighted: float
    plain_mean_of_categories: float | None


def scores(types: Sequence[Type], answers: Sequence[str], truth: Sequence[str]) -> AvqaScores:
    """Answers against the truth, word for word.

    Args:
        types: category and type of every question.
        answers: the model's.
        truth: the right ones, in the same order.
    """
    if not types or not len(types) == len(answers) == len(truth):
        raise ScoringError(
            f"{len(types)} questions, {len(answers)} answers and {len(truth)} right answers",
            allowed="as many of each, not none",
            advice="Answer every question once",
        )
    for category, kind in types:
        if kind not in TYPES.get(category, ()):
            raise ScoringError(f"the type {category}, {kind}", allowed=f"{dict(TYPES)}", advice="Correct the truth")
    is_right = [answer == right for answer, right in zip(answers, truth)]
    by_category = _shares([category for category, _ in types], is_right)
    counts = {category: sum(category == given for given, _ in types) for category in by_category}
    return AvqaScores(
        by_type=_shares(types, is_right),
        by_category=by_category,
        num_questions=counts,
        question_weighted=question_weighted(by_category, counts),
        plain_mean_of_categories=plain_mean_of_categories(by_category) if len(by_category) == len(TYPES) else None,
    )


def question_weighted(accuracies: Mapping[str, float], num_questions: Mapping[str, int]) -> float:
    """The average in which every question weighs the same (DG-SCT's)."""
    total = sum(num_questions[category] for category in accuracies)
    return sum(accuracies[category] * num_questions[category] for category in accuracies) / total


def plain_mean_of_categories(accuracies: Mapping[str, float]) -> float:
    """The average in which every category weighs the same (AV-PEA's)."""
    return sum(accuracies[category] for category in TYPES) / len(TYPES)


def _shares(keys: Sequence[Key], is_right: Sequence[bool]) -> dict[Key, float]:
    """Share of right answers per key, in the order of first appearance."""
    gathered: dict[Key, list[bool]] = {}
    for key, right in zip(keys, is_right):
        gathered.setdefault(key, []).append(right)
    return {key: sum(rights) / len(rights) for key, rights in gathered.items()}
