"""All questions about one clip behind one copy of its soft tokens: 2 to 3 times fewer tokens for the language model.

A block is the prefix that all its conversations share (BOS, ``USER: <Img>``, placeholders), then what is each one's
own, one after the other. Every conversation sees the prefix and itself, at the positions that it would have alone, so
its logits are those of a sequence of its own. Short blocks share a row of the batch: a third of it would be filler.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from favor.messages import Message, TextPart, VideoPart
from favor.processor import FavorProcessor
from favor.prompt import IGNORED, EncodedPrompt, encode, normalise, pieces_of
from training.world.question import Question

HIDDEN = -30_000.0
"""What the mask adds to the score of a hidden token: its weight is exactly 0 in every precision, and none overflows."""

_PREFIX, _FILLER = 0, -1  # the segment of a block's prefix; neither segment nor block
_CLIP = VideoPart("a clip")
_TEXTS_KEPT = 2**17


@dataclass(frozen=True)
class Block:
    """Tokens with their labels, their positions, and whose they are: 0 the prefix's, n those of conversation n."""

    input_ids: list[int]
    labels: list[int]
    position_ids: list[int]
    segments: list[int]

    def __len__(self) -> int:
        return len(self.input_ids)


class QuestionEncoder:
    """Questions to prompts, token for token as the processor lays out what a user asks and the model is to answer."""

    def __init__(self, processor: FavorProcessor) -> None:
        self.placeholder_token_id = processor.placeholder_token_id
        self._prompt_format = processor.prompt_format
        self._tokenizer: Any = _RememberingTokenizer(processor.tokenizer)

    def __call__(self, question: Question, num_soft_tokens: int | None) -> EncodedPrompt:
        """The question with its dialogue and its answer; ``num_soft_tokens`` None asks it without a clip."""
        texts = [*(text for turn in question.before for text in turn), question.text]
        messages = [Message("assistant" if n % 2 else "user", (TextPart(text),)) for n, text in enumerate(texts)]
        if num_soft_tokens is not None:
            messages[0] = Message("user", (_CLIP, *messages[0].parts))
        turns = normalise(messages, answer=question.answer)
        return encode(
            pieces_of(turns, self._tokenizer, prompt_format=self._prompt_format),
            self._tokenizer,
            placeholder_token_id=self.placeholder_token_id,
            soft_tokens_per_clip=[num_soft_tokens or 0],
        )


def pack(prompts: Sequence[EncodedPrompt], *, placeholder_token_id: int) -> Block:
    """Conversations about one clip, or about none: those share the BOS token alone."""
    first = prompts[0].input_ids
    num_shared = 1
    if placeholder_token_id in first:
        num_shared = len(first) - first[::-1].index(placeholder_token_id)
    shared = first[:num_shared]
    block = Block(list(shared), [IGNORED] * num_shared, list(range(num_shared)), [_PREFIX] * num_shared)
    for number, prompt in enumerate(prompts, start=1):
        assert prompt.input_ids[:num_shared] == shared, "these conversations are not about the same clip"
        block.input_ids.extend(prompt.input_ids[num_shared:])
        block.labels.extend(prompt.labels[num_shared:])
        block.position_ids.extend(range(num_shared, len(prompt.input_ids)))
        block.segments.extend([number] * (len(prompt.input_ids) - num_shared))
    return block


def shared_rows(lengths: Sequence[int]) -> list[list[int]]:
    """Which blocks share a row, as places in ``lengths``: no row is longer than the longest block."""
    longest = max(lengths)
    rows: list[list[int]] = []
    free: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        row = next((row for row, room in enumerate(free) if room >= lengths[place]), len(rows))
        if row == len(rows):
            rows.append([])
            free.append(longest)
        rows[row].append(place)
        free[row] -= lengths[place]
    return rows


def collate(
    rows: Sequence[Sequence[Block]], *, filler_id: int, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Rows of blocks, filled up on the right, as the language model's inputs.

    Args:
        filler_id: token behind a row's end. dtype: of the mask: the one that attention runs in.

    Returns:
        input_ids, labels, position_ids: (B, T) int64. attention_mask: (B, 1, T, T), added to the scores: 0 where a
        token may look, ``HIDDEN`` elsewhere; Hugging Face's language models take it as it is.
    """
    segments = _filled(rows, "segments", _FILLER)
    block_numbers = np.full_like(segments, _FILLER)
    for place, row in enumerate(rows):
        numbers = np.repeat(np.arange(len(row)), [len(block) for block in row])
        block_numbers[place, : len(numbers)] = numbers
    fillers = {"input_ids": filler_id, "labels": IGNORED, "position_ids": 0}
    inputs = {name: torch.from_numpy(_filled(rows, name, filler)) for name, filler in fillers.items()}
    return {**inputs, "attention_mask": _mask(block_numbers, segments, dtype)}


def _filled(rows: Sequence[Sequence[Block]], name: str, filler: int) -> np.ndarray:
    """A list of all blocks as (B, T)."""
    longest = max(sum(map(len, row)) for row in rows)
    filled = np.full((len(rows), longest), filler, dtype=np.int64)
    for place, row in enumerate(rows):
        values = list(chain.from_iterable(getattr(block, name) for block in row))
        filled[place, : len(values)] = values
    return filled


def _mask(blocks: np.ndarray, segments: np.ndarray, dtype: torch.dtype) -> Tensor:
    """(B, T), (B, T) -> (B, 1, T, T)."""
    is_seen = segments[:, :, None] == segments[:, None, :]
    is_seen |= (segments == _PREFIX)[:, None, :]
    is_seen &= blocks[:, :, None] == blocks[:, None, :]
    is_seen &= np.tri(segments.shape[1], dtype=bool)
    mask = torch.full(is_seen.shape, HIDDEN, dtype=dtype)
    return mask.masked_fill_(torch.from_numpy(is_seen), 0.0).unsqueeze(1)  # (B, 1, T, T)


class _Tokens(NamedTuple):
    input_ids: tuple[int, ...]


class _RememberingTokenizer:
    """A tokenizer that remembers what it has done: a generated world says the same again and again."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._remembered = lru_cache(_TEXTS_KEPT)(self._tokens)

    def __call__(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool) -> _Tokens:
        assert not add_special_tokens, "the layout of a prompt puts special tokens in itself"
        return self._remembered(text, split_special_tokens)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def _tokens(self, text: str, split_special_tokens: bool) -> _Tokens:
        ids = self._tokenizer(text, add_special_tokens=False, split_special_tokens=split_special_tokens).input_ids
        return _Tokens(tuple(ids))
