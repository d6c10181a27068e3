"""Two encoders with an adapter between them: every adapter on every host (adapters.md 6.6)."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from favor.adapters import OPTIONS, options_for
from favor.encoders import JointEncoder
from tests.small_hosts import HOSTS, SmallHost

torch.manual_seed(0)

ADAPTERS = ("lavish", "dg_sct", "av_pea", "copl")
RESIDUAL = ("lavish", "dg_sct", "av_pea")
SETTINGS = {
    "lavish": {"reduction": 4, "batch_norm": False},
    "dg_sct": {"reduction": 4, "num_latents": 3, "batch_norm": False},
    "av_pea": {"reduction": 4, "batch_norm": False},
    "copl": {"video_prompts": 2, "frame_prompts": 3, "interaction_prompts": 2, "bank_size": 4},
}

pytestmark = [
    pytest.mark.parametrize("host", list(HOSTS.values()), ids=list(HOSTS)),
    pytest.mark.parametrize("adapter", ADAPTERS),
]


def test_there_is_a_test_for_every_adapter(host: SmallHost, adapter: str) -> None:
    assert set(ADAPTERS) == set(OPTIONS)


def joint(host: SmallHost, adapter: str) -> JointEncoder:
    torch.manual_seed(1)
    return JointEncoder(
        *host.encoders(), options_for(adapter, **SETTINGS[adapter]), audio_tokens=host.audio_tokens
    ).double()


def shake(module: nn.Module) -> None:
    """Weights as after some training: nothing is at its start."""
    for weight in module.parameters():
        weight.data += 0.1 * torch.randn_like(weight)


def test_the_start_is_the_frozen_encoders_bit_for_bit(host: SmallHost, adapter: str) -> None:
    if adapter not in RESIDUAL:
        pytest.skip("prompts are seen from the start")
    model = joint(host, adapter)
    frames, sound, meetings = host.inputs()
    made = model(frames, sound, meetings)
    plain = JointEncoder(model.visual, model.audio)(frames, sound, meetings)
    assert torch.equal(made.visual, plain.visual)
    assert torch.equal(made.audio, plain.audio)
    assert torch.equal(plain.visual, model.visual(frames))
    assert torch.equal(plain.audio, model.audio(sound))


def test_trained_adapters_change_both_streams_and_no_frozen_weight(host: SmallHost, adapter: str) -> None:
    model = joint(host, adapter)
    encoders = set(model.visual.parameters()) | set(model.audio.parameters())
    before = {weight: weight.clone() for weight in encoders}
    buffers = {buffer: buffer.clone() for encoder in (model.visual, model.audio) for buffer in encoder.buffers()}
    frames, sound, meetings = host.inputs()
    start = model(frames, sound, meetings)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):  # gates first, then what is behind them, latents last
        made = model.train()(frames, sound, meetings)
        (made.visual.square().mean() + made.audio.square().mean()).backward()
        reached = [name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()]
        optimizer.step()
        optimizer.zero_grad()
    unreached = {name for name, _ in model.named_parameters()} - set(reached)
    assert not {name for name in unreached if not re.search("widening|_to_|guidance", name)}  # the loss's; dead ReLUs
    made = model.eval()(frames, sound, meetings)
    assert not torch.equal(made.visual, start.visual)
    assert not torch.equal(made.audio, start.audio)
    assert made.visual.shape == start.visual.shape
    assert all(torch.equal(weight, old) for weight, old in before.items())
    assert all(torch.equal(buffer, old) for buffer, old in buffers.items())
    assert all(weight.grad is None for weight in encoders)


def test_each_stream_hears_of_the_other_and_only_of_its_own_moment(host: SmallHost, adapter: str) -> None:
    model = joint(host, adapter).eval()
    shake(model.layers)
    frames, sound, meetings = host.inputs()
    before = model(frames, sound, meetings)
    changed = model(frames, host.with_other_sound(sound, piece=1), meetings)
    is_changed = (changed.visual != before.visual).flatten(1).any(dim=1)
    assert is_changed[1]
    if host.is_one_piece_per_row:
        assert is_changed.tolist() == [False, True, False]
    frames = frames.clone()
    frames[2] += 1.0
    changed = model(frames, sound, meetings)
    is_changed = (meetings.cut(changed.audio) != meetings.cut(before.audio)).flatten(1).any(dim=1)
    assert is_changed[2]
    if host.is_one_piece_per_row:
        assert is_changed.tolist() == [False, False, True]


def test_a_stream_may_be_absent(host: SmallHost, adapter: str) -> None:
    model = joint(host, adapter).eval()
    shake(model.layers)
    frames, sound, _ = host.inputs()
    seen = model(frames, sound[:0], host.only_frames(len(frames)))
    assert seen.visual.isfinite().all()
    assert len(seen.audio) == 0
    heard = model(frames[:0], sound, host.only_sound(len(sound)))
    assert heard.audio.isfinite().all()
    assert len(heard.visual) == 0


def test_frames_that_meet_a_sound_and_others_share_a_batch(host: SmallHost, adapter: str) -> None:
    model = joint(host, adapter).eval()
    shake(model.layers)
    frames, sound, meetings = host.inputs()
    together = model(torch.cat((frames, frames[:1])), sound, host.with_a_lone_frame(meetings))
    torch.testing.assert_close(together.visual[:3], model(frames, sound, meetings).visual)
    alone = model(frames[:1], sound[:0], host.only_frames(1))
    torch.testing.assert_close(together.visual[3:], alone.visual)


def test_checkpointed_activations_change_no_gradient(host: SmallHost, adapter: str) -> None:
    model = joint(host, adapter).train()
    shake(model.layers)
    gradients = []
    for model.is_checkpointing in (False, True):
        made = model(*host.inputs())
        (made.visual.square().sum() + made.audio.square().sum()).backward()
        gradients.append([None if weight.grad is None else weight.grad.clone() for weight in model.parameters()])
        model.zero_grad()
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


def test_the_ends_of_the_stages_are_kept_on_request(host: SmallHost, adapter: str) -> None:
    model = joint(host, adapter).eval()
    before = model(*host.inputs())
    model.keep_stages = True
    made = model(*host.inputs())
    shapes = model.visual.shapes()
    ends = [one for one, after in zip(shapes, [*shapes[1:], None]) if after is None or one.stage != after.stage]
    assert [tuple(tokens.shape[1:]) for tokens in made.visual_stages] == [(end.num_tokens, end.width) for end in ends]
    assert made.visual_stages[-1] is made.visual
    assert before.visual_stages == ()
    assert torch.equal(made.visual, before.visual)
    made.visual_stages[0].sum().backward()  # an adapter learns through every stage
    assert any(weight.grad is not None for weight in model.parameters())
