"""MUSIC-AVQA: questions about videos of music in nine types (Li et al., CVPR 2022).

A file is a JSON list of objects; these keys are read:

    video_id, question_id    the clip, and a number of the question
    type                     a *string* that holds a two-item list: "[\\"Audio\\", \\"Counting\\"]"
    question_content         words parted by blanks, a last character that is not read (the question mark), and slots:
                             "Is the <Object> playing longer than the <Object>?"
    templ_values             a *string* that holds the list of the slots' values, in order
    question_deleted         0, or 1 where later releases withdraw the question
    anser                    the answer (the key is spelt so)

Answers and words are numbered in the order in which the *train* file first says them.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from favor.downstream.annotations import Place, one_of, read_json

TYPES: Mapping[str, tuple[str, ...]] = {
    "Audio": ("Counting", "Comparative"),
    "Visual": ("Counting", "Location"),
    "Audio-Visual": ("Existential", "Counting", "Location", "Comparative", "Temporal"),
}
"""Category -> the types of its questions."""

NUM_WORDS = 14
"""Length that every question is padded to."""

PADDING = "<pad>"
"""Word number 0."""


@dataclass(frozen=True)
class Question:
    """One question, its slots filled; a slot's value counts as one word. ``words`` lacks the question mark."""

    video_id: str
    question_id: int
    category: str
    type: str
    words: tuple[str, ...]
    answer: str
    is_deleted: bool

    @property
    def text(self) -> str:
        return " ".join(self.words) + "?"


def read_questions(path: str | Path) -> tuple[Question, ...]:
    """All questions of a file, withdrawn ones too (``is_deleted``).

    Raises:
        AnnotationError: names file and record, counted from 1.
    """
    place = Place(Path(path).name)
    records = read_json(path)
    if not isinstance(records, list) or not records:
        raise place.error(f"a {type(records).__name__}", allowed="a list of questions, not an empty one")
    return tuple(_question(Place(place.file, number, "record"), record) for number, record in enumerate(records, 1))


def answers_of(train: Sequence[Question]) -> tuple[str, ...]:
    """The answer vocabulary: 42 in the official train file, in order of first appearance."""
    return tuple(dict.fromkeys(question.answer for question in train))


def words_of(train: Sequence[Question]) -> tuple[str, ...]:
    """The word vocabulary: padding, then 92 words of the official train file in order of first appearance."""
    return (PADDING, *dict.fromkeys(word for question in train for word in question.words))


def word_numbers(question: Question, vocabulary: Sequence[str]) -> NDArray[np.int64]:
    """(14,) the question's words by number, padded with 0.

    Raises:
        AnnotationError: a word that the train file never says.
    """
    numbers = {word: number for number, word in enumerate(vocabulary)}
    for word in question.words:
        if word not in numbers:
            raise Place(f"question {question.question_id}").error(
                f"the unknown word {word!r}", allowed="words of the train file", advice="Build the vocabulary from it"
            )
    padded = [*question.words, *[PADDING] * (NUM_WORDS - len(question.words))]
    return np.array([numbers[word] for word in padded], dtype=np.int64)


def _question(place: Place, record: object) -> Question:
    if not isinstance(record, dict):
        raise place.error(f"a {type(record).__name__}", allowed="an object")
    category, kind = _type(place, record)
    question_id = record.get("question_id")
    if isinstance(question_id, bool) or not isinstance(question_id, int):
        raise place.error(f"question_id is {question_id!r}"[:120], allowed="a whole number")
    return Question(
        video_id=_text(place, record, "video_id"),
        question_id=question_id,
        category=category,
        type=kind,
        words=_words(place, record),
        answer=_text(place, record, "anser"),
        is_deleted=_is_deleted(place, record),
    )


def _type(place: Place, record: Mapping[str, Any]) -> tuple[str, str]:
    pair = _listed(place, record, "type")
    if len(pair) != 2:
        raise place.error(f"type holds {len(pair)} items", allowed="two: category and type")
    category = one_of(place, "the category", pair[0], TYPES)
    return category, one_of(place, f"the type of an {category} question", pair[1], TYPES[category])


def _words(place: Place, record: Mapping[str, Any]) -> tuple[str, ...]:
    """As the official loader does: parted at single blanks, the last character off, a word with '<' is a slot."""
    words = _text(place, record, "question_content").rstrip()[:-1].split(" ")
    if "" in words:
        raise place.error("question_content has an empty word", allowed="words parted by one blank, a mark at the end")
    values = _listed(place, record, "templ_values")
    slots = [number for number, word in enumerate(words) if "<" in word]
    if len(slots) != len(values):
        raise place.error(f"{len(slots)} slots and {len(values)} templ_values", allowed="as many values as slots")
    for slot, value in zip(slots, values):
        words[slot] = value
    if len(words) > NUM_WORDS:
        raise place.error(f"{len(words)} words", allowed=f"at most {NUM_WORDS}")
    return tuple(words)


def _listed(place: Place, record: Mapping[str, Any], key: str) -> list[str]:
    """The list of texts that a string spells; never evaluated, only read as a literal."""
    try:
        items = ast.literal_eval(_text(place, record, key))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        items = None
    if not isinstance(items, list) or not all(isinstance(item, str) and item for item in items):
        raise place.error(f"{key} is {record.get(key)!r}"[:120], allowed="a string that holds a list of texts")
    return items


def _is_deleted(place: Place, record: Mapping[str, Any]) -> bool:
    flag = record.get("question_deleted", 0)
    if flag not in (0, 1):
        raise place.error(f"question_deleted is {flag!r}"[:120], allowed="0 or 1")
    return bool(flag)


def _text(place: Place, record: Mapping[str, Any], key: str) -> str:
    if key not in record:
        raise place.error(f"no {key!r}", allowed="video_id, question_id, type, question_content, templ_values, anser")
    text = record[key]
    if not isinstance(text, str) or not text.strip():
        raise place.error(f"{key} is {text!r}"[:120], allowed="text")
    return text
