"""Server-sent events: chunks as ``data:`` lines, comments while nothing comes, errors as events, an end for the client
that leaves.

The response does not start before there is something to send. So an error that shows within the first silence, such as
a clip that cannot be read, still gets its own status; a later one comes as an event with ``error`` and no ``[DONE]``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.errors import as_api_error
from serving.protocol import Chunk

T = TypeVar("T")

_COMMENT = b": keep-alive\n\n"
_DONE = b"data: [DONE]\n\n"


class EventStream(Response):
    """Sends chunks as events.

    Args:
        chunks: closed when the client leaves, which cancels the engine.
        keep_alive_s: longest silence before a comment is sent.
    """

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncGenerator[Chunk, None], *, keep_alive_s: float) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._chunks = chunks
        self._keep_alive_s = keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_connected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        async with aclosing(_events(self._chunks, self._keep_alive_s)) as events:
            first = await anext(events)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await _send_body(send, first)
            try:
                async for event in events:
                    await _send_body(send, event)
            except Exception as error:
                await _send_body(send, _data(as_api_error(error).body().model_dump_json()))
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Run something for a client whose request is fully read; cancel it when the client leaves.

    Raises:
        ClientDisconnect: the client left before the end.
    """
    task = asyncio.ensure_future(work)
    departure = asyncio.ensure_future(_departure(receive))
    try:
        await asyncio.wait({task, departure}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        await _cancel(task, departure)


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _events(chunks: AsyncGenerator[Chunk, None], keep_alive_s: float) -> AsyncGenerator[bytes, None]:
    """Chunks as events, with a comment after each silence of ``keep_alive_s``."""
    upcoming: asyncio.Future[Chunk] | None = None
    try:
        while True:
            upcoming = upcoming or asyncio.ensure_future(anext(chunks))
            done, _ = await asyncio.wait({upcoming}, timeout=keep_alive_s)
            if not done:
                yield _COMMENT
                continue
            try:
                chunk = upcoming.result()
            except StopAsyncIteration:
                break
            upcoming = None
            yield _data(chunk.model_dump_json(exclude_unset=True))
        yield _DONE
    finally:
        if upcoming is not None:
            await _cancel(upcoming)
        await chunks.aclose()


async def _cancel(*futures: asyncio.Future[Any]) -> None:
    for future in futures:
        future.cancel()
    await asyncio.gather(*futures, return_exceptions=True)


def _data(text: str) -> bytes:
    return b"data: " + text.encode() + b"\n\n"


async def _send_body(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
