"""One real film in about 20 containers and codecs: every one gives the same minute of picture and sound.

The files are those of the package iscc-samples 0.6.0; tests/fetch_iscc_samples.sh downloads them and prints their
folder.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from favor.errors import UnreadableMediaError
from favor.media import MediaOptions, load_audio, load_image, load_video, sniff_kind

pytestmark = pytest.mark.media

SMALL = MediaOptions(frame_size=64)

# file: (picture codec, sound codec or None)
VIDEOS = {
    "demo.3g2": ("h263", "amrnb"),
    "demo.3gp": ("h263", "amrnb"),
    "demo.asf": ("msmpeg4", "wmav2"),
    "demo.avi": ("mpeg4", "mp3float"),
    "demo.f4v": ("h264", "aac"),
    "demo.flv": ("flv", "mp3float"),
    "demo.m1v": ("mpeg1video", None),
    "demo.m4v": ("h264", "aac"),
    "demo.mkv": ("h264", "vorbis"),
    "demo.mov": ("h264", "aac"),
    "demo.mp4": ("h264", "aac"),
    "demo.mpeg": ("mpeg1video", "mp2"),
    "demo.mpg": ("mpeg1video", "mp2"),
    "demo.rm": ("rv10", "ac3"),
    "demo.swf": ("flv", "mp3float"),
    "demo.vob": ("mpeg2video", "mp2"),
    "demo.webm": ("vp9", "opus"),
    "demo.wmv": ("msmpeg4", "wmav2"),
}
DAMAGED_VIDEOS = ("demo.ogg", "demo.ogv")
"""Theora written by a broken encoder: FFmpeg 6 and 8 alike decode only 366 of their 1441 packets."""

SOUNDS = {
    "demo.aac": "aac",
    "demo.ac3": "ac3",
    "demo.aif": "pcm_s16be",
    "demo.mp3": "mp3float",
    "demo.ogg": "vorbis",
    "demo.opus": "opus",
    "demo.wav": "pcm_s24le",
    "demo.wv": "wavpack",
    "withcover.mp3": "mp3float",
}
PICTURES = ("demo.bmp", "demo.gif", "demo.jpg", "demo.png", "demo.tif")
NOT_MEDIA = {
    "image/demo.psd": "layers of a drawing programme, not a picture to show",
    "text/demo.doc": "a document",
    "text/demo.html": "a web page",
    "text/demo.pdf": "a document",
    "text/demo.txt": "text",
    "text/demo.epub": "a book, in truth a zip",
}


@pytest.fixture(scope="module")
def samples() -> Path:
    folder = os.environ.get("FAVOR_ISCC_SAMPLES")
    if not folder:
        pytest.skip("FAVOR_ISCC_SAMPLES is not set; tests/fetch_iscc_samples.sh prints what to set it to")
    return Path(folder)


@pytest.fixture(scope="module")
def reference(samples):
    return load_video(samples / "video" / "demo.mp4", options=SMALL)


@pytest.mark.parametrize("name", VIDEOS)
def test_the_film_is_read_whole_from_every_container(samples, reference, name):
    path = samples / "video" / name
    assert sniff_kind(path) == "video"
    clip = load_video(path, options=SMALL)
    picture_codec, sound_codec = VIDEOS[name]
    assert clip.receipt.skipped == ()
    assert clip.receipt.video.codec == picture_codec
    assert clip.receipt.duration_s == pytest.approx(60.1, abs=0.2)
    assert clip.num_visual_steps in (120, 121)
    difference = np.abs(clip.frames[:120].astype(int) - reference.frames[:120]).mean(axis=(1, 2, 3))
    assert np.median(difference) < 12, "other pictures than the mp4 shows at the same times"
    if sound_codec is None:
        assert clip.receipt.audio is None
        return
    assert clip.receipt.audio.codec == sound_codec
    assert abs(lag_s(clip.waveform, reference.waveform)) < 0.1


@pytest.mark.parametrize("name", DAMAGED_VIDEOS)
def test_the_badly_encoded_film_is_refused_or_its_damage_is_skipped(samples, reference, name):
    path = samples / "video" / name
    with pytest.raises(UnreadableMediaError, match="damaged"):
        load_video(path, options=SMALL)
    clip = load_video(path, options=MediaOptions(frame_size=64, when_damaged="skip"))
    assert clip.receipt.duration_s == pytest.approx(60.1, abs=0.2)
    assert (clip.receipt.video.codec, clip.receipt.audio.codec) == ("theora", "vorbis")
    assert "1074 damaged packets" in clip.receipt.skipped[0]
    assert abs(lag_s(clip.waveform, reference.waveform)) < 0.1


def lag_s(ours: np.ndarray, theirs: np.ndarray) -> float:
    """By how much a sound comes later than another, from the loudness of their hundredths of a second."""
    loudness = [np.sqrt(np.mean(wave[:950_400].reshape(-1, 160) ** 2, axis=1)) for wave in (ours, theirs)]
    a, b = (rows - rows.mean() for rows in loudness)
    shifts = range(-50, 51)
    match = [float(np.dot(a[50 + shift : len(a) - 50 + shift], b[50:-50])) for shift in shifts]
    return shifts[int(np.argmax(match))] / 100


def test_the_animated_gif_is_a_short_silent_video(samples):
    clip = load_video(samples / "video" / "demo.gif", options=SMALL)
    assert clip.receipt.duration_s == pytest.approx(5.0)
    assert clip.num_visual_steps == 10
    assert clip.receipt.audio is None


@pytest.mark.parametrize("name", SOUNDS)
def test_the_song_is_read_whole_from_every_sound_format(samples, name):
    path = samples / "audio" / name
    assert sniff_kind(path) == "audio"
    clip = load_audio(path)
    assert clip.receipt.audio.codec == SOUNDS[name]
    assert clip.receipt.duration_s == pytest.approx(15.5, abs=0.06)
    assert np.abs(clip.waveform).max() > 0.1
    assert clip.receipt.skipped == (("stream 1 (cover picture, mjpeg)",) if name == "withcover.mp3" else ())


def test_the_short_sound_is_read(samples):
    assert load_audio(samples / "audio" / "short.wav").receipt.duration_s == pytest.approx(1.353, abs=0.01)


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_is_read_from_every_picture_format(samples, name):
    path = samples / "image" / name
    assert sniff_kind(path) == "image"
    clip = load_image(path)
    assert (clip.receipt.video.width, clip.receipt.video.height) == (200, 133)
    assert clip.frames.std() > 20


@pytest.mark.parametrize("name", NOT_MEDIA)
def test_what_is_not_media_is_refused(samples, name):
    for load in (sniff_kind, load_video, load_audio, load_image):
        with pytest.raises(UnreadableMediaError):
            load(samples / name)
