"""The adapters' other hosts equal transformers' models, whole and in halves, let prompts in, have the right size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import ClapAudioConfig, Swinv2Config, ViTConfig

from favor.encoders import HOSTS, Host, HtsAt, LayeredEncoder, PlainViT, SwinV2
from favor.encoders.windows import WindowedEncoder

Made = tuple[LayeredEncoder, Tensor]


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.set_num_threads(1)  # for tensors this small a second thread only means waiting
    torch.manual_seed(0)


def shaken(encoder: LayeredEncoder) -> LayeredEncoder:
    """Weights and statistics as if trained: no bias, position or norm is left where it does nothing."""
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for name, buffer in encoder.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return encoder


def tiny_vit() -> Made:
    size = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    return shaken(PlainViT(ViTConfig(**size, image_size=32, patch_size=8))), torch.randn(2, 3, 32, 32)


def tiny_swin(image_size: int = 32) -> Made:
    """32 pixels: grids of 16, 8, 4 in windows of 4, the last unshifted. 40: grids of 20, 10, 5, so padding."""
    config = Swinv2Config(
        image_size=image_size, patch_size=2, embed_dim=8, depths=(2, 2, 1), num_heads=(2, 2, 4), window_size=4
    )
    return shaken(SwinV2(config)), torch.randn(2, 3, image_size, image_size)


def tiny_padded_swin() -> Made:
    return tiny_swin(image_size=40)


def tiny_hts_at() -> Made:
    """Grids of 16 and 8 in windows of 4; 61 frames of 16 mel bins are stretched to 64 and folded to 32 x 32."""
    config = ClapAudioConfig(
        window_size=4,
        num_mel_bins=16,
        spec_size=32,
        patch_size=2,
        patch_stride=(2, 2),
        patch_embeds_hidden_size=8,
        depths=(2, 2),
        num_attention_heads=(2, 4),
        hidden_size=16,
    )
    return shaken(HtsAt(config)), torch.randn(2, 1, 61, 16)


HOSTS_OF_TESTS = [tiny_vit, tiny_swin, tiny_padded_swin, tiny_hts_at]
WINDOWED = [tiny_swin, tiny_padded_swin, tiny_hts_at]
every_host = pytest.mark.parametrize("make", HOSTS_OF_TESTS)
windowed_hosts = pytest.mark.parametrize("make", WINDOWED)


def trace(encoder: LayeredEncoder, inputs: Tensor) -> list[Tensor]:
    """What goes into each layer, and what comes out of the last."""
    hidden = [encoder.embed(inputs)]
    for index in range(encoder.num_layers):
        hidden.append(encoder.run_layer(index, hidden[-1]))
    return hidden


def test_vit_equals_transformers_layer_by_layer() -> None:
    encoder, images = tiny_vit()
    theirs = encoder.model(images, output_hidden_states=True)
    for ours, hidden in zip(trace(encoder, images), theirs.hidden_states, strict=True):
        assert torch.equal(ours, hidden)
    assert torch.equal(encoder(images), theirs.last_hidden_state)


@pytest.mark.parametrize("make", [tiny_swin, tiny_padded_swin])
def test_swin_equals_transformers_stage_by_stage(make: Callable[[], Made]) -> None:
    encoder, images = make()
    theirs = encoder.model(images, output_hidden_states=True)
    ours = trace(encoder, images)
    for layer, hidden in zip((0, 2, 4, 5), theirs.hidden_states, strict=True):
        assert torch.equal(ours[layer], hidden)
    assert torch.equal(encoder(images), theirs.last_hidden_state)


def test_hts_at_equals_transformers_stage_by_stage() -> None:
    encoder, sound = tiny_hts_at()
    theirs = encoder.model.audio_encoder(sound, output_hidden_states=True)
    ours = trace(encoder, sound)
    for layer, hidden in zip((0, 2, 4), theirs.hidden_states, strict=True):
        assert torch.equal(ours[layer], hidden.flatten(2).transpose(1, 2))
    torch.testing.assert_close(encoder(sound).mean(dim=1), theirs.pooler_output, atol=1e-5, rtol=0)


def test_the_last_norm_of_hts_at_is_the_callers_choice() -> None:
    encoder, sound = tiny_hts_at()
    normed = encoder(sound)
    encoder.ends_in_norm = False
    assert torch.equal(encoder.model.audio_encoder.norm(encoder(sound)), normed)


@every_host
def test_the_halves_of_every_layer_make_the_whole(make: Callable[[], Made]) -> None:
    encoder, inputs = make()
    hidden = encoder.embed(inputs)
    for index in range(encoder.num_layers):
        whole = encoder.run_layer(index, hidden)
        assert torch.equal(LayeredEncoder.run_layer(encoder, index, hidden), whole)
        hidden = whole


@every_host
def test_shapes_tell_what_goes_into_every_layer(make: Callable[[], Made]) -> None:
    encoder, inputs = make()
    for index, hidden in enumerate(trace(encoder, inputs)[:-1]):
        shape = encoder.shape(index)
        assert (shape.num_tokens, shape.width) == tuple(hidden.shape[1:])
        assert shape.layer == index


def test_a_stage_begins_where_tokens_get_fewer_and_wider() -> None:
    found = [tiny_swin()[0].shape(index) for index in range(5)]
    assert [(shape.stage, shape.num_tokens, shape.width) for shape in found] == [
        (0, 256, 8),
        (0, 256, 8),
        (1, 64, 16),
        (1, 64, 16),
        (2, 16, 32),
    ]


@every_host
def test_prompts_are_seen_and_stripped(make: Callable[[], Made]) -> None:
    encoder, inputs = make()
    encoder, inputs = encoder.double(), inputs.double()  # Swin V2's bias leaves prompts weights too small for singles
    for index, hidden in enumerate(trace(encoder, inputs)[:-1]):
        prompts = torch.randn(len(hidden), 3, hidden.shape[-1], dtype=hidden.dtype, requires_grad=True)
        plain, seen = encoder.attend(index, hidden), encoder.attend(index, hidden, prompts)
        assert plain.prompts is None
        assert seen.tokens.shape == hidden.shape
        assert seen.prompts.shape == prompts.shape
        changed = (seen.tokens - plain.tokens).abs().amax(dim=-1)
        assert (changed > 0).all(), "every token sees the prompts, in whichever window"
        seen.tokens.square().sum().backward()
        assert (prompts.grad.abs().sum(dim=-1) > 0).all()


@every_host
def test_prompts_of_one_input_do_not_reach_another(make: Callable[[], Made]) -> None:
    encoder, inputs = make()
    hidden = encoder.embed(inputs)
    prompts = torch.randn(len(hidden), 2, hidden.shape[-1])
    both = encoder.attend(1, hidden, prompts)
    for row in range(len(hidden)):
        alone = encoder.attend(1, hidden[row : row + 1], prompts[row : row + 1])
        torch.testing.assert_close(both.tokens[row : row + 1], alone.tokens)
        torch.testing.assert_close(both.prompts[row : row + 1], alone.prompts)


@windowed_hosts
def test_attention_with_no_prompts_in_it_is_transformers_own(make: Callable[[], Made]) -> None:
    """The attention that takes prompts is ours: without any it comes to what transformers' comes to."""
    encoder, inputs = make()
    for index, hidden in enumerate(trace(encoder, inputs)[:-1]):
        none = hidden.new_zeros(len(hidden), 0, hidden.shape[-1])
        plain, ours = encoder.attend(index, hidden), encoder.attend(index, hidden, none)
        torch.testing.assert_close(ours.tokens, plain.tokens, atol=1e-5, rtol=1e-5)


