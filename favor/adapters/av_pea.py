"""AV-PEA: the CLS token of one stream looks at the other stream (ICLR 2024 submission; VISAPP 2024). No public code.

    c = softmax(x_cls y^T) y                     over all of y's tokens
    x'_cls = x_cls + g c                         the patches stay as they are
    added beside attention = bottleneck(x')      gated last by h, see favor.adapters.bottleneck

One adapter for each stream of a layer pair, beside attention only. The paper's listing has faults that we do not have:
its gates are integers, its equation 7 lacks the residual of x_cls, the other stream is optional by its signature only
(adapters.md 4.2).

A stream without a CLS token (Swin, HTS-AT, Whisper) needs a stand-in, of which the paper says nothing.

Shapes: F frames; N own and M other tokens; D and E their widths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from favor.adapters.bottleneck import Bottleneck, BottleneckOptions, weights_by_part
from favor.adapters.bridge import Bridge, bridge_macs
from favor.adapters.choices import TASKS, require_choice
from favor.adapters.contract import AdapterLayer, AdapterOptions, Additions, Cost, Site, StreamShape
from favor.adapters.cross_attention import fuse

ClsStandIn = Literal["mean", "query"]

QUERY_STD = 0.02
"""Of a learned query at its start."""


@dataclass(frozen=True)
class AvPeaOptions(AdapterOptions):
    """Settings of AV-PEA; the defaults are the paper's.

    Args:
        reduction, batch_norm: of the bottleneck, see BottleneckOptions; it has no groups.
        cls_stand_in: who looks at the other stream where there is no CLS token: the ``mean`` of the own tokens, or a
            learned ``query``. What it finds is added to every token.
        scale: divide dot products by sqrt(D); not as published.
        bridge_rank: of the map between streams of different widths; None or 0 is a full matrix.
    """

    reduction: int = 8
    batch_norm: bool = True
    cls_stand_in: ClsStandIn = "mean"
    scale: bool = False
    bridge_rank: int | None = 64

    def __post_init__(self) -> None:
        self.bottleneck()  # refuses what is wrong for every width
        require_choice("cls_stand_in", self.cls_stand_in, ("mean", "query"))

    @classmethod
    def for_task(cls, task: str) -> AvPeaOptions:
        """The same for every task, as in the paper; avs and avvp are not in it."""
        require_choice("task", task, TASKS)
        return cls()

    def build(self, sites: tuple[Site, ...]) -> nn.ModuleList:
        """One :class:`AvPeaLayer` per pair; a layer without a partner runs plain."""
        return nn.ModuleList(self._layer(site) for site in sites)

    def cost(self, site: Site) -> Cost:
        """As in LAVISH's accounting, from which the paper's linear cost follows; the paper itself gives no figures."""
        if site.visual is None or site.audio is None:
            return Cost()
        return self._cost_beside(site.visual, site.audio) + self._cost_beside(site.audio, site.visual)

    def parts(self, layers: nn.ModuleList) -> Mapping[str, int]:
        return weights_by_part(layers)

    def bottleneck(self) -> BottleneckOptions:
        return BottleneckOptions(reduction=self.reduction, batch_norm=self.batch_norm)

    def _layer(self, site: Site) -> AdapterLayer:
        if site.visual is None or site.audio is None:
            return AdapterLayer()
        return AvPeaLayer(site.visual, site.audio, self)

    def _cost_beside(self, own: StreamShape, other: StreamShape) -> Cost:
        bridge = other.num_tokens * bridge_macs(other.width, own.width, rank=self.bridge_rank)
        return Cost(
            attention=2 * other.num_tokens * own.width,
            projections=own.num_tokens * self.bottleneck().macs(own.width) + bridge,
        )


class AvPeaAdapter(nn.Module):
    """What is added to one stream beside attention.

    Args:
        own: the stream; its first token is CLS or it needs a stand-in.
        other_width: E.
        options: see there.

    Paper's names: ``cross_gate`` is g, ``bottleneck.gate`` is h.
    """

    def __init__(self, own: StreamShape, other_width: int, options: AvPeaOptions) -> None:
        super().__init__()
        self.scale = options.scale
        self.has_cls = own.has_cls
        self.bridge = Bridge(other_width, own.width, rank=options.bridge_rank)
        self.query: nn.Parameter | None = None
        if not own.has_cls and options.cls_stand_in == "query":
            self.query = nn.Parameter(torch.randn(1, own.width) * QUERY_STD)
        self.cross_gate = nn.Parameter(torch.zeros(1))
        self.bottleneck = Bottleneck(own.width, options.bottleneck())

    def forward(self, tokens: Tensor, other: Tensor | None) -> Tensor:
        """(F, N, D) own and (F, M, E) other stream -> (F, N, D), of the tokens' dtype; without another stream only
        the bottleneck is left.
        """
        return self.bottleneck(self.fused(tokens, other)).to(tokens.dtype)

    def fused(self, tokens: Tensor, other: Tensor | None) -> Tensor:
        """The own tokens with what was found in the other stream, (F, N, D): what goes into the bottleneck."""
        if other is None:
            return tokens
        found = self.cross_gate * fuse(self._asking(tokens), self.bridge(other), scale=self.scale)  # (F, 1, D)
        if not self.has_cls:
            return tokens + found
        return torch.cat((tokens[:, :1] + found, tokens[:, 1:].to(found.dtype)), dim=1)

    def _asking(self, tokens: Tensor) -> Tensor:
        """Who looks at the other stream, (F, 1, D)."""
        if self.has_cls:
            return tokens[:, :1]
        if self.query is not None:
            return self.query.expand(len(tokens), -1, -1)
        return tokens.mean(dim=1, keepdim=True)


class AvPeaLayer(AdapterLayer):
    """Two adapters, one for each stream."""

    def __init__(self, visual: StreamShape, audio: StreamShape, options: AvPeaOptions) -> None:
        super().__init__()
        self.visual = AvPeaAdapter(visual, audio.width, options)
        self.audio = AvPeaAdapter(audio, visual.width, options)

    def beside_attention(self, visual: Tensor | None, audio: Tensor | None) -> Additions:
        return Additions(
            visual=None if visual is None else self.visual(visual, audio),
            audio=None if audio is None else self.audio(audio, visual),
        )
