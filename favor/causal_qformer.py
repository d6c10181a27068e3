"""The causal Q-Former: N queries read one window of joint tokens (paper section 3.2; order of blocks: released code).

Shapes: W windows, k steps per window, P tokens per step, L = k * P tokens per window, D joint width, Q queries,
H hidden width.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from favor.configuration import ConnectorConfig, DiversityReduction
from favor.qformer import Attention, FeedForward


class CausalQFormerLayer(nn.Module):
    """One layer: causal block over the window, then self-attention, cross-attention and feed-forward of the queries."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        joint, hidden = config.joint_width, config.hidden_size
        attention = partial(
            Attention, num_heads=config.num_attention_heads, dropout=config.dropout, eps=config.layer_norm_eps
        )
        self.causal = None if config.causal_direction == "none" else attention(joint, context_width=joint)
        self.self_attention = attention(hidden, context_width=hidden)
        self.cross_attention = attention(hidden, context_width=joint)
        self.feed_forward = FeedForward(
            hidden,
            inner_width=config.intermediate_size,
            activation=config.hidden_act,
            dropout=config.dropout,
            eps=config.layer_norm_eps,
        )

    def forward(
        self, queries: Tensor, window: Tensor, *, causal_mask: Tensor | None, window_mask: Tensor | None
    ) -> Tensor:
        """Read the window.

        Args:
            queries: (W, Q, H).
            window: (W, L, D), the raw window: every layer gets the same one.
            causal_mask: bool (W or 1, 1, L, L); see :func:`causal_block_mask`.
            window_mask: bool (W, 1, 1, L), False on tokens that only fill the window up.

        Returns:
            (W, Q, H).
        """
        context = window if self.causal is None else self.causal(window, window, mask=causal_mask)
        queries = self.self_attention(queries, queries)
        queries = self.cross_attention(queries, context, mask=window_mask)
        return self.feed_forward(queries)


class CausalQFormer(nn.Module):
    """LayerNorm and positions over the joint tokens, then the layers; shared by all windows and resolutions.

    Positions restart at 0 in every window; order between windows is left to the language model.
    """

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.config = config
        self.joint_norm = nn.LayerNorm(config.joint_width, eps=config.joint_layer_norm_eps)
        self.positions = nn.Embedding(config.num_positions, config.joint_width)
        self.query_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(CausalQFormerLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, query_tokens: Tensor, windows: Tensor, *, is_real: Tensor | None = None) -> Tensor:
        """Summarise all windows of all clips in one call.

        Args:
            query_tokens: (Q, H) learned queries.
            windows: (W, k, P, D) joint tokens before LayerNorm.
            is_real: bool (W, k), False on steps that only fill the window up; None if all are real. A window needs at
                least one real step.

        Returns:
            (W, Q, H).
        """
        steps, tokens = windows.shape[1:3]
        places = torch.arange(steps * tokens, device=windows.device)
        joint = self.joint_norm(windows.flatten(1, 2)) + self.positions(places)  # (W, L, D)
        return self.read(query_tokens, joint, num_steps=steps, is_real=is_real)

    def read(self, query_tokens: Tensor, joint: Tensor, *, num_steps: int, is_real: Tensor | None = None) -> Tensor:
        """The layers alone: (Q, H) queries over (W, L, D) tokens that already have their LayerNorm and positions."""
        tokens = joint.shape[1] // num_steps
        queries = self.dropout(self.query_norm(query_tokens)).expand(joint.shape[0], -1, -1)  # (W, Q, H)
        window_mask = None
        if is_real is not None:
            window_mask = is_real.repeat_interleave(tokens, dim=1)[:, None, None, :]  # (W, 1, 1, L)
        causal_mask = self._causal_mask(num_steps, tokens, is_real=is_real, device=joint.device)
        for layer in self.layers:
            queries = layer(queries, joint, causal_mask=causal_mask, window_mask=window_mask)
        return queries

    def _causal_mask(self, steps: int, tokens: int, *, is_real: Tensor | None, device: torch.device) -> Tensor | None:
        """One mask serves every window, unless padding could leak, which end padding cannot when looking back."""
        direction = self.config.causal_direction
        if direction == "none":
            return None
        if direction == "past" or not self.config.is_causal_padding_masked:
            is_real = None
        return causal_block_mask(steps, tokens, direction=direction, is_real=is_real, device=device)


def causal_block_mask(
    steps: int,
    tokens: int,
    *,
    direction: Literal["past", "future"],
    is_real: Tensor | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Frame-block mask of the causal self-attention: all tokens of a step see each other (paper section 3.2.1).

    Args:
        steps: k. tokens: P.
        direction: ``past``: step i sees steps j <= i, as in the paper; ``future``: j >= i, as the released weights.
        is_real: bool (W, k); padded steps are hidden from every other step (and see themselves, to stay finite).

    Returns:
        bool (W or 1, 1, L, L), rows ask, columns answer.
    """
    allowed = torch.ones(steps, steps, dtype=torch.bool, device=device)
    allowed = allowed.tril() if direction == "past" else allowed.triu()  # (k, k)
    if is_real is None:
        allowed = allowed[None]
    else:
        allowed = (allowed & is_real[:, None, :]) | torch.eye(steps, dtype=torch.bool, device=device)  # (W, k, k)
    return allowed.repeat_interleave(tokens, dim=1).repeat_interleave(tokens, dim=2)[:, None]


def diversity_loss(queries: Tensor, *, reduction: DiversityReduction = "mean") -> Tensor:
    """Cosine similarity between the queries of a window: high when they say the same (paper section 3.3).

    Args:
        queries: (W, N, H) causal Q-Former output before the projection.
        reduction: ``mean`` over windows and ordered pairs i != j, in [-1 / (N - 1), 1]; ``sum`` is W * N * (N - 1)
            times as large. State it beside any weight.

    Returns:
        Scalar tensor.
    """
    num_windows, num_queries = queries.shape[:2]
    assert num_queries > 1, f"{num_queries} query has no pair"
    lengths = queries.norm(dim=-1)  # (W, N)
    products = lengths[:, :, None] * lengths[:, None, :] + 1e-9
    cosines = queries @ queries.transpose(1, 2) / products  # (W, N, N)
    total = cosines.sum() - cosines.diagonal(dim1=1, dim2=2).sum()
    return total if reduction == "sum" else total / (num_windows * num_queries * (num_queries - 1))
