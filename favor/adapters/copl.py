"""CoPL: prompts that two frozen encoders write for each other (Collaborative Prompt Learning, ACM MM 2024).

Every layer's prompts are attached for that layer alone. Modal-specific ones stand at all layers; at the last k, each
stream also mixes a prompt out of a small bank by what it perceives, and hands a translation of it to the other.

The paper leaves much open. Our reading: a bank entry is one vector; each coupled layer and stream has its own bank and
latents; a frame sees the frame-level prompt of its own moment only; there are two mappings per coupled layer.

Shapes: F frames; N visual and M audio tokens; D and E their widths; G video-level prompts; T frame-level prompts, one
per moment of a clip; I interaction prompts of a stream, which are also its latents; Q bank entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from favor.adapters.choices import TASKS, require_choice
from favor.adapters.contract import AdapterLayer, AdapterOptions, Cost, Prompts, Site, StreamShape
from favor.adapters.cross_attention import compress, fuse
from favor.errors import ConfigurationError

PromptScope = Literal["stage", "block"]

INITIAL_STD = 0.02
"""Of prompts, latents and banks; the paper does not say."""

MAPPING_REDUCTION = 8
"""A mapping's hidden width is the narrower stream's by this much."""

STAGE_LAYERS, BLOCK_LAYERS = 2, 4
"""Coupled layers of encoders with stages (Swin-V2) and without (ViT)."""

_LENGTHS = {"ave": (20, 10), "avs": (30, 5), "avqa": (30, 10), "avvp": (20, 10)}
"""Task -> (G and I, T). AVVP is not in the paper: its clips are as long as AVE's."""


