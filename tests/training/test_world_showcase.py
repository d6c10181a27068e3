"""The demo's clip: by the world's rules, in sync as a file, and what `showcase` would write today."""

from __future__ import annotations

import io
import random
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from favor.media import SAMPLE_RATE_HZ, MediaOptions, load_video
from serving import demo
from training.__main__ import main
from training.world import questions, scenes, showcase
from training.world.files import FPS
from training.world.picture import RING_COLOUR
from training.world.questions.draft import Clip
from training.world.questions.timeline import events_in_order
from training.world.showcase import SCENE
from training.world.splits import is_held_out

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / showcase.CLIP
RIGHT = ("yellow triangle", "bell", "blue square flashes")


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    """(F, 256, 256, 3) uint8: every frame of the committed file."""
    with av.open(str(FILE)) as container:
        frames = list(container.decode(video=0))
    assert [float(frame.pts * frame.time_base) for frame in frames] == [n / FPS for n in range(len(frames))]
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


@pytest.fixture(scope="module")
def clip():
    return load_video(FILE, options=MediaOptions(frame_size=64))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, Path]:
    """Clip and strip as `showcase` writes them now."""
    folder = tmp_path_factory.mktemp("showcase")
    clip, strip = folder / "new" / "clip.mp4", folder / "new" / "strip.png"
    assert main(["showcase", "--clip", str(clip), "--strip", str(strip)]) == 0
    return clip, strip


# --- the scene --------------------------------------------------------------------------------------------------------


def test_the_scene_keeps_the_rules_of_the_world():
    things = SCENE.things
    assert len({thing.colour for thing in things}) == len({thing.shape for thing in things}) == len(things)
    times = np.arange(0.0, SCENE.seconds, 0.05)
    for number, first in enumerate(things):
        assert all(scenes.EDGE <= place <= 1 - scenes.EDGE for t in times for place in first.place(t))
        for second in things[:number]:
            apart = [np.hypot(*np.subtract(first.place(t), second.place(t))) for t in times]
            assert min(apart) >= scenes.CLEARANCE
    for sound in SCENE.sounds:
        assert sound.source is None or sound.span in things[sound.source].flashes
    spans = {sound.span for sound in SCENE.sounds} | {flash for thing in things for flash in thing.flashes}
    assert all(0.6 <= span.end_s - span.start_s <= 1.1 for span in spans)
    starts = sorted(span.start_s for span in spans)
    assert all(later - earlier >= 1.21 for earlier, later in pairwise(starts))


def test_no_thing_sounds_as_one_like_it_does_in_training():
    heard = [(SCENE.things[sound.source], sound.kind) for sound in SCENE.sounds if sound.source is not None]
    assert len(heard) == 3
    assert all(is_held_out(thing.colour, thing.shape, kind) for thing, kind in heard)


@pytest.mark.parametrize("family, text, answer", list(zip(showcase.FAMILIES, demo.QUESTIONS, RIGHT)))
def test_the_demo_asks_what_the_world_asks_and_the_answer_needs_both_streams(family, text, answer):
    asked = (questions.ask_family(SCENE, family, random.Random(seed)) for seed in range(1000))
    question = next(question for question in asked if question and question.text == text)
    assert question.answer == answer
    assert question.needs == {"picture", "sound"}
    assert len(question.unskilled) > 1


def test_the_demo_tells_what_happens():
    at_the_beginning = {f"{thing.name} comes" for thing in SCENE.things}
    events = events_in_order(Clip(SCENE)).split(", ")
    assert ", ".join(event for event in events if event not in at_the_beginning) == demo.HAPPENS


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_committed_clip_is_small_and_is_read_whole(clip):
    assert FILE.stat().st_size < 200_000
    assert FILE == demo.CLIP
    assert clip.receipt.skipped == ()
    assert (clip.receipt.video.codec, clip.receipt.audio.codec) == ("h264", "aac")
    assert (clip.receipt.video.width, clip.receipt.video.height) == (256, 256)
    assert clip.receipt.duration_s == clip.receipt.audio.seconds == SCENE.seconds


@pytest.mark.parametrize("sound", [s for s in SCENE.sounds if s.source is not None], ids=lambda sound: sound.kind)
def test_a_flash_begins_within_20_ms_of_its_sound(film, clip, sound):
    """A flash begins when the first frame with its ring does. Frames begin every 40 ms, so a flash could seem 20 ms
    early or late; those of this scene begin with a frame, so nothing has to be allowed for that."""
    before, after = (int((sound.span.start_s + shift) * FPS) for shift in (-0.4, 0.4))
    flash_s = (before + np.flatnonzero(_ring_pixels(film[before:after]) > 200)[0]) / FPS
    around = clip.waveform[int((flash_s - 0.4) * SAMPLE_RATE_HZ) : int((flash_s + 0.4) * SAMPLE_RATE_HZ)]
    loud = np.abs(around) > 0.2 * np.abs(around).max()
    sound_s = flash_s - 0.4 + np.flatnonzero(loud)[0] / SAMPLE_RATE_HZ
    assert flash_s == pytest.approx(sound.span.start_s, abs=1e-9)
    assert abs(flash_s - sound_s) <= 0.02


def _ring_pixels(frames: np.ndarray) -> np.ndarray:
    """(F,) how many pixels are near the colour of rings."""
    return (np.abs(frames.astype(int) - RING_COLOUR).max(axis=-1) < 60).sum(axis=(1, 2))


def test_a_ring_is_seen_in_the_flashes_alone(film):
    times_s = (np.arange(len(film)) + 0.5) / FPS
    flashing = [any(thing.is_flashing(time_s) for thing in SCENE.things) for time_s in times_s]
    assert ((_ring_pixels(film) > 200) == flashing).all()


def test_showcase_would_write_the_same_clip_and_strip(film, clip, written):
    new = load_video(written[0], options=MediaOptions(frame_size=64))
    assert np.abs(new.frames.astype(int) - clip.frames).mean() < 1.0
    assert np.abs(new.waveform - clip.waveform).mean() < 0.002
    with av.open(io.BytesIO(written[0].read_bytes())) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.abs(np.stack(pictures).astype(int) - film).mean() < 1.0
    strips = [np.asarray(Image.open(path).convert("RGB")).astype(int) for path in (ROOT / showcase.STRIP, written[1])]
    assert np.abs(strips[0] - strips[1]).mean() < 2.0


def test_the_strip_is_small():
    assert (ROOT / showcase.STRIP).stat().st_size <= 150_000
