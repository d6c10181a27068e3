"""What adapters are compared with: a bottleneck that knows its own stream alone, and LoRA (adapters.md 8).

Shapes: F frames, N and M tokens, D and E widths.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from favor.adapters.bottleneck import Bottleneck, BottleneckOptions
from favor.adapters.contract import AdapterLayer, AdapterOptions, Additions, Cost, Site
from favor.configuration import LoraOptions
from favor.encoders import LayeredEncoder
from favor.lora import add_lora

LORA_TARGETS = ("query", "value", "q_proj", "v_proj", "qkv")
"""Queries and values by the names that transformers' encoders give them; EVA's come in one piece with the keys."""


@dataclass(frozen=True)
class AloneOptions(AdapterOptions):
    """LAVISH's bottlenecks, at the same places, without latent tokens or anything else of the other stream."""

    bottleneck: BottleneckOptions = BottleneckOptions(reduction=8, groups=2)

    @classmethod
    def for_task(cls, task: str) -> AloneOptions:
        return cls()

    def build(self, sites: tuple[Site, ...]) -> nn.ModuleList:
        return nn.ModuleList(self._layer(site) for site in sites)

    def cost(self, site: Site) -> Cost:
        if site.visual is None or site.audio is None:
            return Cost()
        return Cost(0, 2 * sum(own.num_tokens * self.bottleneck.macs(own.width) for own in (site.visual, site.audio)))

    def _layer(self, site: Site) -> AdapterLayer:
        if site.visual is None or site.audio is None:
            return AdapterLayer()
        return AloneLayer(site.visual.width, site.audio.width, self.bottleneck)


class AloneLayer(AdapterLayer):
    """Four bottlenecks: for each stream, beside attention and beside the MLP."""

    def __init__(self, visual_width: int, audio_width: int, options: BottleneckOptions) -> None:
        super().__init__()
        self.visual_attention, self.visual_mlp = (Bottleneck(visual_width, options) for _ in range(2))
        self.audio_attention, self.audio_mlp = (Bottleneck(audio_width, options) for _ in range(2))

    def beside_attention(self, visual: Tensor | None, audio: Tensor | None) -> Additions:
        return _added(self.visual_attention, self.audio_attention, visual, audio)

    def beside_mlp(self, visual: Tensor | None, audio: Tensor | None) -> Additions:
        return _added(self.visual_mlp, self.audio_mlp, visual, audio)


def put_lora(encoder: LayeredEncoder, *, r: int, alpha: int) -> None:
    """LoRA on the queries and values of an encoder that otherwise stays frozen."""
    present = {name.rpartition(".")[2] for name, module in encoder.named_modules() if isinstance(module, nn.Linear)}
    targets = [target for target in LORA_TARGETS if target in present]
    assert targets, f"{type(encoder).__name__} has none of {LORA_TARGETS}"
    add_lora(encoder, LoraOptions(r=r, alpha=alpha, dropout=0.0, target_modules=targets))


def _added(to_visual: Bottleneck, to_audio: Bottleneck, visual: Tensor | None, audio: Tensor | None) -> Additions:
    return Additions(
        visual=None if visual is None else to_visual(visual).to(visual.dtype),
        audio=None if audio is None else to_audio(audio).to(audio.dtype),
    )