def attention_by_definition(encoder: WindowedEncoder, index: int, hidden: Tensor, prompts: Tensor) -> Tensor:
    """Token by token for one input (N, C) and (P, C): window mates of the same side of the seam, and all prompts.

    Returns (N + W * P, C) in the order of the shifted windows: the tokens of each, then its prompts; without norms.
    """
    block, size = encoder.block(index), encoder.block(index).window_size
    side, num_tokens = encoder.grid_of(index)[0], size * size
    bias = encoder.position_bias(block.attention.self)
    rows = []
    for top in range(0, side, size):
        for left in range(0, side, size):
            places = [(top + row, left + column) for row in range(size) for column in range(size)]
            origin = [((row + block.shift_size) % side, (column + block.shift_size) % side) for row, column in places]
            region = [(row + block.shift_size >= side, column + block.shift_size >= side) for row, column in places]
            seen = torch.cat((hidden[[row * side + column for row, column in origin]], prompts))
            rows.append(_mixed(encoder, block.attention, seen, (bias, region, num_tokens)))
    return torch.cat(rows)


def _mixed(encoder: WindowedEncoder, attention, seen: Tensor, place: tuple) -> Tensor:
    bias, region, num_tokens = place
    inner = attention.self
    heads = [
        part(seen).unflatten(-1, (inner.num_attention_heads, -1)).transpose(0, 1)
        for part in (inner.query, inner.key, inner.value)
    ]
    scores = encoder.similarity(inner, *(head[None] for head in heads[:2]))[0].clone()
    scores[:, num_tokens:] += encoder.prompt_bias
    scores[:, :num_tokens, num_tokens:] += encoder.prompt_bias
    for one in range(num_tokens):
        for other in range(num_tokens):
            scores[:, one, other] += bias[:, one, other] if region[one] == region[other] else -torch.inf
    return attention.output((scores.softmax(-1) @ heads[2]).transpose(0, 1).flatten(1), seen)


