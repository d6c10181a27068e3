"""Clips in which things come, move, flash, sound and go."""

from __future__ import annotations

import random
from collections.abc import Sequence

from training.world.scene import Scene, Span, Thing

from .events import add_flashes, draw_events, draw_sound, draw_sound_kinds
from .looks import Look, draw_looks
from .motion import draw_things
from .surroundings import draw_sign, draw_sign_span, draw_surroundings
from .timing import GAP_S, LAST_S, draw_entry, draw_seconds, draw_visibilities, span_of, spread
from .wish import Wish

_MATCH_SOUND_S = (0.6, 0.95)  # below 1 s: a sound shifted by at least GAP_S never touches a flash


def make_video(rng: random.Random, wish: Wish) -> Scene:
    """Up to three things and four sounds, now and then a sign; anything may be asked."""
    seconds = draw_seconds(rng)
    signs = (draw_sign(rng, draw_sign_span(rng, seconds)),) if rng.random() < 0.2 else ()
    while True:
        looks = draw_looks(rng, rng.choices((1, 2, 3), weights=(0.2, 0.4, 0.4))[0])
        things = draw_things(rng, looks, draw_visibilities(rng, len(looks), seconds), signs)
        for _ in range(3):
            num_sounds = rng.choices((0, 1, 2, 3, 4), weights=(0.1, 0.2, 0.3, 0.25, 0.15))[0]
            flashing, sounds = draw_events(rng, things, num_sounds=num_sounds, seconds=seconds, wish=wish)
            if wish.is_novel is None or any(sound.source is not None for sound in sounds):
                return Scene(wish.seed, "video", seconds, flashing, sounds, signs=signs, **draw_surroundings(rng))


def make_match(rng: random.Random, wish: Wish) -> Scene:
    """Matched and mismatched clips differ in nothing but whether sounds take the flashes' times or others."""
    is_matched = rng.random() < 0.5
    number = rng.choice((2, 3))
    lengths = [rng.uniform(*_MATCH_SOUND_S) for _ in range(2 * number)]
    seconds = _draw_match_seconds(rng, len(lengths))
    while True:
        flashes, shifted = _draw_halves(rng, lengths, seconds)
        looks = draw_looks(rng, rng.choice((2, 3)))
        flashers = [rng.randrange(len(looks)) for _ in flashes]
        kinds = draw_sound_kinds(rng, [[looks[flasher]] for flasher in flashers], wish)
        if None in kinds:
            continue
        things = _draw_flashing_things(rng, looks, list(zip(flashers, flashes)), seconds)
        sounds = tuple(
            draw_sound(rng, str(kind), span, flasher if is_matched else None)
            for kind, span, flasher in zip(kinds, flashes if is_matched else shifted, flashers)
        )
        return Scene(wish.seed, "match", seconds, things, sounds, is_matched=is_matched, **draw_surroundings(rng))


def _draw_match_seconds(rng: random.Random, num_spans: int) -> float:
    least_s = 2.1 + GAP_S * (num_spans - 1)
    most_s = 20.0 if rng.random() < 0.4 else 13.0
    return round(rng.uniform(least_s, most_s), 1)


def _draw_halves(rng: random.Random, lengths: Sequence[float], seconds: float) -> tuple[list[Span], list[Span]]:
    """Two sets of times: halves, drawn at random, of one set, so that each alone tells nothing of the other."""
    starts = spread(rng, [GAP_S] * (len(lengths) - 1), 0.3, seconds - _MATCH_SOUND_S[1] - LAST_S)
    spans = [span_of(start, length) for start, length in zip(starts, lengths)]
    order = rng.sample(range(len(lengths)), len(lengths))
    middle = len(lengths) // 2
    return [spans[place] for place in sorted(order[:middle])], [spans[place] for place in sorted(order[middle:])]


def _draw_flashing_things(
    rng: random.Random, looks: Sequence[Look], flashes: Sequence[tuple[int, Span]], seconds: float
) -> tuple[Thing, ...]:
    """Things that are there from before their first flash to the end."""
    visible = [
        Span(draw_entry(rng, [span for flasher, span in flashes if flasher == thing]), seconds)
        for thing in range(len(looks))
    ]
    return add_flashes(draw_things(rng, looks, visible, ()), flashes)
