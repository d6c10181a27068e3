"""The connector written a second time, from the formulas, clip by clip, window by window, step by step.

Slow on purpose: nothing is batched, no attention kernel is called, masks are built entry by entry. The product's
:class:`favor.connector.Connector` is held equal to it, and timed against it. Parameters are the product's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from favor.causal_qformer import CausalQFormer, CausalQFormerLayer
from favor.configuration import ConnectorConfig
from favor.connector import Connector
from favor.qformer import Attention, FeedForward


def reference_soft_tokens(connector: Connector, clips: Sequence[tuple[Tensor, Sequence[Tensor]]]) -> Tensor:
    """Soft tokens of clips, (W * N, LLM width); clip = (visual (F, P, D_v), one (S, 25, D_a) per audio encoder).

    ``align = sync`` only, true lengths only; dropout must be off.
    """
    config = connector.config
    rows = []
    for visual, audio in clips:
        steps = _joint_steps(connector, visual, audio)
        while steps:
            window, steps = steps[: config.window_steps], steps[config.window_steps :]
            coarse = _read_window(connector.qformer, connector.query_tokens, window)
            if config.is_multi_resolution:
                fine = _fine(connector, window)
                coarse = torch.cat((fine, coarse), dim=1)
            rows.append(coarse @ connector.projection.weight.T + connector.projection.bias)
    return torch.cat(rows)


def reference_diversity(queries: Tensor) -> float:
    """Mean over windows and pairs i != j of cos(q_i, q_j), pair by pair."""
    cosines = [
        float(torch.nn.functional.cosine_similarity(window[i], window[j], dim=0))
        for window in queries
        for i in range(len(window))
        for j in range(len(window))
        if i != j
    ]
    return sum(cosines) / len(cosines)


def _joint_steps(connector: Connector, visual: Tensor, audio: Sequence[Tensor]) -> list[Tensor]:
    """h_t = concat(h_t^V, h_t^A) for every half second; what is missing is zero."""
    config: ConnectorConfig = connector.config
    steps = []
    for t in range(max(len(visual), *(len(stream) for stream in audio))):
        parts = [visual[t] if t < len(visual) else torch.zeros(config.tokens_per_step, config.visual_width)]
        for projection, stream in zip(connector.audio_projections, audio, strict=True):
            assert isinstance(projection, torch.nn.Linear)
            slot = torch.zeros(config.tokens_per_step, config.visual_width)
            if t < len(stream):
                heard = stream[t] @ projection.weight.T + projection.bias
                slot = torch.cat((heard, slot[len(heard) :]))
            parts.append(slot)
        steps.append(torch.cat(parts, dim=1))  # (P, joint)
    return steps


def _read_window(qformer: CausalQFormer, queries: Tensor, window: Sequence[Tensor]) -> Tensor:
    """Only real steps are here, so nothing needs masking but the future (or the past)."""
    tokens = len(window[0])
    joint = torch.cat(list(window))
    joint = _layer_norm(joint, qformer.joint_norm) + qformer.positions.weight[: len(joint)]
    may_see = _frame_block_mask(len(window), tokens, qformer.config.causal_direction)
    queries = _layer_norm(queries, qformer.query_norm)
    for layer in qformer.layers:
        assert isinstance(layer, CausalQFormerLayer)
        queries = _layer(layer, queries, joint, may_see)
    return queries


def _fine(connector: Connector, window: Sequence[Tensor]) -> Tensor:
    """The finer resolution; where the coarse window is only filled up, zeros."""
    config = connector.config
    size, found = config.fine_window_steps, []
    for start in range(0, config.window_steps, size):
        part = window[start : start + size]
        zeros = torch.zeros(config.num_fine_query_tokens, config.hidden_size)
        found.append(_read_window(connector.qformer, connector.fine_query_tokens, part) if part else zeros)
    return torch.cat(found)


def _frame_block_mask(steps: int, tokens: int, direction: str) -> Tensor:
    mask = torch.zeros(steps * tokens, steps * tokens, dtype=torch.bool)
    for asking in range(steps):
        for asked in range(steps):
            is_seen = asked <= asking if direction == "past" else asked >= asking
            mask[asking * tokens : (asking + 1) * tokens, asked * tokens : (asked + 1) * tokens] = is_seen
    return mask


def _layer(layer: CausalQFormerLayer, queries: Tensor, joint: Tensor, may_see: Tensor) -> Tensor:
    context = joint if layer.causal is None else _attention(layer.causal, joint, joint, may_see)
    queries = _attention(layer.self_attention, queries, queries, None)
    queries = _attention(layer.cross_attention, queries, context, None)
    return _feed_forward(layer.feed_forward, queries)


def _attention(block: Attention, asking: Tensor, asked: Tensor, may_see: Tensor | None) -> Tensor:
    queries = asking @ block.query.weight.T + block.query.bias
    keys = asked @ block.key.weight.T + block.key.bias
    values = asked @ block.value.weight.T + block.value.bias
    size = queries.shape[1] // block.num_heads
    heads = []
    for head in range(block.num_heads):
        own = slice(head * size, (head + 1) * size)
        scores = queries[:, own] @ keys[:, own].T / math.sqrt(size)
        if may_see is not None:
            scores = scores.masked_fill(~may_see, -math.inf)
        weights = torch.exp(scores - scores.max(dim=1, keepdim=True).values)
        heads.append(weights / weights.sum(dim=1, keepdim=True) @ values[:, own])
    out = torch.cat(heads, dim=1) @ block.output.weight.T + block.output.bias
    return _layer_norm(out + asking, block.norm)


def _feed_forward(block: FeedForward, states: Tensor) -> Tensor:
    inner = states @ block.inner.weight.T + block.inner.bias
    inner = 0.5 * inner * (1 + torch.erf(inner / math.sqrt(2)))
    return _layer_norm(inner @ block.output.weight.T + block.output.bias + states, block.norm)


def _layer_norm(states: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    mean = states.mean(dim=-1, keepdim=True)
    variance = ((states - mean) ** 2).mean(dim=-1, keepdim=True)
    return (states - mean) / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias
