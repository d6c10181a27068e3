"""What happens in one clip, as data: a ``Scene`` is drawn, played, asked about and labelled, never changed.

Times are seconds from the clip's beginning. Places are shares of the picture's side, x to the right, y downwards.
Thing numbers index ``Scene.things``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["video", "match", "cause", "image", "sounds", "speech", "noisy_speech", "spoken_question"]
"""What a clip is made for:

``video``            things come, move, flash and go, sounds are heard; anything may be asked
``match``            every flash has its sound, or all sounds are shifted away from the flashes
``cause``            a thing changes colour because of a collision or of a sound
``image``            one still picture with things, a sign, or both; silent
``sounds``           sound events without a picture
``speech``           a spoken phrase without a picture
``noisy_speech``     a spoken phrase in noise beside a picture of what it speaks of
``spoken_question``  a spoken question beside the picture that it asks about
"""


@dataclass(frozen=True)
class Span:
    """From ``start_s`` to ``end_s``."""

    start_s: float
    end_s: float

    def contains(self, time_s: float) -> bool:
        return self.start_s <= time_s < self.end_s

    def overlaps(self, other: Span) -> bool:
        return self.start_s < other.end_s and other.start_s < self.end_s


@dataclass(frozen=True)
class Waypoint:
    """Where a thing is at a time."""

    time_s: float
    x: float
    y: float


@dataclass(frozen=True)
class Recolour:
    """A thing takes another colour at once, a moment after what causes it.

    Args:
        time_s: when. colour: the new one.
        cause: ``sound`` or ``collision``. cause_number: index into ``Scene.sounds`` or ``Scene.collisions``.
    """

    time_s: float
    colour: str
    cause: Literal["sound", "collision"]
    cause_number: int


@dataclass(frozen=True)
class Thing:
    """Something visible.

    Args:
        colour, shape, size: as in the vocabulary; no two things of a scene share a colour or a shape.
        path: in order of time; it enters at the first waypoint, leaves at the last, moves linearly between.
        flashes: when it wears a bright ring, at least 0.6 s each: the sign that it sounds (or pretends to).
        recolour: its change of colour, if any.
    """

    colour: str
    shape: str
    size: str
    path: tuple[Waypoint, ...]
    flashes: tuple[Span, ...] = ()
    recolour: Recolour | None = None

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def visible(self) -> Span:
        return Span(self.path[0].time_s, self.path[-1].time_s)

    def place(self, time_s: float) -> tuple[float, float]:
        """(x, y) at a time within ``visible``."""
        for first, second in zip(self.path, self.path[1:], strict=False):
            if time_s <= second.time_s:
                share = (time_s - first.time_s) / max(second.time_s - first.time_s, 1e-9)
                share = min(max(share, 0.0), 1.0)
                return first.x + share * (second.x - first.x), first.y + share * (second.y - first.y)
        return self.path[-1].x, self.path[-1].y

    def colour_at(self, time_s: float) -> str:
        return self.recolour.colour if self.recolour and time_s >= self.recolour.time_s else self.colour

    def is_flashing(self, time_s: float) -> bool:
        return any(flash.contains(time_s) for flash in self.flashes)


@dataclass(frozen=True)
class Collision:
    """Two things meet and turn back."""

    time_s: float
    first: int
    second: int


@dataclass(frozen=True)
class Sound:
    """A sound event.

    Args:
        kind: one of vocabulary.SOUNDS. span: when, 0.5-1.2 s long.
        pitch: in [0, 1], from the kind's lowest to its highest. level_db: of its loudest part, full scale 0.
        source: number of the thing that flashes with it, or None for a sound from off the screen.
    """

    kind: str
    span: Span
    pitch: float
    level_db: float
    source: int | None = None


@dataclass(frozen=True)
class Utterance:
    """Spoken words.

    Args:
        text: lower case, words of vocabulary.SPOKEN_WORDS parted by single spaces.
        start_s: when the first word begins. voice: a name of training.world.speech.VOICES.
        rate: words per minute. pitch: 0-99. level_db: full scale 0.
    """

    text: str
    start_s: float
    voice: str
    rate: int = 160
    pitch: int = 50
    level_db: float = -18.0


@dataclass(frozen=True)
class Sign:
    """Printed characters. ``x``, ``y`` are the middle of the text."""

    text: str
    span: Span
    x: float
    y: float


@dataclass(frozen=True)
class Scene:
    """One clip.

    Args:
        seed: what it was drawn from. kind: see :data:`Kind`. seconds: its length; 2-20, for an image 0.
        is_matched: of kind ``match`` only: do the sounds belong to the flashes?
        background: RGB, 0-255. grain: standard deviation of picture noise, 0-255.
        noise_db: level of noise under all sound, full scale 0; None has digital silence.
    """

    seed: int
    kind: Kind
    seconds: float
    things: tuple[Thing, ...] = ()
    sounds: tuple[Sound, ...] = ()
    utterances: tuple[Utterance, ...] = ()
    signs: tuple[Sign, ...] = ()
    collisions: tuple[Collision, ...] = ()
    is_matched: bool | None = None
    background: tuple[int, int, int] = (24, 24, 28)
    grain: float = 4.0
    noise_db: float | None = -55.0

    @property
    def has_picture(self) -> bool:
        return self.kind not in ("sounds", "speech")

    @property
    def is_still(self) -> bool:
        """One picture, with or without sound beside it."""
        return self.kind in ("image", "noisy_speech", "spoken_question")

    @property
    def has_sound(self) -> bool:
        return self.kind != "image"
