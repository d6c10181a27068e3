"""CoPL's prompts: where they stand, what they are made of, how many weights they cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from favor.adapters import Prompts, Site, StreamShape
from favor.adapters.copl import CoplLayer, CoplOptions
from favor.errors import ConfigurationError
from tests.adapters.hts_at_sites import SWIN_L_AND_HTS_AT
from tests.adapters.published import SWIN_L, VIT_L, build_on_meta, num_weights

SMALL = CoplOptions(video_prompts=3, frame_prompts=4, interaction_prompts=2, bank_size=5)
MOMENTS = torch.tensor([0, 3])
FRAMES = len(MOMENTS)
VISUAL_WIDTH, AUDIO_WIDTH = 24, 16


def flat_sites(number: int) -> tuple[Site, ...]:
    """Layers of two encoders without stages, of different widths."""
    return tuple(
        Site(visual=StreamShape(VISUAL_WIDTH, 5, True, layer), audio=StreamShape(AUDIO_WIDTH, 7, False, layer))
        for layer in range(number)
    )


def a_layer(options: CoplOptions = SMALL) -> CoplLayer:
    """A coupled one with weights far enough apart to see what they do."""
    torch.manual_seed(0)
    layer = options.build(flat_sites(1))[0]
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(torch.randn_like(weight) * 0.3)
    return layer


def streams() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(FRAMES, 5, VISUAL_WIDTH, generator=generator),
        torch.randn(FRAMES, 7, AUDIO_WIDTH, generator=generator),
    )


@pytest.mark.parametrize(
    ("sites", "scope", "weights"),
    [
        (VIT_L, None, (3_826_688, 4_154_368, 4_400_128)),
        (SWIN_L, None, (1_790_784, 1_865_664, 1_894_464)),
        (SWIN_L, "block", (3_633_408, 3_875_328, 4_055_808)),
        (SWIN_L_AND_HTS_AT, None, (789_984, 846_144, 867_744)),
        (SWIN_L_AND_HTS_AT, "block", (1_701_888, 1_860_288, 1_972_608)),
    ],
    ids=["vit_l", "swin by stage", "swin by block", "swin and hts-at by stage", "swin and hts-at by block"],
)
def test_trained_weights_are_those_of_our_reading(
    sites: tuple[Site, ...], scope: str | None, weights: tuple[int, ...]
) -> None:
    for task, expected in zip(("ave", "avs", "avqa"), weights):
        options = replace(CoplOptions.for_task(task), prompt_scope=scope)
        layers = build_on_meta(options, sites)
        parts = dict(options.parts(layers))
        last = sites[-1]
        narrow, wide = sorted((last.visual.width, last.audio.width))
        assert parts.pop("consistency") == (0 if narrow == wide else narrow * wide + wide)  # in the loss alone
        assert sum(parts.values()) == expected
        assert num_weights(layers) == sum(options.parts(layers).values())


def test_attached_are_the_clips_the_moments_and_at_coupled_layers_both_interaction_prompts() -> None:
    layers = replace(SMALL, coupled_layers=2).build(flat_sites(3))
    visual, audio = streams()
    plain, *coupled = (layer.prompts(visual, audio, MOMENTS) for layer in layers)
    assert plain.visual.shape == (FRAMES, 3 + 1, VISUAL_WIDTH)
    assert plain.audio.shape == (FRAMES, 3 + 1, AUDIO_WIDTH)
    for prompts in coupled:
        assert prompts.visual.shape == (FRAMES, 3 + 1 + 2 * 2, VISUAL_WIDTH)
        assert prompts.audio.shape == (FRAMES, 3 + 1 + 2 * 2, AUDIO_WIDTH)
        assert prompts.visual.shape[1] == SMALL.num_attached


def test_a_frame_gets_the_frame_level_prompt_of_its_own_moment() -> None:
    layer = a_layer()
    prompts = layer.prompts(*streams(), MOMENTS)
    assert torch.equal(prompts.visual[:, 3], layer.visual.frames[MOMENTS])
    assert torch.equal(prompts.audio[:, 3], layer.audio.frames[MOMENTS])
    assert torch.equal(prompts.visual[:, :3], layer.visual.video.expand(FRAMES, -1, -1))


def test_interaction_prompts_follow_the_papers_equations() -> None:
    layer = a_layer()
    visual, audio = streams()
    prompts = layer.prompts(visual, audio, MOMENTS)

    def mixed(stream: Tensor, latents: Tensor, bank: Tensor) -> Tensor:
        """P = sum e_i P_bi, token by token of one frame."""
        rows = []
        for latent in latents:
            seen = latent + sum(weight * token for weight, token in zip((stream @ latent).softmax(0), stream))
            rows.append(sum(weight * entry for weight, entry in zip((bank @ seen).softmax(0), bank)))
        return torch.stack(rows)

    def mapped(rows: Tensor, mapping: nn.Sequential) -> Tensor:
        return (rows @ mapping[0].weight.T + mapping[0].bias).clamp(min=0) @ mapping[2].weight.T + mapping[2].bias

    pair = layer.coupling
    for frame in range(FRAMES):
        seen = mixed(visual[frame], pair.visual_bank.latents, pair.visual_bank.bank)
        heard = mixed(audio[frame], pair.audio_bank.latents, pair.audio_bank.bank)
        expected_visual = torch.cat((seen, mapped(heard, pair.audio_to_visual)))
        expected_audio = torch.cat((heard, mapped(seen, pair.visual_to_audio)))
        torch.testing.assert_close(prompts.visual[frame, 4:], expected_visual, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(prompts.audio[frame, 4:], expected_audio, rtol=1e-5, atol=1e-5)


def test_bank_weights_sum_to_one_and_each_latent_has_its_own() -> None:
    bank = a_layer().coupling.visual_bank
    with torch.no_grad():
        bank.bank[:, 0] = 1.0  # so that this channel of the mixture is the sum of its weights
    prompts = bank(streams()[0])
    torch.testing.assert_close(prompts[..., 0], torch.ones(FRAMES, 2))
    assert not torch.allclose(prompts[:, 0], prompts[:, 1])


def test_the_other_stream_changes_its_half_of_the_interaction_prompts_of_its_frame_and_nothing_else() -> None:
    layer = a_layer()
    visual, audio = streams()
    changed = audio.clone()
    changed[1] += torch.randn(7, AUDIO_WIDTH)
    before, after = layer.prompts(visual, audio, MOMENTS), layer.prompts(visual, changed, MOMENTS)
    assert torch.equal(before.visual[0], after.visual[0])
    assert torch.equal(before.visual[1, :6], after.visual[1, :6])  # modal-specific, then its own bank
    assert not torch.allclose(before.visual[1, 6:], after.visual[1, 6:])
    assert not torch.allclose(before.audio[1, 4:6], after.audio[1, 4:6])
    torch.testing.assert_close(before.audio[1, 6:], after.audio[1, 6:])


def test_without_the_other_stream_only_modal_specific_prompts_are_left() -> None:
    layer = a_layer()
    visual, audio = streams()
    both = layer.prompts(visual, audio, MOMENTS)
    seen, heard = layer.prompts(visual, None, MOMENTS), layer.prompts(None, audio, MOMENTS)
    assert seen.audio is None
    assert heard.visual is None
    assert torch.equal(seen.visual, both.visual[:, :4])
    assert torch.equal(heard.audio, both.audio[:, :4])
    assert layer.prompts(None, None, MOMENTS) == Prompts()


def test_lone_layers_have_prompts_of_their_own_stream_and_no_coupling() -> None:
    sites = SWIN_L_AND_HTS_AT
    layers = build_on_meta(replace(SMALL, prompt_scope="block"), sites)
    assert all((layer.visual is not None, layer.audio is not None) == (True, site.is_pair)
               for layer, site in zip(layers, sites))  # fmt: skip
    assert [layer.coupling is not None for layer in layers] == [False] * 22 + [True] * 2
    visual = torch.randn(FRAMES, 5, VISUAL_WIDTH)
    lone = SMALL.build((Site(flat_sites(1)[0].visual, None), *flat_sites(1)))[0]
    assert lone.prompts(visual, None, MOMENTS).visual.shape == (FRAMES, 4, VISUAL_WIDTH)


def test_layers_of_a_stage_share_their_weights_and_stages_do_not() -> None:
    layers = build_on_meta(SMALL, SWIN_L_AND_HTS_AT)
    assert len({id(layer.visual) for layer in layers}) == 4
    assert len({id(layer.audio) for layer in layers if layer.audio is not None}) == 4
    coupled = [layer.coupling for layer in layers if layer.coupling is not None]
    assert len(coupled) == 6 + 2  # the pairs of stages 3 and 4
    assert len({id(coupling) for coupling in coupled}) == 2


def test_all_weights_get_a_gradient_from_the_prompts_and_the_loss() -> None:
    layers = replace(SMALL, coupled_layers=1).build(flat_sites(2))
    visual, audio = streams()
    total = SMALL.losses(visual, audio, layers)
    for layer in layers:
        prompts = layer.prompts(visual, audio, torch.arange(FRAMES))
        total = total + (prompts.visual**2).sum() + (prompts.audio**2).sum()
    total.backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in layers.parameters())


def test_the_consistency_loss_is_the_squared_distance_of_the_mean_tokens() -> None:
    shape = StreamShape(VISUAL_WIDTH, 5, True, 0)
    layers = SMALL.build((Site(shape, shape),))
    one, other = torch.randn(FRAMES, 5, VISUAL_WIDTH), torch.randn(FRAMES, 7, VISUAL_WIDTH)
    apart = one.mean(1) - other.mean(1)
    loss = SMALL.losses(one, other, layers)
    assert loss.item() == pytest.approx(0.005 * (apart**2).sum().item() / FRAMES, rel=1e-5)
    assert SMALL.losses(one, one, layers).item() == 0
    assert replace(SMALL, consistency_weight=0).losses(one, other, layers) is None


@pytest.mark.parametrize("is_visual_wide", [True, False])
def test_the_narrower_streams_mean_token_is_widened(is_visual_wide: bool) -> None:
    (site,) = flat_sites(1)
    layers = SMALL.build((site if is_visual_wide else Site(site.audio, site.visual),))
    widening = layers[-1].widening
    wide, narrow = streams()
    apart = wide.mean(1) - (narrow.mean(1) @ widening.weight.T + widening.bias)
    loss = SMALL.losses(*((wide, narrow) if is_visual_wide else (narrow, wide)), layers)
    assert loss.item() == pytest.approx(0.005 * (apart**2).sum().item() / FRAMES, rel=1e-5)
    assert replace(SMALL, consistency_weight=0).build((site,))[-1].widening is None


def test_bfloat16_prompts_stay_bfloat16() -> None:
    layers = SMALL.build(flat_sites(1)).bfloat16()
    visual, audio = (stream.bfloat16() for stream in streams())
    prompts = layers[0].prompts(visual, audio, MOMENTS)
    assert prompts.visual.dtype == prompts.audio.dtype == torch.bfloat16
    assert SMALL.losses(visual, audio, layers).isfinite()


def test_a_coupled_layer_costs_what_torch_counts_and_a_lone_one_nothing() -> None:
    (site,) = flat_sites(1)
    exact = sdpa_kernel(SDPBackend.MATH)  # of the fused kernels torch counts only those of GPUs
    with FlopCounterMode(display=False) as counter, torch.no_grad(), exact:
        a_layer().prompts(*streams(), MOMENTS)
    assert counter.get_total_flops() == 2 * FRAMES * SMALL.cost(site).total
    assert SMALL.cost(Site(site.visual, None)).total == 0


@pytest.mark.parametrize("moment", [4, -1])
def test_a_moment_without_a_prompt_is_refused(moment: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"moment {moment} .* moments 0 to 3.*Raise frame_prompts"):
        a_layer().prompts(*streams(), torch.tensor([1, moment]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt_scope": "window"}, "'window'.*stage, block"),
        ({"video_prompts": 200}, "attached.*at most 144"),
        ({"bank_size": 0}, "at least one"),
        ({"coupled_layers": 0}, "at least one"),
        ({"consistency_weight": -1.0}, "0 or more"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        replace(SMALL, **changes)


def test_encoders_that_do_not_fit_are_refused() -> None:
    seen, heard = StreamShape(24, 5, False, 0, stage=1), StreamShape(16, 5, False, 0)
    with pytest.raises(ConfigurationError, match="do not go together"):
        replace(SMALL, prompt_scope="stage").build((Site(seen, heard),))
    assert replace(SMALL).build((Site(seen, heard),))[0].coupling is not None  # of itself it turns to blocks
    with pytest.raises(ConfigurationError, match="no pair"):
        SMALL.build((Site(seen, None), Site(None, heard)))
    with pytest.raises(ConfigurationError, match="different widths"):
        SMALL.build((Site(seen, seen), Site(replace(seen, width=32), replace(seen, width=32))))
    with pytest.raises(ConfigurationError, match="8 or more"):
        SMALL.build((Site(replace(seen, width=4), seen),))
    with pytest.raises(ConfigurationError, match="ave, avs, avqa, avvp"):
        CoplOptions.for_task("avc")
