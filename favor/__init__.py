"""FAVOR: a language model that watches video and hears its sound (Sun et al., arXiv 2310.05863).

    from favor import Chat, VideoPart, user

    Chat.load("favor-mini").answer([user(VideoPart("clip.mp4"), "What happens after the bell rings?")])

Where things are: ``messages`` the vocabulary, ``media`` and ``clips`` decoding, ``prompt`` and ``processor`` from
messages to tensors, ``sync`` the arithmetic of steps and windows, ``encoders`` eyes and ears, ``connector`` and
``causal_qformer`` the trained heart, ``modeling`` the whole model, ``presets`` named models, ``chat`` answers,
``errors`` all that is raised on purpose.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from favor.chat import Chat
    from favor.configuration import FavorConfig
    from favor.decoding import Decoding
    from favor.errors import FavorError
    from favor.messages import AudioPart, ImagePart, Message, TextPart, VideoPart, assistant, system, user
    from favor.modeling import FavorForConditionalGeneration
    from favor.processor import FavorProcessor

__version__ = "0.1.0"

_HOMES = {
    "Chat": "chat",
    "FavorConfig": "configuration",
    "Decoding": "decoding",
    "FavorError": "errors",
    "AudioPart": "messages",
    "ImagePart": "messages",
    "Message": "messages",
    "TextPart": "messages",
    "VideoPart": "messages",
    "assistant": "messages",
    "system": "messages",
    "user": "messages",
    "FavorForConditionalGeneration": "modeling",
    "FavorProcessor": "processor",
}

__all__ = [
    "AudioPart",
    "Chat",
    "Decoding",
    "FavorConfig",
    "FavorError",
    "FavorForConditionalGeneration",
    "FavorProcessor",
    "ImagePart",
    "Message",
    "TextPart",
    "VideoPart",
    "assistant",
    "system",
    "user",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home at first use, so that ``import favor`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'favor' has no attribute {name!r}")
    return getattr(importlib.import_module(f"favor.{_HOMES[name]}"), name)
