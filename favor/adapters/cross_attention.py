"""How one stream's tokens take up what the other stream perceives: without projections, and always in full precision.

The dot products of two streams of raw encoder tokens are large and not divided by sqrt(D) as published: in float16
they overflow, in bfloat16 a softmax over them is a guess (adapters.md 2.6). So all of it is float32, whatever the
streams are and under autocast too; float64 stays float64.

Shapes: F frames; Q asking tokens, N attended tokens, m latent tokens; D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def compress(latents: Tensor, other: Tensor, *, scale: bool = False) -> Tensor:
    """Latent tokens that have taken up a stream: S = L + softmax(L y^T) y (LAVISH, adapters.md 2.1 step 1).

    Args:
        latents: (m, D) trained tokens, the same for every frame.
        other: (F, N, D) the stream.
        scale: divide the dot products by sqrt(D); not as published.

    Returns:
        (F, m, D) float32.
    """
    asking = latents.expand(other.shape[0], -1, -1)  # (F, m, D)
    return _in_full(latents) + fuse(asking, other, scale=scale)


def fuse(tokens: Tensor, keys: Tensor, values: Tensor | None = None, *, scale: bool = False) -> Tensor:
    """What every token takes up: softmax(x S^T) S (LAVISH, adapters.md 2.1 step 2, before its gate).

    Args:
        tokens: (F, Q, D) who asks.
        keys: (F, N, D) who is asked.
        values: (F, N, D) what is taken up; the keys themselves where None.
        scale: divide the dot products by sqrt(D); not as published.

    Returns:
        (F, Q, D) float32.
    """
    assert len(tokens) == len(keys), f"{len(tokens)} frames ask {len(keys)}: adapters work frame by frame"
    values = keys if values is None else values
    with torch.autocast(tokens.device.type, enabled=False):
        query, key, value = (_in_full(stream).unsqueeze(1) for stream in (tokens, keys, values))  # (F, 1, Q or N, D)
        factor = query.shape[-1] ** -0.5 if scale else 1.0
        return scaled_dot_product_attention(query, key, value, scale=factor).squeeze(1)  # (F, Q, D)


def _in_full(stream: Tensor) -> Tensor:
    return stream.to(torch.promote_types(stream.dtype, torch.float32))
