"""The protocol's messages as favor's: roles translated, ``data:`` URIs decoded, every part named by its place.

A part's name is its path in the request (``messages[1].content[0].video_url``), so an error about a clip names the
field that held it. A picture directly followed by a sound in one message is one clip: the picture is shown while it
sounds. Nothing is ever fetched.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import replace

from favor.messages import AudioPart, ImagePart, Message, Part, Role, TextPart, VideoPart
from serving.errors import ApiError
from serving.protocol import AudioContent, ChatMessage, Content, ImageContent, TextContent, VideoContent

ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

SOUND_FORMATS = ("wav", "mp3", "flac", "ogg", "opus", "m4a", "aac")

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp")

VIDEO_TYPES = (
    "video/mp4",
    "video/webm",
    "video/quicktime",
    "video/x-matroska",
    "video/x-msvideo",
    "video/avi",
    "video/x-m4v",
    "video/mpeg",
    "video/ogg",
    "video/3gpp",
)
"""``video/jpeg``, a list of pictures by another server's private rule, is left out on purpose."""

_DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+)((?:;[\w.+-]+=[^;,]*)*);base64,", re.ASCII | re.IGNORECASE)
_MAX_HEAD = 256


def to_messages(asked: Sequence[ChatMessage], *, max_media_parts: int) -> tuple[Message, ...]:
    """Translate a conversation; the media it holds is decoded from base64 but not yet opened.

    Raises:
        ApiError: 400 for what is written wrongly, 422 for a URL that would have to be fetched.
    """
    _check_count(asked, max_media_parts)
    return tuple(
        Message(ROLES[message.role], _parts(message, f"messages[{index}]")) for index, message in enumerate(asked)
    )


def _check_count(asked: Sequence[ChatMessage], allowed: int) -> None:
    num_media = sum(not isinstance(content, TextContent) for message in asked for content in message.content)
    if num_media > allowed:
        raise ApiError(
            400,
            f"The request holds {num_media} pictures, sounds and videos. Allowed: {allowed}. Send fewer at a time.",
            code="too_many_media_parts",
            param="messages",
        )


def _parts(message: ChatMessage, where: str) -> tuple[Part, ...]:
    parts: list[Part] = []
    for index, content in enumerate(message.content):
        place = f"{where}.content[{index}]"
        if message.role != "user" and not isinstance(content, TextContent):
            raise _misplaced(content, message.role, place)
        _append(parts, _part(content, f"{place}.{content.type}"))
    return tuple(parts)


def _append(parts: list[Part], part: Part) -> None:
    """Add a part; a sound right after a silent picture becomes the picture's."""
    before = parts[-1] if parts else None
    if isinstance(part, AudioPart) and isinstance(before, ImagePart) and before.sound is None:
        parts[-1] = replace(before, sound=part.source)
    else:
        parts.append(part)


def _part(content: Content, name: str) -> Part:
    match content:
        case TextContent():
            return TextPart(content.text)
        case ImageContent():
            return ImagePart(_decode_uri(content.image_url.url, name, IMAGE_TYPES), name=name)
        case AudioContent():
            return AudioPart(_decode_sound(content, name), name=name)
        case VideoContent():
            return VideoPart(_decode_uri(content.video_url.url, name, VIDEO_TYPES), name=name)


def _decode_sound(content: AudioContent, name: str) -> bytes:
    if content.input_audio.format.lower() not in SOUND_FORMATS:
        raise ApiError(
            400,
            f"{name} has the format {content.input_audio.format[:40]!r}. Allowed: {', '.join(SOUND_FORMATS)}.",
            code="unsupported_media_type",
            param=name,
        )
    return _decode_base64(content.input_audio.data, name)


def _decode_uri(uri: str, name: str, allowed: tuple[str, ...]) -> bytes:
    if uri[:8].lower().startswith(("http:", "https:")):
        raise ApiError(
            422,
            f"{name} is a URL, and this server fetches nothing. Allowed: a data URI. "
            f"Send the file itself as 'data:{allowed[0]};base64,...'.",
            code="remote_media_not_supported",
            param=name,
        )
    head = _DATA_URI.match(uri[:_MAX_HEAD])
    if head is None:
        raise ApiError(
            400,
            f"{name} is not a data URI in base64. Allowed: 'data:{allowed[0]};base64,...'.",
            code="invalid_data_uri",
            param=name,
        )
    if head[1].lower() not in allowed:
        raise ApiError(
            400,
            f"{name} is declared as {head[1][:80]}. Allowed: {', '.join(allowed)}. Send the file under its own type.",
            code="unsupported_media_type",
            param=name,
        )
    return _decode_base64(uri[head.end() :], name)


def _decode_base64(text: str, name: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(
            400,
            f"{name} is not valid base64. Allowed: the standard alphabet with its padding and no line breaks.",
            code="invalid_base64",
            param=name,
        ) from error
    if not data:
        raise ApiError(400, f"{name} is empty. Send the file's bytes.", code="empty_media", param=name)
    return data


def _misplaced(content: Content, role: str, place: str) -> ApiError:
    return ApiError(
        400,
        f"{place} is of type {content.type} in a message of role {role}. Allowed there: text. "
        "Send media in a message of role user.",
        code="media_not_allowed",
        param=place,
    )
