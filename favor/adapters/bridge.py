"""From one encoder's width to the other's.

The published adapters take both streams from one encoder, or map one to the other's width with a full matrix per
adapter: with Whisper (1280) and ViT-g (1408) that is 230.7 M weights for LAVISH's 128 adapters, eight times the
adapters themselves. At rank 64 it is 22.0 M (adapters.md 6.7).

Shapes: F frames, N tokens; D' the width a stream comes in, D the width it is wanted in.
"""

from __future__ import annotations

from torch import Tensor, nn

from favor.errors import ConfigurationError


class Bridge(nn.Module):
    """A linear map of tokens from ``given_width`` to ``width``, no bias; nothing at all where they are equal.

    Args:
        given_width, width: D' and D.
        rank: of the map, D'->rank->D; None or 0 is a full matrix.

    Raises:
        ConfigurationError: a negative rank.
    """

    def __init__(self, given_width: int, width: int, *, rank: int | None) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            nn.Linear(before, after, bias=False) for before, after in _widths(given_width, width, rank)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(F, N, D') -> (F, N, D); another dtype than the weights' is cast to theirs."""
        for step in self.steps:
            tokens = step(tokens.to(next(step.parameters()).dtype))
        return tokens


def bridge_macs(given_width: int, width: int, *, rank: int | None) -> int:
    """Multiply-accumulates for one token; also the number of weights."""
    return sum(before * after for before, after in _widths(given_width, width, rank))


def _widths(given_width: int, width: int, rank: int | None) -> list[tuple[int, int]]:
    if rank is not None and rank < 0:
        raise ConfigurationError(
            f"bridge_rank is {rank}",
            allowed="a rank of at least 1, or None for a full matrix",
            advice="Use 64, the default",
        )
    if given_width == width:
        return []
    return [(given_width, rank), (rank, width)] if rank else [(given_width, width)]
