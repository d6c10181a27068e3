"""What Swin and its kin share: layers that attend inside windows, in stages of ever fewer and wider tokens.

Shapes: B inputs, N = rows x columns tokens of width C, P prompts; W windows of S = size x size tokens; H heads.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.models.swinv2.modeling_swinv2 import window_partition, window_reverse

from favor.adapters.contract import StreamShape
from favor.encoders.layered import Branch, LayeredEncoder


class WindowedEncoder(LayeredEncoder):
    """Stages of transformers' Swin blocks; ``move_on`` of a stage's last layer merges its patches by fours.

    Tokens are flat, row by row. The windows, their shift and its mask are the block's own.

    Prompts (adapters.md 5.2, the scheme of Visual Prompt Tuning) are appended to every window. Between a prompt and
    anything there is neither a mask nor a place: only ``prompt_bias`` stands where two tokens have their relative
    position's. What attention adds to a prompt is its mean over the windows.
    """

    prompt_bias: float = 0.0
    mask_repeats: int = 1
    """How often transformers' attention adds the mask of a shifted window."""

    @property
    @abstractmethod
    def stages(self) -> Any:
        """transformers' stages, each with ``blocks`` and, but for the last, ``downsample``."""

    @property
    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens in the first stage."""

    @abstractmethod
    def similarity(self, attention: Any, queries: Tensor, keys: Tensor) -> Tensor:
        """Scores (B * W, H, S + P, S + P) of queries and keys (B * W, H, S + P, C / H), before bias and mask."""

    @abstractmethod
    def position_bias(self, attention: Any) -> Tensor:
        """What the relative position of two tokens in a window adds to their score, (H, S, S)."""

    @property
    def num_layers(self) -> int:
        return sum(len(stage.blocks) for stage in self.stages)

    def place(self, index: int) -> tuple[int, int]:
        """Stage of layer ``index``, and its number there."""
        for stage, blocks in enumerate(len(stage.blocks) for stage in self.stages):
            if index < blocks:
                return stage, index
            index -= blocks
        raise AssertionError(f"layer {index} past the last one")

    def block(self, index: int) -> Any:
        stage, number = self.place(index)
        return self.stages[stage].blocks[number]

    def grid_of(self, index: int) -> tuple[int, int]:
        """Rows and columns of tokens in layer ``index``; every merge halves them, rounding up."""
        merged = 2 ** self.place(index)[0]
        rows, columns = self.grid
        return -(-rows // merged), -(-columns // merged)

    def shape(self, index: int) -> StreamShape:
        rows, columns = self.grid_of(index)
        (width,) = self.block(index).layernorm_before.normalized_shape
        return StreamShape(width, rows * columns, has_cls=False, layer=index, stage=self.place(index)[0])

    def run_layer(self, index: int, hidden: Tensor) -> Tensor:
        (hidden,) = self.block(index)(hidden, self.grid_of(index))
        return self.move_on(index, hidden)

    def move_on(self, index: int, hidden: Tensor) -> Tensor:
        number, stage = self.place(index)[1], self.stages[self.place(index)[0]]
        is_last = number == len(stage.blocks) - 1
        return stage.downsample(hidden, self.grid_of(index)) if is_last and stage.downsample is not None else hidden

    def attend_in_windows(self, index: int, hidden: Tensor, prompts: Tensor | None) -> Branch:
        """The attention of layer ``index`` without its norm: what it adds to (B, N, C) and (B, P, C)."""
        block, (rows, columns) = self.block(index), self.grid_of(index)
        size, shift = block.window_size, block.shift_size
        seen, _ = block.maybe_pad(hidden.unflatten(1, (rows, columns)), rows, columns)
        height, width = seen.shape[1:3]
        windows = window_partition(seen.roll((-shift, -shift), (1, 2)), size).flatten(1, 2)  # (B * W, S, C)
        mask = block.get_attn_mask(height, width, dtype=hidden.dtype, device=hidden.device)  # (W, S, S) or None
        if prompts is None:
            (added,) = block.attention(windows, mask)
        else:
            added, prompts = self._attend_with_prompts(block.attention, windows, mask, prompts=prompts)
        added = window_reverse(added.unflatten(1, (size, size)), size, height, width)  # (B, height, width, C)
        added = added.roll((shift, shift), (1, 2))[:, :rows, :columns]
        return Branch(added.flatten(1, 2), prompts)

    def _attend_with_prompts(
        self, attention: Any, windows: Tensor, mask: Tensor | None, *, prompts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Windows (B * W, S, C) and prompts (B, P, C) look at each other; same shapes out."""
        inner, num_tokens, num_prompts = attention.self, windows.shape[1], prompts.shape[1]
        num_windows = len(windows) // len(prompts)
        seen = torch.cat((windows, prompts.repeat_interleave(num_windows, dim=0)), dim=1)  # (B * W, S + P, C)
        queries, keys, values = (
            project(seen).unflatten(-1, (inner.num_attention_heads, -1)).transpose(1, 2)
            for project in (inner.query, inner.key, inner.value)
        )  # (B * W, H, S + P, C / H) each
        beside = (0, num_prompts, 0, num_prompts)
        scores = self.similarity(inner, queries, keys)
        scores = scores + pad(self.position_bias(inner), beside, value=self.prompt_bias)
        if mask is not None:
            mask = self.mask_repeats * pad(mask, beside).repeat(len(prompts), 1, 1)  # (B * W, S + P, S + P)
            scores = scores + mask[:, None]
        mixed = inner.dropout(scores.softmax(dim=-1)) @ values
        added = attention.output(mixed.transpose(1, 2).flatten(2), seen)  # (B * W, S + P, C)
        return added[:, :num_tokens], added[:, num_tokens:].unflatten(0, (-1, num_windows)).mean(dim=1)
