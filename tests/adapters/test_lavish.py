"""LAVISH and AVISH: golden vectors, published counts and multiply-accumulates, and how they start, train and end."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from favor.adapters import AdapterLayer, Additions, Cost, LavishOptions, Site, StreamShape
from favor.adapters.lavish import LavishAdapter, LavishLayer
from favor.errors import ConfigurationError
from tests.adapters.published import (
    SWIN_B,
    SWIN_L,
    VIT_B,
    VIT_L,
    build_on_meta,
    check_adapter,
    favor_sites,
    moving_weights,
    num_weights,
    vit_sites,
)
from tests.golden_vectors import Golden

OFFICIAL, AVISH = Golden.load("lavish_adapter"), Golden.load("avish_adapter")

AVE, AVS, AVQA = (LavishOptions.for_task(task) for task in ("ave", "avs", "avqa"))
COPL = replace(AVE, num_latents=16, reduction=4, batch_norm=False)
"""What CoPL's table compares with."""

SMALL = Site(StreamShape(16, 5, True, 0), StreamShape(16, 3, True, 0))
UNEQUAL = Site(StreamShape(32, 5, True, 0), StreamShape(16, 3, False, 0))
VARIANTS = {
    "ave": LavishOptions(),
    "no_batch_norm": LavishOptions(batch_norm=False, num_latents=3),
    "direct": LavishOptions(direct=True),
    "paper_eq8": LavishOptions(paper_eq8=True, num_latents=3),
    "scaled": LavishOptions(scale=True),
}


def build(options: LavishOptions, site: Site = SMALL) -> LavishLayer:
    torch.manual_seed(0)
    return options.build((site,))[0]


