"""Refusing names that do not exist, with the nearest one that does, and values of a wrong type."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import get_args, get_type_hints

from favor.errors import ConfigurationError

TASKS = ("ave", "avs", "avqa", "avvp")
"""Published downstream tasks: event localisation, segmentation, question answering, video parsing."""


def require_choice(what: str, given: object, choices: Collection[str]) -> None:
    """Raise ConfigurationError unless ``given`` is one of ``choices``; ``what`` is what it names."""
    if given not in choices:
        nearest = difflib.get_close_matches(str(given), choices, n=1, cutoff=0.0)[0]
        raise ConfigurationError(f"{what} is {given!r}", allowed=", ".join(choices), advice=f"Did you mean {nearest!r}")


def require_type(record: type, field: str, given: object) -> None:
    """Raise ConfigurationError unless ``given`` is of the type that a dataclass writes at its field.

    A file's "false" would count as true, and its "8" would fail far away.
    """
    allowed = _types(get_type_hints(record)[field])
    if type(given) not in allowed | ({int} if float in allowed else set()):
        names = sorted("None" if kind is type(None) else kind.__name__ for kind in allowed)
        raise ConfigurationError(
            f"{field} is {given!r}, of type {type(given).__name__}",
            allowed=f"a value of type {' or '.join(names)}",
            advice="Write it without quotes" if isinstance(given, str) else "Correct it",
        )


def _types(hint: object) -> set[type]:
    """Types of a value that may be written where ``hint`` is: a type, a union of them, or literals."""
    if isinstance(hint, type):
        return {hint}
    arguments = get_args(hint)
    return set().union(*map(_types, arguments)) if arguments else {type(hint)}
