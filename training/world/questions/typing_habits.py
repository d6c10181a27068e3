"""What people do to a question when they type it; for training only."""

from __future__ import annotations

import random

LOWER_CASE = 0.15
NO_STOP = 0.1
POLITE = 0.05

OPENINGS = {"?": ("Please tell me: ", "Can you tell me: ", "Could you tell me: "), ".": ("Please ",)}
"""By what stands at the end: of a question, of a request. Nothing is asked by an exclamation."""


def typed(text: str, rng: random.Random) -> str:
    """Now and then all in lower case, without its last stop, or politely opened; each independently of the others."""
    is_lower, is_unstopped, is_polite = (rng.random() < share for share in (LOWER_CASE, NO_STOP, POLITE))
    openings = OPENINGS.get(text[-1])
    if is_polite and openings:
        text = rng.choice(openings) + text[0].lower() + text[1:]
    if is_unstopped:
        text = text.rstrip("?.!")
    return text.lower() if is_lower else text
