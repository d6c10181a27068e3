"""AV-PEA: golden vectors, published counts, and how it starts, trains and who hears whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from favor.adapters import AdapterLayer, Additions, AvPeaOptions, Cost, Site, StreamShape
from favor.adapters.av_pea import AvPeaAdapter, AvPeaLayer
from favor.errors import ConfigurationError
from tests.adapters.published import (
    VIT_B,
    VIT_L,
    build_on_meta,
    check_adapter,
    favor_sites,
    moving_weights,
    num_weights,
)
from tests.golden_vectors import Golden

GOLDEN = Golden.load("avpea_adapter")
PAPER = AvPeaOptions.for_task("ave")

WITH_CLS = Site(StreamShape(32, 5, True, 0), StreamShape(32, 3, True, 0))
WITHOUT_CLS = Site(StreamShape(24, 5, True, 0), StreamShape(16, 3, False, 0))
VARIANTS = {
    "cls": (PAPER, WITH_CLS),
    "mean": (AvPeaOptions(cls_stand_in="mean"), WITHOUT_CLS),
    "query": (AvPeaOptions(cls_stand_in="query"), WITHOUT_CLS),
    "no_batch_norm": (AvPeaOptions(batch_norm=False, scale=True), WITH_CLS),
}
every_variant = pytest.mark.parametrize(("options", "site"), VARIANTS.values(), ids=VARIANTS)


def build(options: AvPeaOptions, site: Site, *, gate: float = 0.0) -> AvPeaLayer:
    torch.manual_seed(0)
    layer = options.build((site,))[0]
    for name, weight in layer.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.constant_(weight, gate)
    return layer


def streams(site: Site, *, frames: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    visual, audio = (
        torch.randn(frames, shape.num_tokens, shape.width, generator=draw) for shape in (site.visual, site.audio)
    )
    return visual, audio


@pytest.mark.parametrize("case", GOLDEN.meta["cases"])
def test_an_adapter_equals_the_reference(case: str) -> None:
    given = GOLDEN.meta["cases"][case]
    own = StreamShape(given["width"], given["tokens"], True, 0)
    options = AvPeaOptions(reduction=given["reduction"], batch_norm=given["bn"])
    check_adapter(AvPeaAdapter(own, given["width"], options), GOLDEN, case)


@pytest.mark.parametrize(("width", "weights"), [(768, 152_258), (1024, 268_546), (1280, 417_602), (1408, 504_418)])
def test_an_adapter_has_the_published_number_of_weights(width: int, weights: int) -> None:
    with torch.device("meta"):
        assert num_weights(AvPeaAdapter(StreamShape(width, 5, True, 0), width, PAPER)) == weights


@pytest.mark.parametrize(
    ("options", "sites", "weights"),
    [
        (PAPER, VIT_B, 3_654_192),
        (PAPER, VIT_L, 12_890_208),
        (replace(PAPER, batch_norm=False), VIT_B, 3_612_720),  # rounds to 3.6 M, the paper says 3.7
        (replace(PAPER, batch_norm=False), VIT_L, 12_779_616),
    ],
)
def test_all_layers_have_the_published_number_of_weights(options, sites, weights: int) -> None:
    layers = build_on_meta(options, sites)
    assert num_weights(layers) == weights
    assert sum(options.parts(layers).values()) == weights


def test_whisper_beside_vit_g_has_bridges_between_pairs_and_nothing_elsewhere() -> None:
    layers = build_on_meta(PAPER, favor_sites())
    parts = PAPER.parts(layers)
    assert parts.pop("bridges") == 64 * 172_032
    assert sum(parts.values()) == 29_504_640
    assert sum(type(layer) is AdapterLayer for layer in layers) == 7
    with_query = replace(PAPER, cls_stand_in="query")
    assert with_query.parts(build_on_meta(with_query, favor_sites()))["learned queries"] == 32 * 1280


def test_the_cost_of_one_frame_is_linear_in_its_tokens() -> None:
    # One query over 3 and over 5 tokens of width 32, keys and values; both 1x1 convolutions at all tokens.
    assert PAPER.cost(WITH_CLS) == Cost(attention=2 * (3 + 5) * 32, projections=(5 + 3) * 2 * 32 * 4)
    bridges = 3 * 64 * (16 + 24) + 5 * 64 * (24 + 16)
    convolutions = 5 * 2 * 24 * 3 + 3 * 2 * 16 * 2
    assert PAPER.cost(WITHOUT_CLS) == Cost(attention=2 * (3 * 24 + 5 * 16), projections=convolutions + bridges)
    assert PAPER.cost(Site(WITH_CLS.visual, None)) == Cost()


@every_variant
@pytest.mark.parametrize("training", [True, False])
def test_a_fresh_layer_adds_exactly_nothing(options: AvPeaOptions, site: Site, training: bool) -> None:
    given = streams(site)
    for stream, addition in zip(given, build(options, site).train(training).beside_attention(*given)):
        assert torch.equal(stream + addition, stream)


def test_nothing_is_added_beside_the_mlp_or_without_a_partner() -> None:
    assert build(PAPER, WITH_CLS, gate=0.5).beside_mlp(*streams(WITH_CLS)) == Additions()
    assert num_weights(build(PAPER, Site(None, WITH_CLS.audio))) == 0


@every_variant
def test_output_gates_open_first_then_everything_else(options: AvPeaOptions, site: Site) -> None:
    layer = build(options, site)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    everything = {name.partition(".")[2] for name, _ in layer.named_parameters()}
    moved = []
    for _ in range(3):
        optimizer.zero_grad()
        added = layer.beside_attention(*streams(site))
        sum((addition - wanted).square().mean() for addition, wanted in zip(added, streams(site))).backward()
        moved.append(moving_weights(layer))
        optimizer.step()
    behind_cross_gate = {name for name in everything if name.startswith("bridge") or name == "query"}
    assert moved == [{"bottleneck.gate"}, everything - behind_cross_gate, everything]


def test_only_the_cls_token_hears_the_other_stream() -> None:
    layer, (visual, audio) = build(PAPER, WITH_CLS, gate=0.5).eval(), streams(WITH_CLS)
    before, after = layer.beside_attention(visual, audio), layer.beside_attention(visual, -audio)
    assert torch.equal(before.visual[:, 1:], after.visual[:, 1:])
    assert (before.visual[:, 0] != after.visual[:, 0]).any(-1).all()


@pytest.mark.parametrize("stand_in", ["mean", "query"])
def test_without_a_cls_token_every_token_gets_what_the_stand_in_found(stand_in) -> None:
    site = Site(WITH_CLS.visual, replace(WITH_CLS.audio, has_cls=False))
    layer, (visual, audio) = build(AvPeaOptions(cls_stand_in=stand_in), site, gate=0.5).eval(), streams(site)
    asking = layer.audio.query if stand_in == "query" else audio.mean(1, keepdim=True)
    found = (asking @ visual.mT).softmax(-1) @ visual
    torch.testing.assert_close(layer.beside_attention(visual, audio).audio, layer.audio.bottleneck(audio + 0.5 * found))


@every_variant
def test_with_a_closed_cross_gate_the_other_stream_is_not_heard(options: AvPeaOptions, site: Site) -> None:
    layer, (visual, audio) = build(options, site, gate=0.5), streams(site)
    torch.nn.init.zeros_(layer.visual.cross_gate)
    quiet, loud = layer.beside_attention(visual, audio), layer.beside_attention(visual, 3 * audio)
    assert torch.equal(quiet.visual, loud.visual)
    assert not torch.equal(quiet.audio, loud.audio)


@every_variant
def test_no_frame_hears_the_sound_of_another(options: AvPeaOptions, site: Site) -> None:
    layer, (visual, audio) = build(options, site, gate=0.5).eval(), streams(site)
    changed = audio.clone()
    changed[1] *= -1
    before, after = layer.beside_attention(visual, audio).visual, layer.beside_attention(visual, changed).visual
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])


@every_variant
def test_a_stream_alone_goes_through_the_bottleneck_only(options: AvPeaOptions, site: Site) -> None:
    layer, (visual, audio) = build(options, site, gate=0.5).eval(), streams(site)
    seen, heard = layer.beside_attention(visual, None), layer.beside_attention(None, audio)
    assert seen.audio is None
    assert heard.visual is None
    assert torch.equal(seen.visual, layer.visual.bottleneck(visual))
    assert torch.equal(heard.audio, layer.audio.bottleneck(audio))


@every_variant
def test_half_precision_streams_get_additions_of_their_own_dtype(options: AvPeaOptions, site: Site) -> None:
    layer, given = build(options, site, gate=0.5).eval(), [stream.bfloat16() for stream in streams(site)]
    exact, ours = layer.beside_attention(*(stream.float() for stream in given)), layer.beside_attention(*given)
    assert ours.visual.dtype == ours.audio.dtype == torch.bfloat16
    torch.testing.assert_close(ours.audio.float(), exact.audio, atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"reduction": 5}, "width 32 with reduction 5"), ({"reduction": 0}, "reduction is 0"),
     ({"cls_stand_in": "max"}, "cls_stand_in is 'max'")],
)  # fmt: skip
def test_options_that_cannot_be_are_refused_before_anything_runs(wrong: dict, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        AvPeaOptions(**wrong).build((WITH_CLS,))
