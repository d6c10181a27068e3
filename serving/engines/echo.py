"""An engine without a model: it repeats what it was asked. For trying the protocol, and for its tests."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass

from favor.decoding import Decoding
from favor.messages import AudioPart, ImagePart, MediaPart, Message
from serving.engines.base import Delta, EngineStoppedError, Finish, FinishReason, GenerateRequest, Health, TokenCounts


@dataclass(frozen=True)
class EchoReceipt:
    """What the echo knows of a clip: its kind and size. It decodes nothing."""

    name: str
    kind: str
    num_bytes: int
    has_separate_sound: bool

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


class EchoEngine:
    """Repeats the last message's text, one word a delta. A token is a word.

    Args:
        prepare_s: pause before the first delta, as if a clip were decoded.
        word_s: pause before each word.
    """

    name = "echo"

    def __init__(self, *, prepare_s: float = 0.0, word_s: float = 0.0) -> None:
        self.prepare_s = prepare_s
        self.word_s = word_s
        self.num_running = 0
        self.num_cancelled = 0
        self._is_started = False

    async def start(self) -> None:
        self._is_started = True

    async def stop(self) -> None:
        self._is_started = False

    def health(self) -> Health:
        return Health(is_ready=self._is_started, num_running=self.num_running)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        if not self._is_started:
            raise EngineStoppedError("the echo is not started")
        is_finished = False
        self.num_running += 1
        try:
            async for delta in self._answer(request):
                is_finished = delta.finish is not None
                yield delta
        finally:
            self.num_running -= 1
            self.num_cancelled += not is_finished

    async def _answer(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        await asyncio.sleep(self.prepare_s)
        yield Delta("")
        words, reason = _cut(request.messages[-1].text, request.decoding)
        for word in words:
            await asyncio.sleep(self.word_s)
            yield Delta(word)
        yield Delta("", Finish(reason, _count(request.messages, len(words)), _receipts(request.messages)))


def _cut(text: str, decoding: Decoding) -> tuple[list[str], FinishReason]:
    """The words to say, and whether the text or the limit ended them."""
    ends = [at for stop in decoding.stop if (at := text.find(stop)) >= 0]
    words = re.findall(r"\s*\S+", text[: min(ends, default=len(text))])
    if len(words) > decoding.max_new_tokens:
        return words[: decoding.max_new_tokens], "length"
    return words, "stop"


def _count(messages: tuple[Message, ...], num_said: int) -> TokenCounts:
    return TokenCounts(prompt=sum(len(message.text.split()) for message in messages), completion=num_said)


def _receipts(messages: tuple[Message, ...]) -> tuple[EchoReceipt, ...]:
    return tuple(_receipt(part) for message in messages for part in message.media)


def _receipt(part: MediaPart) -> EchoReceipt:
    kind = "audio" if isinstance(part, AudioPart) else "image" if isinstance(part, ImagePart) else "video"
    sound = None if isinstance(part, AudioPart) else part.sound
    size = len(part.source) if isinstance(part.source, bytes) else 0
    return EchoReceipt(part.name or kind, kind, size, sound is not None)