def streams(site: Site = SMALL, *, frames: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    visual, audio = (
        torch.randn(frames, shape.num_tokens, shape.width, generator=draw) for shape in (site.visual, site.audio)
    )
    return visual, audio


def open_gates(layer: torch.nn.Module) -> torch.nn.Module:
    for name, weight in layer.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.constant_(weight, 0.5)
    return layer


@pytest.mark.parametrize("case", OFFICIAL.meta["cases"])
def test_an_adapter_equals_the_official_one(case: str) -> None:
    given = OFFICIAL.meta["cases"][case]
    options = LavishOptions(
        num_latents=given["latents"],
        reduction=given["reduction"],
        groups=given["groups"],
        batch_norm=given["bn"],
        ln_pre=given["ln_pre"],
        ln_post=given["ln_post"],
    )
    adapter = LavishAdapter(given["width"], given["width"], options, gate=given["use_gate"], latents=True)
    check_adapter(adapter, OFFICIAL, case)


@pytest.mark.parametrize("case", AVISH.meta["cases"])
def test_an_adapter_without_latents_equals_the_reference_of_avish(case: str) -> None:
    given = AVISH.meta["cases"][case]
    options = LavishOptions(groups=given["groups"], batch_norm=given["bn"], direct=True)
    check_adapter(LavishAdapter(given["width"], given["width"], options, gate=True, latents=False), AVISH, case)


@pytest.mark.parametrize(
    ("width", "weights"),
    [(96, 1_946), (128, 3_106), (192, 6_194), (256, 10_306), (384, 21_602), (512, 36_994), (768, 80_066),
     (1024, 139_522), (1280, 215_362), (1408, 259_426), (1536, 307_586)],
)  # fmt: skip
def test_an_adapter_has_as_many_weights_as_the_official_one(width: int, weights: int) -> None:
    with torch.device("meta"):
        assert num_weights(LavishAdapter(width, width, AVE, gate=True, latents=True)) == weights


@pytest.mark.parametrize(
    ("options", "sites", "weights"),
    [
        (AVE, VIT_B, 3_843_168),
        (AVE, VIT_L, 13_394_112),
        (AVE, SWIN_B, 3_887_040),
        (AVE, SWIN_L, 8_447_808),
        (replace(AVS, audio_gate=False), SWIN_L, 17_148_048),
        (AVS, SWIN_L, 17_148_096),
        (AVQA, SWIN_L, 8_835_264),
        (replace(AVE, num_latents=16), VIT_B, 4_359_264),  # AV-PEA's table
        (replace(AVE, num_latents=16), VIT_L, 14_770_368),
        (replace(COPL, audio_gate=False), VIT_L, 27_132_048),  # CoPL's table: AVS, AVQA, and so on
        (COPL, VIT_L, 27_132_096),
        (COPL, SWIN_L, 17_148_096),
        (replace(COPL, num_latents=32, audio_gate=False), SWIN_L, 18_303_120),
        (replace(AVE, paper_eq8=True), VIT_L, 13_295_808),  # not 13.4 M: the code's latents are what was published
    ],
)
def test_all_layers_have_the_published_number_of_weights(options, sites, weights: int) -> None:
    layers = build_on_meta(options, sites)
    assert num_weights(layers) == weights
    assert sum(options.parts(layers).values()) == weights


@pytest.mark.parametrize(
    ("sites", "buffers"), [(VIT_B, 83_040), (VIT_L, 221_376), (SWIN_B, 108_480), (SWIN_L, 162_624)]
)
def test_batch_norms_keep_the_published_number_of_statistics(sites, buffers: int) -> None:
    assert sum(buffer.numel() for buffer in build_on_meta(AVE, sites).buffers()) == buffers


def test_whisper_beside_vit_g_has_bridges_between_pairs_and_nothing_elsewhere() -> None:
    layers = build_on_meta(AVE, favor_sites())
    parts = AVE.parts(layers)
    assert parts.pop("bridges") == 128 * 172_032
    assert sum(parts.values()) == 30_386_432
    assert sum(type(layer) is AdapterLayer for layer in layers) == 7
    assert AVE.parts(build_on_meta(replace(AVE, bridge_rank=None), favor_sites()))["bridges"] == 128 * 1280 * 1408


@pytest.mark.parametrize(
    ("options", "sites", "giga"),
    [
        (AVE, SWIN_L, 11.289),
        (replace(AVE, direct=True), SWIN_L, 216.902),
        *((replace(AVE, num_latents=m), SWIN_L, giga) for m, giga in (
            (1, 10.741), (4, 12.386), (8, 14.580), (16, 18.969), (32, 27.745), (64, 45.298),
        )),
        (AVE, SWIN_B, 5.261),
        (replace(AVE, direct=True), SWIN_B, 142.336),
        (AVE, VIT_B, 4.716),
        (replace(AVE, direct=True), VIT_B, 11.470),
        (AVE, VIT_L, 16.444),
        (replace(AVE, direct=True), VIT_L, 34.456),
    ],
)  # fmt: skip
def test_ten_frames_cost_what_was_published(options: LavishOptions, sites: tuple[Site, ...], giga: float) -> None:
    costs = sum((options.cost(site) for site in sites), Cost())
    assert 10 * costs.total / 1e9 == pytest.approx(giga, abs=6e-4)


def test_the_published_cost_is_a_tenth_attention() -> None:
    costs = sum((AVE.cost(site) for site in SWIN_L), Cost())
    assert (costs.attention / 1e8, costs.projections / 1e8) == pytest.approx((1.097, 10.192), abs=6e-4)


@pytest.mark.parametrize("site", [SMALL, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_stated_cost_is_what_torch_counts(variant: str, site: Site) -> None:
    options = replace(VARIANTS[variant], bridge_rank=4)
    layer = build(options, site).eval()
    exact = sdpa_kernel(SDPBackend.MATH)  # of the fused kernels torch counts only those of GPUs
    with FlopCounterMode(display=False) as counter, torch.no_grad(), exact:
        layer.beside_attention(*streams(site, frames=1))
        layer.beside_mlp(*streams(site, frames=1))
    assert counter.get_total_flops() == 2 * options.cost(site).total


def test_a_layer_without_a_partner_gets_no_weights_and_costs_nothing() -> None:
    lone = Site(SMALL.visual, None)
    layer = build(LavishOptions(), lone)
    assert num_weights(layer) == 0
    assert layer.beside_attention(streams()[0], None) == Additions()
    assert LavishOptions().cost(lone) == Cost()


@pytest.mark.parametrize("site", [SMALL, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("training", [True, False])
def test_a_fresh_layer_adds_exactly_nothing(variant: str, site: Site, training: bool) -> None:
    layer, given = build(VARIANTS[variant], site).train(training), streams(site)
    for added in (layer.beside_attention(*given), layer.beside_mlp(*given)):
        for stream, addition in zip(given, added):
            assert torch.equal(stream + addition, stream)


def test_without_its_gate_a_stream_is_changed_from_the_start() -> None:
    visual, audio = build(LavishOptions(audio_gate=False)).beside_attention(*streams())[:2]
    assert visual.abs().max() == 0
    assert audio.std() > 0.5


def test_gates_open_first_then_all_but_the_latents_then_these() -> None:
    layer = build(LavishOptions())
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    everything = {name.partition(".")[2] for name, _ in layer.named_parameters()}
    moved = []
    for _ in range(3):
        optimizer.zero_grad()
        added = (*layer.beside_attention(*streams())[:2], *layer.beside_mlp(*streams())[:2])
        sum((addition - wanted).square().mean() for addition, wanted in zip(added, 2 * streams())).backward()
        moved.append(moving_weights(layer))
        optimizer.step()
    assert moved == [{"bottleneck.gate"}, everything - {"latents"}, everything]


def test_latents_stay_apart_in_training_and_their_order_means_nothing() -> None:
    layer = open_gates(build(LavishOptions(num_latents=4)))
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        layer.beside_attention(*streams()).visual.square().mean().backward()
        optimizer.step()
    latents = layer.visual_attention.latents
    assert torch.pdist(latents).min() > 0.1
    layer.eval()
    before = layer.beside_attention(*streams()).visual
    with torch.no_grad():
        latents.copy_(latents[[2, 0, 3, 1]].clone())
    torch.testing.assert_close(layer.beside_attention(*streams()).visual, before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_a_closed_cross_gate_the_other_stream_is_not_heard(variant: str) -> None:
    layer, (visual, audio) = open_gates(build(VARIANTS[variant])), streams()
    torch.nn.init.zeros_(layer.visual_attention.cross_gate)
    quiet, loud = layer.beside_attention(visual, audio), layer.beside_attention(visual, 3 * audio)
    assert torch.equal(quiet.visual, loud.visual)
    assert not torch.equal(quiet.audio, loud.audio)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_frame_hears_the_sound_of_another(variant: str) -> None:
    layer, (visual, audio) = open_gates(build(VARIANTS[variant])).eval(), streams()
    changed = audio.clone()
    changed[1] *= -1
    before, after = layer.beside_attention(visual, audio).visual, layer.beside_attention(visual, changed).visual
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stream_alone_goes_through_the_bottleneck_only(variant: str) -> None:
    layer, (visual, audio) = open_gates(build(VARIANTS[variant], UNEQUAL)).eval(), streams(UNEQUAL)
    seen = layer.beside_mlp(visual, None)
    assert seen.audio is None
    assert torch.equal(seen.visual, layer.visual_mlp.bottleneck(visual))
    assert seen.visual.abs().max() > 0
    heard = layer.beside_mlp(None, audio)
    assert heard.visual is None
    assert torch.equal(heard.audio, layer.audio_mlp.bottleneck(audio))


def test_equation_8_asks_the_other_summary_and_takes_up_the_own_one() -> None:
    layer, (visual, audio) = open_gates(build(LavishOptions(paper_eq8=True, num_latents=3))).eval(), streams()

    def summary(latents, tokens):
        return latents + (latents @ tokens.mT).softmax(-1) @ tokens

    seen, heard = summary(layer.visual_latents, visual), summary(layer.audio_latents, audio)
    fused = visual + 0.5 * (visual @ heard.mT).softmax(-1) @ seen
    expected = layer.visual_attention.bottleneck(fused)
    torch.testing.assert_close(layer.beside_attention(visual, audio).visual, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_streams_get_additions_of_their_own_dtype(dtype: torch.dtype) -> None:
    layer, given = open_gates(build(LavishOptions(), UNEQUAL)).eval(), [s.to(dtype) for s in streams(UNEQUAL)]
    exact = layer.beside_attention(*(stream.float() for stream in given))
    ours = layer.beside_attention(*given)
    assert ours.visual.dtype == ours.audio.dtype == dtype
    torch.testing.assert_close(ours.visual, exact.visual.to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer.beside_attention(*given).visual.float(), exact.visual, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("wrong", "site", "says"),
    [
        ({"num_latents": 0}, SMALL, "num_latents is 0"),
        ({"reduction": 0}, SMALL, "reduction is 0"),
        ({"groups": -1}, SMALL, "groups is -1"),
        ({"reduction": 3}, SMALL, "width 16 with reduction 3"),
        ({"reduction": 8, "groups": 4}, SMALL, "bottleneck of 2 in 4 groups"),
        ({"direct": True, "paper_eq8": True}, SMALL, "direct and paper_eq8"),
        ({"bridge_rank": -4}, UNEQUAL, "bridge_rank is -4"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_runs(wrong: dict, site: Site, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        LavishOptions(**wrong).build((site,))


def test_a_batch_norm_in_training_refuses_a_single_token() -> None:
    site = Site(StreamShape(16, 1, False, 0), StreamShape(16, 3, False, 0))
    layer = build(LavishOptions(), site)
    with pytest.raises(ConfigurationError, match="1 frame with 1 token"):
        layer.beside_attention(*streams(site, frames=1))
    assert layer.eval().beside_attention(*streams(site, frames=1)).visual.shape == (1, 1, 16)
    assert build(LavishOptions(batch_norm=False), site).beside_attention(*streams(site, frames=1)).visual is not None


def test_vit_pairs_need_not_be_of_equal_length() -> None:
    uneven = vit_sites(width=16, depth=1, audio_tokens=4)
    visual, audio = build(LavishOptions(), uneven[0]).beside_attention(torch.rand(2, 197, 16), torch.rand(2, 4, 16))[:2]
    assert (visual.shape, audio.shape) == ((2, 197, 16), (2, 4, 16))
