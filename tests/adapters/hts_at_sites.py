"""Swin-V2-L beside HTS-AT, as DG-SCT and CoPL pair them: the sites of two encoders of different depth and width."""

from __future__ import annotations

from favor.adapters import Site, StreamShape
from tests.adapters.published import SWIN_L

HTS_AT_DEPTHS, HTS_AT_WIDTH, HTS_AT_TOKENS = (2, 2, 6, 2), 96, (4096, 1024, 256, 64)


def _sites() -> tuple[Site, ...]:
    """Stages pair one to one; in the third only every third visual layer has a partner (adapters.md 3.3)."""
    stages = [stage for stage, depth in enumerate(HTS_AT_DEPTHS) for _ in range(depth)]
    partners = iter(
        StreamShape(HTS_AT_WIDTH << stage, HTS_AT_TOKENS[stage], False, layer, stage)
        for layer, stage in enumerate(stages)
    )
    visual = [site.visual for site in SWIN_L]
    return tuple(
        Site(shape, next(partners) if shape.stage != 2 or (shape.layer - 4) % 3 == 2 else None) for shape in visual
    )


SWIN_L_AND_HTS_AT = _sites()
