"""What an adapter is: trained additions at pairs of layers of two frozen encoders, neither of which it knows.

An encoder's layer has two halves, ``x + attention(x)`` and ``x + mlp(x)``. At a :class:`Site`, one layer of each
encoder, an :class:`AdapterLayer` sees both streams and may

- add to a stream beside each half (LAVISH, DG-SCT, AV-PEA), or
- attach prompts that are there for that one layer (CoPL).

Both additions beside a half are made from what goes into it, before either stream has changed.

Shapes: F frames, each with the piece of sound of its own moment; N visual and M audio tokens; D and E their widths;
P prompts. Adapters work frame by frame: no frame sees another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn


@dataclass(frozen=True)
class StreamShape:
    """One stream where it enters a layer.

    Args:
        width: of a token.
        num_tokens: of a frame, or of its piece of sound.
        has_cls: the first token is a CLS token.
        layer, stage: the layer's number in its encoder, and its stage's; encoders of one resolution have one stage.
    """

    width: int
    num_tokens: int
    has_cls: bool
    layer: int
    stage: int = 0


@dataclass(frozen=True)
class Site:
    """A layer of each encoder that run side by side; an encoder's layer without a partner stands alone."""

    visual: StreamShape | None
    audio: StreamShape | None

    @property
    def is_pair(self) -> bool:
        return self.visual is not None and self.audio is not None


class Additions(NamedTuple):
    """What is added to the streams beside one half of a layer; None adds nothing.

    Args:
        visual: (F, N, D). audio: (F, M, E).
        visual_pooling: (F, N), audio_pooling: (F, M): weights of the tokens, sums 1, for who pools them at the end.
    """

    visual: Tensor | None = None
    audio: Tensor | None = None
    visual_pooling: Tensor | None = None
    audio_pooling: Tensor | None = None


class Prompts(NamedTuple):
    """Tokens that are attached to the streams for one layer: visual (F, P, D), audio (F, P', E); None attaches none."""

    visual: Tensor | None = None
    audio: Tensor | None = None


class AdapterLayer(nn.Module):
    """An adapter at one site. Either stream may be None: then the other is adapted alone.

    ``is_audio_after``: the audio layer runs whole in the place of its first half, and has no second one (DG-SCT).
    """

    is_audio_after: bool = False

    def beside_attention(self, visual: Tensor | None, audio: Tensor | None) -> Additions:
        """Additions from what goes into the first half, (F, N, D) and (F, M, E)."""
        return Additions()

    def beside_mlp(self, visual: Tensor | None, audio: Tensor | None) -> Additions:
        """Additions from what goes into the second half, (F, N, D) and (F, M, E)."""
        return Additions()

    def prompts(self, visual: Tensor | None, audio: Tensor | None, moments: Tensor) -> Prompts:
        """Prompts from what goes into the layer; ``moments`` (F,) int64 is every frame's place in its clip."""
        return Prompts()


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one adapter layer for one frame: of its attention, and of all else."""

    attention: int = 0
    projections: int = 0

    @property
    def total(self) -> int:
        return self.attention + self.projections

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.attention + other.attention, self.projections + other.projections)


class AdapterOptions(ABC):
    """Settings of one kind of adapter; a frozen dataclass that also builds it.

    Every kind's ``for_task`` holds the defaults of a published task (``ave``, ``avs``, ``avqa``, ``avvp``).
    """

    @classmethod
    @abstractmethod
    def for_task(cls, task: str) -> AdapterOptions:
        """What was published for a task, or comes nearest to it.

        Raises:
            ConfigurationError: an unknown task.
        """

    @abstractmethod
    def build(self, sites: tuple[Site, ...]) -> nn.ModuleList:
        """One :class:`AdapterLayer` per site, in their order; layers may share weights.

        Raises:
            ConfigurationError: an option that does not fit a site.
        """

    @abstractmethod
    def cost(self, site: Site) -> Cost:
        """Of the layer at a site, for one frame (adapters.md 6.3)."""

    def parts(self, layers: nn.ModuleList) -> Mapping[str, int]:
        """Trained weights by what they do, as ``latent tokens``; each weight is counted once."""
        return {"adapters": sum(weight.numel() for weight in set(layers.parameters()))}

    def losses(self, visual: Tensor, audio: Tensor, layers: nn.ModuleList) -> Tensor | None:
        """What the task's loss is to be enlarged by, from the encoders' last tokens (F, N, D), (F, M, E); or None."""
        return None
