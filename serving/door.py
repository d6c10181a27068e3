"""The front door: key, body limit, request id, and the last catch for errors. It stands before all routes.

It looks at ``scope["path"]`` alone, which no crafted ``Host`` can change. A request that is refused early is answered
at once; uvicorn throws away what its client still sends, so the answer is not lost in a reset connection.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import uuid

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import as_api_error, body_too_large, busy, unauthorized
from serving.settings import Settings

logger = logging.getLogger("favor.serving")

OPEN_PATHS = frozenset({"/health"})
_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


class FrontDoor:
    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._settings = settings
        self._key_hash = _hash(settings.api_key) if settings.api_key else None
        self._held = Held(settings.max_held_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        intake = Intake(receive, headers, self._settings.max_body_bytes, self._held)
        reply = Reply(send, _request_id(headers))
        try:
            self._check_key(scope["path"], headers)
            intake.check_declared()
            await self.app(scope, intake.receive, reply.send)
        except ClientDisconnect:
            logger.info("request %s: the client left", reply.request_id)
        except Exception as error:
            await self._answer_error(error, scope, reply)
        finally:
            intake.release()

    def _check_key(self, path: str, headers: Headers) -> None:
        if self._key_hash is None or path in OPEN_PATHS:
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if not hmac.compare_digest(_hash(key.strip()), self._key_hash) or scheme.lower() != "bearer":
            raise unauthorized()

    async def _answer_error(self, error: Exception, scope: Scope, reply: Reply) -> None:
        answer = as_api_error(error)
        if answer.status >= 500:
            logger.error("request %s failed with status %d", reply.request_id, answer.status)
        if not reply.has_started:
            await answer.response()(scope, reply.receive_nothing, reply.send)


class Held:
    """Bytes of request bodies that are in memory now, all requests together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._total = 0

    def add(self, size: int) -> None:
        if self._total + size > self._limit:
            raise busy("The server holds as many uploads as it can.", code="too_many_uploads", retry_after_s=5.0)
        self._total += size

    def remove(self, size: int) -> None:
        self._total -= size


class Intake:
    """One request's body on its way in: counted and limited, before it is put together."""

    def __init__(self, receive: Receive, headers: Headers, limit: int, held: Held) -> None:
        self._receive = receive
        self._declared = int(headers.get("content-length", "0"))
        self._limit = limit
        self._held = held
        self._size = 0

    def check_declared(self) -> None:
        if self._declared > self._limit:
            raise body_too_large(self._limit)

    async def receive(self) -> Message:
        message = await self._receive()
        size = len(message.get("body", b""))
        if self._size + size > self._limit:
            raise body_too_large(self._limit)
        self._held.add(size)
        self._size += size
        return message

    def release(self) -> None:
        self._held.remove(self._size)


class Reply:
    """One response on its way out: carries the request id, and knows whether it has started."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.has_started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_started = True
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
        await self._send(message)

    async def receive_nothing(self) -> Message:
        raise AssertionError("an error's response reads nothing")


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _request_id(headers: Headers) -> str:
    """The client's own id where it is a plain word, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"
