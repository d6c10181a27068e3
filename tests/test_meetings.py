"""Which frame meets which sound."""

from __future__ import annotations

import torch

from favor.encoders.meetings import Meetings, spread


def test_frames_meet_the_sound_of_their_step_and_the_rest_stay_alone():
    meetings = Meetings.of_clips([3, 2], [2, 5], [False, False], chunk_steps=4, window_steps=2)
    assert meetings.frames.tolist() == [0, 1, 3, 4]
    assert meetings.pieces.tolist() == [0, 1, 4, 5]  # the first clip's row is filled up to 4 steps
    assert meetings.moments.tolist() == [0, 1, 0, 1]
    assert meetings.lone_frames.tolist() == [2]
    assert meetings.lone_moments.tolist() == [0]  # the first of the second window
    assert meetings.lone_pieces.tolist() == [6, 7, 8]


def test_an_image_meets_all_of_its_sound_and_alone_without_any():
    meetings = Meetings.of_clips([1, 1], [3, 0], [True, True], chunk_steps=4, window_steps=2)
    assert meetings.frames.tolist() == [0, 0, 0]
    assert meetings.pieces.tolist() == [0, 1, 2]
    assert meetings.lone_frames.tolist() == [1]
    assert meetings.lone_pieces.tolist() == []


def test_sound_alone_meets_nobody():
    meetings = Meetings.of_clips([0], [2], [False], chunk_steps=2, window_steps=2)
    assert len(meetings.frames) == len(meetings.lone_frames) == 0
    assert meetings.lone_pieces.tolist() == [0, 1]


def test_rows_of_sound_are_cut_into_pieces_and_joined_again():
    meetings = Meetings.of_clips([0], [4], [False], chunk_steps=2, window_steps=2)
    rows = torch.randn(2, 2 * 3, 5)
    pieces = meetings.cut(rows)
    assert pieces.shape == (4, 3, 5)
    assert torch.equal(pieces[1], rows[0, 3:])
    assert torch.equal(meetings.join(pieces), rows)


def test_what_several_meetings_add_to_one_row_is_averaged_and_others_get_nothing():
    additions = torch.tensor([[1.0], [3.0], [5.0]])
    assert spread(additions, torch.tensor([0, 0, 2]), 4).tolist() == [[2.0], [0.0], [5.0], [0.0]]
    assert spread(None, torch.tensor([0]), 4) is None
