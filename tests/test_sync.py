"""Time becomes steps, steps become windows, by exact integers (design facts of paper section 3.1 and 3.2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from favor.sync import NOTHING, ClipSteps, WindowPlan, num_steps, num_windows, step_centres_s

VISUAL_AND_AUDIO = st.tuples(st.integers(0, 130), st.integers(0, 130)).filter(any)


@pytest.mark.parametrize(
    ("seconds", "steps"),
    [(0, 0), (0.01, 1), (0.5, 1), (0.54, 1), (0.56, 2), (25, 50), (25.02, 50), (30, 60), (60, 120), (300, 600)],
)
def test_every_begun_half_second_is_a_step_but_for_a_codec_tail(seconds: float, steps: int) -> None:
    assert num_steps(seconds) == steps


def test_step_centres_lie_a_quarter_second_into_each_half() -> None:
    assert step_centres_s(3) == [0.25, 0.75, 1.25]


@pytest.mark.parametrize(
    ("what", "clip", "length_rule", "tokens"),
    [
        ("video with sound, 30 s", {"num_frames": 60, "num_audio_steps": 60}, "true", 192),
        ("video with sound, 25 s", {"num_frames": 50, "num_audio_steps": 50}, "true", 160),
        ("video with sound, 25 s, as released", {"num_frames": 50, "num_audio_steps": 50}, "padded", 192),
        ("video with sound, 60 s", {"num_frames": 120, "num_audio_steps": 120}, "true", 384),
        ("video with sound, 60 s, as released", {"num_frames": 120, "num_audio_steps": 120}, "padded", 384),
        ("video alone, 25 s", {"num_frames": 50, "num_audio_steps": 0}, "true", 160),
        ("video alone, 25 s, as released", {"num_frames": 50, "num_audio_steps": 0}, "padded", 160),
        ("sound alone, 11 s", {"num_frames": 0, "num_audio_steps": 22}, "true", 96),
        ("sound alone, 11 s, as released", {"num_frames": 0, "num_audio_steps": 22}, "padded", 192),
        ("image and sound, 11 s", {"num_frames": 1, "num_audio_steps": 22, "is_image": True}, "true", 96),
        ("image and sound, as released", {"num_frames": 1, "num_audio_steps": 22, "is_image": True}, "padded", 192),
        ("image alone, as in the paper", {"num_frames": 1, "num_audio_steps": 0, "is_image": True}, "true", 32),
        ("image alone, as released", {"num_frames": 1, "num_audio_steps": 0, "is_image": True}, "padded", 192),
    ],
)
def test_token_counts_follow_the_papers_table(what: str, clip: dict, length_rule: str, tokens: int) -> None:
    steps = ClipSteps.of_clip(**{"is_image": False, **clip}, length_rule=length_rule)
    assert num_windows(steps.length(), 10) * 32 == tokens, what


def test_sixty_one_steps_are_seven_windows_with_nine_padded_steps() -> None:
    clip = ClipSteps.of_clip(num_frames=61, num_audio_steps=60, is_image=False)
    plan = WindowPlan.of([clip], window_steps=10)
    assert plan.windows_per_clip == (7,)
    assert plan.is_real.count(False) == 9
    assert plan.is_real[60]
    assert not any(plan.is_real[61:])


@given(st.lists(VISUAL_AND_AUDIO, min_size=1, max_size=4), st.integers(1, 12))
def test_every_frame_and_every_step_of_sound_lands_in_its_own_half_second(
    clips: list[tuple[int, int]], window_steps: int
) -> None:
    steps = [ClipSteps.of_clip(num_frames=v, num_audio_steps=a, is_image=False) for v, a in clips]
    plan = WindowPlan.of(steps, window_steps=window_steps)
    frames_before = chunks_before = row = 0
    for (visual, audio), clip, windows in zip(clips, steps, plan.windows_per_clip, strict=True):
        rows = range(row, row + windows * window_steps)
        assert [plan.visual_index[r] for r in rows if plan.visual_index[r] != NOTHING] == list(
            range(frames_before, frames_before + visual)
        )
        first_audio = chunks_before * 60
        assert [plan.audio_index[r] for r in rows if plan.audio_index[r] != NOTHING] == list(
            range(first_audio, first_audio + audio)
        )
        for place, r in enumerate(rows):
            assert plan.is_real[r] == (place < max(visual, audio))
            assert plan.visual_index[r] in (NOTHING, frames_before + place)
            assert plan.audio_index[r] in (NOTHING, first_audio + place)
        frames_before += visual
        chunks_before += clip.num_audio_chunks
        row += windows * window_steps


def test_without_synchronisation_sound_follows_picture() -> None:
    clip = ClipSteps.of_clip(num_frames=3, num_audio_steps=2, is_image=False)
    plan = WindowPlan.of([clip], window_steps=2, align="concat")
    assert plan.visual_index == (0, 1, 2, NOTHING, NOTHING, NOTHING)
    assert plan.audio_index == (NOTHING, NOTHING, NOTHING, 0, 1, NOTHING)
    assert plan.is_real == (True,) * 5 + (False,)


def test_an_image_is_shown_for_as_long_as_its_sound_lasts() -> None:
    clip = ClipSteps.of_clip(num_frames=1, num_audio_steps=3, is_image=True)
    plan = WindowPlan.of([clip], window_steps=4)
    assert plan.visual_index == (0, 0, 0, NOTHING)
    assert plan.audio_index == (0, 1, 2, NOTHING)


def test_a_batch_without_clips_has_no_windows() -> None:
    plan = WindowPlan.of([], window_steps=10)
    assert plan.num_windows == 0
    assert not plan.has_padding
