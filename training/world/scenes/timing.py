"""When things happen: how long a clip is, when its things come and go, and how events spread over it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from training.world.scene import Span

FLASH_SOUND_S = (0.6, 1.1)
"""Length of flashes and sounds."""

GAP_S = 1.21
"""Between the starts of sounds, at least."""

LAST_S = 0.11
"""After the last sound, at least."""

_SHORTEST_VISIBLE_S = 1.5
_NOTICEABLE_S = 0.8  # between two entries, or two exits


def draw_seconds(rng: random.Random) -> float:
    """Between 2 and 20 s, mostly 4 to 14."""
    while True:
        seconds = math.exp(rng.gauss(math.log(8.0), 0.55))
        if 2.0 <= seconds <= 20.0:
            return round(seconds, 1)


def span_of(start_s: float, length_s: float) -> Span:
    start_s = round(start_s, 3)
    return Span(start_s, round(start_s + length_s, 3))


def spread(rng: random.Random, gaps_s: Sequence[float], low_s: float, high_s: float) -> list[float]:
    """Ascending times in [low, high], at least the gaps apart, uniform among all that are; fewer where none fit."""
    gaps_s = list(gaps_s)
    while gaps_s and sum(gaps_s) > high_s - low_s:
        gaps_s.pop()
    slack_s = max(high_s - low_s - sum(gaps_s), 0.0)
    offsets = sorted(rng.uniform(0.0, slack_s) for _ in range(len(gaps_s) + 1))
    return [low_s + offset + sum(gaps_s[:number]) for number, offset in enumerate(offsets)]


def draw_visibilities(rng: random.Random, number: int, seconds: float) -> list[Span]:
    """When things are there; entries and exits are never nearly at the same time, unless with the clip's own."""
    spans: list[Span] = []
    for _ in range(number):
        spans.append(_draw_visible_apart(rng, spans, seconds))
    return spans


def _draw_visible_apart(rng: random.Random, others: Sequence[Span], seconds: float) -> Span:
    """The whole clip where hardly any other span keeps apart from the others."""
    for _ in range(12):
        span = draw_visible(rng, seconds)
        if all(_are_told_apart(span, other, seconds) for other in others):
            return span
    return Span(0.0, seconds)


def _are_told_apart(first: Span, second: Span, seconds: float) -> bool:
    do_both_enter = first.start_s > 0.0 and second.start_s > 0.0
    do_both_leave = first.end_s < seconds and second.end_s < seconds
    is_entry_clear = not do_both_enter or abs(first.start_s - second.start_s) >= _NOTICEABLE_S
    is_exit_clear = not do_both_leave or abs(first.end_s - second.end_s) >= _NOTICEABLE_S
    return is_entry_clear and is_exit_clear


def draw_visible(rng: random.Random, seconds: float) -> Span:
    """When one thing is there: some are there from the beginning, some to the end."""
    start_s = 0.0
    if rng.random() > 0.3 and seconds > _SHORTEST_VISIBLE_S + 0.6:
        start_s = round(rng.uniform(0.6, seconds - _SHORTEST_VISIBLE_S), 3)
    end_s, earliest_s = seconds, start_s + _SHORTEST_VISIBLE_S
    if rng.random() > 0.5 and seconds - 0.6 > earliest_s:
        end_s = round(rng.uniform(earliest_s + 0.001, seconds - 0.6), 3)
    return Span(start_s, end_s)


def draw_entry(rng: random.Random, flashes: Sequence[Span]) -> float:
    """When a thing enters that flashes then: mostly at the beginning."""
    latest_s = min((flash.start_s for flash in flashes), default=2.0) - 0.2
    return round(rng.uniform(0.6, latest_s), 3) if latest_s > 0.6 and rng.random() < 0.4 else 0.0
