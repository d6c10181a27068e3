"""DG-SCT's temporal gates: each stream tells the other which seconds matter (adapters.md 3.2).

    video' = video (1 + gamma g_audio)        audio' = audio (1 + gamma g_video)

A gate is read off a stream by a bidirectional LSTM, self-attention over time, and attention to the other stream.

Shapes: B clips, T segments, D and E widths of the streams, H = 256.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

HIDDEN = 256
NUM_HEADS = 4
FEED_FORWARD = 1024
NUM_LAYERS = 2
READING_WIDTHS = (512, 128)
"""What visual and audio features are narrowed to before their LSTM."""


class Gates(NamedTuple):
    """Logits (B, T) of what each stream says of a segment."""

    visual: Tensor
    audio: Tensor


class TemporalGate(nn.Module):
    """Features in, gated features and the gates out; the encoders' features keep their widths."""

    def __init__(self, visual_width: int, audio_width: int, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.visual = _Reader(visual_width, READING_WIDTHS[0])
        self.audio = _Reader(audio_width, READING_WIDTHS[1])
        self.visual_asks, self.audio_asks = _decoder(), _decoder()
        self.visual_gate, self.audio_gate = nn.Linear(HIDDEN, 1), nn.Linear(HIDDEN, 1)

    def forward(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor, Gates]:
        """(B, T, D) and (B, T, E) to the same shapes."""
        seen, heard = self.visual(visual), self.audio(audio)  # (B, T, H)
        gates = Gates(
            self.visual_gate(self.visual_asks(seen, heard))[..., 0],
            self.audio_gate(self.audio_asks(heard, seen))[..., 0],
        )
        opened = Gates(*(torch.sigmoid(gate)[..., None] for gate in gates))
        return visual * (1 + self.gamma * opened.audio), audio * (1 + self.gamma * opened.visual), gates


class _Reader(nn.Module):
    """(B, T, width) -> (B, T, H): each segment in the light of all."""

    def __init__(self, width: int, narrow: int) -> None:
        super().__init__()
        self.narrowing = nn.Linear(width, narrow)
        self.lstm = nn.LSTM(narrow, HIDDEN // 2, batch_first=True, bidirectional=True)
        layer = nn.TransformerEncoderLayer(HIDDEN, NUM_HEADS, FEED_FORWARD, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, NUM_LAYERS, enable_nested_tensor=False)

    def forward(self, features: Tensor) -> Tensor:
        hidden, _ = self.lstm(torch.relu(self.narrowing(features)))
        return self.encoder(hidden)


def _decoder() -> nn.TransformerDecoder:
    layer = nn.TransformerDecoderLayer(HIDDEN, NUM_HEADS, FEED_FORWARD, batch_first=True)
    return nn.TransformerDecoder(layer, 1)
