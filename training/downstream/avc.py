"""Audio-visual captioning on VALOR-32K: a transformer decoder writes what it sees and hears.

Loss: cross-entropy of every next token of the caption, the mean over its tokens, then over clips. Captions are written
greedily: every token is the likeliest one. (transformers' generation would want the decoder to be a model of its own
kind with a cache; for captions of some sixty tokens that buys nothing.)

VALOR decodes with the same pretrained text model that retrieval uses; here the decoder learns from nothing.

Predictions are "tokens" (clips, max_tokens), and on disk JSON lines of {"image_id": ..., "caption": ...}, the fields of
COCO's result files, of which ``eval.metrics.captioning`` is to make figures.

Shapes: B clips, T segments; N and M tokens of a frame and of a sound, D and E widths of the encoders; W width of the
decoder; L tokens of a caption, begin and end included; V words.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from training.downstream.captions import MAX_TOKENS, SHIPPED_SIZE, ValorFiles, Words
from training.downstream.contract import Arrays, Example, Head, Seen, Split, Streams, Targets, Task
from training.recipe import Strict

NUM_SEGMENTS = 4


class AvcHeadSettings(Strict):
    """``width``, ``layers``, ``heads``, ``dropout``: of the decoder.

    ``vocabulary_size`` and ``max_tokens`` must not be below those of the data's tokenizer; ``begin`` and ``end`` are
    its tokens around a caption. The defaults are the shipped tokenizer's.
    """

    width: int = Field(default=512, gt=0)
    layers: int = Field(default=4, gt=0)
    heads: int = Field(default=8, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    vocabulary_size: int = Field(default=SHIPPED_SIZE, gt=0)
    max_tokens: int = Field(default=MAX_TOKENS, gt=1)
    begin: int = Field(default=1, ge=0)
    end: int = Field(default=2, ge=0)


class Captioned(NamedTuple):
    """What the head makes of a batch.

    Args:
        logits: (B, L - 1, V) of every next token, those before it given.
        right, is_counted: (B, L - 1) the next tokens, and whether they belong to the caption.
        written: (B, max_tokens) int64, what it says by itself, padded with the end; only in evaluation.
    """

    logits: Tensor
    right: Tensor
    is_counted: Tensor
    written: Tensor | None = None


class AvcHead(Head[Captioned]):
    """All tokens of both streams to a caption."""

    def __init__(self, settings: AvcHeadSettings, streams: Streams) -> None:
        super().__init__()
        width = settings.width
        self.settings = settings
        self.visual, self.audio = nn.Linear(streams.visual.width, width), nn.Linear(streams.audio.width, width)
        self.streams_seen = nn.Parameter(0.02 * torch.randn(2, width))
        self.moments = nn.Parameter(0.02 * torch.randn(NUM_SEGMENTS, width))
        self.memory_norm = nn.LayerNorm(width)
        self.words = nn.Embedding(settings.vocabulary_size, width)
        self.places = nn.Parameter(0.02 * torch.randn(settings.max_tokens, width))
        layer = nn.TransformerDecoderLayer(
            width,
            settings.heads,
            4 * width,
            settings.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerDecoder(layer, settings.layers, norm=nn.LayerNorm(width))
        self.next_word = nn.Linear(width, settings.vocabulary_size)

    def forward(self, seen: Seen) -> Captioned:
        """Logits of the caption given, and in evaluation a caption of its own."""
        assert seen.text is not None, "a caption is needed"
        assert seen.text_mask is not None, "a caption comes with its mask"
        memory = self._memory(seen)
        logits = self._next(memory, seen.text[:, :-1])
        written = None if self.training else self.write(memory)
        return Captioned(logits, seen.text[:, 1:], seen.text_mask[:, 1:], written)

    def loss(self, output: Captioned, targets: Targets) -> Tensor:
        """The captions are in the output; ``targets`` has nothing more."""
        each = functional.cross_entropy(output.logits.transpose(1, 2), output.right, reduction="none")  # (B, L - 1)
        counted = output.is_counted.to(each.dtype)
        return ((each * counted).sum(dim=1) / counted.sum(dim=1)).mean()

    def predictions(self, output: Captioned) -> Arrays:
        """ "tokens" (B, max_tokens)."""
        assert output.written is not None, "captions are written in evaluation"
        return {"tokens": output.written.cpu().numpy()}

    @torch.no_grad()
    def write(self, memory: Tensor) -> Tensor:
        """Greedy captions (B, max_tokens) int64 for memories (B, T * (N + M), W): begin, words, then ends."""
        settings = self.settings
        text = torch.full((len(memory), settings.max_tokens), settings.end, device=memory.device)
        text[:, 0] = settings.begin
        has_ended = torch.zeros(len(memory), dtype=torch.bool, device=memory.device)
        for place in range(1, settings.max_tokens):
            likeliest = self._next(memory, text[:, :place])[:, -1].argmax(dim=-1)
            text[:, place] = likeliest.masked_fill(has_ended, settings.end)
            has_ended |= text[:, place] == settings.end
            if has_ended.all():
                break
        return text

    def _memory(self, seen: Seen) -> Tensor:
        """Both streams' tokens beside each other, (B, T * (N + M), W)."""
        assert seen.num_segments <= NUM_SEGMENTS, f"{seen.num_segments} segments, of {NUM_SEGMENTS} moments"
        moments = self.moments[: seen.num_segments, None]  # (T, 1, W)
        parts = [
            (linear(tokens).unflatten(0, (-1, seen.num_segments)) + moments + stream).flatten(1, 2)
            for linear, tokens, stream in zip(
                (self.visual, self.audio), (seen.visual, seen.audio), self.streams_seen, strict=True
            )
        ]
        return self.memory_norm(torch.cat(parts, dim=1))

    def _next(self, memory: Tensor, text: Tensor) -> Tensor:
        """Logits of what follows each token, (B, L) -> (B, L, V); none sees a later one."""
        length = text.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=text.device).triu(1)
        hidden = self.layers(self.words(text) + self.places[:length], memory, tgt_mask=later)
        return self.next_word(hidden)


class AvcTask(Task):
    """Moments as in retrieval."""

    num_segments = NUM_SEGMENTS
    sound_s = 2.5
    files = ValorFiles
    head_settings = AvcHeadSettings

    def examples(self, files: ValorFiles, split: Split) -> Sequence[Example]:
        """One per caption to train with, one per clip otherwise, with its first caption."""
        words = Words.of(files.tokenizer)
        return [
            Example(
                clip.clip_id,
                Path(clip.clip_id + files.suffix),
                text=words.numbers(caption, at_most=files.max_tokens),
                source=words,
            )
            for clip in files.clips(split)
            for caption in (clip.captions if split == "train" else clip.captions[:1])
        ]

    def build_head(self, settings: AvcHeadSettings, streams: Streams) -> AvcHead:
        return AvcHead(settings, streams)

    def write(self, path: Path, arrays: Arrays, examples: Sequence[Example]) -> Path:
        """JSON lines, one per clip."""
        file = path.with_suffix(".jsonl")
        lines = [
            json.dumps({"image_id": example.name, "caption": example.source.text(tokens)}, ensure_ascii=False)
            for tokens, example in zip(arrays["tokens"].tolist(), examples, strict=True)
        ]
        draft = file.with_suffix(".draft")
        draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
        draft.replace(file)
        return file


TASK = AvcTask()
