"""Text-to-audio-visual retrieval on VALOR-32K: a caption and its clip should point the same way.

Loss: both ways' cross-entropy among the batch (text to clip, clip to text), of cosines over a learned temperature that
starts at 0.07. Other captions of the same clip are no wrong ones and are left out. VALOR itself also matches pairs by a
cross-encoder and scores groups of streams apart; neither is here.

Predictions are "similarities" (texts, videos) and "true_videos" (texts,), so that the same file is the truth of
``python -m eval score avr`` where clips have several captions.

Shapes: B pairs, T segments, L tokens of a text; D and E widths of the encoders, W width of the common space.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel

from favor.errors import ConfigurationError
from training.downstream.captions import MAX_TOKENS, SHIPPED_SIZE, ValorFiles, Words
from training.downstream.contract import Arrays, Example, Head, Seen, Split, Streams, Targets, Task
from training.recipe import Strict

MAX_SCALE = 100.0
"""Cosines are never multiplied with more: a temperature of 0.01."""


class AvrHeadSettings(Strict):
    """``width``: of the common space. ``temperature``: at the start.

    ``text_model``: folder of a transformers text encoder, trained along, whose tokenizer is then ``data.tokenizer``.
    Without it a small transformer of our own learns from nothing: ``text_width``, ``text_layers``, ``text_heads``, and
    ``vocabulary_size`` and ``max_tokens``, which must not be below those of the data's tokenizer.
    """

    width: int = Field(default=512, gt=0)
    temperature: float = Field(default=0.07, gt=0)
    text_model: str | None = None
    text_width: int = Field(default=256, gt=0)
    text_layers: int = Field(default=4, gt=0)
    text_heads: int = Field(default=4, gt=0)
    vocabulary_size: int = Field(default=SHIPPED_SIZE, gt=0)
    max_tokens: int = Field(default=MAX_TOKENS, gt=0)


class Embedded(NamedTuple):
    """Directions of length 1: texts (B, W), clips (B, W)."""

    texts: Tensor
    clips: Tensor


class TextTower(nn.Module):
    """Token ids to states: ids (B, L) int64 and mask (B, L) bool -> (B, L, ``width``)."""

    width: int


class SmallTextTower(TextTower):
    """A transformer encoder, norms first."""

    def __init__(self, settings: AvrHeadSettings) -> None:
        super().__init__()
        self.width = settings.text_width
        self.words = nn.Embedding(settings.vocabulary_size, self.width)
        self.places = nn.Parameter(0.02 * torch.randn(settings.max_tokens, self.width))
        layer = nn.TransformerEncoderLayer(
            self.width, settings.text_heads, 4 * self.width, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, settings.text_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(self.width)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.words(ids) + self.places[: ids.shape[1]]
        return self.norm(self.layers(hidden, src_key_padding_mask=~mask))


class PretrainedTextTower(TextTower):
    """A text encoder of transformers."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        try:
            self.model = AutoModel.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError):
            raise ConfigurationError(
                "head.text_model is no folder with a model", allowed="what transformers saves", advice="Leave it out"
            ) from None
        self.model.train()
        self.width = self.model.config.hidden_size

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state


class AvrHead(Head[Embedded]):
    """Clips and texts in one space."""

    def __init__(self, settings: AvrHeadSettings, streams: Streams) -> None:
        super().__init__()
        self.streams = streams
        self.tower: TextTower = (
            SmallTextTower(settings) if settings.text_model is None else PretrainedTextTower(settings.text_model)
        )
        self.text = nn.Linear(self.tower.width, settings.width)
        self.clip = nn.Linear(streams.visual.width + streams.audio.width, settings.width)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(settings.temperature)))

    def forward(self, seen: Seen) -> Embedded:
        """Directions of texts and clips, (B, W) each."""
        assert seen.text is not None, "a text is needed"
        assert seen.text_mask is not None, "a text comes with its mask"
        states = self.tower(seen.text, seen.text_mask)  # (B, L, width)
        inside = seen.text_mask[..., None].to(states.dtype)
        texts = self.text((states * inside).sum(dim=1) / inside.sum(dim=1))
        clips = self.clip(torch.cat(seen.pooled(self.streams), dim=-1).mean(dim=1))  # over segments
        return Embedded(functional.normalize(texts, dim=-1), functional.normalize(clips, dim=-1))

    def loss(self, output: Embedded, targets: Targets) -> Tensor:
        """``targets["clip"]`` (B,) int64: which clip each pair is of."""
        scale = self.log_scale.exp().clamp(max=MAX_SCALE)
        return contrastive_loss(scale * output.texts @ output.clips.T, targets["clip"])

    def predictions(self, output: Embedded) -> Arrays:
        """The directions; :meth:`AvrTask.finished` compares them all."""
        texts, clips = (found.detach().float().cpu().numpy() for found in output)
        return {"texts": texts, "videos": clips}


def contrastive_loss(logits: Tensor, clips: Tensor) -> Tensor:
    """The mean of both ways' cross-entropies: logits (texts, clips), pair i on the diagonal, of clip ``clips[i]``."""
    own = torch.arange(len(logits), device=logits.device)
    is_same_clip = (clips[:, None] == clips) & (own[:, None] != own)
    logits = logits.masked_fill(is_same_clip, float("-inf"))
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


class AvrTask(Task):
    """VALOR takes 4 frames to train and 8 to test, and two sounds of 5 s; here both are 4 moments of 2.5 s."""

    num_segments = 4
    sound_s = 2.5
    files = ValorFiles
    head_settings = AvrHeadSettings

    def examples(self, files: ValorFiles, split: Split) -> Sequence[Example]:
        """One per caption."""
        words = Words.of(files.tokenizer)
        return [
            Example(
                clip.clip_id,
                Path(clip.clip_id + files.suffix),
                targets={"clip": np.array(number)},
                text=words.numbers(caption, at_most=files.max_tokens),
            )
            for number, clip in enumerate(files.clips(split))
            for caption in clip.captions
        ]

    def build_head(self, settings: AvrHeadSettings, streams: Streams) -> AvrHead:
        return AvrHead(settings, streams)

    def finished(self, arrays: Arrays, examples: Sequence[Example]) -> Arrays:
        """ "similarities" (texts, videos), every clip once, and "true_videos" (texts,), the column of each text's."""
        numbers = np.array([int(example.targets["clip"]) for example in examples])
        _, firsts, columns = np.unique(numbers, return_index=True, return_inverse=True)
        return {"similarities": arrays["texts"] @ arrays["videos"][firsts].T, "true_videos": columns}

    def score(self, arrays: Arrays, examples: Sequence[Example]) -> float:
        """Recall at 1; equal similarities count against the model."""
        closeness, own = arrays["similarities"], arrays["true_videos"]
        of_true = closeness[np.arange(len(own)), own]
        return float(np.mean((closeness >= of_true[:, None]).sum(axis=1) == 1))


TASK = AvrTask()
