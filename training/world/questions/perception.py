"""What is heard, seen, written and said: asr, ac, ic, ocr, vqa, avsr, isqa."""

from __future__ import annotations

import random

from ..scene import Thing
from ..vocabulary import COLOURS, PRINTED_WORDS, SHAPES, SIZES, SOUNDS
from .draft import BOTH, PICTURE, SOUND, YES_NO, Clip, Draft, Family, candidates, numbers, orders, pick_balanced

PLACES = ("left", "right", "top", "bottom", "middle")


def place_word(x: float, y: float) -> str | None:
    """Where in the picture: one of PLACES, or None where that is not clear."""
    dx, dy = x - 0.5, y - 0.5
    if max(abs(dx), abs(dy)) < 0.1:
        return "middle"
    if abs(dx) >= 0.18 and abs(dx) >= 1.5 * abs(dy):
        return "left" if dx < 0 else "right"
    if abs(dy) >= 0.18 and abs(dy) >= 1.5 * abs(dx):
        return "top" if dy < 0 else "bottom"
    return None


def from_left(clip: Clip) -> list[Thing]:
    """Things of a still picture from left to right."""
    return sorted(clip.things, key=lambda thing: (thing.path[0].x, thing.path[0].y))


def transcribe(clip: Clip, rng: random.Random) -> Draft | None:
    """The words said; without candidates: it is scored by word error rate."""
    if len(clip.scene.utterances) != 1:
        return None
    text = clip.scene.utterances[0].text
    return Draft({}, text, (text,))


def audio_caption(clip: Clip, rng: random.Random) -> Draft | None:
    """Every sound in order of time."""
    if not clip.sounds or not clip.is_order_of_sounds_clear:
        return None
    kinds = [sound.kind for sound in clip.sounds]
    if len(kinds) > 5:
        return None
    return Draft({}, " then ".join(kinds), candidates(orders(kinds, " then "), SOUNDS))


def image_caption(clip: Clip, rng: random.Random) -> Draft | None:
    """Every thing from left to right, then the sign."""
    things = [f"a {thing.size} {thing.name}" for thing in from_left(clip)]
    sign = [f"the sign says {sign.text}" for sign in clip.scene.signs]
    if len(sign) > 1 or not things + sign:
        return None

    def caption(parts: list[str]) -> str:
        listed = " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)
        return "; ".join([*([listed] if listed else []), *sign])

    if len(things) > 1:
        others = orders(things, "|")
        unskilled = tuple(caption(order.split("|")) for order in others)
    elif things:
        unskilled = tuple(caption([f"a {s} {c} {f}"]) for s in SIZES for c in COLOURS for f in SHAPES)
    else:
        unskilled = candidates([caption([])], (f"the sign says {word}" for word in PRINTED_WORDS))
    return Draft({}, caption(things), unskilled)


def read_sign(clip: Clip, rng: random.Random) -> Draft | None:
    if len(clip.scene.signs) != 1:
        return None
    text = clip.scene.signs[0].text
    return Draft({}, text, candidates([text], PRINTED_WORDS))


def colour(clip: Clip, rng: random.Random) -> Draft | None:
    """Also asked of videos, about things that keep their colour."""
    if not clip.constant:
        return None
    thing = rng.choice(clip.constant)
    return Draft({"shape": thing.shape}, thing.colour, candidates((t.colour for t in clip.things), COLOURS))


def shape(clip: Clip, rng: random.Random) -> Draft | None:
    if not clip.constant:
        return None
    thing = rng.choice(clip.constant)
    return Draft({"colour": thing.colour}, thing.shape, candidates((t.shape for t in clip.things), SHAPES))


def size(clip: Clip, rng: random.Random) -> Draft | None:
    options: dict[str, list[Draft]] = {}
    for thing in clip.things:
        options.setdefault(thing.size, []).append(Draft({"shape": thing.shape}, thing.size, tuple(SIZES)))
    return pick_balanced(rng, options, dict.fromkeys(SIZES, 1.0))


def where(clip: Clip, rng: random.Random) -> Draft | None:
    options = []
    for thing in clip.things:
        word = place_word(thing.path[0].x, thing.path[0].y)
        if word:
            options.append(Draft({"shape": thing.shape}, word, PLACES))
    return rng.choice(options) if options else None


def number_of_things(clip: Clip, rng: random.Random) -> Draft | None:
    if not clip.things:
        return None
    return Draft({}, str(len(clip.things)), numbers(len(clip.things)))


