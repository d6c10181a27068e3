"""The connector obeys the paper: causality, windows, presence, order; and equals the slow reference in every mode."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from benchmarks.reference_connector import reference_diversity, reference_soft_tokens
from favor.causal_qformer import causal_block_mask, diversity_loss
from favor.configuration import ConnectorConfig
from favor.connector import Connector
from favor.errors import ConfigurationError
from favor.sync import STEPS_PER_AUDIO_CHUNK, ClipSteps, WindowPlan

WIDTH, AUDIO_WIDTH = 12, 8
Clip = tuple[Tensor, list[Tensor]]


def small_config(**changes: object) -> ConnectorConfig:
    settings = {
        "visual_width": WIDTH,
        "audio_widths": [AUDIO_WIDTH],
        "hidden_size": 16,
        "num_attention_heads": 4,
        "intermediate_size": 24,
        "num_query_tokens": 4,
        "window_steps": 3,
        "num_positions": 96,
        "initializer_range": 0.3,
    }
    return ConnectorConfig(**{**settings, **changes})


def small_connector(**changes: object) -> Connector:
    torch.manual_seed(0)
    return Connector(small_config(**changes), llm_width=10).eval()


def random_clip(frames: int, audio_steps: int, *, num_audio_streams: int = 1) -> Clip:
    audio = [torch.randn(audio_steps, 25, AUDIO_WIDTH) for _ in range(num_audio_streams)]
    return torch.randn(frames, 32, WIDTH), audio


def run(connector: Connector, clips: list[Clip], **presence: bool):
    """The connector over clips, packed as the model packs them."""
    steps = [ClipSteps(len(v), len(v), len(a[0]), -(-len(a[0]) // STEPS_PER_AUDIO_CHUNK), **presence) for v, a in clips]
    plan = WindowPlan.of(steps, window_steps=connector.config.window_steps, align=connector.config.align)
    audio = [
        torch.cat(
            [
                pad_to_chunks(stream[number], clip.num_audio_chunks)
                for (_, stream), clip in zip(clips, steps, strict=True)
            ]
        )
        for number in range(len(connector.audio_projections))
    ]
    return connector(torch.cat([visual for visual, _ in clips]), audio, plan)


def pad_to_chunks(audio: Tensor, chunks: int) -> Tensor:
    return torch.cat((audio, torch.randn(chunks * STEPS_PER_AUDIO_CHUNK - len(audio), *audio.shape[1:])))


MODES = {
    "past": {},
    "future": {"causal_direction": "future"},
    "no causal block": {"causal_direction": "none"},
    "two audio streams": {"audio_widths": [AUDIO_WIDTH, AUDIO_WIDTH]},
    "two resolutions": {"num_query_tokens": 6, "fine_window_steps": 1, "num_fine_query_tokens": 2},
    "two resolutions, future": {
        "num_query_tokens": 6,
        "fine_window_steps": 1,
        "num_fine_query_tokens": 2,
        "causal_direction": "future",
    },
    "three layers": {"num_hidden_layers": 3},
}


@pytest.mark.parametrize("mode", MODES)
def test_one_batched_call_equals_the_slow_reference_in_outputs_and_gradients(mode: str) -> None:
    connector = small_connector(**MODES[mode])
    streams = len(connector.audio_projections)
    lengths = [(7, 7), (2, 5), (6, 0), (0, 4), (1, 0), (9, 9)]
    clips = [random_clip(frames, audio, num_audio_streams=streams) for frames, audio in lengths]

    fast = run(connector, clips).soft_tokens
    probe = torch.randn_like(fast)
    (fast * probe).sum().backward()
    fast_gradients = {name: parameter.grad.clone() for name, parameter in connector.named_parameters()}
    connector.zero_grad()
    slow = reference_soft_tokens(connector, clips)
    (slow * probe).sum().backward()

    torch.testing.assert_close(fast, slow, atol=2e-5, rtol=2e-5)
    for name, parameter in connector.named_parameters():
        scale = max(1.0, parameter.grad.abs().max().item())
        torch.testing.assert_close(fast_gradients[name] / scale, parameter.grad / scale, atol=5e-5, rtol=0, msg=name)


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_of_clips_equals_the_clips_one_by_one(mode: str) -> None:
    connector = small_connector(**MODES[mode])
    streams = len(connector.audio_projections)
    clips = [
        random_clip(frames, audio, num_audio_streams=streams) for frames, audio in [(4, 4), (0, 65), (61, 2), (1, 0)]
    ]
    together = run(connector, clips).soft_tokens
    alone = torch.cat([run(connector, [clip]).soft_tokens for clip in clips])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_sixty_steps_become_192_rows_and_sixty_one_become_224() -> None:
    connector = small_connector(window_steps=10, num_query_tokens=32, num_positions=320)
    assert connector.synchronise(*_packed(60)).shape == (6, 10, 32, 2 * WIDTH)
    assert run(connector, [random_clip(60, 60)]).soft_tokens.shape == (192, 10)
    assert run(connector, [random_clip(61, 60)]).soft_tokens.shape == (224, 10)


def _packed(steps: int) -> tuple[Tensor, list[Tensor], WindowPlan]:
    visual, audio = random_clip(steps, steps)
    clip = ClipSteps.of_clip(num_frames=steps, num_audio_steps=steps, is_image=False)
    return visual, [pad_to_chunks(audio[0], clip.num_audio_chunks)], WindowPlan.of([clip], window_steps=10)


@pytest.mark.parametrize(("direction", "may_see"), [("past", "earlier"), ("future", "later")])
def test_the_causal_block_looks_one_way_between_frames_and_every_way_within(direction: str, may_see: str) -> None:
    causal = small_connector(causal_direction=direction).qformer.layers[0].causal
    steps, tokens = 4, 3
    window = torch.randn(1, steps * tokens, 2 * WIDTH, requires_grad=True)
    mask = causal_block_mask(steps, tokens, direction=direction)
    out = causal(window, window, mask=mask)
    for asking, asked in itertools.product(range(steps * tokens), repeat=2):
        (gradient,) = torch.autograd.grad(out[0, asking].square().sum(), window, retain_graph=True)
        reaches = gradient[0, asked].abs().max().item() > 0
        frame, other = asking // tokens, asked // tokens
        assert reaches == (other <= frame if may_see == "earlier" else other >= frame)


@pytest.mark.parametrize("direction", ["past", "future"])
def test_what_fills_up_the_last_window_changes_nothing(direction: str) -> None:
    qformer = small_connector(causal_direction=direction).qformer
    queries = torch.randn(4, 16)
    windows = torch.randn(2, 3, 32, 2 * WIDTH)
    is_real = torch.tensor([[True, True, True], [True, True, False]])
    before = qformer(queries, windows, is_real=is_real)
    windows[1, 2] += 100 * torch.randn(32, 2 * WIDTH)
    after = qformer(queries, windows, is_real=is_real)
    torch.testing.assert_close(after, before, atol=1e-6, rtol=0)


def test_the_released_mode_leaks_padding_through_the_causal_block_as_the_released_code_does() -> None:
    qformer = small_connector(causal_direction="future", is_causal_padding_masked=False).qformer
    queries, windows = torch.randn(4, 16), torch.randn(1, 3, 32, 2 * WIDTH)
    is_real = torch.tensor([[True, True, False]])
    before = qformer(queries, windows, is_real=is_real)
    windows[0, 2] += 1.0 + torch.randn(32, 2 * WIDTH)
    assert (qformer(queries, windows, is_real=is_real) - before).abs().max() > 1e-6


def test_a_change_in_the_second_window_leaves_the_first_windows_tokens_unchanged() -> None:
    connector = small_connector()
    visual, audio = random_clip(6, 6)
    before = run(connector, [(visual, audio)]).soft_tokens
    visual, audio = visual.clone(), [audio[0].clone()]
    visual[3:] += 1
    audio[0][4] -= 1
    after = run(connector, [(visual, audio)]).soft_tokens
    assert torch.equal(after[:4], before[:4])
    assert not torch.allclose(after[4:], before[4:], atol=1e-3)


def test_future_frames_cannot_reach_past_positions_of_the_context() -> None:
    connector = small_connector()
    contexts = []
    connector.qformer.layers[1].causal.register_forward_hook(lambda _m, _i, out: contexts.append(out))
    visual, audio = random_clip(3, 3)
    run(connector, [(visual, audio)])
    changed = visual.clone()
    changed[2] += 1
    run(connector, [(changed, audio)])
    assert torch.equal(contexts[0][0, :64], contexts[1][0, :64])
    assert not torch.allclose(contexts[0][0, 64:], contexts[1][0, 64:], atol=1e-3)


def test_every_layer_reads_the_same_raw_window() -> None:
    connector = small_connector(num_hidden_layers=3)
    read = []
    for layer in connector.qformer.layers:
        layer.causal.register_forward_hook(lambda _m, inputs, _o: read.append(inputs[0]))
    run(connector, [random_clip(3, 3)])
    assert len(read) == 3
    assert torch.equal(read[0], read[1])
    assert torch.equal(read[0], read[2])


@pytest.mark.parametrize("absent", ["has_sound", "has_picture"])
def test_a_stream_flagged_absent_has_no_influence_and_keeps_its_length(absent: str) -> None:
    connector = small_connector()
    visual, audio = random_clip(4, 5)
    other_visual, other_audio = random_clip(4, 5)
    if absent == "has_sound":
        first, second = (visual, audio), (visual, other_audio)
    else:
        first, second = (visual, audio), (other_visual, audio)
    out = run(connector, [first], **{absent: False}).soft_tokens
    assert torch.equal(out, run(connector, [second], **{absent: False}).soft_tokens)
    assert out.shape == run(connector, [first]).soft_tokens.shape
    assert not torch.allclose(out, run(connector, [first]).soft_tokens, atol=1e-3)


def test_the_joint_token_is_picture_first_then_sound_with_seven_silent_slots() -> None:
    connector = small_connector()
    visual, audio = random_clip(3, 3)
    clip = ClipSteps.of_clip(num_frames=3, num_audio_steps=3, is_image=False)
    plan = WindowPlan.of([clip], window_steps=3)
    joint = connector.synchronise(visual, [pad_to_chunks(audio[0], 1)], plan)  # (1, 3, 32, 24)
    assert torch.equal(joint[0, ..., :WIDTH], visual)
    assert torch.equal(joint[0, :, :25, WIDTH:], connector.audio_projections[0](audio[0]))
    assert not joint[0, :, 25:, WIDTH:].any()


def test_missing_sound_is_zero_behind_the_linear_so_its_bias_says_nothing() -> None:
    connector = small_connector()
    torch.nn.init.ones_(connector.audio_projections[0].bias)
    clip = ClipSteps.of_clip(num_frames=2, num_audio_steps=0, is_image=False)
    joint = connector.synchronise(
        torch.randn(2, 32, WIDTH), [torch.zeros(0, 25, AUDIO_WIDTH)], WindowPlan.of([clip], window_steps=3)
    )
    assert not joint[..., WIDTH:].any()


def test_without_synchronisation_the_same_moment_is_read_in_two_places() -> None:
    connector = small_connector(align="concat")
    out = run(connector, [random_clip(3, 3)]).soft_tokens
    assert out.shape == (2 * 4, 10)
    visual, audio = random_clip(3, 3)
    before = run(connector, [(visual, audio)]).soft_tokens
    after = run(connector, [(visual, [audio[0] + 1])]).soft_tokens
    assert torch.equal(before[:4], after[:4])
    assert not torch.allclose(before[4:], after[4:], atol=1e-3)


def test_fine_windows_see_one_step_and_share_the_weights() -> None:
    connector = small_connector(num_query_tokens=6, fine_window_steps=1, num_fine_query_tokens=2)
    visual, audio = random_clip(4, 4)
    before = run(connector, [(visual, audio)])
    assert before.fine_queries.shape == (6, 2, 16)
    assert not before.fine_queries[4:].any(), "fine windows that only fill the last coarse window up say nothing"
    changed = visual.clone()
    changed[1] += 1
    after = run(connector, [(changed, audio)])
    differs = (after.fine_queries != before.fine_queries).flatten(1).any(dim=1)
    assert differs.tolist() == [False, True, False, False, False, False]


def test_dropout_is_active_in_training_only() -> None:
    connector = small_connector()
    clip = random_clip(3, 3)
    assert torch.equal(run(connector, [clip]).queries, run(connector, [clip]).queries)
    connector.train()
    assert not torch.equal(run(connector, [clip]).queries, run(connector, [clip]).queries)


class TestDiversity:
    def test_equal_queries_score_one(self) -> None:
        assert diversity_loss(torch.randn(1, 1, 8).expand(3, 32, 8)).item() == pytest.approx(1.0, abs=1e-5)

    def test_orthogonal_queries_score_zero(self) -> None:
        assert diversity_loss(torch.eye(32)[None]).item() == pytest.approx(0.0, abs=1e-6)

    def test_a_simplex_of_32_scores_minus_one_by_31(self) -> None:
        simplex = torch.eye(32) - 1 / 32
        assert diversity_loss(simplex[None]).item() == pytest.approx(-1 / 31, abs=1e-6)

    def test_scale_does_not_matter(self) -> None:
        queries = torch.randn(2, 5, 7)
        scaled = queries * torch.rand(2, 5, 1).add(0.1)
        assert diversity_loss(scaled).item() == pytest.approx(diversity_loss(queries).item(), abs=1e-6)

    def test_the_same_item_twice_scores_the_same(self) -> None:
        queries = torch.randn(1, 5, 7)
        twice = torch.cat((queries, queries))
        assert diversity_loss(twice).item() == pytest.approx(diversity_loss(queries).item(), abs=1e-6)
        assert diversity_loss(twice, reduction="sum").item() == pytest.approx(
            2 * 5 * 4 * diversity_loss(queries).item(), rel=1e-4, abs=1e-4
        )

    def test_it_equals_the_mean_over_pairs_counted_one_by_one(self) -> None:
        queries = torch.randn(3, 6, 5)
        assert diversity_loss(queries).item() == pytest.approx(reference_diversity(queries), abs=1e-6)

    def test_with_two_resolutions_it_counts_the_coarse_one(self) -> None:
        connector = small_connector(num_query_tokens=6, fine_window_steps=1, num_fine_query_tokens=2)
        out = run(connector, [random_clip(4, 4)])
        assert out.diversity.item() == pytest.approx(reference_diversity(out.queries.detach()), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"windowsteps": 3}, "window_steps"),
        ({"causal_direction": "backward"}, "past, future, none"),
        ({"align": "synch"}, "'sync'"),
        ({"window_steps": 4}, "128 positions"),
        ({"num_fine_query_tokens": 2, "fine_window_steps": 1}, "do not add up"),
        ({"num_fine_query_tokens": 2, "fine_window_steps": 2}, "do not add up"),
    ],
)
def test_an_impossible_setting_is_refused_with_the_reason(changes: dict, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        small_config(**changes)
