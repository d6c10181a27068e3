"""DG-SCT: each stream is told by the other which channels and tokens matter (NeurIPS 2023, and its code).

    y' = the other stream's tokens, as many and as wide as the own
    x  <- x + g_av softmax(x S^T) S               LAVISH's latent tokens, here of y'
    M_c, s = guidance(x, mean of y')              channel map and token scores
    x  <- x (alpha M_c + beta sigmoid(s) + 1 - alpha)
    added beside each half = bottleneck(x)        gated last, see favor.adapters.bottleneck

The softmax over tokens of tanh(s), of the last pair, stands in for the mean when the features are pooled.

Two thirds of the weights are D x D maps, at every adapter: it is no small adapter at any width, and beside ViT-g it is
as large as the encoder. The published counts also hold weights that nothing uses (adapters.md 3.5); here are none.

Shapes: F frames; N own and M other tokens; D and E their widths; m latent tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from favor.adapters.bottleneck import Bottleneck, BottleneckOptions
from favor.adapters.choices import TASKS, require_choice
from favor.adapters.contract import AdapterLayer, AdapterOptions, Additions, Cost, Site, StreamShape
from favor.adapters.cross_attention import compress, fuse
from favor.errors import ConfigurationError

Align = Literal["resize", "conv"]
AudioPlacement = Literal["after", "parallel"]


@dataclass(frozen=True)
class DgSctOptions(AdapterOptions):
    """Settings of DG-SCT; the defaults are those of its AVE script, but for ``align``.

    Args:
        align: how the other stream gets as many tokens as the own one. ``conv`` is a trained matrix from token count to
            token count, as published for AVE (81.2 M of 188.5 M weights); ``resize`` fixes no counts, as for AVS.
        alpha, beta: weights of the channel map and of the token scores.
        gamma: weight of the gates over time in a task's head, which is not part of the adapter; 0 has none.
        num_latents: m, of each adapter.
        reduction, groups, batch_norm, ln_pre, ln_post: of the bottleneck, see BottleneckOptions.
        visual_gate, audio_gate: the output gates. Without its gate a stream is changed by noise from the first step.
        audio_placement: adapters of sound ``parallel`` to the halves of its layers, or ``after`` whole layers; None is
            ``after`` for two different encoders with stages (as published, beside HTS-AT) and ``parallel`` for others.
    """

    align: Align = "resize"
    alpha: float = 0.3
    beta: float = 0.05
    gamma: float = 0.1
    num_latents: int = 32
    reduction: int = 8
    groups: int = 2
    batch_norm: bool = True
    ln_pre: bool = True
    ln_post: bool = True
    visual_gate: bool = True
    audio_gate: bool = True
    audio_placement: AudioPlacement | None = None

    def __post_init__(self) -> None:
        require_choice("align", self.align, ("resize", "conv"))
        if self.audio_placement is not None:
            require_choice("audio_placement", self.audio_placement, ("after", "parallel"))
        if self.num_latents < 1:
            raise ConfigurationError(f"num_latents is {self.num_latents}", allowed="1 or more", advice="Use 32")
        if not (0 <= self.alpha <= 1 and self.beta >= 0 and self.gamma >= 0):
            raise ConfigurationError(
                f"alpha {self.alpha}, beta {self.beta}, gamma {self.gamma}",
                allowed="alpha from 0 to 1, beta and gamma 0 or more: other tokens could change their sign",
                advice="Use 0.3, 0.05 and 0.1, or 0 to leave one out",
            )

    @classmethod
    def for_task(cls, task: str) -> DgSctOptions:
        """The released scripts' settings (adapters.md 3.1, 3.4), but

        - all: tokens are resized, where AVE, AVQA and AVVP have the convolution and AVS has it unused;
        - avs (of one source; of many: alpha 0.2, beta and gamma 0.1): LN_pre is applied, the gate comes last and audio
          has one too, as in LAVISH; avqa: audio has one too;
        - avs, avqa: latents start at random: the code's zeros stay one token for ever.
        """
        require_choice("task", task, TASKS)
        if task == "avs":
            return cls(batch_norm=False, gamma=0.05)
        if task == "avqa":
            return cls(batch_norm=False, gamma=0.0, num_latents=2, groups=4)
        return cls(gamma=0.1 if task == "ave" else 0.05)

    def build(self, sites: tuple[Site, ...]) -> nn.ModuleList:
        """One :class:`DgSctLayer` per pair; a layer without a partner runs plain."""
        have_grids, placement = _have_stages(sites), self._placement(sites)
        return nn.ModuleList(
            DgSctLayer(site.visual, site.audio, self, have_grids=have_grids, placement=placement)
            if site.visual and site.audio
            else AdapterLayer()
            for site in sites
        )

    def cost(self, site: Site) -> Cost:
        if site.visual is None or site.audio is None:
            return Cost()
        half = self._cost_beside(site.visual, site.audio) + self._cost_beside(site.audio, site.visual)
        return half + half

    def parts(self, layers: nn.ModuleList) -> Mapping[str, int]:
        """As adapters.md 6.4 has them, with the gates apart from LAVISH's part (latents and bottlenecks)."""
        adapters = [module for module in layers.modules() if isinstance(module, DgSctAdapter)]
        gates = sum(weight.numel() for name, weight in layers.named_parameters() if name.endswith("gate"))
        counts = {
            "token convolutions": sum(_num_weights(adapter.align) for adapter in adapters),
            "width maps": sum(_num_weights(adapter.widen) for adapter in adapters),
            "attention maps": sum(_num_weights(adapter.guidance) for adapter in adapters),
        }
        rest = sum(_num_weights(adapter) for adapter in adapters) - sum(counts.values()) - gates
        return {**counts, "latents and bottlenecks": rest, "gates": gates}

    def bottleneck(self, *, gate: bool) -> BottleneckOptions:
        return BottleneckOptions(
            reduction=self.reduction,
            groups=self.groups,
            batch_norm=self.batch_norm,
            ln_pre=self.ln_pre,
            ln_post=self.ln_post,
            gate=gate,
        )

    def _placement(self, sites: tuple[Site, ...]) -> AudioPlacement:
        return self.audio_placement or ("after" if _are_two(sites) and _have_stages(sites) else "parallel")

    def _cost_beside(self, own: StreamShape, other: StreamShape) -> Cost:
        """Of one adapter. Resizing has no products worth counting."""
        tokens, width = own.num_tokens, own.width
        convolution = other.num_tokens * tokens * other.width if self.align == "conv" else 0
        of_means = width * width + 3 * width * (width // 2)
        of_tokens = width * width + width * (width // 2) + width // 2
        bottleneck = self.bottleneck(gate=True).macs(width)
        return Cost(
            attention=4 * tokens * self.num_latents * width,
            projections=convolution + of_means + tokens * (other.width * width + of_tokens + bottleneck),
        )


class Guided(NamedTuple):
    """What an adapter makes of its stream: what is added (F, N, D), and the tokens' weights in pooling (F, N)."""

    added: Tensor
    pooling: Tensor


class DgSctLayer(AdapterLayer):
    """Four adapters: for each stream, beside attention and beside the MLP; or, for sound, behind both."""

    def __init__(
        self,
        visual: StreamShape,
        audio: StreamShape,
        options: DgSctOptions,
        *,
        have_grids: bool,
        placement: AudioPlacement,
    ) -> None:
        super().__init__()
        self.is_audio_after = placement == "after"
        self.visual_attention, self.visual_mlp = (
            DgSctAdapter(visual, audio, options, gate=options.visual_gate, have_grids=have_grids) for _ in range(2)
        )
        self.audio_attention, self.audio_mlp = (
            DgSctAdapter(audio, visual, options, gate=options.audio_gate, have_grids=have_grids) for _ in range(2)
        )

    def beside_attention(self, visual: Tensor | None, audio: Tensor | None) -> Additions:
        return _additions(
            None if visual is None else self.visual_attention(visual, audio),
            None if audio is None else self.audio_attention(audio, visual),
        )

    def beside_mlp(self, visual: Tensor | None, audio: Tensor | None) -> Additions:
        return _additions(
            None if visual is None else self.visual_mlp(visual, audio),
            None if audio is None else self.audio_mlp(audio, visual),
        )


class DgSctAdapter(nn.Module):
    """What is added to one stream beside one half of a layer, and which of its tokens matter.

    Args:
        own, other: the streams' shapes; N and M are binding for ``align="conv"`` only.
        options: see there.
        gate: it has an output gate.
        have_grids: both streams are square grids, row by row, where they have no CLS and a square number of tokens.

    Raises:
        ConfigurationError: a width that does not fit the options.
    """

    def __init__(
        self, own: StreamShape, other: StreamShape, options: DgSctOptions, *, gate: bool, have_grids: bool
    ) -> None:
        super().__init__()
        self.alpha, self.beta = options.alpha, options.beta
        is_grid = have_grids and not (own.has_cls or other.has_cls)
        self.align: TokenConvolution | TokenResize = (
            TokenConvolution(other.num_tokens, own.num_tokens) if options.align == "conv" else TokenResize(is_grid)
        )
        self.widen = nn.Linear(other.width, own.width)
        # Random, uniform in [0, 1) as in the code for AVE: equal ones would get equal gradients and never part.
        self.latents = nn.Parameter(torch.rand(options.num_latents, own.width))
        self.cross_gate = nn.Parameter(torch.zeros(1))
        self.guidance = Guidance(own.width)
        self.bottleneck = Bottleneck(own.width, options.bottleneck(gate=gate))

    def forward(self, tokens: Tensor, other: Tensor | None) -> Guided:
        """(F, N, D), (F, M, E) -> what is added, of the tokens' dtype, and the pooling weights.

        Without the other stream only the bottleneck is left, and all tokens weigh the same.
        """
        if other is None:
            return Guided(self.bottleneck(tokens), tokens.new_full(tokens.shape[:2], 1 / tokens.shape[1]))
        guide = self.aligned(other, tokens.shape[1])  # (F, N, D)
        latents = compress(self.latents, guide)  # (F, m, D)
        fused = (tokens + self.cross_gate * fuse(tokens, latents)).to(guide.dtype)
        channels, scores = self.guidance(fused, guide.mean(dim=1))  # (F, D), (F, N)
        added = self.bottleneck(fused * self.modulation(channels, scores))
        pooling = scores.tanh().softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        return Guided(added.to(tokens.dtype), pooling)

    def aligned(self, other: Tensor, num_tokens: int) -> Tensor:
        """The other stream as many and as wide as the own, (F, M, E) -> (F, N, D)."""
        return self.widen(self.align(other.to(self.widen.weight.dtype), num_tokens))

    def modulation(self, channels: Tensor, scores: Tensor) -> Tensor:
        """What every element is multiplied by, (F, N, D), between 1 - alpha and 1 + beta."""
        channel_map, token_map = channels[:, None], scores.sigmoid()[..., None]  # (F, 1, D), (F, N, 1)
        return self.alpha * channel_map + self.beta * token_map + (1 - self.alpha)


class Guidance(nn.Module):
    """Which channels and which tokens of a stream matter, by the other's mean token a (adapters.md 3.1, 4 and 5).

    M_c = sigmoid(W_c relu(W_b mean_n[relu(W_1a a) relu(W_1v x_n)]))
    s_n = w_s [relu(W_2v (1 + M_c) x_n) relu(W_2a a)]
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        if width % 2:
            raise ConfigurationError(
                f"a stream of width {width}", allowed="an even width", advice="DG-SCT's maps are half as wide"
            )
        half = width // 2
        self.own_channels, self.guide_channels = nn.Linear(width, width), nn.Linear(width, width)
        self.squeeze, self.expand = nn.Linear(width, half), nn.Linear(half, width)
        self.own_tokens, self.guide_tokens = nn.Linear(width, half), nn.Linear(width, half)
        self.score = nn.Linear(half, 1)

    def forward(self, tokens: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
        """(F, N, D), (F, D) -> channel map M_c (F, D) between 0 and 1, token scores s (F, N)."""
        agreed = self.guide_channels(guide).relu() * self.own_channels(tokens).relu().mean(dim=1)  # (F, D)
        channels = self.expand(self.squeeze(agreed).relu()).sigmoid()
        own = self.own_tokens((1 + channels[:, None]) * tokens).relu()  # (F, N, D / 2)
        return channels, self.score(own * self.guide_tokens(guide).relu()[:, None]).squeeze(-1)


class TokenConvolution(nn.Conv1d):
    """Each own token is a trained mixture of the other stream's: a 1x1 convolution with tokens as channels."""

    def __init__(self, given: int, wanted: int) -> None:
        super().__init__(given, wanted, 1)

    def forward(self, tokens: Tensor, num_tokens: int) -> Tensor:  # type: ignore[override]  # says what is wanted
        """(F, M, E) -> (F, N, E).

        Raises:
            ConfigurationError: other numbers of tokens than it was built for.
        """
        if (tokens.shape[1], num_tokens) != (self.in_channels, self.out_channels):
            raise ConfigurationError(
                f"{num_tokens} tokens beside {tokens.shape[1]}",
                allowed=f"{self.out_channels} beside {self.in_channels}, which align='conv' was built for",
                advice="Give streams of that size, or build with align='resize'",
            )
        return super().forward(tokens)


class TokenResize(nn.Module):
    """Tokens interpolated between: bicubic on square grids, linear along anything else.

    A CLS token, sound that runs along one axis, or a count without a root make a sequence of both streams: where one
    has no place in two dimensions, the other's rows and columns mean nothing to it (adapters.md 6.7).

    In the released code the width is mapped before; after is the same, as the weights of an interpolation sum to 1.
    """

    def __init__(self, is_grid: bool) -> None:
        super().__init__()
        self.is_grid = is_grid

    def forward(self, tokens: Tensor, num_tokens: int) -> Tensor:
        """(F, M, E) -> (F, N, E)."""
        if tokens.shape[1] == num_tokens:
            return tokens
        given, wanted = isqrt(tokens.shape[1]), isqrt(num_tokens)
        channels = tokens.transpose(1, 2)  # (F, E, M)
        if self.is_grid and (given**2, wanted**2) == (tokens.shape[1], num_tokens):
            grid = interpolate(channels.unflatten(2, (given, given)), size=(wanted, wanted), mode="bicubic")
            return grid.flatten(2).transpose(1, 2)
        return interpolate(channels, size=num_tokens, mode="linear").transpose(1, 2)


def _additions(visual: Guided | None, audio: Guided | None) -> Additions:
    return Additions(
        visual=visual and visual.added,
        audio=audio and audio.added,
        visual_pooling=visual and visual.pooling,
        audio_pooling=audio and audio.pooling,
    )


def _are_two(sites: tuple[Site, ...]) -> bool:
    """The streams have an encoder each: what runs side by side is not the same layer."""
    pairs = [(site.visual, site.audio) for site in sites if site.visual and site.audio]
    return any((seen.layer, seen.width) != (heard.layer, heard.width) for seen, heard in pairs)


def _have_stages(sites: tuple[Site, ...]) -> bool:
    """Both encoders have several resolutions: their tokens are grids."""
    return all(
        any(stream is not None and stream.stage > 0 for stream in streams)
        for streams in ([site.visual for site in sites], [site.audio for site in sites])
    )


def _num_weights(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
