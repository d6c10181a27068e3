"""Other projects' training lists, record by record, to lines of our manifest.

messages   our own lines, as they are
sharegpt   {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", ...}], "image" | "video" | "audio": ...}
           (LLaVA, ShareGPT, video-SALMONN 2 with its "use_audio")
favor      {"image_name": path or [visual, wav], "conversation": [...]}: the list of the released FAVOR code
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, Literal

from training.data.manifest import LISTS, ManifestError

Format = Literal["messages", "sharegpt", "favor"]

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
_SOUNDS = {".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".aac", ".wma"}


def as_messages(record: object, format: Format) -> object:
    """The record of a manifest line that says the same.

    Raises:
        ManifestError: without file and line; :func:`training.data.manifest.read_sample` finds what is left.
    """
    return record if format == "messages" or not isinstance(record, dict) else _IMPORTERS[format](record)


def _sharegpt(record: Mapping[str, Any]) -> dict[str, Any]:
    media = {name: _listed(record, name.removesuffix("s"), name) for name in LISTS.values()}
    messages = _turns(record.get("conversations"), key="conversations")
    if isinstance(record.get("system"), str) and record["system"]:
        messages.insert(0, {"role": "system", "content": record["system"]})
    if media["videos"] and not media["images"]:  # LLaVA's video sets write <image> for a video
        messages = [{**turn, "content": _renamed(turn["content"], turn["role"])} for turn in messages]
    own_sound = record.get("use_audio_in_video", record.get("use_audio", True))
    return {**_id(record), "messages": messages, **media, "use_audio_in_video": own_sound, **_stated_seconds(record)}


def _favor(record: Mapping[str, Any]) -> dict[str, Any]:
    """The released code read picture and sound from two files, so a lone video stands for its picture."""
    messages = _turns(record.get("conversation"), key="conversation")
    for turn in messages:
        if turn["role"] == "user":
            for mark in LISTS:
                turn["content"] = turn["content"].replace(mark, "").strip()
    given = record.get("image_name")
    paths = [given] if isinstance(given, str) else given
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths) or not 1 <= len(paths) <= 2:
        raise _unreadable(f"image_name is {given!r}"[:200], "a path, or [visual path, sound path]")
    marks = [_mark(paths[0]), *("<audio>" for _ in paths[1:])]
    media: dict[str, list[str]] = {name: [] for name in LISTS.values()}
    for mark, path in zip(marks, paths, strict=True):
        media[LISTS[mark]].append(path)
    first = next((turn for turn in messages if turn["role"] == "user"), None)
    if first is not None:
        first["content"] = "".join(marks) + first["content"]
    own_sound = record.get("use_audio_in_video", False)
    return {**_id(record), "messages": messages, **media, "use_audio_in_video": own_sound, **_stated_seconds(record)}


_IMPORTERS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {"sharegpt": _sharegpt, "favor": _favor}


def _turns(turns: object, *, key: str) -> list[dict[str, str]]:
    """Turns of {from, value}, or of [question, answer] as in the dialogue files of SAVEBench."""
    if not isinstance(turns, list):
        raise _unreadable(f"no list {key!r}", "a list of {from, value}")
    messages = []
    for number, turn in enumerate(turns, 1):
        if isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn):
            messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
            continue
        role = _ROLES.get(str(turn.get("from"))) if isinstance(turn, dict) else None
        if role is None or not isinstance(turn.get("value"), str):
            raise _unreadable(f"turn {number} of {key!r} is not a speaker and a text", f"from: {', '.join(_ROLES)}")
        messages.append({"role": role, "content": turn["value"]})
    return messages


def _listed(record: Mapping[str, Any], *names: str) -> list[Any]:
    for name in names:
        if record.get(name):
            return record[name] if isinstance(record[name], list) else [record[name]]
    return []


def _renamed(content: str, role: str) -> str:
    return content.replace("<image>", "<video>") if role == "user" else content


def _mark(path: str) -> str:
    suffix = PurePosixPath(path).suffix.lower()
    return "<image>" if suffix in _IMAGES else "<audio>" if suffix in _SOUNDS else "<video>"


def _id(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": record["id"]} if "id" in record else {}


def _stated_seconds(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"seconds": record["seconds"]} if "seconds" in record else {}


def _unreadable(given: str, allowed: str) -> ManifestError:
    return ManifestError("malformed_line", given, allowed=allowed, advice="Correct the record, or the format's name")
