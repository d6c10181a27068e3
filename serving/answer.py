"""From an engine's deltas to the protocol's responses: a whole completion, or the chunks of a stream.

The order of a stream is fixed: a chunk with the role; chunks of content; a last one with ``finish_reason``, which also
has ``media_report`` and ``warnings``; with ``include_usage`` one more chunk without choices that has ``usage`` (null in
all before it). ``stream`` adds the final ``[DONE]``.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from serving.call import ChatCall
from serving.engines.base import Delta, Finish, Receipt, TokenCounts
from serving.protocol import AnswerDelta, AnswerMessage, Choice, Chunk, ChunkChoice, Completion, PromptTokens, Usage


async def completion(deltas: AsyncGenerator[Delta, None], call: ChatCall) -> Completion:
    """Gather a whole answer; the engine is cancelled when this is."""
    texts: list[str] = []
    finish: Finish | None = None
    async with aclosing(deltas):
        async for delta in deltas:
            texts.append(delta.text)
            finish = delta.finish
    assert finish is not None, "the engine's last delta has no finish"
    return Completion(
        id=_new_id(),
        object="chat.completion",
        created=int(time.time()),
        model=call.request.model,
        choices=[_choice("".join(texts), finish)],
        usage=_usage(finish.tokens),
        media_report=_report(finish.receipts),
        warnings=list(call.warnings),
    )


async def chunks(deltas: AsyncGenerator[Delta, None], call: ChatCall) -> AsyncGenerator[Chunk, None]:
    """The chunks of a stream, in the order above; the first waits for the engine's first delta."""
    maker = _ChunkMaker(_new_id(), int(time.time()), call)
    is_open = False
    async with aclosing(deltas):
        async for delta in deltas:
            if not is_open:
                is_open = True
                yield maker.delta(AnswerDelta(role="assistant", content=""))
            if delta.text:
                yield maker.delta(AnswerDelta(content=delta.text))
            if delta.finish is not None:
                yield maker.finish(delta.finish)
                if call.include_usage:
                    yield maker.usage(delta.finish)


@dataclass(frozen=True)
class _ChunkMaker:
    """Builds one stream's chunks: same id, same time, ``usage: null`` where the usage will follow."""

    id: str
    created: int
    call: ChatCall

    def delta(self, delta: AnswerDelta) -> Chunk:
        return self._chunk([ChunkChoice(index=0, delta=delta, logprobs=None, finish_reason=None)])

    def finish(self, finish: Finish) -> Chunk:
        chunk = self._chunk([ChunkChoice(index=0, delta=AnswerDelta(), logprobs=None, finish_reason=finish.reason)])
        chunk.media_report = _report(finish.receipts)
        chunk.warnings = list(self.call.warnings)
        return chunk

    def usage(self, finish: Finish) -> Chunk:
        chunk = self._chunk([])
        chunk.usage = _usage(finish.tokens)
        return chunk

    def _chunk(self, choices: list[ChunkChoice]) -> Chunk:
        chunk = Chunk(
            id=self.id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.call.request.model,
            choices=choices,
        )
        if self.call.include_usage:
            chunk.usage = None  # set, so written as null
        return chunk


def _choice(text: str, finish: Finish) -> Choice:
    message = AnswerMessage(role="assistant", content=text, refusal=None)
    return Choice(index=0, message=message, logprobs=None, finish_reason=finish.reason)


def _usage(tokens: TokenCounts) -> Usage:
    details = PromptTokens(
        cached_tokens=0, audio_tokens=tokens.audio, video_tokens=tokens.video, image_tokens=tokens.image
    )
    return Usage(
        prompt_tokens=tokens.prompt,
        completion_tokens=tokens.completion,
        total_tokens=tokens.prompt + tokens.completion,
        prompt_tokens_details=details,
    )


def _report(receipts: Sequence[Receipt]) -> list[dict[str, object]]:
    return [receipt.to_dict() for receipt in receipts]


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"