@dataclass(frozen=True)
class CoplOptions(AdapterOptions):
    """Settings of CoPL; the defaults are its AVE column.

    Args:
        video_prompts: G; paper: L_g.
        frame_prompts: T, the moments of a clip; paper: L_f.
        interaction_prompts: I; paper: L_I. A coupled layer attaches twice as many: its own and the other's.
        bank_size: Q; paper: q.
        coupled_layers: k; None is 2 for encoders with stages, 4 for others.
        prompt_scope: every ``block`` has its own prompts, or all blocks of a ``stage`` share them (which is what the
            published counts say of Swin-V2); None is ``stage`` for encoders with stages that go together.
        consistency_weight: lambda of the consistency loss; 0 leaves it out.
        most_prompts: refuse to attach more than this to a stream. Encoders with windows attend to all prompts in every
            window; 144 is a whole window of Swin-V2, so that attention at most doubles there.
    """

    video_prompts: int = 20
    frame_prompts: int = 10
    interaction_prompts: int = 20
    bank_size: int = 10
    coupled_layers: int | None = None
    prompt_scope: PromptScope | None = None
    consistency_weight: float = 0.005
    most_prompts: int = 144

    def __post_init__(self) -> None:
        if self.prompt_scope is not None:
            require_choice("prompt_scope", self.prompt_scope, ("stage", "block"))
        counts = (self.video_prompts, self.frame_prompts, self.interaction_prompts, self.bank_size)
        if min(counts) < 1 or (self.coupled_layers is not None and self.coupled_layers < 1):
            raise ConfigurationError(
                f"{counts} prompts and bank entries at {self.coupled_layers} coupled layers",
                allowed="at least one of each",
                advice="Start from CoplOptions.for_task",
            )
        if self.num_attached > self.most_prompts:
            raise ConfigurationError(
                f"{self.num_attached} prompts attached to one stream",
                allowed=f"at most {self.most_prompts}",
                advice="Shorten video_prompts or interaction_prompts, or raise most_prompts",
            )
        if self.consistency_weight < 0:
            raise ConfigurationError(
                f"consistency_weight is {self.consistency_weight}",
                allowed="0 or more",
                advice="Set 0 to leave the loss out",
            )

    @property
    def num_attached(self) -> int:
        """Prompts that a coupled layer attaches to each stream: G + 1 + 2 I."""
        return self.video_prompts + 1 + 2 * self.interaction_prompts

    @classmethod
    def for_task(cls, task: str) -> CoplOptions:
        """The paper's lengths for ``ave``, ``avs`` and ``avqa``; for ``avvp`` those of AVE."""
        require_choice("task", task, TASKS)
        prompts, moments = _LENGTHS[task]
        return cls(video_prompts=prompts, frame_prompts=moments, interaction_prompts=prompts)

    def build(self, sites: tuple[Site, ...]) -> nn.ModuleList:
        """One :class:`CoplLayer` per site; in the scope ``stage`` those of a stage share their weights."""
        groups, is_coupled = self._groups(sites), self.coupled(sites)
        visual = self._specific([(group, site.visual) for group, site in zip(groups, sites) if site.visual])
        audio = self._specific([(group, site.audio) for group, site in zip(groups, sites) if site.audio])
        couplings = {
            group: Coupling(
                visual[group].width,
                audio[group].width,
                num_prompts=self.interaction_prompts,
                bank_size=self.bank_size,
            )
            for group in sorted({group for group, coupled in zip(groups, is_coupled) if coupled})
        }
        layers = [
            CoplLayer(
                visual=visual[group] if site.visual else None,
                audio=audio[group] if site.audio else None,
                coupling=couplings[group] if coupled else None,
            )
            for site, group, coupled in zip(sites, groups, is_coupled)
        ]
        layers[-1].widening = self._widening(sites)
        return nn.ModuleList(layers)

    def coupled(self, sites: tuple[Site, ...]) -> tuple[bool, ...]:
        """Which sites have interaction prompts: the pairs among the last k layers, or in the last k stages."""
        groups = self._groups(sites)
        default = STAGE_LAYERS if _have_stages(sites) else BLOCK_LAYERS
        last = sorted(set(groups))[-(self.coupled_layers or default) :]
        is_coupled = tuple(site.is_pair and group in last for site, group in zip(sites, groups))
        if not any(is_coupled):
            raise ConfigurationError(
                f"no pair of layers among the last {len(last)} of {len(set(groups))}",
                allowed="encoders whose last layers run side by side",
                advice="Raise coupled_layers",
            )
        return is_coupled

    def cost(self, site: Site) -> Cost:
        """Of a coupled layer; others cost the adapter nothing, see :meth:`coupled`.

        What the prompts cost the encoder that they are attached to is not in it.
        """
        if site.visual is None or site.audio is None:
            return Cost()
        streams = (site.visual, site.audio)
        read = sum(2 * stream.num_tokens * stream.width for stream in streams)
        mix = sum(2 * self.bank_size * stream.width for stream in streams)
        widths = (streams[0].width, streams[1].width)
        return Cost(
            attention=self.interaction_prompts * (read + mix),
            projections=self.interaction_prompts * 2 * _hidden_width(*widths) * sum(widths),
        )

    def parts(self, layers: nn.ModuleList) -> Mapping[str, int]:
        """``consistency`` is the Linear that only the loss needs: a trained model does without it."""
        kinds = {"prompts": SpecificPrompts, "banks": PromptBank, "mappings": PromptMapping, "consistency": Widening}
        modules = list(layers.modules())  # each once, shared or not
        return {name: sum(map(_num_weights, _of(kind, modules))) for name, kind in kinds.items()}

    def losses(self, visual: Tensor, audio: Tensor, layers: nn.ModuleList) -> Tensor | None:
        """lambda ||Z_v - Z_a||^2, mean over F, of the mean tokens; the narrower is widened by a Linear before."""
        if not self.consistency_weight:
            return None
        one, other = visual.float().mean(dim=1), audio.float().mean(dim=1)  # (F, D), (F, E)
        last = layers[-1]
        assert isinstance(last, CoplLayer), type(last)
        widening = last.widening
        if widening is not None:
            one, other = (widening(one), other) if one.shape[1] < other.shape[1] else (one, widening(other))
        return self.consistency_weight * (one - other).square().sum(dim=1).mean()

    def _groups(self, sites: tuple[Site, ...]) -> list[int]:
        """Of every site the number of its group: layers of one group share their prompts."""
        go_together = all(len(_stages(site)) == 1 for site in sites)
        scope = self.prompt_scope or ("stage" if go_together and _have_stages(sites) else "block")
        if scope == "block":
            return list(range(len(sites)))
        if not go_together:
            raise ConfigurationError(
                "prompt_scope 'stage' for encoders whose stages do not go together",
                allowed="pairs of layers of the same stage",
                advice="Set prompt_scope to 'block'",
            )
        return [min(_stages(site)) for site in sites]

    def _specific(self, streams: list[tuple[int, StreamShape]]) -> dict[int, SpecificPrompts]:
        """Modal-specific prompts for every group of one encoder's layers."""
        widths = dict.fromkeys((group, stream.width) for group, stream in streams)
        groups = [group for group, _ in widths]
        if len(set(groups)) < len(groups):
            raise ConfigurationError(
                "layers of different widths in one stage",
                allowed="one width per stage",
                advice="Set prompt_scope to 'block'",
            )
        return {
            group: SpecificPrompts(width, num_video=self.video_prompts, num_moments=self.frame_prompts)
            for group, width in widths
        }

    def _widening(self, sites: tuple[Site, ...]) -> Widening | None:
        """For the last tokens, where their widths differ."""
        visual = [site.visual.width for site in sites if site.visual][-1]
        audio = [site.audio.width for site in sites if site.audio][-1]
        if visual == audio or not self.consistency_weight:
            return None
        return Widening(min(visual, audio), max(visual, audio))


