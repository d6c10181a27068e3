"""LAVISH: a few latent tokens carry what one stream perceives into the other (CVPR 2023, and its released code).

    S = L + softmax(L y^T) y                 m latent tokens compress the other stream
    x' = x + g_av softmax(x S^T) S           every own token takes up what it needs of them
    added beside each half = bottleneck(x')  gated last, see favor.adapters.bottleneck

Each layer pair has four adapters, one for each stream beside each half; all see what goes into the half.

Where the paper's equation 8 and the code differ, the published counts bear out the code, which is the default here;
``paper_eq8`` is the equation. ``direct`` is AVISH, the paper's ablation without latent tokens, at 19 times the cost.

Shapes: F frames; N own and M other tokens; D and E their widths; m latent tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from favor.adapters.bottleneck import Bottleneck, BottleneckOptions, weights_by_part
from favor.adapters.bridge import Bridge, bridge_macs
from favor.adapters.choices import TASKS, require_choice
from favor.adapters.contract import AdapterLayer, AdapterOptions, Additions, Cost, Site, StreamShape
from favor.adapters.cross_attention import compress, fuse
from favor.errors import ConfigurationError


@dataclass(frozen=True)
class LavishOptions(AdapterOptions):
    """Settings of LAVISH; the defaults are those of its AVE command.

    Args:
        num_latents: m, of each adapter.
        reduction, groups, batch_norm, ln_pre, ln_post: of the bottleneck, see BottleneckOptions.
        visual_gate, audio_gate: the output gates. Without its gate a stream is changed by noise from the first step.
        scale: divide dot products by sqrt(D); not as published.
        paper_eq8: as printed: keys are the other stream's summary, values the own one's, and each stream of a layer
            has one set of latents for all four adapters (24 ViT-L layers: 13.30 M weights; published are 13.4).
        direct: AVISH: tokens attend to all tokens of the other stream; there are no latents.
        bridge_rank: of the map between streams of different widths; None or 0 is a full matrix.
    """

    num_latents: int = 2
    reduction: int = 8
    groups: int = 2
    batch_norm: bool = True
    ln_pre: bool = True
    ln_post: bool = True
    visual_gate: bool = True
    audio_gate: bool = True
    scale: bool = False
    paper_eq8: bool = False
    direct: bool = False
    bridge_rank: int | None = 64

    def __post_init__(self) -> None:
        self.bottleneck(gate=True)  # refuses what is wrong for every width
        if self.num_latents < 1:
            raise ConfigurationError(
                f"num_latents is {self.num_latents}", allowed="1 or more", advice="Use direct=True for none at all"
            )
        if self.direct and self.paper_eq8:
            raise ConfigurationError(
                "direct and paper_eq8 together",
                allowed="one of them",
                advice="Equation 8 is about latent tokens, which direct leaves out",
            )

    @classmethod
    def for_task(cls, task: str) -> LavishOptions:
        """The released commands' settings (adapters.md 2.3), but

        - avs: LN_pre is applied, the gate comes last and audio has one too (the code applies the gate before LN_post,
          and has none for audio: the adapted encoder is not the frozen one at the start);
        - avs, avqa: latents start at random (the code's zeros get equal gradients and stay one token for ever);
        - avqa: m, r and g are the command's 64, 8, 4, which the published count bears out; the appendix has 16, 4, 2;
        - avvp: not published for LAVISH; AVE's.
        """
        require_choice("task", task, TASKS)
        if task == "avs":
            return cls(num_latents=16, reduction=4, groups=2, batch_norm=False)
        if task == "avqa":
            return cls(num_latents=64, reduction=8, groups=4, batch_norm=False)
        return cls()

    def build(self, sites: tuple[Site, ...]) -> nn.ModuleList:
        """One :class:`LavishLayer` per pair; a layer without a partner runs plain."""
        return nn.ModuleList(self._layer(site) for site in sites)

    def cost(self, site: Site) -> Cost:
        if site.visual is None or site.audio is None:
            return Cost()
        half = self._cost_beside(site.visual, site.audio) + self._cost_beside(site.audio, site.visual)
        return half + half

    def parts(self, layers: nn.ModuleList) -> Mapping[str, int]:
        return weights_by_part(layers)

    def bottleneck(self, *, gate: bool) -> BottleneckOptions:
        return BottleneckOptions(
            reduction=self.reduction,
            groups=self.groups,
            batch_norm=self.batch_norm,
            ln_pre=self.ln_pre,
            ln_post=self.ln_post,
            gate=gate,
        )

    def _layer(self, site: Site) -> AdapterLayer:
        if site.visual is None or site.audio is None:
            return AdapterLayer()
        kind = Equation8Layer if self.paper_eq8 else LavishLayer
        return kind(site.visual.width, site.audio.width, self)

    def _cost_beside(self, own: StreamShape, other: StreamShape) -> Cost:
        """Of one adapter; in equation 8 the two streams' summaries serve both, and each is counted with its user."""
        attended = other.num_tokens if self.direct else self.num_latents
        attention = 2 * own.num_tokens * attended * own.width
        if not self.direct:
            attention += 2 * other.num_tokens * self.num_latents * (other.width if self.paper_eq8 else own.width)
        bridged = self.num_latents if self.paper_eq8 else other.num_tokens
        bridge = bridged * bridge_macs(other.width, own.width, rank=self.bridge_rank)
        return Cost(attention, own.num_tokens * self.bottleneck(gate=True).macs(own.width) + bridge)


class LavishAdapter(nn.Module):
    """What is added to one stream beside one half of a layer.

    Args:
        width, other_width: D and E.
        options: see there.
        gate: it has an output gate.
        latents: it has latent tokens of its own; otherwise its tokens attend to all that it is given.
    """

    def __init__(self, width: int, other_width: int, options: LavishOptions, *, gate: bool, latents: bool) -> None:
        super().__init__()
        self.scale = options.scale
        self.bridge = Bridge(other_width, width, rank=options.bridge_rank)
        self.latents = _new_latents(options.num_latents, width) if latents else None
        self.cross_gate = nn.Parameter(torch.zeros(1))
        self.bottleneck = Bottleneck(width, options.bottleneck(gate=gate))

    def forward(self, tokens: Tensor, other: Tensor | None, values: Tensor | None = None) -> Tensor:
        """What to add to the own stream.

        Args:
            tokens: (F, N, D) own stream.
            other: (F, M, E) the other stream; None where there is none: then only the bottleneck is left.
            values: (F, M, D) what is taken up in place of the other stream, which is then asked only.

        Returns:
            (F, N, D), of the tokens' dtype.
        """
        return self.bottleneck(self.fused(tokens, other, values)).to(tokens.dtype)

    def fused(self, tokens: Tensor, other: Tensor | None, values: Tensor | None = None) -> Tensor:
        """The own tokens with what they took up, (F, N, D): what goes into the bottleneck."""
        if other is None:
            return tokens
        keys = self.bridge(other)  # (F, M, D)
        if self.latents is not None:
            keys = compress(self.latents, keys, scale=self.scale)  # (F, m, D)
        return tokens + self.cross_gate * fuse(tokens, keys, values, scale=self.scale)


class LavishLayer(AdapterLayer):
    """Four adapters: for each stream, beside attention and beside the MLP."""

    def __init__(self, visual_width: int, audio_width: int, options: LavishOptions) -> None:
        super().__init__()
        latents = not (options.direct or options.paper_eq8)

        def visual() -> LavishAdapter:
            return LavishAdapter(visual_width, audio_width, options, gate=options.visual_gate, latents=latents)

        def audio() -> LavishAdapter:
            return LavishAdapter(audio_width, visual_width, options, gate=options.audio_gate, latents=latents)

        self.visual_attention, self.audio_attention = visual(), audio()
        self.visual_mlp, self.audio_mlp = visual(), audio()

    def beside_attention(self, visual: Tensor | None, audio: Tensor | None) -> Additions:
        return self._beside(self.visual_attention, self.audio_attention, visual, audio)

    def beside_mlp(self, visual: Tensor | None, audio: Tensor | None) -> Additions:
        return self._beside(self.visual_mlp, self.audio_mlp, visual, audio)

    def _beside(
        self, to_visual: LavishAdapter, to_audio: LavishAdapter, visual: Tensor | None, audio: Tensor | None
    ) -> Additions:
        return Additions(
            visual=None if visual is None else to_visual(visual, audio),
            audio=None if audio is None else to_audio(audio, visual),
        )


class Equation8Layer(LavishLayer):
    """The paper's equation 8: x' = x + g softmax(x S_other^T) S_own, with one set of latents for each stream."""

    def __init__(self, visual_width: int, audio_width: int, options: LavishOptions) -> None:
        super().__init__(visual_width, audio_width, options)
        self.scale = options.scale
        self.visual_latents = _new_latents(options.num_latents, visual_width)
        self.audio_latents = _new_latents(options.num_latents, audio_width)

    def _beside(
        self, to_visual: LavishAdapter, to_audio: LavishAdapter, visual: Tensor | None, audio: Tensor | None
    ) -> Additions:
        if visual is None or audio is None:
            return super()._beside(to_visual, to_audio, visual, audio)
        seen = compress(self.visual_latents, visual, scale=self.scale)  # (F, m, D)
        heard = compress(self.audio_latents, audio, scale=self.scale)  # (F, m, E)
        return Additions(visual=to_visual(visual, heard, seen), audio=to_audio(audio, seen, heard))


def _new_latents(number: int, width: int) -> nn.Parameter:
    """Random, uniform in [0, 1) as in the code for AVE: equal ones would get equal gradients and never part."""
    return nn.Parameter(torch.rand(number, width))
