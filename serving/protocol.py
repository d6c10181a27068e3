"""What travels over HTTP: the requests we read and the responses we write, as pydantic models.

Every model keeps the fields it does not know, so that they can be named in ``warnings`` instead of vanishing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue
from pydantic_core import PydanticCustomError

# ---- requests --------------------------------------------------------------------------------------------------------


class _Asked(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)


class Url(_Asked):
    url: str


class EncodedSound(_Asked):
    data: str
    format: str


class TextContent(_Asked):
    type: Literal["text"]
    text: str


class ImageContent(_Asked):
    type: Literal["image_url"]
    image_url: Url


class AudioContent(_Asked):
    type: Literal["input_audio"]
    input_audio: EncodedSound


class VideoContent(_Asked):
    type: Literal["video_url"]
    video_url: Url


Content = Annotated[TextContent | ImageContent | AudioContent | VideoContent, Field(discriminator="type")]


def _as_list(content: object) -> list[object]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, list):
        return content
    raise PydanticCustomError("content_type", "Input should be a text or a list of content parts")


def _as_strings(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


StopText = Annotated[str, Field(min_length=1, max_length=1000)]


class ChatMessage(_Asked):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[Content], BeforeValidator(_as_list), Field(min_length=1, max_length=256)]


class StreamOptions(_Asked):
    include_usage: bool | None = None


class ChatRequest(_Asked):
    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1024)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[list[StopText], BeforeValidator(_as_strings), Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


HARMLESS = frozenset(
    {
        *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prediction"),
        *("prompt_cache_retention", "parallel_tool_calls", "name", "refusal", "annotations", "detail"),
        "include_obfuscation",
    }
)
"""Known fields that leave the answer as it is: taken in silence."""

NEUTRAL: dict[str, tuple[JsonValue, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "tool_calls": ([],),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "best_of": (1,),
    "num_beams": (1,),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "top_k": (-1, 0),
    "min_p": (0,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "echo": (False,),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "media_io_kwargs": ({},),
    "continue_final_message": (False,),
    "prompt_logprobs": (0,),
    "lora_request": (),
}
"""Known fields that would change the answer and are not served: allowed only with the values that change nothing."""


def unknown_fields(model: BaseModel, where: str = "") -> Iterator[tuple[str, str, JsonValue]]:
    """Every field that a model does not define, below it too: (path, last name, value). Nulls say nothing."""
    for name, value in (model.model_extra or {}).items():
        if value is not None:
            yield where + name, name, value
    for name in type(model).model_fields:
        yield from _below(getattr(model, name), where + name)


def _below(value: Any, where: str) -> Iterator[tuple[str, str, JsonValue]]:
    if isinstance(value, BaseModel):
        yield from unknown_fields(value, where + ".")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _below(item, f"{where}[{index}]")


# ---- responses -------------------------------------------------------------------------------------------------------


ReceiptBody = dict[str, object]
"""A receipt, as its ``to_dict`` wrote it."""


class PromptTokens(BaseModel):
    cached_tokens: int
    audio_tokens: int
    video_tokens: int
    image_tokens: int


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens


class AnswerMessage(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: None
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    """The whole answer. ``media_report`` and ``warnings`` are ours; clients that do not know them keep them."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    media_report: list[ReceiptBody]
    warnings: list[str]


class AnswerDelta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    index: int
    delta: AnswerDelta
    logprobs: None
    finish_reason: Literal["stop", "length"] | None


class Chunk(BaseModel):
    """One event of a stream; fields never set are not written. The chunk with the finish reason has the report."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    media_report: list[ReceiptBody] | None = None
    warnings: list[str] | None = None


class ModelCard(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelCard]


class HealthBody(BaseModel):
    status: Literal["ok", "unavailable"]
    model: str
    num_running: int
    num_waiting: int
