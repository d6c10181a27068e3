"""Every wrong input gives its typed error, in words a user can act on, and leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from favor.errors import MediaError, UnreadableMediaError
from favor.media import MediaOptions, load_audio, load_image, load_video
from tests import bad_media, clips
from tests.bad_media import BAD_CLIPS, BadClip

DOORS = {"video": load_video, "audio": load_audio, "image": load_image}


@pytest.fixture(scope="module")
def good() -> bytes:
    return bad_media.good_clip()


def open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(os.listdir(folder)) if folder.is_dir() else 0


@pytest.mark.parametrize("bad", BAD_CLIPS, ids=[bad.what for bad in BAD_CLIPS])
def test_a_bad_clip_gives_its_error(bad: BadClip, tmp_path, good):
    if bad.make is bad_media.unreadable and os.geteuid() == 0:
        pytest.skip("the superuser may read every file")
    source = bad.make(tmp_path)
    before = open_files()
    with pytest.raises(bad.error) as raised:
        DOORS[bad.load](source, **bad.arguments)
    error = raised.value
    assert type(error) is bad.error
    for words in bad.says:
        assert words in str(error)
    assert error.given
    assert error.allowed
    assert error.advice
    assert any(character.isdigit() for character in error.given + error.allowed)
    assert str(tmp_path) not in str(error)
    assert "/" not in str(error)
    assert not any(word in str(error) for word in ("Errno", "avcodec", "Invalid data", "<none>", "0x"))
    del raised, error
    assert open_files() == before
    assert load_video(good, options=MediaOptions(frame_size=32)).num_visual_steps == 4


def test_there_are_many_kinds_of_bad_clips():
    assert len({bad.what for bad in BAD_CLIPS}) == len(BAD_CLIPS) >= 28


SEEDS = {
    "mp4": lambda: clips.clip(seconds=1, at=(0.5,)),
    "mkv": lambda: clips.clip(seconds=1, container="matroska"),
    "mpegts": lambda: clips.clip(seconds=1, container="mpegts"),
    "avi": lambda: clips.clip(seconds=1, container="avi", video_codec="mpeg4", audio_codec="mp3"),
    "aac": lambda: clips.sound_file(1.0, container="adts", codec="aac"),
    "wav": clips.sound_file,
    "png": bad_media.png,
}


@pytest.mark.parametrize("seed", SEEDS)
def test_random_damage_gives_our_errors_and_no_others(seed):
    whole = SEEDS[seed]()
    random = np.random.default_rng(len(whole))
    for when_damaged in ("refuse", "skip") * 12:
        data = bytearray(whole)
        for place in random.integers(0, len(data), size=random.integers(1, 40)):
            data[place] = random.integers(0, 256)
        options = MediaOptions(frame_size=16, max_seconds=20, when_damaged=when_damaged)
        for load in DOORS.values():
            try:
                clip = load(bytes(data), options=options)
            except MediaError:
                continue
            assert np.isfinite(clip.waveform).all()
            assert clip.num_visual_steps == len(clip.times_s) <= 41
            assert clip.num_audio_steps <= 41


def test_a_playlist_never_opens_the_file_it_names(tmp_path, monkeypatch):
    opened = []
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: opened.append(self.name) or original(self, *a, **k))
    path = tmp_path / "list.m3u8"
    path.write_bytes(bad_media.playlist_of(tmp_path))
    opened.clear()
    with pytest.raises(UnreadableMediaError):
        load_video(path)
    assert opened == ["list.m3u8"]


def test_a_frame_rate_of_zero_in_the_header_is_survived():
    clip = load_video(bad_media.avi_at_0_fps(), options=MediaOptions(frame_size=32))
    assert clip.num_visual_steps >= 1


@pytest.mark.parametrize(
    "make",
    [
        bad_media.mp4_cut_in_its_data,
        lambda: bad_media.with_broken_packets("audio"),
        lambda: bad_media.with_broken_packets("video"),
    ],
    ids=["cut in its data", "a broken sound packet", "a broken video packet"],
)
def test_a_damaged_clip_loads_when_damage_may_be_skipped(make):
    clip = load_video(make(), options=MediaOptions(when_damaged="skip", frame_size=32))
    assert clip.num_visual_steps >= 2
    assert clips.bright_steps(clip.frames) == clips.loud_steps(clip.waveform) == [1]
    assert clip.receipt.skipped


def test_an_mp4_header_that_claims_10_hours_is_not_believed():
    clip = load_video(bad_media.mp4_that_claims_seconds(36_000), options=MediaOptions(frame_size=32))
    assert clip.receipt.duration_s == pytest.approx(2.0, abs=0.05)


def test_samples_that_are_not_numbers_become_silence_when_damage_may_be_skipped():
    clip = load_audio(bad_media.wav_with(float("nan")), options=MediaOptions(when_damaged="skip"))
    assert np.isfinite(clip.waveform).all()
    assert "not numbers" in clip.receipt.skipped[0]
