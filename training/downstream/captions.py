"""Captions of VALOR-32K as token ids, for retrieval and captioning alike.

A tokenizer is a folder that transformers reads; without one it is the small one that comes with FAVOR, which writes any
text and needs nothing to be fetched. What its captions are longer than ``max_tokens`` is cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

import favor.presets
from favor.downstream.valor import ValorClip, read_clips
from favor.errors import ConfigurationError
from training.downstream.contract import Files, Split

SHIPPED = Path(favor.presets.__file__).parent / "favor-mini" / "tokenizer.json"
SHIPPED_SIZE = 1024
"""Tokens of the shipped vocabulary."""

MAX_TOKENS = 64
"""Of a caption, begin and end included. VALOR takes 30 words' pieces; the shipped tokenizer's are half as long."""


class ValorFiles(Files):
    """``train``, ``val``, ``test``: id lists. ``captions``: the mapper from ids to captions.

    ``tokenizer``: a folder; None takes the shipped one. ``max_tokens``: of a caption, begin and end included.
    """

    train: str
    val: str
    test: str
    captions: str
    tokenizer: str | None = None
    max_tokens: int = MAX_TOKENS

    def clips(self, split: Split) -> tuple[ValorClip, ...]:
        """Of a split, in the id list's order."""
        return read_clips({"train": self.train, "val": self.val, "test": self.test}[split], self.captions)


@dataclass(frozen=True)
class Words:
    """Text to token ids and back; ``begin`` and ``end`` stand around every caption."""

    tokenizer: Any
    begin: int
    end: int

    @classmethod
    def of(cls, folder: str | None) -> Words:
        """Of a tokenizer's folder, or the shipped one.

        Raises:
            ConfigurationError: no tokenizer there, or one without tokens that begin and end a text.
        """
        if folder is None:
            shipped = PreTrainedTokenizerFast(tokenizer_file=str(SHIPPED), bos_token="<s>", eos_token="</s>")
            return cls(shipped, shipped.bos_token_id, shipped.eos_token_id)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError):
            raise ConfigurationError(
                "data.tokenizer is no folder with a tokenizer", allowed="what transformers saves", advice="Leave it out"
            ) from None
        begin, end = (
            _first(tokenizer.bos_token_id, tokenizer.cls_token_id),
            _first(tokenizer.eos_token_id, tokenizer.sep_token_id),
        )
        if begin is None or end is None:
            raise ConfigurationError(
                "data.tokenizer has no tokens that begin and end a text",
                allowed="bos or cls, and eos or sep",
                advice="Choose another tokenizer",
            )
        return cls(tokenizer, begin, end)

    def numbers(self, text: str, *, at_most: int) -> tuple[int, ...]:
        """Token ids of a caption between begin and end, ``at_most`` in all."""
        inner = self.tokenizer.encode(text, add_special_tokens=False)[: at_most - 2]
        return (self.begin, *inner, self.end)

    def text(self, numbers: Sequence[int]) -> str:
        """What comes before the first end, without begin."""
        inner = list(numbers)
        inner = inner[: inner.index(self.end)] if self.end in inner else inner
        kept = [number for number in inner if number != self.begin]
        return str(self.tokenizer.decode(kept, skip_special_tokens=True)).strip()


def _first(*found: int | None) -> int | None:
    return next((one for one in found if one is not None), None)
