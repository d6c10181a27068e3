"""AVE: which of 28 events, or none, each second of a clip holds (adapters.md 2.5, 3.2, 7.1).

``linear``   LAVISH's head: two Linears with nothing between, trained by BCE on the softmax, as published; or by CE.
``event``    in the manner of CMBS: is there an event in this second, and which one in the whole clip; with ``gamma``
             the temporal gates of DG-SCT before it.

Shapes: B clips, T = 10 seconds, D and E widths of both streams, K = 28 classes and background (28).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    logsigmoid,
    one_hot,
)

from favor.downstream.ave import BACKGROUND, NUM_CLASSES, NUM_SEGMENTS, read_annotations, read_split
from training.downstream.contract import Arrays, Example, Files, Head, Seen, Split, Streams, Targets, Task
from training.downstream.temporal import Gates, TemporalGate
from training.recipe import Strict

LINEAR_WIDTH = 512
EVENT_WIDTH = 256


class AveFiles(Files):
    """Args:
    annotations: the full file. train, val, test: row numbers, ``.h5``, ``.npy`` or ``.txt``.
    """

    annotations: str
    train: str
    val: str
    test: str


class AveHeadSettings(Strict):
    """Args:
    kind: see the module. loss: of the linear head; ``bce_on_softmax`` is as published, ``cross_entropy`` is not.
    gamma: weight of the temporal gates before the event head (published: 0.1); 0 builds none.
    """

    kind: Literal["linear", "event"] = "linear"
    loss: Literal["bce_on_softmax", "cross_entropy"] = "bce_on_softmax"
    gamma: float = Field(default=0.0, ge=0)


class Located(NamedTuple):
    """Of the linear head: ``scores`` (B, T, 29) logits."""

    scores: Tensor


class LinearHead(Head[Located]):
    """(D + E) -> 512 -> 29, which is one linear map with a bottleneck: 1,588,253 weights for Swin-V2-L."""

    def __init__(self, streams: Streams, loss: Literal["bce_on_softmax", "cross_entropy"]) -> None:
        super().__init__()
        self.streams, self.loss_name = streams, loss
        self.inner = nn.Linear(streams.visual.width + streams.audio.width, LINEAR_WIDTH)
        self.outer = nn.Linear(LINEAR_WIDTH, NUM_CLASSES + 1)

    def forward(self, seen: Seen) -> Located:
        both = torch.cat(seen.pooled(self.streams), dim=-1)  # (B, T, D + E)
        return Located(self.outer(self.inner(both)))

    def loss(self, output: Located, targets: Targets) -> Tensor:
        scores, labels = output.scores.float(), targets["labels"]  # autocast refuses a BCE on probabilities
        if self.loss_name == "cross_entropy":
            return cross_entropy(scores.flatten(0, 1), labels.flatten())
        with torch.autocast(scores.device.type, enabled=False):
            return binary_cross_entropy(scores.softmax(dim=-1), one_hot(labels, NUM_CLASSES + 1).to(scores.dtype))

    def predictions(self, output: Located) -> Arrays:
        return {"scores": _numpy(output.scores.float().softmax(dim=-1))}


class Event(NamedTuple):
    """Of the event head, as logits.

    Args:
        events: (B, T), is there an event. classes: (B, 28), of the clip.
        gates: of both streams, if there are any.
    """

    events: Tensor
    classes: Tensor
    gates: Gates | None = None


class EventHead(Head[Event]):
    """Event scores and one category. Loss: BCE of the events, CE of the category, BCE of the product of the gates."""

    def __init__(self, streams: Streams, gamma: float) -> None:
        super().__init__()
        self.streams = streams
        visual, audio = streams.visual.width, streams.audio.width
        self.gate = TemporalGate(visual, audio, gamma) if gamma else None
        self.visual, self.audio = (_narrowing(width) for width in (visual, audio))
        self.event = nn.Linear(EVENT_WIDTH, 1)
        self.category = nn.Linear(EVENT_WIDTH, NUM_CLASSES)

    def forward(self, seen: Seen) -> Event:
        visual, audio = seen.pooled(self.streams)
        gates = None
        if self.gate is not None:
            visual, audio, gates = self.gate(visual, audio)
        both = self.visual(visual) * self.audio(audio)  # (B, T, width): an event is what both tell of
        return Event(self.event(both)[..., 0], self.category(both).amax(dim=1), gates)

    def loss(self, output: Event, targets: Targets) -> Tensor:
        is_event = (targets["labels"] != BACKGROUND).float()  # (B, T)
        loss = binary_cross_entropy_with_logits(output.events.float(), is_event)
        loss = loss + cross_entropy(output.classes.float(), targets["category"])
        return loss if output.gates is None else loss + both_open_loss(output.gates, is_event)

    def predictions(self, output: Event) -> Arrays:
        return {
            "events": _numpy(output.events.float().sigmoid()),
            "classes": _numpy(output.classes.float().softmax(dim=-1)),
        }


def both_open_loss(gates: Gates, is_event: Tensor) -> Tensor:
    """BCE of the product of both gates' probabilities against (B, T) of 0 and 1.

    The product is a probability already; the released code takes it for a logit (adapters.md 3.2). Reckoned with
    logarithms, so that shut gates have a gradient too.
    """
    log_open = logsigmoid(gates.visual.float()) + logsigmoid(gates.audio.float())
    log_shut = torch.log(-torch.expm1(log_open.clamp(max=-1e-6)))  # log(1 - exp(x)), x < 0
    return -(is_event * log_open + (1 - is_event) * log_shut).mean()


class Ave(Task):
    num_segments = NUM_SEGMENTS
    files = AveFiles
    head_settings = AveHeadSettings

    def examples(self, files: AveFiles, split: Split) -> Sequence[Example]:
        clips = read_annotations(files.annotations)
        rows = read_split(getattr(files, split), num_clips=len(clips))
        return [
            Example(
                name=clip.video_id,
                clip=Path(clip.video_id + files.suffix),
                targets={"labels": clip.segments, "category": np.array(clip.label)},
            )
            for clip in (clips[row] for row in rows)
        ]

    def build_head(self, settings: AveHeadSettings, streams: Streams) -> Head[Any]:
        if settings.kind == "event":
            return EventHead(streams, settings.gamma)
        return LinearHead(streams, settings.loss)

    def score(self, arrays: Mapping[str, np.ndarray], examples: Sequence[Example]) -> float:
        """Share of segments with the right label."""
        right = np.stack([example.targets["labels"] for example in examples])  # (N, T)
        if "scores" in arrays:
            guess = arrays["scores"].argmax(axis=-1)
        else:
            guess = np.where(arrays["events"] > 0.5, arrays["classes"].argmax(axis=-1)[:, None], BACKGROUND)
        return float((guess == right).mean())


def _narrowing(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, EVENT_WIDTH), nn.ReLU(), nn.Dropout(0.1))


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()


TASK = Ave()
