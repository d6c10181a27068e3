"""Claim: in bfloat16 on a CPU two matrix products and a softmax beat PyTorch's fused attention, forward and backward.

    python -m benchmarks.attention

Baseline of the same run: ``torch.nn.functional.scaled_dot_product_attention``; first both are held equal, to
bfloat16's rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.timing import finish, measure
from favor.attention import attend

SHAPES = {
    "causal block, 5 s": (16, 4, 250, 250, 48),
    "queries on a window": (16, 4, 16, 250, 48),
    "Whisper, 10 s": (8, 2, 500, 500, 64),
    "small ViT": (160, 4, 17, 17, 32),
}
"""(batch, heads, queries, length, head width) of favor-mini's parts."""


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    speed_ups = {}
    for name, shape in SHAPES.items():
        query, key, value, mask = tensors(shape)
        fused, ours = (
            measure(partial(forward_and_backward, path, query, key, value, mask), repeats=7, device="cpu").seconds
            for path in (fused_attention, explicit_attention)
        )
        difference = (
            (fused_attention(query, key, value, mask) - explicit_attention(query, key, value, mask)).abs().max()
        )
        assert difference < 0.05, f"{name}: outputs differ by {difference}"
        speed_ups[name] = fused / ours
        print(f"{name:22} fused {fused * 1e3:6.1f} ms   ours {ours * 1e3:6.1f} ms   {fused / ours:.1f} times as fast")
    finish({"benchmark": "attention", "precision": "bf16", "speed_up": speed_ups})


def tensors(shape: tuple[int, int, int, int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query, key, value in bfloat16 and a mask; square ones are causal."""
    batch, heads, queries, length, width = shape
    query, key, value = (
        torch.randn(batch, heads, size, width, dtype=torch.bfloat16, requires_grad=True)
        for size in (queries, length, length)
    )
    mask = torch.ones(1, 1, queries, length, dtype=torch.bool)
    return query, key, value, mask.tril() if queries == length else mask


def forward_and_backward(path: Callable[..., Tensor], *tensors: Tensor) -> None:
    path(*tensors).sum().backward()


def fused_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    return scaled_dot_product_attention(query, key, value, attn_mask=mask)


def explicit_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    return attend(query, key, value, mask=mask)


if __name__ == "__main__":
    main()
