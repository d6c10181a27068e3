"""What an adapter weighs and costs in a pair of encoders, reckoned without weights (adapters.md section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import InstructBlipVisionConfig, WhisperConfig

from favor.adapters import Cost, Site, StreamShape, options_for
from favor.adapters.choices import require_choice
from favor.encoders import HOSTS, EvaViT, Host, WhisperAudioEncoder
from favor.sync import AUDIO_FRAMES_PER_STEP

FAVOR_MINI = "favor-mini"


@dataclass(frozen=True)
class Account:
    """An adapter in a host.

    Args:
        host, adapter: their names. settings: all of the adapter's.
        parts: trained weights by what they do. parameters: their sum.
        backbone: weights of the frozen encoders; a shared one counts once, heads of classifiers not at all.
        macs: multiply-accumulates of the adapter for one frame with its sound. attention_macs: of them, attention
            between tokens.
        sites: where it is inserted, in words; pairs of layers of one shape together.
    """

    host: str
    adapter: str
    settings: dict[str, Any]
    parts: dict[str, int]
    parameters: int
    backbone: int
    macs: int
    attention_macs: int
    sites: tuple[str, ...]

    @property
    def share(self) -> float:
        """Of the backbone's weights."""
        return self.parameters / self.backbone

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "share": self.share}


def host_names() -> list[str]:
    return [*HOSTS, FAVOR_MINI]


def account(host: str, adapter: str, task: str | None = None, **changes: Any) -> Account:
    """Reckon on the meta device: no memory, no weights.

    Raises:
        ConfigurationError: an unknown host, adapter, task or setting, or settings that do not fit the host.
    """
    require_choice("the host", host, host_names())
    options = options_for(adapter, task, **changes)
    with torch.device("meta"):
        pair = _favor_mini() if host == FAVOR_MINI else HOSTS[host]
        encoders = pair.build()
        sites = pair.sites(*encoders)
        layers = options.build(sites)
    parts = dict(options.parts(layers))
    cost = sum((options.cost(site) for site in sites), Cost())
    return Account(
        host=host,
        adapter=adapter,
        settings=asdict(options),  # type: ignore[call-overload]  # every kind is a dataclass
        parts=parts,
        parameters=sum(parts.values()),
        backbone=sum(weight.numel() for weight in {w for encoder in encoders for w in encoder.parameters()}),
        macs=cost.total,
        attention_macs=cost.attention,
        sites=_lines([site for site, layer in zip(sites, layers, strict=True) if _touches(site, layer)]),
    )


def _favor_mini() -> Host:
    from favor import presets

    config = presets.describe(FAVOR_MINI).config
    return Host(
        lambda: EvaViT(InstructBlipVisionConfig(**config["vision_config"])),
        lambda: WhisperAudioEncoder(WhisperConfig(**config["audio_config"])),
        audio_tokens=AUDIO_FRAMES_PER_STEP,
    )


def _touches(site: Site, layer: torch.nn.Module) -> bool:
    return site.is_pair or any(True for _ in layer.parameters())


def _lines(sites: Sequence[Site]) -> tuple[str, ...]:
    """Sites of one shape together, as "visual layers 0-11 (197 x 768) with audio layers 0-11 (49 x 768)"."""
    alike: dict[tuple[tuple[int, int] | None, ...], list[Site]] = {}
    for site in sites:
        key = tuple(None if of is None else (of.num_tokens, of.width) for of in (site.visual, site.audio))
        alike.setdefault(key, []).append(site)
    return tuple(
        " with ".join(
            part
            for part in (
                _told("visual", [site.visual for site in group]),
                _told("audio", [site.audio for site in group]),
            )
            if part
        )
        for group in alike.values()
    )


def _told(stream: str, shapes: Sequence[StreamShape | None]) -> str:
    layers = [shape.layer for shape in shapes if shape is not None]
    first = shapes[0]
    if first is None:
        return ""
    return f"{stream} layers {_numbers(layers)} ({first.num_tokens} x {first.width})"


def _numbers(layers: Sequence[int]) -> str:
    """As in "0-3" or "4, 7, 10"."""
    is_run = len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1))
    return f"{layers[0]}-{layers[-1]}" if is_run else ", ".join(map(str, layers))
