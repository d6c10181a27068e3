"""What can be asked about a scene, and the right answers.

A *family* is one kind of question, as ``count.flashes``: it looks at the scene, draws what to ask so that no answer
dominates, and returns None where the scene cannot carry it or the answer would be unclear. Answers come from the scene
alone, never from the rendered picture or sound.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Literal

from ..question import Question
from ..scene import Scene
from . import binding, dialogue, perception, temporal, video
from .draft import Clip, Draft, Family
from .outside import REFUSALS, draw_outside
from .scoring import normalise, score
from .timeline import events_in_order
from .typing_habits import typed
from .wording import WORDINGS

__all__ = ["FAMILIES", "REFUSALS", "WORDINGS", "ask", "ask_family", "normalise", "outside", "score", "timeline"]

WordingSet = Literal["train", "test"]

FAMILIES: dict[str, Family] = {
    family.name: family for module in (perception, video, dialogue, binding, temporal) for family in module.FAMILIES
}

_OF_KIND: dict[str, tuple[Family, ...]] = {}
for _family in FAMILIES.values():
    for _kind in _family.kinds:
        _OF_KIND[_kind] = (*_OF_KIND.get(_kind, ()), _family)

_PER_FAMILY = 2


def ask(scene: Scene, rng: random.Random, number: int, *, wording: WordingSet = "train") -> list[Question]:
    """Up to ``number`` different questions about a scene, at most two of a family, the harder families more often.

    Training's wording comes as people type it; :func:`ask_family` words cleanly.
    """
    clip = Clip(scene)
    families = list(_OF_KIND.get(scene.kind, ()))
    asked: dict[str, list[Draft]] = {}
    questions: list[Question] = []
    while families and len(questions) < number:
        family = rng.choices(families, [family.weight for family in families])[0]
        draft = family.draw(clip, rng)
        earlier = asked.setdefault(family.name, [])
        if draft is None or any(_is_same(draft, other) for other in earlier):
            # Drawing once more would favour the answers that this clip happens to allow, and tilt the balance.
            families.remove(family)
            continue
        earlier.append(draft)
        question = _worded(family, draft, rng, wording)
        questions.append(replace(question, text=typed(question.text, rng)) if wording == "train" else question)
        if len(earlier) == _PER_FAMILY:
            families.remove(family)
    return questions


def ask_family(scene: Scene, family: str, rng: random.Random, *, wording: WordingSet = "train") -> Question | None:
    """One question of a family, or None where the scene cannot carry it (or this draw found none).

    Raises:
        KeyError: there is no such family.
    """
    if scene.kind not in FAMILIES[family].kinds:
        return None
    draft = FAMILIES[family].draw(Clip(scene), rng)
    return None if draft is None else _worded(FAMILIES[family], draft, rng, wording)


def timeline(scene: Scene, rng: random.Random, *, is_detailed: bool = False, wording: WordingSet = "train") -> Question:
    """All events in order of time, on demand each with its second, size and place; for training only."""
    family = "timeline.details" if is_detailed else "timeline.events"
    answer = events_in_order(Clip(scene), is_detailed=is_detailed)
    text = rng.choice(getattr(WORDINGS[family], wording))
    streams = [("picture", scene.has_picture), ("sound", scene.has_sound)]
    return Question(
        task="timeline",
        family=family,
        text=typed(text, rng) if wording == "train" else text,
        answer=answer,
        unskilled=(answer,),
        needs=frozenset(name for name, is_there in streams if is_there),
    )


def outside(rng: random.Random) -> Question:
    """A question outside the world, answered by saying so; for training only."""
    text, answer = draw_outside(rng)
    return Question("outside", "outside.unknown", typed(text, rng), answer, REFUSALS, frozenset())


def _is_same(first: Draft, second: Draft) -> bool:
    return first.slots == second.slots and first.before == second.before


def _worded(family: Family, draft: Draft, rng: random.Random, wording: WordingSet) -> Question:
    texts = getattr(WORDINGS[family.name], wording)
    return Question(
        task=family.task,
        family=family.name,
        text=rng.choice(texts).format(**draft.slots),
        answer=draft.answer,
        unskilled=tuple(dict.fromkeys(draft.unskilled)),
        needs=family.needs if draft.needs is None else draft.needs,
        before=draft.before,
    )
