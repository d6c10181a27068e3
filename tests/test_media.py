"""The media room: what is seen and what is heard land in the step in which they happened, whatever the file is like."""

from __future__ import annotations

import io
import json
import os
import struct
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from favor.errors import ConfigurationError, MediaLimitError, MissingStreamError, UnreadableMediaError
from favor.media import (
    SAMPLE_RATE_HZ,
    MediaLimits,
    MediaOptions,
    load_audio,
    load_image,
    load_video,
    sniff_kind,
    write_clip,
)
from favor.sync import num_steps
from tests import clips

MEDIA = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "media"
NTSC = Fraction(30_000, 1001)
SMALL = MediaOptions(frame_size=32)
B_FRAMES = {"preset": "veryfast", "tune": "animation", "bf": "3", "g": "12"}
UNEVEN = [0.0, 0.4, 0.5, 0.55, 0.6, 1.3, 1.64, 1.70, 1.72, 1.9, 2.6, 2.61, 2.62, 3.4, 3.9]


@pytest.fixture
def shared():
    if not MEDIA.is_dir():
        pytest.skip("no ../shared/data/media beside the repository")
    return MEDIA


SHAPES = {
    "the normal case": {},
    "29.97 frames a second": {"fps": NTSC},
    "60 frames a second": {"fps": 60},
    "2 frames a second": {"fps": 10},
    "variable frame rate": {"times_s": UNEVEN},
    "b-frames": {"video_options": B_FRAMES},
    "b-frames in matroska": {"video_options": B_FRAMES, "container": "matroska"},
    "variable frame rate in matroska": {"times_s": UNEVEN, "container": "matroska"},
    "sound starts 1 s late": {"audio_start_s": 1.0},
    "sound starts 1 s late in matroska": {"audio_start_s": 1.0, "container": "matroska"},
    "sound longer than the picture": {"audio_seconds": 7.0},
    "sound ends early": {"audio_seconds": 2.2},
    "picture starts 1 s late": {"video_start_s": 1.0, "container": "matroska"},
    "picture starts 1 s late in mp4": {"video_start_s": 1.0},
    "stereo": {"layout": "stereo"},
    "5.1 channels": {"layout": "5.1"},
    "44.1 kHz": {"rate_hz": 44_100},
    "sound at 16 kHz": {"rate_hz": 16_000},
    "mpegts": {"container": "mpegts"},
    "mov with plain samples": {"container": "mov", "audio_codec": "pcm_s16le"},
    "matroska": {"container": "matroska"},
    "avi": {"container": "avi", "video_codec": "mpeg4", "audio_codec": "mp3"},
    "webm": {
        "container": "webm",
        "video_codec": "libvpx-vp9",
        "audio_codec": "libopus",
        "video_options": {"deadline": "realtime", "cpu-used": "8"},
    },
    "an edit list that hides the beginning": {"video_start_s": -0.6, "audio_start_s": -0.6, "seconds": 4.6},
    "webm without a length": {
        "container": "webm",
        "video_codec": "libvpx-vp9",
        "audio_codec": "libopus",
        "video_options": {"deadline": "realtime", "cpu-used": "8"},
        "container_options": {"live": "1"},
    },
    "fragmented mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("at", [1.75, 3.25])
def test_flash_and_beep_land_in_their_step(shape, at):
    if shape.get("audio_seconds") == 2.2 and at > 2:
        pytest.skip("this sound has ended by then")
    if "times_s" in shape and at > 2:
        pytest.skip("these frames have no flash there")
    clip = load_video(clips.clip(at=(at,), **shape), options=SMALL)
    step = int(at / 0.5)
    assert clips.bright_steps(clip.frames) == [step]
    assert clips.loud_steps(clip.waveform) == [step]
    assert clip.receipt.skipped == () or "picture begins at" in clip.receipt.skipped[0]


def test_a_clip_has_one_frame_for_each_step_of_its_picture():
    clip = load_video(clips.clip(seconds=3.2, audio_seconds=5.0), options=SMALL)
    assert clip.frames.shape == (7, 32, 32, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.num_visual_steps == num_steps(3.2) == 7
    assert clip.num_audio_steps == 10
    assert not clip.is_image


def test_midpoints_take_the_frame_shown_in_the_middle_of_each_step():
    clip = load_video(clips.clip(seconds=3, fps=10), options=SMALL)
    assert clip.times_s.tolist() == pytest.approx([0.2, 0.7, 1.2, 1.7, 2.2, 2.7])
    exact = load_video(clips.clip(seconds=2, fps=4), options=SMALL)
    assert exact.times_s.tolist() == pytest.approx([0.25, 0.75, 1.25, 1.75])


def test_time_stamps_are_the_true_ones_under_variable_frame_rate():
    for container in ("mp4", "matroska"):
        clip = load_video(clips.clip(times_s=UNEVEN, container=container), options=SMALL)
        assert clip.times_s[:7].tolist() == pytest.approx([0.0, 0.6, 0.6, 1.72, 1.9, 2.62, 2.62], abs=2e-3)


def test_frames_come_in_display_order_when_decoded_in_another():
    ramp = [np.full((72, 96, 3), 8 * number, dtype=np.uint8) for number in range(30)]
    data = clips.encode(frames=ramp, times_s=clips.constant_times(3, 10), fps=10, video_options=B_FRAMES)
    with av.open(io.BytesIO(data)) as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
    assert stamps != sorted(stamps), "the clip has no reordered frames to test"
    clip = load_video(data, options=SMALL)
    assert clip.frames.mean(axis=(1, 2, 3)) == pytest.approx([8 * n for n in (2, 7, 12, 17, 22, 27)], abs=4)


def test_first_last_takes_the_first_and_last_frame_of_every_second():
    options = MediaOptions(frame_rule="first_last", frame_size=32)
    clip = load_video(clips.clip(seconds=2.6, fps=10), options=options)
    assert clip.times_s.tolist() == pytest.approx([0.0, 0.9, 1.0, 1.9, 2.0, 2.5])
    partial = load_video(clips.clip(seconds=2.4, fps=10), options=options)
    assert partial.times_s.tolist() == pytest.approx([0.0, 0.9, 1.0, 1.9, 2.0])
    assert partial.receipt.video.frame_rule == "first_last"


def test_first_last_holds_a_frame_through_seconds_without_one():
    options = MediaOptions(frame_rule="first_last", frame_size=32)
    clip = load_video(clips.clip(times_s=[0.0, 0.6, 3.2, 3.9], at=()), options=options)
    assert clip.times_s[:8].tolist() == pytest.approx([0.0, 0.6, 0.6, 0.6, 0.6, 0.6, 3.2, 3.9])


ROTATIONS = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


@pytest.mark.parametrize("degrees", ROTATIONS)
def test_a_rotated_picture_stands_upright(degrees):
    upright = clips.corners()
    stored = np.ascontiguousarray(np.rot90(upright, k=degrees // 90))
    data = clips.encode(frames=[stored] * 10, times_s=clips.constant_times(1, 10), fps=10)
    clip = load_video(clips.with_display_matrix(data, ROTATIONS[degrees]), options=SMALL)
    assert corner_colours(clip.frames[0]) == ["red", "green", "blue", "white"]
    assert (clip.receipt.video.width, clip.receipt.video.height) == (96, 64)
    assert clip.receipt.video.rotation_deg == degrees


def test_a_mirrored_picture_is_mirrored_back():
    stored = np.ascontiguousarray(clips.corners()[:, ::-1])
    data = clips.encode(frames=[stored] * 10, times_s=clips.constant_times(1, 10), fps=10)
    clip = load_video(clips.with_display_matrix(data, (-1, 0, 0, 1)), options=SMALL)
    assert corner_colours(clip.frames[0]) == ["red", "green", "blue", "white"]


def corner_colours(frame: np.ndarray) -> list[str]:
    """Top left, top right, bottom left, bottom right."""
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
    size = frame.shape[0]
    places = [(size // 8, size // 8), (size // 8, -size // 8), (-size // 8, size // 8), (-size // 8, -size // 8)]
    return [min(colours, key=lambda name: np.abs(frame[p].astype(int) - colours[name]).sum()) for p in places]


def test_a_late_sound_is_preceded_by_silence_of_the_right_length():
    data = clips.clip(seconds=3, at=(1.25,), audio_start_s=1.0, container="mov", audio_codec="pcm_s16le")
    clip = load_video(data, options=SMALL)
    assert clip.receipt.audio.start_s == pytest.approx(1.0, abs=1e-3)
    assert clip.receipt.audio.seconds == pytest.approx(2.0, abs=1e-3)
    assert not clip.waveform[:16_000].any()
    assert np.abs(clip.waveform[18_500:21_500]).max() > 0.3


def test_a_late_picture_shows_its_first_frame_before_it_begins_and_says_so():
    clip = load_video(clips.clip(seconds=3, video_start_s=1.1, container="matroska"), options=SMALL)
    assert clip.times_s[:3].tolist() == pytest.approx([1.1, 1.1, 1.24], abs=0.05)
    assert "the picture begins at 1.1" in clip.receipt.skipped[0]
    assert clip.receipt.video.start_s == pytest.approx(1.1, abs=0.03)


def test_a_gap_in_the_sound_is_filled_so_that_later_sound_keeps_its_time():
    samples = clips.beeps(2.0, at=(0.25, 1.25))
    track = clips.Track(samples, codec="pcm_s16le", jumps=((1.0, 1.5),))
    data = clips.encode(container="matroska", tracks=[track])
    clip = load_audio(data)
    assert clips.loud_steps(clip.waveform) == [0, 5]
    assert clip.waveform.size == pytest.approx(3.5 * SAMPLE_RATE_HZ, abs=200)
    assert "a gap in the sound at 1.00 s, 1.50 s long" in clip.receipt.skipped[0]


def test_overlapping_time_stamps_do_not_push_later_sound_back():
    samples = clips.beeps(3.0, at=(0.25, 2.75))
    data = clips.encode(container="matroska", tracks=[clips.Track(samples, codec="pcm_s16le", jumps=((1.0, -0.5),))])
    clip = load_audio(data)
    assert clips.loud_steps(clip.waveform) == [0, 4]
    assert "overlapping sound" in " ".join(clip.receipt.skipped)


def test_joined_recordings_whose_clock_starts_anew_are_played_one_after_the_other():
    half = clips.clip(seconds=2, at=(0.75,), container="mpegts")
    clip = load_video(half + half, options=SMALL)
    assert clips.loud_steps(clip.waveform) == [1, 5]
    assert clips.bright_steps(clip.frames) == [1, 5]
    assert any("starts anew" in sentence for sentence in clip.receipt.skipped)


def test_aac_padding_is_trimmed_to_the_length_of_the_stream():
    clip = load_video(clips.clip(seconds=2.0), options=SMALL)
    assert clip.waveform.size == 2 * SAMPLE_RATE_HZ


def test_channels_are_averaged_and_not_mixed_by_a_matrix():
    tone = clips.beeps(1.0, at=(0.5,))
    left_only = clips.Track(np.stack([tone, np.zeros_like(tone)]), codec="pcm_s16le", layout="stereo")
    sixth = clips.Track(np.stack([np.zeros_like(tone)] * 3 + [tone] + [np.zeros_like(tone)] * 2), layout="5.1")
    sixth = clips.Track(sixth.samples, codec="pcm_s16le", layout="5.1")
    half = load_audio(clips.encode(container="wav", tracks=[left_only])).waveform
    low = load_audio(clips.encode(container="wav", tracks=[sixth]))
    assert np.abs(half).max() == pytest.approx(0.5 / 2, abs=0.02)
    assert np.abs(low.waveform).max() == pytest.approx(0.5 / 6, abs=0.01)
    assert low.receipt.audio.num_channels == 6


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
def test_every_sample_format_has_the_same_loudness(codec):
    data = clips.sound_file(1.0, at=(0.5,), codec=codec, layout="stereo")
    waveform = load_audio(data).waveform
    assert waveform.dtype == np.float32
    assert np.abs(waveform).max() == pytest.approx(0.5, abs=0.02)
    assert abs(waveform.mean()) < 0.01


def test_a_tone_above_nyquist_does_not_alias():
    tone = (0.5 * np.sin(2 * np.pi * 12_000 * np.arange(48_000) / 48_000)).astype(np.float32)
    waveform = load_audio(clips.encode(container="wav", tracks=[clips.Track(tone, codec="pcm_s16le")])).waveform
    middle = waveform[1600:-1600]
    assert 20 * np.log10(np.sqrt(np.mean(middle**2)) / (0.5 / np.sqrt(2))) < -40


def test_a_tone_keeps_its_phase_through_resampling():
    for rate_hz in (8_000, 22_050, 44_100, 48_000, 96_000):
        times = np.arange(rate_hz) / rate_hz
        tone = (0.5 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
        waveform = load_audio(
            clips.encode(container="wav", tracks=[clips.Track(tone, rate_hz=rate_hz, codec="pcm_f32le")])
        ).waveform
        expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(waveform.size) / SAMPLE_RATE_HZ)
        assert waveform.size == SAMPLE_RATE_HZ
        assert np.abs(waveform - expected)[800:-800].max() < 0.01


def whisper_decoding(source) -> np.ndarray:
    """What whisper.load_audio does, by PyAV: swresample to 16-bit mono at 16 kHz."""
    pieces = []
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
    with av.open(source) as container:
        for frame in [*container.decode(audio=0), None]:
            pieces += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
    return np.concatenate(pieces).astype(np.float32) / 32768


def test_mono_speech_matches_whisper_decoding(shared):
    path = shared / "libri-1088-134315-0000.wav"
    ours, theirs = load_audio(path).waveform, whisper_decoding(str(path))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-3


def test_stereo_speech_of_two_equal_channels_matches_whisper_decoding(shared):
    ours, theirs = load_audio(shared / "jfk.flac").waveform, whisper_decoding(str(shared / "jfk.flac"))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-3


def test_mono_sound_at_44_1_khz_matches_whisper_decoding():
    data = clips.sound_file(2.0, at=(0.5, 1.3), rate_hz=44_100)
    ours, theirs = load_audio(data).waveform, whisper_decoding(io.BytesIO(data))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-3


SOUND_FILES = {
    "wav": ("wav", "pcm_s16le", "pcm_s16le"),
    "mp3": ("mp3", "mp3", "mp3float"),
    "flac": ("flac", "flac", "flac"),
    "ogg with opus": ("ogg", "libopus", "opus"),
    "m4a": ("ipod", "aac", "aac"),
    "aac": ("adts", "aac", "aac"),
    "aiff": ("aiff", "pcm_s16be", "pcm_s16be"),
    "webm with opus": ("webm", "libopus", "opus"),
    "au": ("au", "pcm_s16be", "pcm_s16be"),
}


@pytest.mark.parametrize(("container", "codec", "decoder"), SOUND_FILES.values(), ids=SOUND_FILES.keys())
def test_every_sound_format_keeps_the_beep_in_its_step(container, codec, decoder):
    data = clips.sound_file(3.0, at=(0.75, 2.25), container=container, codec=codec, layout="stereo")
    assert sniff_kind(data) == "audio"
    clip = load_audio(data)
    assert clips.loud_steps(clip.waveform) == [1, 4]
    assert clip.receipt.audio.codec == decoder
    assert clip.receipt.duration_s == pytest.approx(3.0, abs=0.06)
    assert clip.frames.shape == (0, 224, 224, 3)
    assert clip.receipt.video is None


@pytest.mark.parametrize("stated", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_a_wav_that_came_through_a_pipe_is_read_to_its_end(stated):
    data = clips.sound_file(2.0, at=(1.75,))
    for place in (4, data.index(b"data") + 4):
        data = clips.overwrite(data, place, struct.pack("<I", stated))
    clip = load_audio(data)
    assert clips.loud_steps(clip.waveform) == [3]
    assert clip.receipt.audio.seconds == pytest.approx(2.0)


@pytest.mark.parametrize("num_channels", [1, 2, 3, 5, 8, 16])
def test_any_number_of_channels_is_averaged(num_channels):
    samples = np.zeros((16_000, num_channels), dtype="<i2")
    samples[:, -1] = 16_384
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setparams((num_channels, 2, 16_000, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    clip = load_audio(target.getvalue())
    assert clip.waveform == pytest.approx(np.full(16_000, 0.5 / num_channels), abs=1e-6)
    assert clip.receipt.audio.num_channels == num_channels


@pytest.mark.parametrize(
    ("container", "codec", "layout"),
    [("mp4", "aac", "7.1"), ("flac", "flac", "7.1"), ("wv", "wavpack", "7.1"), ("wv", "wavpack", "hexadecagonal")],
)
def test_eight_and_more_channels_in_planes_of_their_own_are_averaged(container, codec, layout):
    # PyAV's AudioFrame.to_ndarray crashes the whole process on these.
    num_channels = av.AudioLayout(layout).nb_channels
    tone = np.zeros((num_channels, 48_000), dtype=np.float32)
    tone[0] = clips.beeps(1.0, at=(0.75,))
    clip = load_audio(clips.encode(container=container, tracks=[clips.Track(tone, codec=codec, layout=layout)]))
    assert clip.receipt.audio.num_channels == num_channels
    assert np.abs(clip.waveform).max() == pytest.approx(0.5 / num_channels, rel=0.2)
    loud = np.flatnonzero(np.abs(clip.waveform) > 0.25 / num_channels)
    assert loud[0] / SAMPLE_RATE_HZ == pytest.approx(0.75 - clips.EVENT_S / 2, abs=0.02)


def test_a_separate_sound_replaces_the_videos_own():
    video = clips.clip(seconds=3, at=(0.75,))
    other = clips.sound_file(2.0, at=(1.75,))
    clip = load_video(video, sound=other, options=SMALL)
    assert clips.bright_steps(clip.frames) == [1]
    assert clips.loud_steps(clip.waveform) == [3]
    assert "stream 1 (audio, aac)" in clip.receipt.skipped
    assert clip.receipt.audio.codec == "pcm_s16le"


def test_the_picture_alone_has_no_waveform():
    clip = load_video(clips.clip(), use_audio=False, options=SMALL)
    assert clip.waveform.shape == (0,)
    assert clip.num_audio_steps == 0
    assert clip.receipt.audio is None
    assert "stream 1 (audio, aac)" in clip.receipt.skipped


def test_a_silent_video_is_a_video_with_an_empty_waveform():
    clip = load_video(clips.silent_clip(), options=SMALL)
    assert clip.waveform.shape == (0,)
    assert clip.num_visual_steps == 4


def test_the_sound_of_a_video_can_be_loaded_alone():
    clip = load_audio(clips.clip(at=(1.75,)))
    assert clips.loud_steps(clip.waveform) == [3]
    assert clip.receipt.skipped == ("stream 0 (video, h264)",)


def test_only_the_default_sound_track_is_used():
    first = clips.Track(clips.beeps(2.0, at=(0.25,)))
    second = clips.Track(clips.beeps(2.0, at=(1.75,)))
    times = clips.constant_times(2)
    data = clips.encode(frames=clips.flash_frames(times), times_s=times, tracks=[first, second])
    clip = load_video(data, options=SMALL)
    assert clips.loud_steps(clip.waveform) == [0]
    assert clip.receipt.skipped == ("stream 2 (audio, aac)",)


def test_cover_art_is_not_a_video():
    cover = io.BytesIO()
    Image.fromarray(clips.corners()).save(cover, "JPEG")
    target = io.BytesIO()
    with av.open(target, "w", format="mp3") as output:
        sound = output.add_stream("mp3", rate=48_000, layout="mono")
        picture = output.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 96, 64, "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(clips.corners(), format="rgb24").reformat(format="yuvj420p")
        for packet in picture.encode(frame) + picture.encode(None):
            output.mux(packet)
        samples = av.AudioFrame.from_ndarray(clips.beeps(1.0, at=(0.75,))[None], format="fltp", layout="mono")
        samples.sample_rate = 48_000
        for packet in sound.encode(samples) + sound.encode(None):
            output.mux(packet)
    data = target.getvalue()
    assert sniff_kind(data) == "audio"
    clip = load_audio(data)
    assert clips.loud_steps(clip.waveform) == [1]
    assert clip.receipt.skipped == ("stream 1 (cover picture, mjpeg)",)
    with pytest.raises(MissingStreamError):
        load_video(data)


def image_bytes(picture: Image.Image, format_name: str, **saving) -> bytes:
    target = io.BytesIO()
    picture.save(target, format_name, **saving)
    return target.getvalue()


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_picture_is_one_frame(format_name):
    data = image_bytes(Image.fromarray(clips.corners()), format_name)
    assert sniff_kind(data) == "image"
    clip = load_image(data, options=SMALL)
    assert clip.frames.shape == (1, 32, 32, 3)
    assert corner_colours(clip.frames[0]) == ["red", "green", "blue", "white"]
    assert clip.is_image
    assert clip.times_s.tolist() == [0.0]
    assert clip.receipt.video.codec == format_name.lower()


@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (6, 1), (3, 2), (8, 3)])
def test_a_picture_stands_upright_by_its_exif_orientation(orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(clips.corners(), k=turn)))
    clip = load_image(image_bytes(stored, "JPEG", exif=exif, quality=95), options=SMALL)
    assert corner_colours(clip.frames[0]) == ["red", "green", "blue", "white"]
    assert (clip.receipt.video.width, clip.receipt.video.height) == (96, 64)


def test_transparency_shows_white():
    clear = np.zeros((32, 32, 4), dtype=np.uint8)
    for format_name in ("PNG", "WEBP"):
        clip = load_image(image_bytes(Image.fromarray(clear, "RGBA"), format_name, lossless=True), options=SMALL)
        assert clip.frames.min() == 255


def test_a_16_bit_picture_keeps_its_greys():
    ramp = np.tile(np.linspace(0, 65_535, 64).astype(np.uint16), (64, 1))
    clip = load_image(image_bytes(Image.fromarray(ramp), "PNG"), options=SMALL)
    assert clip.frames[0, 16, 0, 0] < 10
    assert int(clip.frames[0, 16, 16, 0]) == pytest.approx(130, abs=8)


def test_a_picture_with_sound_lasts_as_long_as_the_sound():
    clip = load_image(
        image_bytes(Image.fromarray(clips.corners()), "PNG"), sound=clips.sound_file(1.5, at=(1.25,)), options=SMALL
    )
    assert clip.num_visual_steps == 1
    assert clips.loud_steps(clip.waveform) == [2]
    assert clip.receipt.duration_s == pytest.approx(1.5)


@pytest.mark.parametrize("format_name", ["GIF", "PNG"])
def test_an_animated_picture_is_a_video(format_name):
    pages = [Image.fromarray(np.full((64, 64, 3), level, dtype=np.uint8)) for level in (0, 255, 0, 0)]
    data = image_bytes(pages[0], format_name, save_all=True, append_images=pages[1:], duration=[500, 500, 200, 800])
    assert sniff_kind(data) == "video"
    clip = load_video(data, options=SMALL)
    assert clips.bright_steps(clip.frames) == [1]
    assert clip.num_visual_steps == 4
    assert clip.receipt.video.duration_s == pytest.approx(2.0)


def test_a_transparent_video_shows_white():
    clear = [np.zeros((64, 64, 4), dtype=np.uint8)] * 4
    data = clips.encode(
        container="mov", frames=clear, times_s=clips.constant_times(1, 4), fps=4, video_codec="png", pix_fmt="rgba"
    )
    assert load_video(data, options=SMALL).frames.min() == 255


def test_kinds_are_told_by_content_and_never_by_name(tmp_path):
    path = tmp_path / "song.mp3"
    path.write_bytes(clips.silent_clip())
    assert sniff_kind(path) == "video"
    assert sniff_kind(str(path)) == "video"


def test_a_path_and_its_bytes_load_the_same(tmp_path):
    data = clips.clip(seconds=2)
    path = tmp_path / "a clip.mp4"
    path.write_bytes(data)
    from_path, from_bytes = load_video(path, options=SMALL), load_video(data, options=SMALL)
    assert np.array_equal(from_path.frames, from_bytes.frames)
    assert np.array_equal(from_path.waveform, from_bytes.waveform)
    assert from_path.receipt.name == "a clip.mp4"
    assert from_bytes.receipt.name == "clip"
    assert load_video(path, name="upload 7", options=SMALL).receipt.name == "upload 7"


def test_a_receipt_says_what_was_used():
    receipt = load_video(clips.clip(seconds=1.2, fps=10, layout="stereo"), name="one.mp4", options=SMALL).receipt
    told = json.loads(json.dumps(receipt.to_dict()))
    assert told == {
        "name": "one.mp4",
        "duration_s": 1.2,
        "video": {
            "codec": "h264",
            "width": 96,
            "height": 72,
            "rotation_deg": 0,
            "num_frames": 3,
            "times_s": [0.2, 0.7, 1.1],
            "frame_rule": "midpoints",
            "start_s": 0.0,
            "duration_s": 1.2,
        },
        "audio": {"codec": "aac", "sample_rate_hz": 48000, "num_channels": 2, "seconds": 1.2, "start_s": 0.0},
        "skipped": [],
    }


def test_a_clip_that_is_too_long_is_refused_with_both_numbers():
    with pytest.raises(MediaLimitError) as raised:
        load_video(clips.clip(seconds=4), name="long.mp4", options=MediaOptions(max_seconds=2.5))
    assert "long.mp4 is 4.0 s long" in str(raised.value)
    assert "2.5 s" in raised.value.allowed


def test_a_clip_that_is_too_long_is_cut_when_asked():
    options = MediaOptions(max_seconds=2.5, when_too_long="cut", frame_size=32)
    for container in ("mp4", "mpegts", "matroska"):
        clip = load_video(clips.clip(seconds=4, at=(1.75, 3.25), container=container), options=options)
        assert clip.num_visual_steps == 5
        assert clip.waveform.size == pytest.approx(2.5 * SAMPLE_RATE_HZ, abs=1)
        assert clips.bright_steps(clip.frames) == clips.loud_steps(clip.waveform) == [3]
        assert clip.receipt.duration_s == pytest.approx(2.5)
        assert "everything after 2.5 s" in clip.receipt.skipped[0]


@pytest.mark.parametrize("num_packets", [1, 3])
def test_damaged_packets_can_be_skipped_without_moving_the_rest(num_packets):
    data = clips.clip(seconds=4, at=(3.25,), video_options={"g": "5"})
    for kind in ("video", "audio"):
        for position, size in clips.packets_of(data, kind)[40 : 40 + num_packets]:
            data = clips.overwrite(data, position, b"\xff" * size)
    with pytest.raises(UnreadableMediaError, match="damaged"):
        load_video(data, options=SMALL)
    clip = load_video(data, options=MediaOptions(when_damaged="skip", frame_size=32))
    assert clips.bright_steps(clip.frames) == clips.loud_steps(clip.waveform) == [6]
    assert clip.waveform.size == pytest.approx(4 * SAMPLE_RATE_HZ, abs=16)
    told = " ".join(clip.receipt.skipped)
    assert f"{num_packets} damaged packets of stream 0 (video)" in told
    assert f"{num_packets} damaged packets of stream 1 (audio)" in told


def test_a_recording_that_begins_between_key_frames_is_not_damaged():
    data = clips.clip(seconds=4, at=(3.12,), container="mpegts", video_options={"g": "25"})
    positions = [position for position, _ in clips.packets_of(data, "video")]
    cut = data[positions[10] // 188 * 188 :]
    clip = load_video(cut, options=SMALL)
    assert clips.bright_steps(clip.frames) == clips.loud_steps(clip.waveform) == [5]
    assert "the picture begins at 0.6" in clip.receipt.skipped[0]


def test_progress_is_told_up_to_the_end():
    told: list[tuple[float, float]] = []
    load_video(clips.clip(seconds=3), options=SMALL, progress=lambda done, total: told.append((done, total)))
    assert len(told) >= 4
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == pytest.approx((3.0, 3.0), abs=0.05)


@pytest.mark.parametrize(("fps", "num_converted"), [(60, 8), (1, 4)])
def test_only_frames_that_a_step_needs_are_converted_and_each_once(monkeypatch, fps, num_converted):
    converted = []
    from favor.media import frames as frames_room

    original = frames_room.rgb_pixels
    monkeypatch.setattr(frames_room, "rgb_pixels", lambda frame: converted.append(1) or original(frame))
    load_video(clips.clip(seconds=4, fps=fps), options=SMALL)
    assert len(converted) == num_converted


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc on this system")
def test_files_are_closed_again(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(clips.clip(seconds=1))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        load_video(path, options=SMALL)
        load_audio(path)
        sniff_kind(path)
        with pytest.raises(UnreadableMediaError):
            load_image(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_limits_hold_for_pixels_and_streams():
    data = clips.clip(seconds=1)
    with pytest.raises(MediaLimitError, match="96 x 72"):
        load_video(data, limits=MediaLimits(max_pixels=95 * 72))
    with pytest.raises(MediaLimitError, match="2 streams"):
        load_video(data, limits=MediaLimits(max_streams=1))
    with pytest.raises(MediaLimitError, match="more than 10 frames"):
        load_video(data, limits=MediaLimits(max_decoded_frames=10))


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv", "webm"])
def test_a_written_clip_reads_back(container):
    times = clips.constant_times(2, 10)
    target = io.BytesIO()
    write_clip(
        target,
        frames=np.stack(clips.flash_frames(times, at=(1.25,), size=(65, 49))),
        fps=10,
        waveform=clips.beeps(2.0, at=(1.25,), rate_hz=16_000),
        container=container,
    )
    clip = load_video(target.getvalue(), options=SMALL)
    assert clips.bright_steps(clip.frames) == clips.loud_steps(clip.waveform) == [2]
    assert clip.receipt.duration_s == pytest.approx(2.0, abs=0.05)
    assert (clip.receipt.video.width, clip.receipt.video.height) == (66, 50)


def test_frames_can_be_written_while_they_are_made(tmp_path):
    path = tmp_path / "world.mp4"
    write_clip(path, frames=(np.full((48, 64, 3), 9 * n, dtype=np.uint8) for n in range(20)), fps=NTSC)
    clip = load_video(path, options=SMALL)
    assert clip.receipt.video.duration_s == pytest.approx(20 / float(NTSC), abs=1e-3)


def test_a_written_wav_is_a_wav():
    target = io.BytesIO()
    write_clip(target, waveform=clips.beeps(1.0, at=(0.5,), rate_hz=16_000), container="wav")
    with wave.open(io.BytesIO(target.getvalue())) as file:
        assert (file.getframerate(), file.getnframes(), file.getnchannels()) == (16_000, 16_000, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"frames": np.zeros((0, 48, 64, 3), dtype=np.uint8)},
        {"frames": np.zeros((2, 48, 64), dtype=np.uint8)},
        {"frames": np.zeros((2, 48, 64, 3), dtype=np.float32)},
        {"frames": [np.zeros((48, 64, 3), dtype=np.uint8), np.zeros((64, 64, 3), dtype=np.uint8)]},
        {"waveform": np.zeros((3, 100), dtype=np.float32)},
        {"waveform": np.full(100, np.nan, dtype=np.float32)},
        {"waveform": np.zeros(100, dtype=np.float32), "container": "exe"},
        {"frames": np.zeros((2, 48, 64, 3), dtype=np.uint8), "container": "wav"},
    ],
)
def test_what_cannot_be_written_is_refused(arguments):
    with pytest.raises(ConfigurationError, match="write_clip was given"):
        write_clip(io.BytesIO(), **arguments)


def test_the_real_video_is_read_whole(shared):
    clip = load_video(shared / "big_buck_bunny_small.mp4")
    assert clip.frames.shape == (11, 224, 224, 3)
    assert clip.receipt.audio.num_channels == 6
    assert clip.receipt.duration_s == pytest.approx(5.31, abs=0.05)
    assert clip.times_s.tolist() == pytest.approx(np.arange(11) * 0.5 + 0.25, abs=0.05)
