"""One line of a manifest to a sample, as favor sees it.

    {"id": "a-1", "videos": ["clips/a.mp4"], "audios": [], "images": [], "use_audio_in_video": true, "seconds": 12.5,
     "messages": [{"role": "user", "content": "<video>What happens?"}, {"role": "assistant", "content": "It rains."}],
     "meta": {}}

All but ``messages`` may be left out.

- Placeholders ``<video>``, ``<audio>``, ``<image>`` in user contents say where the files of the lists stand; they must
  match in number, and are taken in order. Without any placeholder all media belong to the first user turn: videos, then
  images, then audios, each its own clip.
- ``<video><audio>``, with nothing between, is one clip: that sound in place of the video's own.
  ``<image><audio>`` is a picture shown for as long as its sound lasts.
- ``use_audio_in_video: false`` says that the videos' own sound is not used. Without it a video must have sound.
- Paths are relative to ``media_root``, or else to the manifest's folder.
- Unknown keys are errors; whatever else a line should carry goes into ``meta``.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from favor.errors import FavorError
from favor.messages import AudioPart, ImagePart, MediaPart, Message, TextPart, VideoPart

LISTS = {"<video>": "videos", "<audio>": "audios", "<image>": "images"}
"""Placeholder -> the list that its file is taken from."""

_KEYS = ("id", "messages", "videos", "audios", "images", "use_audio_in_video", "seconds", "meta")
_ROLES = ("system", "user", "assistant")
_PLACEHOLDER = re.compile("(" + "|".join(LISTS) + ")")


class ManifestError(FavorError):
    """A line that is no sample. ``kind`` sorts it in reports; the text begins with file and line."""

    code = "invalid_manifest"

    def __init__(self, kind: str, given: str, *, allowed: str, advice: str) -> None:
        self.kind = kind
        super().__init__(given, allowed=allowed, advice=advice)


@dataclass(frozen=True)
class Sample:
    """One line of a manifest, as favor sees it.

    Args:
        key: stable: the line's "id", or "<file>:<line number>".
        source: the file's name.
        messages: turns; the last one is an assistant's (the answer).
        seconds: audio-visual seconds if the line states them (a cleaned manifest has measured them), else 0.
    """

    key: str
    source: str
    messages: tuple[Message, ...]
    seconds: float

    @property
    def question(self) -> tuple[Message, ...]:
        """All turns but the answer."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        return self.messages[-1].text

    @property
    def media(self) -> tuple[MediaPart, ...]:
        """All clips in order."""
        return tuple(part for message in self.messages for part in message.media)

    @property
    def num_characters(self) -> int:
        return sum(len(message.text) for message in self.messages)


def read_sample(record: object, *, place: object, key: str, source: str, folder: Path) -> Sample:
    """The sample of one decoded line.

    Args:
        record: the line, as JSON gives it.
        place: file and line, for errors; only its ``str`` is asked for, and only then.
        key: of the sample when the line has no "id".
        source: name of the file.
        folder: where relative paths begin.

    Raises:
        ManifestError: says file and line, what is wrong, and what to do.
    """
    try:
        return _read(record, key=key, source=source, folder=folder)
    except ManifestError as error:
        raise ManifestError(error.kind, f"{place}: {error.given}", allowed=error.allowed, advice=error.advice) from None


def _read(record: object, *, key: str, source: str, folder: Path) -> Sample:
    if not isinstance(record, dict):
        raise _malformed(f"the line is of the type {type(record).__name__}", "one JSON object per line")
    _check_keys(record)
    turns = _turns(record)
    media = {name: _paths(record, name, folder) for name in LISTS.values()}
    uses_own_sound = record.get("use_audio_in_video", True)
    if not isinstance(uses_own_sound, bool):
        raise _malformed(f"use_audio_in_video is {uses_own_sound!r}", "true or false")
    messages = _messages(turns, media, uses_own_sound=uses_own_sound)
    return Sample(_key(record, key), source, messages, _seconds(record))


def _check_keys(record: Mapping[str, Any]) -> None:
    for name in record:
        if name not in _KEYS:
            nearest = difflib.get_close_matches(name, _KEYS, n=1, cutoff=0.6)
            raise ManifestError(
                "unknown_key",
                f"the unknown key {name!r}",
                allowed=", ".join(_KEYS),
                advice=f"Did you mean {nearest[0]!r}" if nearest else "Put it into 'meta'",
            )


