"""The contract of an engine: a conversation goes in, deltas come out.

Closing the iterator is how a caller cancels. Engines are interchangeable; the routes know no more than this file.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Protocol

from favor.decoding import Decoding
from favor.messages import Message

FinishReason = Literal["stop", "length"]


class Receipt(Protocol):
    """What was seen and heard of one clip."""

    def to_dict(self) -> dict[str, object]: ...


@dataclass(frozen=True)
class GenerateRequest:
    messages: tuple[Message, ...]
    decoding: Decoding
    model: str


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of one request; the three media counts are parts of ``prompt``."""

    prompt: int
    completion: int
    video: int = 0
    audio: int = 0
    image: int = 0


@dataclass(frozen=True)
class Finish:
    """Why an answer ended, what it cost and what it was about."""

    reason: FinishReason
    tokens: TokenCounts
    receipts: tuple[Receipt, ...] = ()


@dataclass(frozen=True)
class Delta:
    """The next piece of an answer; ``text`` may be empty. Only the last one has ``finish``."""

    text: str
    finish: Finish | None = None


@dataclass(frozen=True)
class Health:
    is_ready: bool
    num_running: int = 0
    num_waiting: int = 0


class QueueFullError(Exception):
    """The engine takes no more work for now."""

    def __init__(self, num_waiting: int, *, retry_after_s: float) -> None:
        super().__init__(f"{num_waiting} conversations are waiting already")
        self.retry_after_s = retry_after_s


class EngineStoppedError(Exception):
    """The engine has not been started, or has been stopped."""


class Engine(Protocol):
    @property
    def name(self) -> str:
        """The model's name, as clients ask for it; never a path."""
        ...

    async def start(self) -> None:
        """Make ready to answer; loading may take long. Raises FavorError."""
        ...

    async def stop(self) -> None:
        """Cancel what runs and free what is held."""
        ...

    def health(self) -> Health: ...

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        """Answer one conversation.

        The first delta comes as soon as the media is read, so that errors of a clip come before any text.

        Raises:
            FavorError: the conversation cannot be answered as it stands.
            QueueFullError: try again later.
            EngineStoppedError: the engine is not running.
        """
        ...
