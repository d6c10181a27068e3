"""The vocabulary every room shares: a conversation is a list of messages, a message is a role and its parts.

A media part holds bytes or a path, never a URL: fetching is the server's business. ``name`` is what error messages call
the part; a path's own name serves when none is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from favor.errors import MessageError

Role = Literal["system", "user", "assistant"]
Source = bytes | str | Path


@dataclass(frozen=True)
class TextPart:
    text: str


@dataclass(frozen=True)
class ImagePart:
    """One still picture; with ``sound`` it is shown for as long as the sound lasts."""

    source: Source
    sound: Source | None = None
    name: str | None = None


@dataclass(frozen=True)
class AudioPart:
    """Sound alone."""

    source: Source
    name: str | None = None


@dataclass(frozen=True)
class VideoPart:
    """A video with its own sound.

    ``sound`` is a separate sound file that replaces the video's own; ``use_audio=False`` asks for the picture alone.
    """

    source: Source
    sound: Source | None = None
    name: str | None = None
    use_audio: bool = True


MediaPart = ImagePart | AudioPart | VideoPart
Part = TextPart | MediaPart


@dataclass(frozen=True)
class Message:
    role: Role
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if self.role not in ("system", "user", "assistant"):
            raise MessageError(
                f"a message has the role {self.role!r}",
                allowed="system, user or assistant",
                advice="Correct the role",
            )
        for part in self.parts:
            if not isinstance(part, TextPart | ImagePart | AudioPart | VideoPart):
                raise MessageError(
                    f"a message holds a part of the type {type(part).__name__}",
                    allowed="TextPart, ImagePart, AudioPart and VideoPart",
                    advice="Wrap it; user() wraps plain strings",
                )

    @property
    def text(self) -> str:
        """The message's text parts joined by line breaks."""
        return "\n".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def media(self) -> tuple[MediaPart, ...]:
        """The parts that are not text, in order."""
        return tuple(part for part in self.parts if not isinstance(part, TextPart))


def user(*parts: Part | str) -> Message:
    """A user's message; plain strings become text parts."""
    return Message("user", _as_parts(parts))


def assistant(text: str) -> Message:
    return Message("assistant", (TextPart(text),))


def system(text: str) -> Message:
    return Message("system", (TextPart(text),))


def _as_parts(parts: tuple[Part | str, ...]) -> tuple[Part, ...]:
    return tuple(TextPart(part) if isinstance(part, str) else part for part in parts)
