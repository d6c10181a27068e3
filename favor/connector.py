"""The connector: encoder outputs in, soft tokens out. With LoRA it is all that FAVOR trains (paper sections 3.1-3.3).

Shapes: F frames of all clips, S audio steps of all chunks of all clips, P tokens per step, W windows of all clips,
k steps per window, N queries, H hidden width, D_v visual width, D_a audio width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from favor.causal_qformer import CausalQFormer, diversity_loss
from favor.configuration import ConnectorConfig
from favor.sync import WindowPlan


class ConnectorOutput(NamedTuple):
    """What the connector makes of a batch of clips; a tuple, because that is how ZeRO-3 finds the tensors in it.

    Args:
        soft_tokens: (W * N, LLM width), clip after clip, window after window.
        queries: (W, N, H), output of the causal Q-Former (coarse resolution) before the projection.
        fine_queries: (W * k / fine, N_fine, H) with a second resolution, else None.
        diversity: scalar diversity loss of ``queries``, unweighted.
    """

    soft_tokens: Tensor
    queries: Tensor
    fine_queries: Tensor | None
    diversity: Tensor


class Connector(nn.Module):
    """Audio Linear, synchronisation, windows, causal Q-Former, projection to the language model.

    Args:
        config: its shape.
        llm_width: width of the language model's embeddings.
    """

    def __init__(self, config: ConnectorConfig, *, llm_width: int) -> None:
        super().__init__()
        self.config = config
        self.audio_projections = nn.ModuleList(nn.Linear(width, config.visual_width) for width in config.audio_widths)
        self.query_tokens = nn.Parameter(torch.empty(config.num_query_tokens, config.hidden_size))
        self.qformer = CausalQFormer(config)
        out_width = config.hidden_size
        if config.is_multi_resolution:
            self.fine_query_tokens = nn.Parameter(torch.empty(config.num_fine_query_tokens, config.hidden_size))
            out_width *= 2
        self.projection = nn.Linear(out_width, llm_width)
        self.initialise()

    def initialise(self) -> None:
        """Draw all weights afresh: normal with ``initializer_range``, biases zero (released code: BERT's rule)."""
        std = self.config.initializer_range
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
            if isinstance(module, nn.Linear | nn.LayerNorm):
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.query_tokens, std=std)
        if self.config.is_multi_resolution:
            nn.init.normal_(self.fine_query_tokens, std=std)

    def forward(self, visual: Tensor, audio: Sequence[Tensor], plan: WindowPlan) -> ConnectorOutput:
        """Turn all clips of a batch into soft tokens, in one call over all windows.

        Args:
            visual: (F, P, D_v) visual tokens of all frames.
            audio: one (S, 25, D_a) tensor per audio encoder.
            plan: which of them share a step; see :class:`favor.sync.WindowPlan`.
        """
        windows = self.synchronise(visual, audio, plan)
        is_real = None
        if plan.has_padding:
            is_real = torch.tensor(plan.is_real, device=windows.device).view(-1, plan.window_steps)
        queries = self.qformer(self.query_tokens, windows, is_real=is_real)  # (W, N, H)
        fine_queries = self._fine_queries(windows, is_real) if self.config.is_multi_resolution else None
        joined = queries if fine_queries is None else torch.cat((fine_queries.view_as(queries), queries), dim=-1)
        return ConnectorOutput(
            soft_tokens=self.projection(joined).flatten(0, 1),  # (W * N, LLM width)
            queries=queries,
            fine_queries=fine_queries,
            diversity=diversity_loss(queries, reduction=self.config.diversity_reduction),
        )

    def synchronise(self, visual: Tensor, audio: Sequence[Tensor], plan: WindowPlan) -> Tensor:
        """Join the streams step by step on the feature axis, visual first (released code: sequence_align_v2).

        Missing steps of a stream are zeros put in behind the audio Linear, so that no bias speaks for them; the 25
        audio frames of a step are filled up to P tokens with zeros.

        Returns:
            (W, k, P, joint width), before LayerNorm.
        """
        filler = self.config.tokens_per_step
        streams = [_pick(visual, plan.visual_index)]
        for projection, frames in zip(self.audio_projections, audio, strict=True):
            tokens = projection(frames)  # (S, 25, D_v)
            tokens = pad(tokens, (0, 0, 0, filler - tokens.shape[1]))  # (S, P, D_v)
            streams.append(_pick(tokens, plan.audio_index))
        return torch.cat(streams, dim=-1).unflatten(0, (-1, plan.window_steps))

    def _fine_queries(self, windows: Tensor, is_real: Tensor | None) -> Tensor:
        """Second resolution with the same weights; fine windows without a real step give zeros."""
        steps = self.config.fine_window_steps
        fine = windows.flatten(0, 1).unflatten(0, (-1, steps))  # (W * k / steps, steps, P, D)
        if is_real is None:
            return self.qformer(self.fine_query_tokens, fine)
        fine_is_real = is_real.reshape(-1, steps)
        kept = fine_is_real.any(dim=1).nonzero().squeeze(1)
        read = self.qformer(self.fine_query_tokens, fine[kept], is_real=fine_is_real[kept])
        return read.new_zeros(fine.shape[0], *read.shape[1:]).index_copy(0, kept, read)


def _pick(tokens: Tensor, index: Sequence[int]) -> Tensor:
    """Rows of ``tokens`` by ``index``; NOTHING (-1) picks a row of zeros appended at the end."""
    with_nothing = torch.cat((tokens, tokens.new_zeros(1, *tokens.shape[1:])))
    return with_nothing[torch.tensor(index, dtype=torch.long, device=tokens.device)]
