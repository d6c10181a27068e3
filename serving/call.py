"""From a request's bytes to a call of the engine: parse, refuse what would be ignored, name what is not known."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from favor.decoding import Decoding
from serving.engines.base import GenerateRequest
from serving.errors import ApiError, model_not_found
from serving.parts import to_messages
from serving.protocol import HARMLESS, NEUTRAL, ChatRequest, unknown_fields
from serving.settings import Settings

T = TypeVar("T")

MAX_PROBLEMS = 10
MAX_WARNINGS = 20
MAX_JSON_MARKS = 200_000
"""Most ``[``, ``{`` and ``,`` of a body. Base64 holds none; a body of them alone would grow forty-fold when parsed."""


@dataclass(frozen=True)
class ChatCall:
    request: GenerateRequest
    is_stream: bool
    include_usage: bool
    warnings: tuple[str, ...]


def read_call(body: bytes, *, model: str, settings: Settings) -> ChatCall:
    """Read one chat request. Slow for a large body: keep it off the event loop.

    Raises:
        ApiError: 400 for a wrong body or field, 404 for another model, 422 for media that would have to be fetched.
    """
    chat = _parse(body)
    warnings = _judge_unknown_fields(chat)
    if chat.model != model:
        raise model_not_found(chat.model, model)
    decoding = _decoding(chat, settings.max_new_tokens)
    messages = to_messages(chat.messages, max_media_parts=settings.max_media_parts)
    options = chat.stream_options
    return ChatCall(
        GenerateRequest(messages, decoding, model),
        is_stream=bool(chat.stream),
        include_usage=bool(options and options.include_usage),
        warnings=warnings,
    )


def _parse(body: bytes) -> ChatRequest:
    if sum(body.count(mark) for mark in (b"[", b"{", b",")) > MAX_JSON_MARKS:
        raise ApiError(400, f"The body has more than {MAX_JSON_MARKS} JSON values.", code="body_too_complex")
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        raise _invalid(problems) from None


def _invalid(problems: list[ErrorDetails]) -> ApiError:
    lines = [_describe(problem) for problem in problems[:MAX_PROBLEMS]]
    if len(problems) > MAX_PROBLEMS:
        lines.append(f"and {len(problems) - MAX_PROBLEMS} more")
    return ApiError(400, "; ".join(lines), code=_code(problems[0]["type"]), param=_path(problems[0]) or None)


def _describe(problem: ErrorDetails) -> str:
    path = _path(problem)
    return f"{path}: {problem['msg'][:200]}" if path else problem["msg"][:200]


def _code(kind: str) -> str:
    if kind == "json_invalid":
        return "invalid_json"
    if kind == "missing":
        return "missing_required_parameter"
    return "invalid_type" if kind.endswith("_type") else "invalid_value"


def _path(problem: ErrorDetails) -> str:
    """A problem's place as a client would write it; pydantic adds a union's tag after a content's index, we do not."""
    place, steps = "", problem["loc"]
    for at, step in enumerate(steps):
        if isinstance(step, int):
            place += f"[{step}]"
        elif not (at > 1 and steps[at - 2] == "content"):
            place += f".{step}"
    if problem["type"].startswith("union_tag"):
        place += ".type"
    return place.removeprefix(".")[:200]


def _judge_unknown_fields(chat: ChatRequest) -> tuple[str, ...]:
    """Refuse the first field that would change the answer; list those that nobody knows."""
    unknown = []
    for path, name, value in unknown_fields(chat):
        if name in NEUTRAL and value not in NEUTRAL[name]:
            raise _unserved(path, name)
        if name not in NEUTRAL and name not in HARMLESS:
            unknown.append(f"unknown field ignored: {path[:100]}")
    left_out = len(unknown) - MAX_WARNINGS
    return tuple(unknown[:MAX_WARNINGS] + [f"and {left_out} more"] * (left_out > 0))


def _unserved(path: str, name: str) -> ApiError:
    neutral = " or ".join(["leave it out", *(json.dumps(value) for value in NEUTRAL[name])])
    return ApiError(
        400,
        f"{path} would change the answer and is not served here with that value. Allowed: {neutral}.",
        code="unsupported_parameter",
        param=path,
    )


def _decoding(chat: ChatRequest, max_new_tokens: int) -> Decoding:
    """The decoding options asked for; what is left out is favor's default, so greedy."""
    default = Decoding()
    field = "max_tokens" if chat.max_completion_tokens is None else "max_completion_tokens"
    asked = _given(chat.max_completion_tokens, _given(chat.max_tokens, min(default.max_new_tokens, max_new_tokens)))
    if asked > max_new_tokens:
        raise ApiError(
            400, f"{field} is {asked}. Allowed: 1 to {max_new_tokens}. Ask for less.", code="invalid_value", param=field
        )
    return Decoding(
        max_new_tokens=asked,
        temperature=_given(chat.temperature, default.temperature),
        top_p=_given(chat.top_p, default.top_p),
        seed=chat.seed,
        stop=tuple(chat.stop or ()),
    )


def _given(value: T | None, default: T) -> T:
    return default if value is None else value
