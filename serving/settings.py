"""What one server run is told: frozen, typed, read from the command line once."""

from __future__ import annotations

from dataclasses import dataclass, field

from favor import presets

MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """Settings of one server.

    Args:
        model: the preset or folder to load.
        engine: ``local`` answers with the model, ``echo`` repeats what it was asked.
        port: 0 takes a free one.
        api_key: when given, every route but ``/health`` asks for it.
        max_queue: conversations that may wait behind the one being answered.
        max_body_bytes: largest request body; base64 makes a clip a third larger than its file.
        max_held_bytes: bodies of all requests in flight together.
        max_media_parts: pictures, sounds and videos one request may hold.
        max_new_tokens: the most a request may ask for.
        keep_alive_s: longest silence of a stream before a comment is sent.
        drain_s: time running answers get when the server is told to stop.
    """

    model: str = presets.DEFAULT
    engine: str = "local"
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = field(default=None, repr=False)
    max_queue: int = 16
    max_body_bytes: int = 128 * MIB
    max_held_bytes: int = 512 * MIB
    max_media_parts: int = 16
    max_new_tokens: int = 4096
    keep_alive_s: float = 15.0
    drain_s: int = 30
