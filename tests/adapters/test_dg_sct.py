"""DG-SCT: golden vectors in both alignments, published counts, and how it starts, trains and ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from favor.adapters import AdapterLayer, Additions, Site, StreamShape
from favor.adapters.bottleneck import Bottleneck
from favor.adapters.dg_sct import DgSctAdapter, DgSctLayer, DgSctOptions
from favor.errors import ConfigurationError
from tests.adapters.hts_at_sites import SWIN_L_AND_HTS_AT
from tests.adapters.published import SWIN_L, VIT_L, build_on_meta, favor_sites, moving_weights, num_weights
from tests.golden_vectors import Golden

CONVOLVED, RESIZED = Golden.load("dgsct_adapter"), Golden.load("dgsct_adapter_resize")
NAMES = {
    "conv_adapter": "align",
    "fc": "widen",
    "my_tokens": "latents",
    "gate_av": "cross_gate",
    "gate": "bottleneck.gate",
    "fc_affine_video_1": "guidance.own_channels",
    "fc_affine_audio_1": "guidance.guide_channels",
    "fc_affine_bottleneck": "guidance.squeeze",
    "fc_affine_v_c_att": "guidance.expand",
    "fc_affine_video_2": "guidance.own_tokens",
    "fc_affine_audio_2": "guidance.guide_tokens",
    "fc_affine_v_s_att": "guidance.score",
    "ln_before": "bottleneck.norm_before",
    "ln_post": "bottleneck.norm_after",
    "down_sampler": "bottleneck.down",
    "up_sampler": "bottleneck.up",
    "bn1": "bottleneck.down_norm",
    "bn2": "bottleneck.up_norm",
}
UNUSED = ("gate_tk", "temporal_gated")

AVE, AVS, AVQA, AVVP = (DgSctOptions.for_task(task) for task in ("ave", "avs", "avqa", "avvp"))
SMALL = replace(AVE, num_latents=3, reduction=4)
SITE = Site(StreamShape(24, 9, False, 1, 1), StreamShape(16, 4, False, 0, 1))
FRAMES = 3


def our_name(theirs: str) -> str:
    stem, _, leaf = theirs.partition(".")
    return f"{NAMES[stem]}.{leaf}" if leaf else NAMES[stem]


def is_used(theirs: str) -> bool:
    return theirs.partition(".")[0] not in UNUSED


def golden_adapter(golden: Golden, case: str, options: DgSctOptions, *, gate: bool) -> DgSctAdapter:
    """Ours of a golden case's shape, with its parameters where the two have them in common."""
    given = golden.meta["cases"][case]
    adapter = DgSctAdapter(
        StreamShape(given["width"], given["tokens"], False, 0),
        StreamShape(given["other_width"], given["other_tokens"], False, 0),
        replace(
            options,
            num_latents=given["latents"],
            reduction=given["reduction"],
            groups=given["groups"],
            batch_norm=given["bn"],
        ),
        gate=gate,
        have_grids=True,
    )
    own = adapter.state_dict()
    theirs = {our_name(key): value for key, value in golden.below(f"param/{case}/").items() if is_used(key)}
    adapter.load_state_dict({key: theirs[key].view(own[key].shape) for key in own})
    return adapter.train(given["mode"] == "train")


def run(adapter: DgSctAdapter, golden: Golden, case: str) -> dict[str, Tensor]:
    """Check what the adapter makes of a golden case and the streams' gradients, and leave it with its own."""
    given = golden.below(f"in/{case}/")
    streams = {name: given[name].clone().requires_grad_() for name in ("own", "other")}
    found = adapter(streams["own"], streams["other"])
    golden.check(f"out/{case}/residual", found.added)
    golden.check(f"out/{case}/pooling_map", found.pooling[:, None])
    ((found.added * given["probe"]).sum() + (found.pooling[:, None] * given["probe_map"]).sum()).backward()
    return {name: stream.grad for name, stream in streams.items()}


def check_gradients(gradients: dict[str, Tensor], adapter: DgSctAdapter, golden: Golden, case: str) -> None:
    for key, saved in golden.below(f"grad/{case}/").items():
        name = key.removeprefix("param/")
        ours = gradients[name] if name in gradients else adapter.get_parameter(our_name(name)).grad
        golden.check(f"grad/{case}/{key}", ours.view(saved.shape))


@pytest.mark.parametrize("case", CONVOLVED.meta["cases"])
def test_an_adapter_equals_the_official_one(case: str) -> None:
    given = CONVOLVED.meta["cases"][case]
    adapter = golden_adapter(CONVOLVED, case, replace(AVE, align="conv"), gate=given["use_gate"])
    check_gradients(run(adapter, CONVOLVED, case), adapter, CONVOLVED, case)
    for key in CONVOLVED.below(f"out/{case}/buffer_after/"):
        CONVOLVED.check(f"out/{case}/buffer_after/{key}", adapter.state_dict()[our_name(key)])


