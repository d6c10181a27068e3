"""The network of AVSBench's masks: four resolutions of a frame, fused from the coarsest to the finest, to one logit per
pixel (adapters.md 2.5; Zhou et al., ECCV 2022).

Shapes: B clips, T frames of a clip; N = h * w tokens of a stage, D its width; C channels of the decoder; E width of
the sound; S = size, pixels of a side of the mask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from favor.errors import ConfigurationError

Given = TypeVar("Given")

NUM_STAGES = 4

CHANNELS = 256
"""Of the decoder."""

STAGE_CHANNELS = (64, 128, 320, 512)
"""What the stages' widths are brought to: those of the pyramid encoder that the decoder was made for."""

SOUND_WIDTH = 128
"""What the sound's width is brought to: that of the VGGish features that the fusion was made for."""

STRIDES = (4, 8, 16, 32)
"""Pixels of the mask per cell of each stage's grid: 224 gives 56, 28, 14 and 7."""

DILATIONS = (3, 6, 12, 18)


class Segmented(NamedTuple):
    """What the network makes of a batch.

    Args:
        logits: (B, T, S, S).
        maps: of the fused stages, each (B, T, C, h, w). sounds: of the same stages, each (B, T, C).
    """

    logits: Tensor
    maps: tuple[Tensor, ...] = ()
    sounds: tuple[Tensor, ...] = ()