@pytest.mark.parametrize("make", [tiny_swin, tiny_hts_at])
def test_attention_with_prompts_equals_its_definition(make: Callable[[], Made]) -> None:
    encoder, inputs = make()
    index, num_prompts = 3, 2  # a shifted layer
    hidden = trace(encoder, inputs)[index][:1]
    prompts = torch.randn(1, num_prompts, hidden.shape[-1])
    block = encoder.block(index)
    assert block.shift_size > 0
    ours = encoder.attend_in_windows(index, hidden, prompts)
    expected = attention_by_definition(encoder, index, hidden[0], prompts[0])
    expected = expected.unflatten(0, (-1, block.window_size**2 + num_prompts))  # (W, S + P, C)
    torch.testing.assert_close(ours.prompts[0], expected[:, -num_prompts:].mean(dim=0), atol=1e-4, rtol=1e-4)
    first = expected[0, 0]  # the token where shifting moved the corner
    corner = block.shift_size * encoder.grid_of(index)[1] + block.shift_size
    torch.testing.assert_close(ours.tokens[0, corner], first, atol=1e-4, rtol=1e-4)
    last = expected[-1, block.window_size**2 - 1]  # beyond both seams: the corner's other neighbour
    before = corner - encoder.grid_of(index)[1] - 1
    torch.testing.assert_close(ours.tokens[0, before], last, atol=1e-4, rtol=1e-4)


def test_vit_reads_other_sizes_off_its_position_table_as_a_line() -> None:
    encoder, _ = tiny_vit()
    spectrogram = torch.randn(2, 3, 17, 26)  # 2 x 3 patches of 8, the rest is left out
    embeddings = encoder.model.embeddings
    hidden = encoder.embed(spectrogram)
    assert hidden.shape[1] == encoder.num_tokens(17, 26) == 7
    line = interpolate(embeddings.position_embeddings.transpose(1, 2), 7, mode="linear").transpose(1, 2)
    torch.testing.assert_close(hidden[:, :1], (embeddings.cls_token + line[:, :1]).expand(2, -1, -1))
    torch.testing.assert_close(hidden[:, 1:], embeddings.patch_embeddings(spectrogram) + line[:, 1:])
    assert encoder(spectrogram).shape == (2, 7, 16)


def test_swin_takes_its_own_size_only() -> None:
    with pytest.raises(AssertionError, match=r"\(30, 32\) pixels given, needed are \(32, 32\)"):
        tiny_swin()[0](torch.randn(1, 3, 30, 32))


