"""Which layers meet: as DG-SCT and adapters.md 6.7 have it, in running order, nobody twice and nobody left out."""

from __future__ import annotations

import pytest

from favor.adapters.contract import StreamShape
from favor.encoders.pairing import pairs


def layers(*stages: int) -> list[StreamShape]:
    """Shapes of an encoder with so many layers in each stage."""
    owners = [stage for stage, depth in enumerate(stages) for _ in range(depth)]
    return [StreamShape(8, 4, has_cls=False, layer=layer, stage=stage) for layer, stage in enumerate(owners)]


@pytest.mark.parametrize("depth", [4, 12])
def test_equal_depths_pair_one_to_one(depth: int) -> None:
    assert pairs(layers(depth), layers(depth)) == [(layer, layer) for layer in range(depth)]


def test_hts_at_meets_swin_stage_by_stage() -> None:
    found = pairs(layers(2, 2, 18, 2), layers(2, 2, 6, 2))
    assert len(found) == 24
    met = [(visual, audio) for visual, audio in found if audio is not None]
    assert met == [
        (0, 0),
        (1, 1),
        (2, 2),
        (3, 3),
        *((4 + 3 * block + 2, 4 + block) for block in range(6)),
        (22, 10),
        (23, 11),
    ]


def test_whisper_meets_vit_g_and_leaves_seven_layers_alone() -> None:
    found = pairs(layers(39), layers(32))
    assert [visual for visual, _ in found] == list(range(39))
    met = {audio: visual for visual, audio in found if audio is not None}
    assert met == {audio: round((audio + 1) * 39 / 32) - 1 for audio in range(32)}


def test_the_rule_is_the_same_the_other_way_round() -> None:
    assert pairs(layers(3), layers(5)) == [(None, 0), (0, 1), (1, 2), (None, 3), (2, 4)]
    for deep, shallow in ((5, 3), (39, 32), (7, 1)):
        turned = [(visual, audio) for audio, visual in pairs(layers(shallow), layers(deep))]
        assert pairs(layers(deep), layers(shallow)) == turned


def test_encoders_of_other_stages_are_paired_as_a_whole() -> None:
    assert pairs(layers(2, 2), layers(4)) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert pairs(layers(2, 2), layers(1, 1)) == [(0, None), (1, 0), (2, None), (3, 1)]


def test_nobody_is_left_out_or_met_twice_and_order_is_kept() -> None:
    for visual in range(1, 14):
        for audio in range(1, 14):
            eyes, ears = zip(*pairs(layers(visual), layers(audio)), strict=True)
            assert [eye for eye in eyes if eye is not None] == list(range(visual))
            assert [ear for ear in ears if ear is not None] == list(range(audio))
            assert len(eyes) == max(visual, audio)