@pytest.mark.parametrize("case", RESIZED.meta["cases"])
def test_an_adapter_that_resizes_equals_the_official_one_but_for_the_places_of_gate_and_norm(case: str) -> None:
    """As released, the gate is before LN_post: the same as larger weights just before it. LN_pre is not applied."""
    adapter = golden_adapter(RESIZED, case, replace(AVS, ln_pre=False), gate=False)
    gate = RESIZED.params.get(f"{case}/gate")
    up = adapter.bottleneck.up.weight
    original = up.detach().clone()
    if gate is not None:
        with torch.no_grad():
            up.mul_(gate)
    gradients = run(adapter, RESIZED, case)
    if gate is not None:
        gradients |= {"gate": (up.grad * original).sum(), "up_sampler.weight": up.grad * gate}
    check_gradients(gradients, adapter, RESIZED, case)


GATE_TK = 4 * 12
"""Dead in the published counts: a scalar in each of the four adapters of twelve pairs, which nothing reads."""
TEMPORAL_GATES = 26_544
"""Likewise in AVS and AVVP: a gate over time in every adapter, of its stream's width and a bias."""


@pytest.mark.parametrize(
    ("options", "dead", "published"),
    [
        (replace(AVE, reduction=16, batch_norm=False, audio_gate=False), GATE_TK, 187_131_384),  # the code's defaults
        (AVE, GATE_TK, 188_538_864),
        (replace(AVS, reduction=2, audio_gate=False), TEMPORAL_GATES, 196_592_760),  # the code's defaults
        (replace(AVS, audio_gate=False), TEMPORAL_GATES, 188_505_720),
        (replace(AVQA, audio_gate=False), 0, 186_336_456),
        (AVVP, GATE_TK + TEMPORAL_GATES, 188_565_408),
    ],
)
def test_all_layers_have_the_published_number_of_weights(options: DgSctOptions, dead: int, published: int) -> None:
    options = replace(options, align="conv")
    layers = build_on_meta(options, SWIN_L_AND_HTS_AT)
    assert num_weights(layers) + dead == published
    assert sum(options.parts(layers).values()) == num_weights(layers)


def test_the_weights_are_where_they_are_published_and_the_token_convolution_is_an_option() -> None:
    options = replace(AVE, align="conv")
    parts = dict(options.parts(build_on_meta(options, SWIN_L_AND_HTS_AT)))
    gates = parts.pop("gates")
    assert gates == 2 * 4 * 12
    parts["latents and bottlenecks"] += gates + GATE_TK
    assert list(parts.values()) == [81_156_432, 17_278_848, 86_394_288, 3_709_296]
    resized = build_on_meta(AVE, SWIN_L_AND_HTS_AT)
    assert num_weights(resized) + GATE_TK == 107_382_432
    assert AVE.parts(resized)["token convolutions"] == 0


@pytest.mark.parametrize("dead", ["gate_tk", "temporal_gated.0.weight", "temporal_gated.0.bias"])
def test_what_is_dead_in_the_official_adapter_has_no_gradient_there(dead: str) -> None:
    files = {"gate_tk": CONVOLVED, "temporal_gated.0.weight": RESIZED, "temporal_gated.0.bias": RESIZED}
    golden = files[dead]
    assert f"param/a2v/{dead}" in golden.tensors
    assert f"grad/a2v/param/{dead}" not in golden.tensors


def test_temporal_gates_are_as_many_as_the_streams_are_wide() -> None:
    pairs = [site for site in SWIN_L_AND_HTS_AT if site.is_pair]
    assert len(pairs) == 12
    assert sum(2 * (stream.width + 1) for site in pairs for stream in (site.visual, site.audio)) == TEMPORAL_GATES


def a_layer(options: DgSctOptions = SMALL, site: Site = SITE) -> DgSctLayer:
    torch.manual_seed(0)
    return options.build((site,))[0]


def streams(site: Site = SITE) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    visual, audio = (
        torch.randn(FRAMES, shape.num_tokens, shape.width, generator=draw) for shape in (site.visual, site.audio)
    )
    return visual, audio


def open_gates(layer: nn.Module) -> nn.Module:
    for name, weight in layer.named_parameters():
        if name.endswith("gate"):
            nn.init.constant_(weight, 0.5)
    return layer


@pytest.mark.parametrize("options", [SMALL, replace(SMALL, align="conv"), replace(SMALL, batch_norm=False)])
def test_a_fresh_adapter_adds_exactly_nothing_and_weighs_all_tokens(options: DgSctOptions) -> None:
    layer = a_layer(options).eval()
    for found in (layer.beside_attention(*streams()), layer.beside_mlp(*streams())):
        assert torch.count_nonzero(found.visual) == torch.count_nonzero(found.audio) == 0
        torch.testing.assert_close(found.visual_pooling.sum(dim=1), torch.ones(FRAMES))
        torch.testing.assert_close(found.audio_pooling.sum(dim=1), torch.ones(FRAMES))
        assert (found.visual_pooling > 0).all()