class CoplLayer(AdapterLayer):
    """The prompts of one layer, perhaps shared with others of its stage; where both streams are, perhaps coupled."""

    def __init__(
        self, *, visual: SpecificPrompts | None, audio: SpecificPrompts | None, coupling: Coupling | None
    ) -> None:
        super().__init__()
        self.visual = visual
        self.audio = audio
        self.coupling = coupling
        self.widening: Widening | None = None

    def prompts(self, visual: Tensor | None, audio: Tensor | None, moments: Tensor) -> Prompts:
        """[video-level ; frame-level ; own interaction ; the other's], (F, G + 1 + 2 I, D) and (F, G + 1 + 2 I, E).

        Without the other stream there are no interaction prompts: (F, G + 1, D).

        Raises:
            ConfigurationError: a moment beyond the frame-level prompts.
        """
        own_visual = None if visual is None or self.visual is None else self.visual(moments)
        own_audio = None if audio is None or self.audio is None else self.audio(moments)
        if self.coupling is None or visual is None or audio is None:
            return Prompts(own_visual, own_audio)
        assert own_visual is not None
        assert own_audio is not None
        coupled_visual, coupled_audio = self.coupling(visual, audio)
        return Prompts(
            visual=torch.cat((own_visual, coupled_visual), dim=1),
            audio=torch.cat((own_audio, coupled_audio), dim=1),
        )


class SpecificPrompts(nn.Module):
    """Modal-specific prompts M = [M^g ; M^f] of one stream: G for the whole clip, then one for the frame's moment."""

    def __init__(self, width: int, *, num_video: int, num_moments: int) -> None:
        super().__init__()
        self.width = width
        self.video = _drawn(num_video, width)
        self.frames = _drawn(num_moments, width)

    def forward(self, moments: Tensor) -> Tensor:
        """(F,) -> (F, G + 1, D)."""
        latest, first = (int(moments.max()), int(moments.min())) if len(moments) else (0, 0)
        if latest >= len(self.frames) or first < 0:  # an index too high would end the whole process on a GPU
            raise ConfigurationError(
                f"a frame at moment {latest if first >= 0 else first} of its clip",
                allowed=f"moments 0 to {len(self.frames) - 1}, as there are frame-level prompts",
                advice="Raise frame_prompts or shorten the clips",
            )
        frame = self.frames[moments.to(self.frames.device)][:, None]  # (F, 1, D)
        return torch.cat((self.video.expand(len(frame), -1, -1), frame), dim=1)


class Coupling(nn.Module):
    """Prompt-bank mutual coupling: each stream mixes prompts for itself and, translated, for the other."""

    def __init__(self, visual_width: int, audio_width: int, *, num_prompts: int, bank_size: int) -> None:
        super().__init__()
        hidden = _hidden_width(visual_width, audio_width)
        self.visual_bank = PromptBank(visual_width, num_prompts=num_prompts, bank_size=bank_size)
        self.audio_bank = PromptBank(audio_width, num_prompts=num_prompts, bank_size=bank_size)
        self.audio_to_visual = PromptMapping(audio_width, hidden, visual_width)
        self.visual_to_audio = PromptMapping(visual_width, hidden, audio_width)

    def forward(self, visual: Tensor, audio: Tensor) -> Prompts:
        """(F, N, D), (F, M, E) -> I_v (F, 2 I, D), I_a (F, 2 I, E)."""
        from_visual, from_audio = self.visual_bank(visual), self.audio_bank(audio)  # (F, I, D), (F, I, E)
        return Prompts(
            visual=torch.cat((from_visual, self.audio_to_visual(from_audio)), dim=1),
            audio=torch.cat((from_audio, self.visual_to_audio(from_visual)), dim=1),
        )


class PromptBank(nn.Module):
    """Prompts mixed out of a bank by latents that look at a stream: P = e P_b, e = softmax(Z' P_b^T)."""

    def __init__(self, width: int, *, num_prompts: int, bank_size: int) -> None:
        super().__init__()
        self.latents = _drawn(num_prompts, width)
        self.bank = _drawn(bank_size, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(F, N, D) -> (F, I, D), every latent with its own mixture, of the bank's dtype."""
        seen = compress(self.latents, tokens)  # (F, I, D)
        return fuse(seen, self.bank.expand(len(seen), -1, -1)).to(self.bank.dtype)


class PromptMapping(nn.Sequential):
    """F: translates one stream's prompts for the other."""

    def __init__(self, width: int, hidden: int, out_width: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out_width))


class Widening(nn.Linear):
    """Brings the narrower stream's mean token to the other's width for the consistency loss; in float32."""

    def forward(self, pooled: Tensor) -> Tensor:
        return linear(pooled, self.weight.float(), self.bias.float())


def _drawn(number: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(number, width) * INITIAL_STD)


def _hidden_width(visual: int, audio: int) -> int:
    hidden = min(visual, audio) // MAPPING_REDUCTION
    if not hidden:
        raise ConfigurationError(
            f"streams {visual} and {audio} wide",
            allowed=f"{MAPPING_REDUCTION} or more",
            advice="CoPL's mappings narrow them by this much",
        )
    return hidden


def _stages(site: Site) -> set[int]:
    return {stream.stage for stream in (site.visual, site.audio) if stream}


def _have_stages(sites: tuple[Site, ...]) -> bool:
    return any(max(_stages(site)) > 0 for site in sites)


def _of(kind: type[nn.Module], modules: list[nn.Module]) -> list[nn.Module]:
    return [module for module in modules if isinstance(module, kind)]


def _num_weights(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
