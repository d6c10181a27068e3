"""AVVP on LLP: what is heard and what is seen in each second, learnt from labels of whole clips (adapters.md 7.2).

Every segment of either stream gets a probability per class; attention over time and over streams pools them to the
clip, where the labels are. Segments so learn by whom the clip's verdict came about.

There are no precomputed features of a video network: the clip is seen and heard by the hosts' encoders alone.

Shapes: B clips, T = 10 seconds, D and E widths of both streams, H the head's, K = 25 classes. Where there is an axis
of streams, audio comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy

from favor.downstream.llp import CLASSES, NUM_SEGMENTS, clip_labels, read_clips, read_events, segment_labels
from training.downstream.contract import Arrays, Example, Files, Head, Seen, Split, Streams, Targets, Task
from training.recipe import Strict

NUM_HEADS = 4


class AvvpFiles(Files):
    """Args:
    train, val, test: the weak files. audio, visual: the dense ones, of val and test.
    """

    train: str
    val: str
    test: str
    audio: str
    visual: str


class AvvpHeadSettings(Strict):
    """Args:
    width: H. dropout: in the attention over segments.
    visual_confidence, audio_confidence: c of targets ``c y + (1 - c) / 2``; a clip's labels hold less surely for
        one stream alone (published: 0.9 and 1).
    """

    width: int = Field(default=512, gt=0, multiple_of=NUM_HEADS)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    visual_confidence: float = Field(default=0.9, ge=0, le=1)
    audio_confidence: float = Field(default=1.0, ge=0, le=1)


class Parsed(NamedTuple):
    """Logits and weights, not yet probabilities.

    Args:
        segments: (B, T, 2, K) logits. over_time: (B, T, 2, K), sums 1 over T. over_streams: likewise, over the 2.
    """

    segments: Tensor
    over_time: Tensor
    over_streams: Tensor

    @property
    def probabilities(self) -> Tensor:
        return self.segments.float().sigmoid()

    @property
    def clip(self) -> Tensor:
        """(B, K) probabilities of the clip."""
        weights = self.over_time.float() * self.over_streams.float()
        return (weights * self.probabilities).sum(dim=(1, 2)).clamp(0, 1)  # the weights may sum to more than 1

    @property
    def streams(self) -> Tensor:
        """(B, 2, K) probabilities of the clip by each stream alone."""
        return (self.over_time.float() * self.probabilities).sum(dim=1).clamp(0, 1)


class ParsingHead(Head[Parsed]):
    """Attention to the own and the other stream, a classifier for both, and attentive pooling (MMIL)."""

    def __init__(self, streams: Streams, settings: AvvpHeadSettings) -> None:
        super().__init__()
        self.settings, self.given = settings, streams
        width = settings.width
        self.visual, self.audio = nn.Linear(streams.visual.width, width), nn.Linear(streams.audio.width, width)
        self.to_visual, self.to_audio = (_Hybrid(width, settings.dropout) for _ in range(2))
        self.classes, self.time, self.stream = (nn.Linear(width, len(CLASSES)) for _ in range(3))

    def forward(self, seen: Seen) -> Parsed:
        visual, audio = seen.pooled(self.given)
        visual, audio = self.visual(visual), self.audio(audio)  # (B, T, H)
        both = torch.stack((self.to_audio(audio, visual), self.to_visual(visual, audio)), dim=2)  # (B, T, 2, H)
        return Parsed(self.classes(both), self.time(both).softmax(dim=1), self.stream(both).softmax(dim=2))

    def loss(self, output: Parsed, targets: Targets) -> Tensor:
        occurs = targets["occurs"].float()  # (B, K)
        heard, seen = output.streams.unbind(dim=1)
        with torch.autocast(occurs.device.type, enabled=False):
            return (
                binary_cross_entropy(output.clip, occurs)
                + binary_cross_entropy(heard, _smoothed(occurs, self.settings.audio_confidence))
                + binary_cross_entropy(seen, _smoothed(occurs, self.settings.visual_confidence))
            )

    def predictions(self, output: Parsed) -> Arrays:
        heard, seen = output.probabilities.unbind(dim=2)  # (B, T, K)
        found = {"audio": heard, "visual": seen, "clip": output.clip}
        return {name: part.detach().cpu().numpy() for name, part in found.items()}


class _Hybrid(nn.Module):
    """One layer: a stream's segments attend to their own stream and to the other, both with what was there before."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(width, NUM_HEADS, dropout=dropout, batch_first=True)
        self.other = nn.MultiheadAttention(width, NUM_HEADS, dropout=dropout, batch_first=True)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        self.norm_between, self.norm_after = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """(B, T, H) and (B, T, H) to (B, T, H)."""
        among, _ = self.own(own, own, own, need_weights=False)
        across, _ = self.other(own, other, other, need_weights=False)
        hidden = self.norm_between(own + among + across)
        return self.norm_after(hidden + self.outer(torch.relu(self.inner(hidden))))


class Avvp(Task):
    num_segments = NUM_SEGMENTS
    files = AvvpFiles
    head_settings = AvvpHeadSettings

    def examples(self, files: AvvpFiles, split: Split) -> Sequence[Example]:
        clips = read_clips(getattr(files, split))
        names = [clip.filename for clip in clips]
        occurs = clip_labels(clips)
        dense: list[Any] = [None] * len(names)
        if split != "train":  # the dense files hold no clip of train
            dense = list(zip(*(segment_labels(read_events(path), names) for path in (files.audio, files.visual))))
        return [
            Example(name=name, clip=Path(name + files.suffix), targets={"occurs": occurs[number]}, source=dense[number])
            for number, name in enumerate(names)
        ]

    def build_head(self, settings: AvvpHeadSettings, streams: Streams) -> Head[Any]:
        return ParsingHead(streams, settings)

    def score(self, arrays: Mapping[str, np.ndarray], examples: Sequence[Example]) -> float:
        """Mean over audio, visual and both of the segments' F-score ("Type@AV")."""
        is_there = arrays["clip"][:, None] >= 0.5
        said = [(arrays[name] >= 0.5) & is_there for name in ("audio", "visual")]
        true = [np.stack([example.source[place] for example in examples]) for place in range(2)]
        trios = zip((*said, said[0] & said[1]), (*true, true[0] & true[1]))
        return float(np.mean([segment_f_score(given, right) for given, right in trios]))


def segment_f_score(said: np.ndarray, true: np.ndarray) -> float:
    """Of (N, T, K) booleans: F per clip and class that is said or true; mean over a clip's, 1 if it has none."""
    shared = 2.0 * (said & true).sum(axis=1)  # (N, K)
    either = (said.sum(axis=1) + true.sum(axis=1)).astype(float)
    present = (either > 0).sum(axis=1)
    totals = (shared / np.maximum(either, 1)).sum(axis=1)
    return float(np.where(present > 0, totals / np.maximum(present, 1), 1.0).mean())


def _smoothed(occurs: Tensor, confidence: float) -> Tensor:
    return confidence * occurs + (1 - confidence) / 2


TASK = Avvp()
