"""What an encoder must offer so that an adapter can step in between its layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from favor.adapters.contract import StreamShape

ROWS_PER_PASS = 16
"""Frames or 30-s chunks that a frozen encoder takes at a time; bounds its memory, never its result."""


class Branch(NamedTuple):
    """What attention adds to the tokens (B, N, width) and to the prompts (B, P, width) beside them, if any."""

    tokens: Tensor
    prompts: Tensor | None = None


class LayeredEncoder(nn.Module, ABC):
    """A transformer encoder in three steps: ``embed``, every layer in turn, ``finish``.

    A layer is two halves, each added to what went into it, and perhaps a change of resolution after them.

    Starts frozen: no gradients, evaluation mode whatever its parent's mode, inputs in passes of ROWS_PER_PASS rows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_frozen = True

    @property
    @abstractmethod
    def num_layers(self) -> int: ...

    @abstractmethod
    def embed(self, inputs: Tensor) -> Tensor:
        """Inputs to the first layer's input, (B, tokens, width)."""

    @abstractmethod
    def attend(self, index: int, hidden: Tensor, prompts: Tensor | None = None) -> Branch:
        """What the attention of layer ``index`` adds, its norm included; prompts (B, P, width) are seen and see."""

    @abstractmethod
    def transform(self, index: int, hidden: Tensor) -> Tensor:
        """What the MLP of layer ``index`` adds to each token, its norm included, (B, tokens, width)."""

    def move_on(self, index: int, hidden: Tensor) -> Tensor:
        """From the end of layer ``index`` to the beginning of the next: a new resolution behind some layers."""
        return hidden

    @abstractmethod
    def shape(self, index: int) -> StreamShape:
        """Of what goes into layer ``index``."""

    def shapes(self) -> list[StreamShape]:
        """Of what goes into each layer."""
        return [self.shape(index) for index in range(self.num_layers)]

    def run_layer(self, index: int, hidden: Tensor) -> Tensor:
        """Layer ``index`` alone, (B, tokens, width) -> (B, tokens, width)."""
        hidden = hidden + self.attend(index, hidden).tokens
        return self.move_on(index, hidden + self.transform(index, hidden))

    @abstractmethod
    def finish(self, hidden: Tensor) -> Tensor:
        """The last layer's output to the encoder's output, (B, tokens, width)."""

    def forward(self, inputs: Tensor) -> Tensor:
        """All three steps, (B, ...) -> (B, tokens, width)."""
        if not self.is_frozen:
            return self._encode(inputs)
        with torch.no_grad():
            return torch.cat([self._encode(rows) for rows in inputs.split(ROWS_PER_PASS)])

    def freeze(self) -> None:
        """Train nothing of it (the default)."""
        self.is_frozen = True
        self.requires_grad_(False)
        self.eval()

    def unfreeze(self) -> None:
        """Let gradients through and follow the parent's mode again."""
        self.is_frozen = False
        self.requires_grad_(True)

    def train(self, mode: bool = True) -> LayeredEncoder:
        return super().train(mode and not self.is_frozen)

    def _encode(self, inputs: Tensor) -> Tensor:
        hidden = self.embed(inputs)
        for index in range(self.num_layers):
            hidden = self.run_layer(index, hidden)
        return self.finish(hidden)
