"""What the tests of all heads share: small streams, and which weights learn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from favor.adapters.contract import StreamShape
from training.downstream.contract import Head, Seen, Streams, Targets

STREAMS = Streams(StreamShape(12, 4, False, 3, 3), StreamShape(10, 3, False, 1))
"""Frames of 2 x 2 tokens, sounds of three."""

WITH_CLS = Streams(StreamShape(12, 5, True, 3), StreamShape(10, 4, True, 1))


def tokens(rows: int, shape: StreamShape, *, seed: int) -> Tensor:
    return torch.randn(rows, shape.num_tokens, shape.width, generator=torch.Generator().manual_seed(seed))


def seen(streams: Streams = STREAMS, *, clips: int = 2, segments: int = 3, seed: int = 0) -> Seen:
    """Random tokens of some clips, with the stages that the streams have."""
    rows = clips * segments
    return Seen(
        tokens(rows, streams.visual, seed=seed),
        tokens(rows, streams.audio, seed=seed + 1),
        segments,
        stages=tuple(tokens(rows, shape, seed=seed + 2 + place) for place, shape in enumerate(streams.stages)),
    )


def with_other_sound(given: Seen, *, clip: int) -> Seen:
    """The same, but one clip sounds otherwise."""
    audio = given.audio.clone()
    rows = slice(clip * given.num_segments, (clip + 1) * given.num_segments)
    audio[rows] = torch.randn(audio[rows].shape, generator=torch.Generator().manual_seed(99))
    return given._replace(audio=audio)


def weights_without_gradient(head: Head, given: Seen, targets: Targets) -> list[str]:
    """Names of weights that a step does not move."""
    head.zero_grad()
    head.loss(head(given), targets).backward()
    return [name for name, weight in head.named_parameters() if weight.grad is None or not weight.grad.any()]


def fit(head: Head, given: Seen, targets: Targets, *, steps: int, learning_rate: float = 1e-2) -> list[float]:
    """Losses of a few steps on the same examples."""
    optimizer = torch.optim.Adam(head.parameters(), lr=learning_rate)
    losses = []
    for _ in range(steps):
        loss = head.loss(head(given), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def num_weights(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
