"""Clips to listen to: sounds alone, or speech alone, in noise beside a picture, or asking about one."""

from __future__ import annotations

import math
import random

from training.world import phrases
from training.world.scene import Scene, Span, Utterance
from training.world.speech import HELD_OUT_VOICES, VOICES

from .events import draw_events
from .stills import draw_still_things
from .surroundings import draw_sign, draw_surroundings
from .wish import Wish

_SPEECH_PEAK_DB = 16.6  # of speech's peak, which level_db means, over its root mean square, which noise_db means


def make_sounds(rng: random.Random, wish: Wish) -> Scene:
    """Up to four sounds without a picture."""
    seconds = round(rng.uniform(2.0, 10.0), 1)
    _, sounds = draw_events(rng, (), num_sounds=rng.choice((1, 2, 3, 4)), seconds=seconds, wish=wish)
    return Scene(wish.seed, "sounds", seconds, sounds=sounds, **draw_surroundings(rng))


def make_speech(rng: random.Random, wish: Wish) -> Scene:
    """A spoken phrase without a picture."""
    utterance, seconds = _draw_utterance(rng, phrases.draw(rng, wish.split), wish)
    surroundings = draw_surroundings(rng) | {"noise_db": round(rng.uniform(-60.0, -46.0), 1)}
    return Scene(wish.seed, "speech", seconds, utterances=(utterance,), **surroundings)


def make_noisy_speech(rng: random.Random, wish: Wish) -> Scene:
    """A spoken phrase, in noise up to 8 dB below it, beside a picture of what it speaks of."""
    while True:
        things = draw_still_things(rng, rng.choice((1, 2, 3)), ())
        try:
            text = phrases.draw_about(rng, things, wish.split)
        except LookupError:
            continue
        utterance, seconds = _draw_utterance(rng, text, wish)
        noise_db = round(utterance.level_db - _SPEECH_PEAK_DB - rng.uniform(0.0, 8.0), 1)
        surroundings = draw_surroundings(rng) | {"noise_db": noise_db}
        return Scene(wish.seed, "noisy_speech", seconds, things, utterances=(utterance,), **surroundings)


def make_spoken_question(rng: random.Random, wish: Wish) -> Scene:
    """A spoken question beside the picture that it asks about."""
    form = rng.choice(phrases.SPOKEN_QUESTIONS)
    has_sign = form == "what is written" or rng.random() < 0.3
    signs = (draw_sign(rng, Span(0.0, 1.0)),) if has_sign else ()
    while True:
        things = draw_still_things(rng, rng.choice((1, 2, 3)), signs)
        try:
            text = phrases.draw_question(rng, form, things)
        except LookupError:
            continue
        utterance, seconds = _draw_utterance(rng, text, wish)
        surroundings = draw_surroundings(rng)
        return Scene(
            wish.seed, "spoken_question", seconds, things, utterances=(utterance,), signs=signs, **surroundings
        )


def _draw_utterance(rng: random.Random, text: str, wish: Wish) -> tuple[Utterance, float]:
    """An utterance, and how long a clip it needs at most: words are spoken faster than supposed here."""
    names = VOICES if wish.voices == "known" else HELD_OUT_VOICES
    start_s, rate = round(rng.uniform(0.15, 0.4), 3), rng.randint(130, 190)
    level_db = round(rng.uniform(-22.0, -14.0), 1)
    utterance = Utterance(text, start_s, rng.choice(names), rate, rng.randint(30, 70), level_db)
    seconds = start_s + 0.42 * len(text.split()) * 160 / rate + 0.7
    return utterance, max(2.0, math.ceil(seconds * 10.0) / 10.0)
