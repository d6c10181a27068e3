"""Q-Former building blocks: post-norm attention and feed-forward, as in BERT (released code, model/Qformer.py).

Shapes: B batch, L length of the attended sequence, Q queries, D width, H heads.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers.activations import ACT2FN

from favor.attention import attend


class Attention(nn.Module):
    """Multi-head attention, output projection, dropout, residual, LayerNorm.

    Args:
        width: D of the queries and of the output.
        context_width: D of what is attended to; the same as ``width`` for self-attention.
        num_heads: H; must divide ``width``.
        dropout: on attention weights and on the projected output.
        eps: of the LayerNorm.
    """

    def __init__(self, width: int, *, context_width: int, num_heads: int, dropout: float, eps: float) -> None:
        super().__init__()
        assert width % num_heads == 0, f"{num_heads} heads do not divide a width of {width}"
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(context_width, width)
        self.value = nn.Linear(context_width, width)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, queries: Tensor, context: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            queries: (B, Q, width).
            context: (B, L, context_width).
            mask: bool, broadcastable to (B, H, Q, L), True where a query may look; None hides nothing.

        Returns:
            (B, Q, width).
        """
        attended = attend(
            self._split(self.query(queries)),
            self._split(self.key(context)),
            self._split(self.value(context)),
            mask=mask,
            dropout=self.dropout.p if self.training else 0.0,
        )  # (B, H, Q, D / H)
        merged = attended.transpose(1, 2).flatten(2)  # (B, Q, D)
        return self.norm(self.dropout(self.output(merged)) + queries)

    def _split(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, L, D / H)


class FeedForward(nn.Module):
    """Two Linears with an activation between, dropout, residual, LayerNorm."""

    def __init__(self, width: int, *, inner_width: int, activation: str, dropout: float, eps: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, inner_width)
        self.activation = ACT2FN[activation]
        self.output = nn.Linear(inner_width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, states: Tensor) -> Tensor:
        """(B, Q, D) -> (B, Q, D)."""
        return self.norm(self.dropout(self.output(self.activation(self.inner(states)))) + states)