def test_gates_move_first_then_what_they_hold_back_and_last_the_latents() -> None:
    layers = nn.ModuleList([a_layer()])
    layer, optimiser = layers[0], torch.optim.SGD(layers.parameters(), lr=0.1)
    visual, audio = streams()
    target = torch.randn(visual.shape), torch.randn(audio.shape)
    moved = []
    for _ in range(3):
        optimiser.zero_grad()
        first, second = layer.beside_attention(visual, audio), layer.beside_mlp(visual, audio)
        loss = ((first.visual + second.visual) * target[0]).sum() + ((first.audio + second.audio) * target[1]).sum()
        loss.backward()
        moved.append(moving_weights(layers))
        optimiser.step()
    everything = {name for name, _ in layer.named_parameters()}
    adapters = [name for name, _ in layer.named_children()]
    latents = {f"{adapter}.latents" for adapter in adapters}
    assert moved[0] == {f"{adapter}.bottleneck.gate" for adapter in adapters}
    assert moved[1] == everything - latents
    assert moved[2] == everything


def test_without_its_weights_and_inner_gate_it_is_a_plain_bottleneck() -> None:
    layer = a_layer(replace(SMALL, alpha=0.0, beta=0.0)).eval()
    nn.init.ones_(layer.visual_mlp.bottleneck.gate)
    visual, audio = streams()
    plain = layer.visual_mlp.bottleneck(visual)
    assert plain.abs().max() > 0.1
    torch.testing.assert_close(layer.beside_mlp(visual, audio).visual, plain)


def test_modulation_stays_between_one_less_alpha_and_one_more_beta() -> None:
    adapter = a_layer(replace(SMALL, alpha=0.3, beta=0.05)).visual_mlp
    channels, scores = torch.rand(FRAMES, 24), torch.randn(FRAMES, 9) * 5
    factor = adapter.modulation(channels, scores)
    assert factor.shape == (FRAMES, 9, 24)
    assert 0.7 < factor.min() < factor.max() < 1.05
    visual, audio = streams()
    found, _ = adapter.guidance(visual * 100, adapter.aligned(audio, 9).mean(dim=1))
    assert 0 <= found.min() <= found.max() <= 1


def test_a_frame_is_guided_by_its_own_sound_only_and_order_of_latents_does_not_matter() -> None:
    layer = open_gates(a_layer()).eval()
    visual, audio = streams()
    other = audio.clone()
    other[1] += 1.0
    before, after = layer.beside_mlp(visual, audio), layer.beside_mlp(visual, other)
    kept = torch.tensor([0, 2])
    torch.testing.assert_close(before.visual[kept], after.visual[kept])
    assert not torch.allclose(before.visual[1], after.visual[1])
    assert not torch.allclose(before.visual_pooling[1], after.visual_pooling[1])
    with torch.no_grad():
        layer.visual_mlp.latents.copy_(layer.visual_mlp.latents.flip(0))
    torch.testing.assert_close(layer.beside_mlp(visual, audio).visual, before.visual, rtol=1e-4, atol=1e-5)


def test_it_is_guided_even_before_its_latents_are_let_in() -> None:
    layer = open_gates(a_layer()).eval()
    nn.init.zeros_(layer.visual_mlp.cross_gate)
    visual, audio = streams()
    assert not torch.allclose(layer.beside_mlp(visual, audio).visual, layer.beside_mlp(visual, audio + 1).visual)


def test_alone_a_stream_has_its_bottleneck_and_an_even_mean() -> None:
    layer = open_gates(a_layer()).eval()
    visual, audio = streams()
    seen, heard = layer.beside_attention(visual, None), layer.beside_attention(None, audio)
    assert seen.audio is None
    assert seen.audio_pooling is None
    assert heard.visual is None
    torch.testing.assert_close(seen.visual, layer.visual_attention.bottleneck(visual))
    torch.testing.assert_close(seen.visual_pooling, torch.full((FRAMES, 9), 1 / 9))
    torch.testing.assert_close(heard.audio, layer.audio_attention.bottleneck(audio))
    assert layer.beside_mlp(None, None) == Additions()


def aligned(own: StreamShape, other: StreamShape, tokens: Tensor, *, have_grids: bool) -> Tensor:
    adapter = DgSctAdapter(own, other, SMALL, gate=True, have_grids=have_grids)
    return adapter.align(tokens, own.num_tokens)


