"""The grammar of what is spoken: commands and remarks, phrases about a picture, and questions about a picture."""

from __future__ import annotations

import random
from collections.abc import Sequence

from training.world import vocabulary
from training.world.scene import Thing
from training.world.splits import Split, is_held_out_phrase

_CHOICES = {
    "digit": vocabulary.DIGITS,
    "noun": vocabulary.NOUNS,
    "other": vocabulary.NOUNS,
    "verb": vocabulary.VERBS,
    "colour": tuple(vocabulary.COLOURS),
    "shape": vocabulary.SHAPES,
    "size": tuple(vocabulary.SIZES),
}

_DIGITS = "{digits}"
_FORMS = {
    _DIGITS: 10 / 3.5,
    "{verb} the {colour} {shape}": 1.5,
    "{verb} the {colour} {noun}": 1.5,
    "{verb} the {size} {noun}": 1.0,
    "{verb} a {size} {shape}": 1.0,
    "{verb} the {colour} {noun} under the {other}": 1.0,
    "the {colour} {shape}": 1.0,
    "the {shape} is {colour}": 0.5,
    "the {noun} is {colour}": 0.5,
    "{noun} and {other}": 1.5,
    "the {noun} is near the {other}": 1.0,
}
"""Form -> weight. With these each digit, noun, verb, colour, shape and size is spoken equally often."""

_PICTURE_FORMS = (
    "{verb} the {colour} {shape}",
    "{verb} the {size} {shape}",
    "{verb} the {size} {colour} {shape}",
    "{verb} a {size} {colour} {shape}",
)
_PAIR_FORMS = (
    "{verb} the {colour} {shape} near the {other}",
    "{verb} the {size} {shape} near the {other}",
    "{verb} the {colour} {shape} under the {other}",
    "{verb} the {shape} and the {other}",
)

SPOKEN_QUESTIONS = (
    "what colour is the {shape}",
    "what shape is {colour}",
    "which shape is {size}",
    "how many shapes are there",
    "what is written",
    "where is the {shape}",
    "where is the {colour} {shape}",
    "is there a {shape}",
    "is there a {colour} {shape}",
)
"""Forms of spoken questions; each has one right answer in the picture that it is spoken beside."""


def draw(rng: random.Random, split: Split) -> str:
    """A phrase of two to seven words; held out from training just if ``split`` is ``test``."""
    while True:
        text = _fill(rng, rng.choices(_NAMES, cum_weights=_CUMULATIVE)[0])
        if is_held_out_phrase(text) == (split == "test"):
            return text


def draw_about(rng: random.Random, things: Sequence[Thing], split: Split) -> str:
    """A phrase that speaks of one or two of the things of a picture; held out just if ``split`` is ``test``.

    Raises:
        LookupError: for these things no such phrase was found; draw others.
    """
    for _ in range(40):
        first, *rest = rng.sample(things, len(things))
        forms = _PAIR_FORMS if rest and rng.random() < 0.5 else _PICTURE_FORMS
        text = rng.choice(forms).format(
            verb=rng.choice(vocabulary.VERBS),
            colour=first.colour,
            shape=first.shape,
            size=first.size,
            other=rest[0].shape if rest else "",
        )
        if is_held_out_phrase(text) == (split == "test"):
            return text
    raise LookupError(f"no phrase of split {split} speaks of {', '.join(thing.name for thing in things)}")


def draw_question(rng: random.Random, form: str, things: Sequence[Thing]) -> str:
    """One of SPOKEN_QUESTIONS about these things, with one right answer.

    Raises:
        LookupError: these things leave the question without one right answer.
    """
    if form.startswith("is there"):
        return _draw_presence_question(rng, form, things)
    fitting = [thing for thing in things if "{size}" not in form or _is_only_one_of_its_size(thing, things)]
    if "{" not in form:
        return form
    if not fitting:
        raise LookupError(f"nothing to ask {form!r} about")
    thing = rng.choice(fitting)
    return form.format(colour=thing.colour, shape=thing.shape, size=thing.size)


def _draw_presence_question(rng: random.Random, form: str, things: Sequence[Thing]) -> str:
    """Half with the answer yes; a no asks for colours and shapes of the picture just as often, wrongly combined."""
    present = {(thing.colour, thing.shape) for thing in things}
    if rng.random() < 0.5:
        colour, shape = rng.choice(sorted(present))
    elif "{colour}" in form:
        colours: tuple[str, ...] = tuple(vocabulary.COLOURS)
        shapes: tuple[str, ...] = vocabulary.SHAPES
        if len(things) > 1 and rng.random() < 0.6:
            colours, shapes = tuple(thing.colour for thing in things), tuple(thing.shape for thing in things)
        colour, shape = rng.choice([(c, s) for c in colours for s in shapes if (c, s) not in present])
    else:
        colour, shape = "", rng.choice([s for s in vocabulary.SHAPES if s not in {shape for _, shape in present}])
    return form.format(colour=colour, shape=shape)


def _is_only_one_of_its_size(thing: Thing, things: Sequence[Thing]) -> bool:
    return sum(other.size == thing.size for other in things) == 1


def _fill(rng: random.Random, form: str) -> str:
    if form == _DIGITS:
        return " ".join(rng.choices(vocabulary.DIGITS, k=rng.randint(2, 5)))
    words = {slot: rng.choice(choices) for slot, choices in _CHOICES.items()}
    while words["other"] == words["noun"]:
        words["other"] = rng.choice(vocabulary.NOUNS)
    return form.format(**words)


_NAMES = tuple(_FORMS)
_CUMULATIVE = tuple(sum(list(_FORMS.values())[: number + 1]) for number in range(len(_FORMS)))