@every_host
def test_hosts_stay_frozen_and_run_in_passes(make: Callable[[], Made]) -> None:
    encoder, inputs = make()
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    parent = torch.nn.Sequential(encoder).train()
    many = inputs.repeat(9, *[1] * (inputs.dim() - 1))
    assert not any(module.training for module in parent[0].modules())
    torch.testing.assert_close(encoder(many)[-2:], encoder(inputs), atol=1e-5, rtol=1e-5)
    assert not encoder(inputs).requires_grad
    assert all(torch.equal(buffer, before[name]) for name, buffer in encoder.named_buffers()), "batch-norm drifted"


@pytest.fixture(scope="module")
def full_size() -> dict[str, tuple[LayeredEncoder, LayeredEncoder]]:
    with torch.device("meta"):
        return {name: host.build() for name, host in HOSTS.items()}


def count(encoder: LayeredEncoder) -> int:
    return sum(weight.numel() for weight in encoder.parameters())


def test_full_size_encoders_have_the_published_counts(full_size: dict) -> None:
    assert {name: count(visual) for name, (visual, _) in full_size.items()} == {
        "vit-b16": 85_798_656,
        "vit-l16": 303_301_632,
        "swinv2-b": 86_893_816,
        "swinv2-l": 195_202_932,
        "swinv2-l+htsat": 195_202_932,
        "whisper+eva": 985_952_256,
    }
    assert count(full_size["whisper+eva"][1]) == 636_784_640
    stft, mel_bank = 2 * 513 * 1024, 513 * 64
    assert stft + mel_bank == 1_083_456
    head = (768 * 2 * 3 + 1) * 527 + (527 + 1) * 527
    assert count(full_size["swinv2-l+htsat"][1]) + stft + mel_bank + head == 31_325_143


def test_shared_encoders_are_one_object(full_size: dict) -> None:
    assert [name for name, (visual, audio) in full_size.items() if visual is audio] == [
        "vit-b16",
        "vit-l16",
        "swinv2-b",
        "swinv2-l",
    ]


def test_full_size_tokens_are_the_published_ones(full_size: dict) -> None:
    def tokens(name: str) -> list[tuple[int, int]]:
        sites = HOSTS[name].sites(*full_size[name])
        return list(dict.fromkeys((site.visual.num_tokens, site.audio.num_tokens) for site in sites if site.is_pair))

    assert tokens("vit-b16") == tokens("vit-l16") == [(197, 49)]
    assert tokens("swinv2-b") == tokens("swinv2-l") == [(2304, 2304), (576, 576), (144, 144), (36, 36)]
    assert tokens("swinv2-l+htsat") == [(2304, 4096), (576, 1024), (144, 256), (36, 64)]
    assert tokens("whisper+eva") == [(257, 25)]
    assert full_size["vit-b16"][0].num_tokens(102, 128) == 49


def test_sites_of_every_host_are_paired_as_published(full_size: dict) -> None:
    paired = {
        name: (sum(site.is_pair for site in sites), len(sites))
        for name, sites in ((name, HOSTS[name].sites(*encoders)) for name, encoders in full_size.items())
    }
    assert paired == {
        "vit-b16": (12, 12),
        "vit-l16": (24, 24),
        "swinv2-b": (24, 24),
        "swinv2-l": (24, 24),
        "swinv2-l+htsat": (12, 24),
        "whisper+eva": (32, 39),
    }


def test_a_lone_layer_has_no_partner_at_its_site() -> None:
    visual, audio = tiny_swin()[0], tiny_vit()[0]
    sites = Host(lambda: visual, lambda: audio, audio_tokens=7).sites(visual, audio)
    assert [(site.visual.layer, site.audio and site.audio.layer) for site in sites] == [
        (0, None),
        (1, 0),
        (2, 1),
        (3, None),
        (4, 2),
    ]
    assert sites[1].audio == replace(audio.shape(0), num_tokens=7)
