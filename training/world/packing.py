"""All questions about one clip behind one copy of its soft tokens: 2 to 3 times fewer tokens for the language model.

A row is the prefix that all its conversations share (BOS, ``USER: <Img>``, placeholders), then what is each one's own,
one after the other. Every conversation sees the prefix and itself, at the positions that it would have alone, so its
logits are those of a row of its own.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
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

_PREFIX, _FILLER = 0, -1  # segments that are no conversation
_CLIP = VideoPart("a clip")
_TEXTS_KEPT = 2**17


@dataclass(frozen=True)
class Row:
    """Tokens of one row, with their labels, and whose they are: 0 the prefix's, n those of the n-th conversation."""

    input_ids: list[int]
    labels: list[int]
    segments: list[int]


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


def pack(prompts: Sequence[EncodedPrompt], *, placeholder_token_id: int) -> Row:
    """One row of conversations about one clip, or about none: those share the BOS token alone."""
    first = prompts[0].input_ids
    num_shared = 1
    if placeholder_token_id in first:
        num_shared = len(first) - first[::-1].index(placeholder_token_id)
    shared = first[:num_shared]
    row = Row(list(shared), [IGNORED] * num_shared, [_PREFIX] * num_shared)
    for number, prompt in enumerate(prompts, start=1):
        assert prompt.input_ids[:num_shared] == shared, "these conversations are not about the same clip"
        row.input_ids.extend(prompt.input_ids[num_shared:])
        row.labels.extend(prompt.labels[num_shared:])
        row.segments.extend([number] * (len(prompt.input_ids) - num_shared))
    return row


def collate(rows: Sequence[Row], *, filler_id: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Rows, filled up on the right, as the language model's inputs.

    Args:
        filler_id: token behind a row's end. dtype: of the mask: the one that attention runs in.

    Returns:
        input_ids, labels, position_ids: (B, T) int64. attention_mask: (B, 1, T, T), added to the scores: 0 where a
        token may look, ``HIDDEN`` elsewhere; Hugging Face's language models take it as it is.
    """
    segments = _filled((row.segments for row in rows), _FILLER)
    return {
        "input_ids": torch.from_numpy(_filled((row.input_ids for row in rows), filler_id)),
        "labels": torch.from_numpy(_filled((row.labels for row in rows), IGNORED)),
        "position_ids": torch.from_numpy(_positions(segments)),
        "attention_mask": _mask(segments, dtype),
    }


def _filled(rows: Iterable[list[int]], filler: int) -> np.ndarray:
    lists = list(rows)
    filled = np.full((len(lists), max(map(len, lists))), filler, dtype=np.int64)
    for place, row in enumerate(lists):
        filled[place, : len(row)] = row
    return filled


def _positions(segments: np.ndarray) -> np.ndarray:
    """(B, T): how many tokens each one can see before itself."""
    places = np.arange(segments.shape[1])
    num_shared = (segments == _PREFIX).sum(axis=1, keepdims=True)
    begins = np.ones_like(segments, dtype=bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    first = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
    return np.where(segments == _PREFIX, places, places - first + num_shared)


def _mask(segments: np.ndarray, dtype: torch.dtype) -> Tensor:
    query, key = segments[:, :, None], segments[:, None, :]  # (B, T, 1), (B, 1, T)
    is_seen = (query == key) | (key == _PREFIX)
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
