"""A paper: questions about clips of the test split, from a seed.

Every family of questions has as many items as every other, each about another clip, while one clip serves several
families. No answer of a family is much more often right than the others, so that always saying the same does not pay.
Half of a family's items about things that may sound show combinations that training never meets, and half of all items,
among these and among the others, are worded as training never words them.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from training.data.shuffling import hashed
from training.world import questions, scenes
from training.world.question import Question
from training.world.questions import FAMILIES, WordingSet
from training.world.scene import Kind, Scene

from .probe import answers_in_training

QUESTIONS_PER_CLIP = 6
"""About one clip, if there are enough clips to balance the answers."""

SPARE = 1.3
"""An answer may have so many times its fair share of a family's items."""

_CLIPS_PER_ITEM = 40  # looked at before the bound on an answer's share is loosened
_KINDS: tuple[Kind, ...] = tuple(scenes.KIND_SHARES)
_WITH_COMBINATIONS = ("video", "match")


@dataclass(frozen=True)
class PaperClip:
    """A clip of the test split.

    Args:
        is_novel: do things in it sound only as they never do in training (True), or only as they do (False)? None where
            the kind of clip has no such difference.
    """

    scene: Scene
    is_novel: bool | None


@dataclass(frozen=True)
class Item:
    """One question; ``clip`` is a number in ``Paper.clips``."""

    clip: int
    question: Question
    wording: WordingSet


@dataclass(frozen=True)
class Paper:
    """What is asked; items stand family by family."""

    seed: int
    clips: tuple[PaperClip, ...]
    items: tuple[Item, ...]

    @property
    def families(self) -> tuple[str, ...]:
        """In the order of the items."""
        return tuple(dict.fromkeys(item.question.family for item in self.items))


def set_paper(
    seed: int,
    *,
    num_questions: int = 60,
    families: Sequence[str] = tuple(FAMILIES),
    kinds: Sequence[Kind] = _KINDS,
    max_seconds: float = math.inf,
) -> Paper:
    """The paper of a seed, always the same one, with ``num_questions`` in every family.

    Args:
        kinds, max_seconds: of its clips.
    """
    pool = _Pool(seed, kinds, max_seconds)
    # Family by family, the first would take all the clips of the kinds that carry many.
    rounds = list(zip(*(_items_of(family, num_questions, pool) for family in families)))
    assert len(rounds) == num_questions, f"only {len(rounds)} of {num_questions} questions were found in some family"
    drafts = [draft for family in zip(*rounds) for draft in family]
    numbers = {place: number for number, place in enumerate(dict.fromkeys(draft.place for draft in drafts))}
    return Paper(
        seed=seed,
        clips=tuple(pool.clip(*place) for place in numbers),
        items=tuple(Item(numbers[draft.place], draft.question, draft.wording) for draft in drafts),
    )


Place = tuple[Kind, int]


@dataclass
class _Pool:
    """All clips that might be asked about, by their kind and number, and how often each one is."""

    seed: int
    kinds: Sequence[Kind]
    max_seconds: float
    loads: Counter[Place] = field(default_factory=Counter)
    _clips: dict[Place, PaperClip] = field(default_factory=dict)

    def clip(self, kind: Kind, number: int) -> PaperClip:
        place = kind, number
        if place not in self._clips:
            seed = hashed(self.seed, _KINDS.index(kind), number) >> 16
            is_novel = number % 2 == 0 if kind in _WITH_COMBINATIONS else None
            self._clips[place] = PaperClip(scenes.make(seed, kind=kind, split="test", is_novel=is_novel), is_novel)
        return self._clips[place]

    def places(self, family: str) -> Iterator[Place]:
        """Where clips are that might carry the family and are not asked about enough: of each kind in turn, endless."""
        kinds = [kind for kind in self.kinds if kind in FAMILIES[family].kinds]
        return itertools.chain.from_iterable(zip(*(self._free_of(kind) for kind in kinds)))

    def _free_of(self, kind: Kind) -> Iterator[Place]:
        places = ((kind, number) for number in itertools.count())
        return (
            place
            for place in places
            if self.loads[place] < QUESTIONS_PER_CLIP and self.clip(*place).scene.seconds <= self.max_seconds
        )


@dataclass(frozen=True)
class _Draft:
    place: Place
    question: Question
    wording: WordingSet


@dataclass
class _Quotas:
    """What a family's items may still be."""

    number: int
    most_per_answer: int
    answers: Counter[str] = field(default_factory=Counter)
    novelties: Counter[bool | None] = field(default_factory=Counter)

    @property
    def num_taken(self) -> int:
        return self.answers.total()

    def allow(self, answer: str, is_novel: bool | None) -> bool:
        is_full = is_novel is not None and self.novelties[is_novel] >= math.ceil(self.number / 2)
        return not is_full and self.answers[answer] < self.most_per_answer

    def take(self, answer: str, is_novel: bool | None) -> None:
        self.answers[answer] += 1
        self.novelties[is_novel] += 1


def _items_of(family: str, number: int, pool: _Pool) -> Iterator[_Draft]:
    """Items of a family, as many as are wanted if there are."""
    quotas = _Quotas(number, math.ceil(SPARE * number / len(answers_in_training(family))))
    put_off: list[Place] = []
    for place in itertools.islice(pool.places(family), _CLIPS_PER_ITEM * number):
        if quotas.num_taken == number:
            return
        if pool.loads[place] < QUESTIONS_PER_CLIP:
            yield from _taken(place, family, pool, quotas, put_off)
    while quotas.num_taken < number and quotas.most_per_answer < number:
        quotas.most_per_answer += 1
        waiting, put_off = put_off, []
        for place in waiting:
            if quotas.num_taken < number:
                yield from _taken(place, family, pool, quotas, put_off)


def _taken(place: Place, family: str, pool: _Pool, quotas: _Quotas, put_off: list[Place]) -> Iterator[_Draft]:
    """The item about a clip, if it is wanted now; its place joins ``put_off`` if it might be later."""
    clip = pool.clip(*place)
    # The wording alternates among novel and among other clips, not over both, or it would always go with novelty.
    wording: WordingSet = "train" if quotas.novelties[clip.is_novel] % 2 else "test"
    rng = random.Random(f"exam {pool.seed} {place} {family}")
    question = questions.ask_family(clip.scene, family, rng, wording=wording)
    if question is None:
        return
    if not quotas.allow(question.answer, clip.is_novel):
        put_off.append(place)
        return
    quotas.take(question.answer, clip.is_novel)
    pool.loads[place] += 1
    yield _Draft(place, question, wording)
