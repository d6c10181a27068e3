"""Is an answer right?"""

from __future__ import annotations

import re

from ..question import Question
from ..vocabulary import DIGITS

_NUMBERS = (
    *DIGITS,
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
    "twenty",
)
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)}
_ARTICLES = {"a", "an", "the"}

WHEN_TOLERANCE_S = 1


def normalise(text: str) -> str:
    """Lower case without punctuation and articles, numbers as digits."""
    words = re.sub(r"[^a-z0-9]+", " ", text.lower().replace("color", "colour")).split()
    return " ".join(_DIGITS.get(word, word) for word in words if word not in _ARTICLES)


def score(question: Question, answer: str) -> bool:
    """Right if the same words; for ``when`` if within one second.

    Transcriptions are better scored by word error rate; here they too must be the same words.
    """
    if question.task != "when":
        return normalise(answer) == normalise(question.answer)
    said = re.findall(r"\d+(?:\.\d+)?", _spell_digits(answer))
    return len(said) == 1 and abs(float(said[0]) - float(question.answer)) <= WHEN_TOLERANCE_S


def _spell_digits(text: str) -> str:
    return " ".join(_DIGITS.get(word.strip(",.!?"), word) for word in text.lower().split())
