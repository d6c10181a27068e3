"""Which layers of two encoders run side by side (adapters.md 3.3, 6.7)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from favor.adapters.contract import Site, StreamShape

Pair = tuple[int | None, int | None]
"""A visual and an audio layer; None where the other one stands alone."""


def pairs(visual: Sequence[StreamShape], audio: Sequence[StreamShape]) -> list[Pair]:
    """All layers of both encoders in running order, paired where they can be.

    Encoders with equally many stages are paired stage by stage, others as a whole. Within, every layer of the shallower
    finds a partner: its layer i of A pairs with layer round((i + 1) V / A) - 1 of the deeper's V, half rounded up. So
    equal depths pair one to one, and HTS-AT's block j with Swin's 3 j + 2.
    """
    visual_stages, audio_stages = _stages(visual), _stages(audio)
    if len(visual_stages) != len(audio_stages):
        visual_stages, audio_stages = [range(len(visual))], [range(len(audio))]
    return [pair for stages in zip(visual_stages, audio_stages) for pair in _spread(*stages)]


def sites(visual: Sequence[StreamShape], audio: Sequence[StreamShape]) -> tuple[Site, ...]:
    """Every layer of both encoders, in running order, with its partner if it has one."""
    return tuple(
        Site(None if eye is None else visual[eye], None if ear is None else audio[ear])
        for eye, ear in pairs(visual, audio)
    )


def _stages(shapes: Sequence[StreamShape]) -> list[range]:
    """The layers of every stage."""
    sizes = [len(list(layers)) for _, layers in groupby(shapes, key=lambda shape: shape.stage)]
    return [range(sum(sizes[:number]), sum(sizes[: number + 1])) for number in range(len(sizes))]


def _spread(visual: range, audio: range) -> list[Pair]:
    if len(audio) > len(visual):
        return [(eye, ear) for ear, eye in _spread(audio, visual)]
    deep, shallow = len(visual), len(audio)
    partners = {(2 * (i + 1) * deep + shallow) // (2 * shallow) - 1: audio[i] for i in range(shallow)}
    return [(visual[i], partners.get(i)) for i in range(deep)]
