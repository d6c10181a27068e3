"""The one shape of every error: ``{"error": {"message", "type", "param", "code"}}``, and what becomes which status.

The official client repeats 408, 409, 429 and every 5xx by itself. So what would fail again is a 4xx, and a 5xx that
would fail again says ``x-should-retry: false``. No body holds a path, an address or a traceback.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from favor.errors import ConfigurationError, FavorError, MediaError, MessageError, PlaceholderError
from serving.engines.base import EngineStoppedError, QueueFullError

logger = logging.getLogger("favor.serving")

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_NO_RETRY = {"x-should-retry": "false"}


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: ErrorDetail


class ApiError(Exception):
    """An answer that is an error; ``param`` is the request's field, ``code`` what a program may branch on."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def body(self) -> ErrorBody:
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return ErrorBody(error=ErrorDetail(message=self.message, type=kind, param=self.param, code=self.code))

    def response(self) -> Response:
        return Response(self.body().model_dump_json(), self.status, self.headers, "application/json")


def unauthorized() -> ApiError:
    return ApiError(
        401,
        "The key is missing or wrong. Send the header 'Authorization: Bearer <key>'.",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def body_too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        f"The request's body is larger than this server takes. Allowed: {limit} bytes, base64 included. "
        "Send a shorter or smaller clip, or start the server with a larger --max-body-mib.",
        code="body_too_large",
    )


def model_not_found(asked: str, served: str) -> ApiError:
    return ApiError(
        404,
        f"There is no model {asked[:100]!r} here. Allowed: {served!r}.",
        code="model_not_found",
        param="model",
    )


def busy(message: str, *, code: str, retry_after_s: float) -> ApiError:
    """429, with the wait in both headers that clients read; the official one stops at two minutes."""
    wait_s = min(max(retry_after_s, 1.0), 120.0)
    headers = {"Retry-After": str(math.ceil(wait_s)), "retry-after-ms": str(math.ceil(wait_s * 1000))}
    return ApiError(429, message, code=code, headers=headers)


def as_api_error(error: Exception) -> ApiError:
    """What a client is told of any exception. The unexpected is logged with its traceback and told in general words."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, FavorError):
        return _of_favor(error)
    if isinstance(error, HTTPException):
        return _of_http(error)
    if isinstance(error, QueueFullError):
        return busy(f"The queue is full: {error}.", code="queue_full", retry_after_s=error.retry_after_s)
    if isinstance(error, EngineStoppedError):
        return ApiError(503, "The model is not ready to answer.", code="not_ready", headers={"Retry-After": "5"})
    return _unexpected(error)


def _of_favor(error: FavorError) -> ApiError:
    """A clip that cannot be used is 422, a question that cannot be asked 400; all else is our own fault."""
    if isinstance(error, MediaError):
        return ApiError(422, str(error), code=error.code, param=error.subject or "messages")
    if isinstance(error, MessageError):
        return ApiError(400, str(error), code=error.code, param="messages")
    if isinstance(error, (ConfigurationError, PlaceholderError)):
        return ApiError(400, str(error), code=error.code)
    return _unexpected(error)


def _of_http(error: HTTPException) -> ApiError:
    codes = {404: "unknown_route", 405: "method_not_allowed"}
    messages = {
        404: "There is no such route here. Try POST /v1/chat/completions, GET /v1/models or GET /health.",
        405: f"This route does not take that method. Allowed: {(error.headers or {}).get('Allow', 'another')}.",
    }
    status = error.status_code
    return ApiError(
        status, messages.get(status, error.detail), code=codes.get(status, "http_error"), headers=error.headers
    )


def _unexpected(error: Exception) -> ApiError:
    logger.error("unexpected error while answering", exc_info=error)
    return ApiError(
        500,
        "The server failed in a way it did not expect; its log has the details. The same request may well fail again.",
        code="internal_error",
        headers=_NO_RETRY,
    )
