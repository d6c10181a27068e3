"""What the families' answers are in training: how many there are, and which is the most frequent."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache

from training.world import questions, scenes
from training.world.questions import FAMILIES

_SCENES = 2000


def answers_in_training(family: str) -> Counter[str]:
    """Answer -> how often it is right, in clips of the train split drawn as training draws them."""
    return _answers()[family]


def majority_answer(family: str) -> str:
    """What to say if one knows no more than the question's family."""
    answers = answers_in_training(family)
    return min(answers, key=lambda answer: (-answers[answer], answer))


@cache
def _answers() -> dict[str, Counter[str]]:
    rng = random.Random("probe")
    found: dict[str, Counter[str]] = {family: Counter() for family in FAMILIES}
    for _ in range(_SCENES):
        scene = scenes.make(rng.getrandbits(48))
        for family in FAMILIES:
            question = questions.ask_family(scene, family, rng)
            if question is not None:
                found[family][question.answer] += 1
    return found