@pytest.mark.parametrize("is_grid", [True, False])
def test_tokens_are_resized_in_two_dimensions_only_between_grids(is_grid: bool) -> None:
    """A ramp along the columns stays one on a grid; read as a line it is a saw, and its teeth come out mixed."""
    columns = torch.arange(4.0).repeat(4)[None, :, None].expand(1, 16, 16)  # (1, 4 * 4, 16)
    own, other = StreamShape(16, 64, False, 0), StreamShape(16, 16, not is_grid, 0)
    rows = aligned(own, other, columns, have_grids=True).unflatten(1, (8, 8))[0, ..., 0]
    are_alike = torch.allclose(rows, rows[:1].expand(8, 8), atol=1e-5)
    assert are_alike == is_grid
    flat = aligned(own, replace(other, has_cls=False), columns, have_grids=False)
    assert torch.equal(flat, aligned(own, replace(other, has_cls=True), columns, have_grids=True))


def test_sequences_of_any_length_are_resized_along_their_one_dimension() -> None:
    ramp = torch.linspace(0, 1, 25)[None, :, None].expand(1, 25, 16)
    found = aligned(StreamShape(16, 257, True, 0), StreamShape(16, 25, False, 0), ramp, have_grids=False)
    assert found.shape == (1, 257, 16)
    assert (found.diff(dim=1) >= 0).all()
    assert (found[:, 0] == 0).all()
    torch.testing.assert_close(found[:, -1], torch.ones(1, 16))


def test_resizing_fixes_no_token_counts_and_the_convolution_refuses_others() -> None:
    visual, audio = streams()
    fewer = audio[:, :3]
    assert a_layer().beside_mlp(visual, fewer).visual.shape == visual.shape
    with pytest.raises(ConfigurationError, match=r"9 tokens beside 3.*9 beside 4.*align='resize'"):
        a_layer(replace(SMALL, align="conv")).beside_mlp(visual, fewer)


@pytest.mark.parametrize(
    ("sites", "after"), [(SWIN_L_AND_HTS_AT, True), (SWIN_L, False), (VIT_L, False), (favor_sites(), False)]
)
def test_sound_is_adapted_behind_its_layers_where_two_encoders_have_stages(sites, after: bool) -> None:
    layers = build_on_meta(SMALL, sites)
    pairs = [layer for layer in layers if isinstance(layer, DgSctLayer)]
    assert {layer.is_audio_after for layer in pairs} == {after}
    assert len(pairs) == sum(site.is_pair for site in sites)
    assert all(type(layer) is AdapterLayer for layer in layers if layer not in pairs)
    for placement in ("after", "parallel"):
        (layer,) = build_on_meta(replace(SMALL, audio_placement=placement), sites[-1:])
        assert layer.is_audio_after == (placement == "after")


def test_bfloat16_streams_get_bfloat16_additions_and_weights_that_sum_to_one() -> None:
    visual, audio = (stream.bfloat16() for stream in streams())
    for layer in (a_layer(), a_layer().bfloat16()):
        found = open_gates(layer).beside_mlp(visual, audio)
        assert found.visual.dtype == found.audio.dtype == torch.bfloat16
        assert found.visual_pooling.dtype == torch.float32
        torch.testing.assert_close(found.visual_pooling.sum(dim=1), torch.ones(FRAMES))


@pytest.mark.parametrize("align", ["resize", "conv"])
def test_its_cost_is_what_torch_counts(align: str) -> None:
    options = replace(SMALL, align=align, groups=1)
    layer = a_layer(options).eval()
    exact = sdpa_kernel(SDPBackend.MATH)  # of the fused kernels torch counts only those of GPUs
    with FlopCounterMode(display=False) as counter, torch.no_grad(), exact:
        for beside in (layer.beside_attention, layer.beside_mlp):
            beside(*streams())
    assert counter.get_total_flops() == 2 * FRAMES * options.cost(SITE).total
    assert options.cost(Site(SITE.visual, None)).total == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"align": "pool"}, "align is 'pool'.*resize, conv"),
        ({"audio_placement": "before"}, "'before'.*after, parallel"),
        ({"num_latents": 0}, "1 or more"),
        ({"alpha": 1.5}, "alpha from 0 to 1"),
        ({"beta": -0.1}, "0 or more"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        replace(SMALL, **changes)


def test_widths_and_tasks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="even width"):
        a_layer(replace(SMALL, reduction=1, groups=1), Site(StreamShape(15, 9, False, 0), SITE.audio))
    with pytest.raises(ConfigurationError, match="divides the width"):
        a_layer(replace(SMALL, reduction=5))
    with pytest.raises(ConfigurationError, match="ave, avs, avqa, avvp"):
        DgSctOptions.for_task("avc")


def test_the_bottleneck_is_the_shared_one() -> None:
    assert isinstance(a_layer().audio_mlp.bottleneck, Bottleneck)
