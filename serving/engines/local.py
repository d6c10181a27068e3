"""The embedded engine: one worker thread around ``favor.chat.Chat``, one bounded queue in front of it.

The worker decodes, encodes and generates; the event loop only passes deltas on. A closed iterator sets a flag that the
worker reads while it decodes and after every token, so a cancelled answer costs at most one token more, and one that
still waits costs none.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from serving.engines.base import Delta, EngineStoppedError, Finish, GenerateRequest, Health, QueueFullError, TokenCounts

if TYPE_CHECKING:
    from favor.chat import Chat, Prepared

T = TypeVar("T")
logger = logging.getLogger("favor.serving")

_FIRST_GUESS_S = 5.0
"""Seconds an answer takes, before any was timed."""


class _CancelledError(Exception):
    """The client closed the iterator."""


@dataclass(frozen=True, eq=False)
class _Job:
    request: GenerateRequest
    emit: Callable[[Delta | Exception], None]
    cancelled: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        if self.cancelled.is_set():
            raise _CancelledError


class LocalEngine:
    """Answers with a model in this process, one conversation at a time.

    Args:
        model: a preset's name or a folder.
        max_queue: conversations that may wait behind the running one.
    """

    def __init__(self, model: str, *, max_queue: int) -> None:
        self.name = Path(model).name
        self._model = model
        self._max_queue = max_queue
        self._chat: Chat | None = None
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="favor-engine")
        self._jobs: set[_Job] = set()
        self._mean_s = _FIRST_GUESS_S

    async def start(self) -> None:
        chat = await asyncio.wrap_future(self._worker.submit(_load, self._model))
        self.name = Path(chat.name).name
        self._chat = chat

    async def stop(self) -> None:
        self._chat = None
        for job in self._jobs:
            job.cancelled.set()
            job.emit(EngineStoppedError("the server is stopping"))
        await asyncio.to_thread(self._worker.shutdown, cancel_futures=True)

    def health(self) -> Health:
        num_running = min(1, len(self._jobs))
        return Health(self._chat is not None, num_running, len(self._jobs) - num_running)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        inbox: asyncio.Queue[Delta | Exception] = asyncio.Queue()
        job, future = self._submit(request, inbox)
        try:
            while True:
                item = await inbox.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.finish is not None:
                    return
        finally:
            job.cancelled.set()
            future.cancel()

    def _submit(self, request: GenerateRequest, inbox: asyncio.Queue[Delta | Exception]) -> tuple[_Job, Future[None]]:
        """Put a job in the queue; it leaves ``_jobs`` when the worker is done with it, or when cancelled in time."""
        if self._chat is None:
            raise EngineStoppedError("the model is not loaded")
        num_waiting = len(self._jobs) - 1
        if num_waiting >= self._max_queue:
            raise QueueFullError(num_waiting, retry_after_s=self._mean_s * len(self._jobs))
        loop = asyncio.get_running_loop()
        job = _Job(request, emit=lambda item: _call(loop, inbox.put_nowait, item))
        self._jobs.add(job)
        future = self._worker.submit(self._work, self._chat, job)
        future.add_done_callback(lambda _: _call(loop, self._jobs.discard, job))
        return job, future

    def _work(self, chat: Chat, job: _Job) -> None:
        """One job, on the worker's thread; what goes wrong is raised again on the loop, where it is answered."""
        started = time.monotonic()
        try:
            job.check()
            self._answer(chat, job)
            self._mean_s += 0.2 * (time.monotonic() - started - self._mean_s)
        except _CancelledError:
            logger.debug("an answer was cancelled after %.1f s", time.monotonic() - started)
        except Exception as error:
            job.emit(error)

    def _answer(self, chat: Chat, job: _Job) -> None:
        prepared = chat.prepare(job.request.messages, progress=lambda done_s, total_s: job.check())
        job.check()
        job.emit(Delta(""))
        num_tokens = 0
        for piece in chat.stream(prepared, job.request.decoding, cancelled=job.cancelled):
            job.check()
            num_tokens += piece.num_tokens
            if piece.finish_reason is not None:
                finish = Finish(piece.finish_reason, _count(prepared, num_tokens), prepared.receipts)
                return job.emit(Delta(piece.text, finish))
            job.emit(Delta(piece.text))
        job.check()
        raise AssertionError(f"the answer ended after {num_tokens} tokens without a reason")


def _load(model: str) -> Chat:
    from favor.chat import Chat

    return Chat.load(model)


def _count(prepared: Prepared, num_tokens: int) -> TokenCounts:
    return TokenCounts(
        prompt=prepared.num_prompt_tokens,
        completion=num_tokens,
        video=prepared.num_video_tokens,
        audio=prepared.num_audio_tokens,
        image=prepared.num_image_tokens,
    )


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[T], object], argument: T) -> None:
    """Run on the loop from the worker; a loop that has ended needs no news."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, argument)