def _turns(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(role, content) of every turn, checked for form and for empty answers."""
    turns = record.get("messages")
    if not isinstance(turns, list) or not turns:
        raise _malformed("no 'messages'", "a list of {role, content}")
    pairs = []
    for number, turn in enumerate(turns, 1):
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if role not in _ROLES or not isinstance(content, str):
            raise _malformed(
                f"message {number} is not a role and a content", f"role: {', '.join(_ROLES)}; content: text"
            )
        if role == "assistant" and not content.strip():
            raise ManifestError(
                "empty_answer",
                f"message {number} is an empty answer",
                allowed="text",
                advice="Write it, or drop the line",
            )
        pairs.append((role, content))
    _check_order([role for role, _ in pairs])
    return pairs


def _check_order(roles: Sequence[str]) -> None:
    spoken = list(roles[1:] if roles[0] == "system" else roles)
    if not spoken or len(spoken) % 2 or spoken != ["user", "assistant"] * (len(spoken) // 2):
        raise ManifestError(
            "wrong_turns",
            f"the roles are {', '.join(roles)}",
            allowed="at most one system message first, then user and assistant in turn, an assistant's last",
            advice="Reorder the messages",
        )


def _paths(record: Mapping[str, Any], name: str, folder: Path) -> list[Path]:
    paths = record.get(name) or []
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise _malformed(f"{name!r} is not a list of paths", "a list of paths")
    for path in paths:
        if re.match(r"[a-z][a-z0-9+.-]+://", path):
            raise _malformed(f"{name!r} holds an address", "paths of files")
    return [folder / path for path in paths]


def _seconds(record: Mapping[str, Any]) -> float:
    seconds = record.get("seconds") or 0.0
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise _malformed(f"'seconds' is {seconds!r}", "a number of seconds, 0 or more")
    return float(seconds)


def _key(record: Mapping[str, Any], key: str) -> str:
    given = record.get("id")
    if given is None or given == "":
        return key
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise _malformed(f"'id' is {given!r}"[:100], "text or a whole number")
    return str(given)


def _messages(
    turns: Sequence[tuple[str, str]], media: Mapping[str, list[Path]], *, uses_own_sound: bool
) -> tuple[Message, ...]:
    """Turns with their clips; every file of the lists stands exactly where its placeholder was."""
    contents = [_PLACEHOLDER.split(content) if role == "user" else [content] for role, content in turns]
    if not any(piece in LISTS for pieces in contents for piece in pieces):
        first_user = next(number for number, (role, _) in enumerate(turns) if role == "user")
        marks = [mark for mark in ("<video>", "<image>", "<audio>") for _ in media[LISTS[mark]]]
        contents[first_user] = [piece for mark in marks for piece in (mark, " ")] + contents[first_user]
    _check_numbers(contents, media)
    files = {mark: iter(media[name]) for mark, name in LISTS.items()}
    messages = []
    for (role, content), pieces in zip(turns, contents, strict=True):
        if role != "user":
            messages.append(Message(role, (TextPart(content),)))  # type: ignore[arg-type]
            continue
        clips = tuple(_clips(pieces, files, uses_own_sound=uses_own_sound))
        text = " ".join(piece.strip() for piece in pieces if piece not in LISTS and piece.strip())
        if not clips and not text:
            raise ManifestError(
                "empty_question", "a user message is empty", allowed="text, a clip, or both", advice="Ask"
            )
        messages.append(Message("user", (*clips, TextPart(text)) if text else clips))
    return tuple(messages)


def _check_numbers(contents: Sequence[Sequence[str]], media: Mapping[str, list[Path]]) -> None:
    for mark, name in LISTS.items():
        number = sum(piece == mark for pieces in contents for piece in pieces)
        if number != len(media[name]):
            raise ManifestError(
                "placeholder_mismatch",
                f"{number} placeholders {mark} and {len(media[name])} files in {name!r}",
                allowed=f"as many {mark} in user messages as files in {name!r}, or no placeholder at all",
                advice="Correct the text or the list",
            )


def _clips(pieces: Sequence[str], files: Mapping[str, Iterator[Path]], *, uses_own_sound: bool) -> Iterator[MediaPart]:
    """The clips of one user turn; empty pieces between placeholders are what makes two of them one clip."""
    marks = [piece for piece in pieces if piece]
    place = 0
    while place < len(marks):
        mark, has_sound = marks[place], marks[place + 1 : place + 2] == ["<audio>"]
        place += 1
        if mark not in LISTS:
            continue
        source = next(files[mark])
        if mark == "<audio>":
            yield AudioPart(source)
            continue
        sound = next(files["<audio>"]) if has_sound else None
        place += has_sound
        if mark == "<image>":
            yield ImagePart(source, sound=sound)
        else:
            yield VideoPart(source, sound=sound, use_audio=uses_own_sound or sound is not None)


def _malformed(given: str, allowed: str) -> ManifestError:
    return ManifestError("malformed_line", given, allowed=allowed, advice="Correct the line")