def exists(clip: Clip, rng: random.Random) -> Draft | None:
    """A 'no' is made of a colour and a shape that occur apart, where there are two things."""
    if not clip.things:
        return None
    if rng.random() < 0.5:
        thing = rng.choice(clip.things)
        return Draft({"colour": thing.colour, "shape": thing.shape}, "yes", YES_NO)
    if len(clip.things) > 1:
        first, second = rng.sample(clip.things, 2)
        return Draft({"colour": first.colour, "shape": second.shape}, "no", YES_NO)
    thing = clip.things[0]
    if rng.random() < 0.5:
        other = rng.choice([word for word in COLOURS if word != thing.colour])
        return Draft({"colour": other, "shape": thing.shape}, "no", YES_NO)
    other = rng.choice([word for word in SHAPES if word != thing.shape])
    return Draft({"colour": thing.colour, "shape": other}, "no", YES_NO)


def _two_apart(clip: Clip, rng: random.Random) -> tuple[Thing, Thing] | None:
    """A thing clearly left of another."""
    things = from_left(clip)
    pairs = [(a, b) for i, a in enumerate(things) for b in things[i + 1 :] if b.path[0].x - a.path[0].x >= 0.15]
    return rng.choice(pairs) if pairs else None


def relation(clip: Clip, rng: random.Random) -> Draft | None:
    """Which of two is further left or right."""
    pair = _two_apart(clip, rng)
    if not pair:
        return None
    side = rng.choice(("left", "right"))
    answer = pair[0 if side == "left" else 1].shape
    first, second = rng.sample([thing.shape for thing in pair], 2)
    return Draft({"side": side, "first": first, "second": second}, answer, (first, second))


def is_left(clip: Clip, rng: random.Random) -> Draft | None:
    pair = _two_apart(clip, rng)
    if not pair:
        return None
    side = rng.choice(("left", "right"))
    answer = rng.choice(YES_NO)
    shapes = [thing.shape for thing in pair]
    first, second = shapes if (side == "left") == (answer == "yes") else reversed(shapes)
    return Draft({"side": side, "first": first, "second": second}, answer, YES_NO)


def spoken_answer(clip: Clip, rng: random.Random) -> Draft | None:
    """The answer to a spoken question about the picture, or None where the question is of no known form."""
    if len(clip.scene.utterances) != 1:
        return None
    found = answer_spoken(clip, clip.scene.utterances[0].text)
    return Draft({}, *found) if found else None


def answer_spoken(clip: Clip, text: str) -> tuple[str, tuple[str, ...]] | None:
    """(answer, candidates) of a question in spoken words."""
    words = text.split()
    things = clip.things
    if "written" in words:
        signs = [sign.text for sign in clip.scene.signs]
        return (signs[0], candidates(signs, PRINTED_WORDS)) if len(signs) == 1 else None
    if words[:2] == ["how", "many"]:
        return (str(len(things)), numbers(len(things))) if "shapes" in words and things else None
    wanted = [[word for word in words if word in vocabulary] for vocabulary in (COLOURS, SHAPES, SIZES)]
    if any(len(found) > 1 for found in wanted):
        return None
    meant = [
        thing
        for thing in things
        if all(not found or found[0] == is_ for found, is_ in zip(wanted, (thing.colour, thing.shape, thing.size)))
    ]
    if words[:2] == ["is", "there"] and any(wanted):
        return ("yes" if meant else "no"), YES_NO
    if len(meant) != 1 or not any(wanted):
        return None
    thing = meant[0]
    if words[0] == "where":
        word = place_word(thing.path[0].x, thing.path[0].y)
        return (word, PLACES) if word else None
    if words[:2] in (["what", "colour"], ["which", "colour"]):
        return thing.colour, candidates((t.colour for t in things), COLOURS)
    if words[:2] in (["what", "shape"], ["which", "shape"]):
        return thing.shape, candidates((t.shape for t in things), SHAPES)
    return None


FAMILIES = (
    Family("asr.transcribe", SOUND, frozenset({"speech"}), 1, transcribe),
    Family("ac.caption", SOUND, frozenset({"sounds", "video"}), 1, audio_caption),
    Family("ic.caption", PICTURE, frozenset({"image"}), 1.5, image_caption),
    Family("ocr.read", PICTURE, frozenset({"image", "video"}), 1.5, read_sign),
    Family("vqa.colour", PICTURE, frozenset({"image"}), 1, colour),
    Family("vqa.shape", PICTURE, frozenset({"image"}), 1, shape),
    Family("vqa.size", PICTURE, frozenset({"image"}), 1, size),
    Family("vqa.where", PICTURE, frozenset({"image"}), 1, where),
    Family("vqa.number", PICTURE, frozenset({"image"}), 1, number_of_things),
    Family("vqa.exists", PICTURE, frozenset({"image"}), 1, exists),
    Family("vqa.relation", PICTURE, frozenset({"image"}), 1, relation),
    Family("vqa.is_left", PICTURE, frozenset({"image"}), 1, is_left),
    Family("avsr.transcribe", SOUND, frozenset({"noisy_speech"}), 1, transcribe),
    Family("isqa.answer", BOTH, frozenset({"spoken_question"}), 1, spoken_answer),
)