class SegmentationNetwork(nn.Module):
    """Stage outputs to masks.

    Args:
        widths: of the four stages, finest first. sound_width: of the sound.
        fused_stages: at these (0 to 3) the sound is attended to by :class:`SoundFusion`; none, as in LAVISH's command,
            lets the sound speak through the adapters alone.
        size: of the masks.
        channels, stage_channels: of the decoder.

    With ``channels`` 256 and Swin-V2-L, 19,129,025 weights. The published head counts 20,505,921 (adapters.md 6.2):
    it also holds 196,736 of a projection of the sound that nothing reads without fusion, and 1,180,160 of the coarsest
    block's unit for a coarser input that there is not. Such weights are not made here.
    """

    def __init__(
        self,
        widths: Sequence[int],
        sound_width: int,
        *,
        fused_stages: Sequence[int] = (),
        size: int = 224,
        channels: int = CHANNELS,
        stage_channels: Sequence[int] = STAGE_CHANNELS,
    ) -> None:
        super().__init__()
        _check(widths, fused_stages, size)
        self.size = size
        self.projections = nn.ModuleList(nn.Linear(width, to) for width, to in zip(widths, stage_channels, strict=True))
        self.banks = nn.ModuleList(DilatedBank(width, channels) for width in stage_channels)
        self.blocks = nn.ModuleList(
            TopDownBlock(channels, is_coarsest=stage == NUM_STAGES - 1) for stage in range(NUM_STAGES)
        )
        self.to_mask = MaskOutput(channels)
        self.sound_projection = nn.Linear(sound_width, SOUND_WIDTH) if fused_stages else None
        self.fusions = nn.ModuleDict({str(stage): SoundFusion(channels) for stage in sorted(fused_stages)})

    def forward(self, stages: Sequence[Tensor], sound: Tensor) -> Segmented:
        """Four (B, T, N, D), finest first, and the sound of every frame (B, T, E)."""
        assert len(stages) == NUM_STAGES, f"{len(stages)} stages"
        clips, frames = sound.shape[:2]
        grids = [
            bank(functional.interpolate(_grid(linear(tokens)), size=self.size // stride, mode="bicubic"))
            for bank, linear, tokens, stride in zip(self.banks, self.projections, stages, STRIDES, strict=True)
        ]  # (B * T, C, h, w) each
        heard = []
        if self.sound_projection is not None:
            projected = self.sound_projection(sound)
            for name, fusion in self.fusions.items():
                place = int(name)
                grids[place], of_stage = fusion(grids[place].unflatten(0, (clips, frames)), projected)
                heard.append(of_stage)
        fused = tuple(grids[int(name)].unflatten(0, (clips, frames)) for name in self.fusions)
        logits = self.to_mask(self._top_down(grids)).squeeze(1).unflatten(0, (clips, frames))
        return Segmented(logits, fused, tuple(heard))

    def _top_down(self, grids: Sequence[Tensor]) -> Tensor:
        """From the coarsest grid to twice the finest, (B * T, C, S / 2, S / 2)."""
        coarser = None
        for block, grid in zip(reversed(self.blocks), reversed(grids), strict=True):
            coarser = block(grid, coarser)
        assert coarser is not None, "there are stages"
        return coarser


class DilatedBank(nn.Module):
    """The sum of four 3x3 convolutions that look ever farther, (B, D, h, w) -> (B, C, h, w)."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, channels, 3, padding=dilation, dilation=dilation) for dilation in DILATIONS
        )
        for name, weight in self.convolutions.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(weight, std=0.01)

    def forward(self, grid: Tensor) -> Tensor:
        return torch.stack([convolution(grid) for convolution in self.convolutions]).sum(dim=0)


class ResidualUnit(nn.Module):
    """x + conv(ReLU(conv(ReLU(x)))).

    The released code's ReLU overwrites its input, so that the residual there is ReLU(x); here it is x, as drawn.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, grid: Tensor) -> Tensor:
        return grid + self.second(functional.relu(self.first(functional.relu(grid))))


class TopDownBlock(nn.Module):
    """A stage, with what the coarser ones made, at twice its resolution: (B, C, h, w) -> (B, C, 2h, 2w)."""

    def __init__(self, channels: int, *, is_coarsest: bool) -> None:
        super().__init__()
        self.own = None if is_coarsest else ResidualUnit(channels)
        self.joint = ResidualUnit(channels)

    def forward(self, grid: Tensor, coarser: Tensor | None) -> Tensor:
        if self.own is not None:
            assert coarser is not None, "only the coarsest stage has none before it"
            grid = coarser + self.own(grid)
        return functional.interpolate(self.joint(grid), scale_factor=2, mode="bilinear", align_corners=True)


class MaskOutput(nn.Module):
    """(B, C, S / 2, S / 2) -> logits (B, 1, S, S); 256 channels shrink to 128, 32 and 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(channels, channels // 2, 3, padding=1)
        self.narrow = nn.Conv2d(channels // 2, channels // 8, 3, padding=1)
        self.logit = nn.Conv2d(channels // 8, 1, 1)

    def forward(self, grid: Tensor) -> Tensor:
        doubled = functional.interpolate(self.wide(grid), scale_factor=2, mode="bilinear")
        return self.logit(functional.relu(self.narrow(doubled)))


class SoundFusion(nn.Module):
    """Every place of a clip attends to the sound of all its frames (TPAVI), dot products over their number, no softmax:

    z = LN(x + BN(W(1/N sum_j (theta(x_i) . phi(a_j)) g(x_j)))), N = T * h * w places, a_j the sound of j's frame.

    All places of a frame hear the same, so the sum over N is one over T, of the frames' mean g: the same result at a
    cost that is linear in N. BN starts at 0, so the fusion starts as LN(x).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.sound = nn.Linear(SOUND_WIDTH, channels)
        self.theta, self.phi, self.g = (nn.Linear(channels, inner) for _ in range(3))
        self.out = nn.Linear(inner, channels)
        self.out_norm = nn.BatchNorm1d(channels)
        self.norm = nn.LayerNorm(channels)
        nn.init.zeros_(self.out_norm.weight)

    def forward(self, maps: Tensor, sound: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, T, C, h, w) and sound (B, T, 128) -> (B * T, C, h, w), and the sound in their channels (B, T, C)."""
        heard = self.sound(sound)
        places = maps.flatten(3).transpose(2, 3)  # (B, T, h * w, C)
        closeness = torch.einsum("btpc,bsc->btps", self.theta(places), self.phi(heard))  # (B, T, h * w, T)
        per_frame = self.g(places).mean(dim=2)  # (B, T, C / 2)
        gathered = torch.einsum("btps,bsc->btpc", closeness, per_frame) / maps.shape[1]
        added = self.out_norm(self.out(gathered).flatten(0, 2)).view_as(places)
        fused = self.norm(places + added)
        return fused.transpose(2, 3).reshape(maps.shape).flatten(0, 1), heard


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross-entropy of the frames that have a mask: logits (B, T, S, S), masks (B, F, S, S) of the first F.

    F is 1 in S4's training split and T everywhere else.
    """
    assert masks.shape[1] <= logits.shape[1], f"{masks.shape[1]} masks of {logits.shape[1]} frames"
    return functional.binary_cross_entropy_with_logits(logits[:, : masks.shape[1]], masks.to(logits.dtype))


def matching_loss(segmented: Segmented) -> Tensor:
    """Sound and what the mask shows of the picture should be alike: KL(sound || masked picture), the mean over stages.

    Both are made distributions by a softmax over channels; the picture is the map's mean, weighted by sigmoid(mask
    logits, averaged to the map's cells). What is known: AVSBench's command for MS3 takes all four stages, sums over
    channels, frames and clips, and leaves lengths as they are (its flag that normalises them is off). Here it is the
    sum over a clip's frames and the mean over clips, so that batches can be accumulated: AVSBench's weight 0.5, at its
    batch of 4, is a weight of 2 here.
    """
    assert segmented.maps, "the sound is compared where it was fused"
    losses = []
    for maps, sound in zip(segmented.maps, segmented.sounds, strict=True):
        weights = functional.adaptive_avg_pool2d(
            segmented.logits, (maps.shape[-2], maps.shape[-1])
        ).sigmoid()  # (B, T, h, w)
        shown = (maps * weights[:, :, None]).mean(dim=(-2, -1))  # (B, T, C)
        log_shown, log_sound = shown.log_softmax(-1), sound.log_softmax(-1)
        losses.append(functional.kl_div(log_shown, log_sound, reduction="sum", log_target=True) / len(maps))
    return torch.stack(losses).mean()


def spread_stages(given: Sequence[Given]) -> tuple[Given, ...]:
    """Four of an encoder's stages, evenly spaced, the last of them its last.

    Four stages are taken as they are, twelve layers as 3, 6, 9 and 12, two stages twice each. The one stage of an
    encoder of a single resolution (ViT) is taken four times, and only its projections and grids differ, as in a simple
    feature pyramid: published decoders only know encoders with four stages, so this is ours.
    """
    assert given, "no stages"
    return tuple(given[-(-number * len(given) // NUM_STAGES) - 1] for number in range(1, NUM_STAGES + 1))


def _grid(tokens: Tensor) -> Tensor:
    """(B, T, N, D) -> (B * T, D, side, side)."""
    side = math.isqrt(tokens.shape[2])
    assert side * side == tokens.shape[2], f"{tokens.shape[2]} tokens are no square grid; leave a CLS token out"
    return tokens.flatten(0, 1).transpose(1, 2).unflatten(2, (side, side))


def _check(widths: Sequence[int], fused_stages: Sequence[int], size: int) -> None:
    assert len(widths) == NUM_STAGES, f"{len(widths)} stages"
    if sorted(set(fused_stages) & set(range(NUM_STAGES))) != sorted(fused_stages):
        raise ConfigurationError(
            f"fused stages are {list(fused_stages)}", allowed="different ones of 0 to 3", advice="Correct them"
        )
    if size < STRIDES[-1] or size % STRIDES[-1]:
        raise ConfigurationError(
            f"the masks' size is {size}", allowed=f"a multiple of {STRIDES[-1]}", advice="Use 224, as published"
        )
