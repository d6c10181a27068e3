"""Drawing the generated world, labelling what is drawn, and writing it as files."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from favor.media import SAMPLE_RATE_HZ, load_audio, load_image, load_video
from training.world.files import write, write_mp4
from training.world.picture import BLANK, GLYPHS, NO_OBJECT, OBJECT_CLASSES, RING_COLOUR, draw, label, object_class
from training.world.scene import Recolour, Scene, Sign, Sound, Span, Thing, Waypoint
from training.world.vocabulary import COLOURS, PRINTED_CHARACTERS, SHAPES, SIZES

TIMES = (np.arange(8) + 0.5) / 2


def still_at(x: float, y: float, start_s: float = 0.0, end_s: float = 4.0) -> tuple[Waypoint, ...]:
    return Waypoint(start_s, x, y), Waypoint(end_s, x, y)


CIRCLE = Thing("red", "circle", "big", still_at(0.3, 0.35), flashes=(Span(1.0, 2.0),))
CROSS = Thing("white", "cross", "small", (Waypoint(0.0, 0.6, 0.3), Waypoint(4.0, 0.8, 0.6)), (Span(2.5, 3.5),))
SIGN = Sign("zoo", Span(1.0, 3.0), 0.5, 0.8)
SCENE = Scene(7, "video", 4.0, things=(CIRCLE, CROSS), signs=(SIGN,))


@pytest.fixture
def _silence(monkeypatch):
    """A sound room that plays nothing, so that these tests are about the picture."""
    monkeypatch.setattr(
        "training.world.files.play", lambda scene: np.zeros(round(scene.seconds * SAMPLE_RATE_HZ), dtype=np.float32)
    )


def test_the_same_scene_gives_the_same_bytes_and_another_seed_gives_others():
    assert draw(SCENE, TIMES, 64).tobytes() == draw(SCENE, TIMES, 64).tobytes()
    assert draw(SCENE, TIMES, 64).tobytes() != draw(replace(SCENE, seed=8), TIMES, 64).tobytes()


def test_a_clip_drawn_in_two_parts_is_the_clip_drawn_at_once():
    parts = [draw(SCENE, TIMES[:3], 64), draw(SCENE, TIMES[3:], 64, first_frame=3)]
    np.testing.assert_array_equal(np.concatenate(parts), draw(SCENE, TIMES, 64))


def test_grain_differs_from_frame_to_frame_and_has_the_given_strength():
    empty = Scene(3, "video", 4.0, background=(100, 100, 100), grain=5.0)
    frames = draw(empty, TIMES, 64).astype(float)
    assert not np.array_equal(frames[0], frames[1])
    assert (frames - draw(replace(empty, grain=0.0), TIMES, 64)).std() == pytest.approx(5.0, rel=0.05)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_the_middle_of_a_thing_has_its_colour(colour, shape):
    scene = Scene(1, "image", 0.0, things=(Thing(colour, shape, "small", still_at(0.5, 0.5, 0.0, 0.0)),), grain=0.0)
    middle = draw(scene, [0.0], 64)[0, 32, 32].astype(int)
    assert np.abs(middle - COLOURS[colour]).max() <= 13


@pytest.mark.parametrize("size", SIZES)
def test_shapes_differ_and_cover_an_area_like_their_radius(size):
    masks = []
    for shape in SHAPES:
        thing = Thing("white", shape, size, still_at(0.5, 0.5))
        masks.append(draw(Scene(1, "video", 4.0, things=(thing,), grain=0.0), [0.0], 64)[0, ..., 1] > 130)
    areas = [mask.sum() / (64 * SIZES[size]) ** 2 for mask in masks]
    assert all(1.0 < area < 3.5 for area in areas), areas
    assert all((one ^ other).sum() > 10 for one, other in combinations(masks, 2))


@pytest.mark.parametrize("colour", COLOURS)
def test_a_flash_is_a_bright_ring_with_a_dark_gap_at_every_side(colour):
    thing = Thing(colour, "square", "small", still_at(0.5, 0.5), flashes=(Span(1.0, 2.0),))
    before, during, after = draw(Scene(1, "video", 4.0, things=(thing,), grain=0.0), [0.9, 1.0, 2.0], 64)
    np.testing.assert_array_equal(before, after)
    changed = (during.astype(int) - before).max(-1)
    for line in (changed[32, :32], changed[32, 32:], changed[:32, 32], changed[32:, 32]):
        assert (line > 100).sum() >= 2
    assert np.abs(during.astype(int) - RING_COLOUR).max(-1).min() < 30
    to_the_left = during[32, :32].max(-1)
    ring = int(to_the_left[:26].argmax())
    assert to_the_left[ring : ring + 5].min() < 30


def test_a_thing_is_drawn_only_while_it_is_visible():
    thing = replace(CIRCLE, path=still_at(0.5, 0.5, 1.0, 2.0), flashes=())
    frames = draw(Scene(1, "video", 4.0, things=(thing,)), [0.99, 1.0, 1.99, 2.0], 64)
    assert [bool(frame[32, 32, 0] > 150) for frame in frames] == [False, True, True, False]


def test_a_still_picture_shows_everything_at_any_time():
    scene = replace(SCENE, kind="spoken_question", grain=0.0)
    first, later = draw(scene, [0.0, 99.0], 64)
    np.testing.assert_array_equal(first, later)
    assert label(scene, [99.0]).present.sum() == 2
    assert label(scene, [99.0]).characters[0, 0] == PRINTED_CHARACTERS.index("z")


def test_a_thing_changes_its_colour_and_its_class_at_once():
    thing = replace(CIRCLE, path=still_at(0.5, 0.5), flashes=(), recolour=Recolour(2.0, "blue", "sound", 0))
    scene = Scene(1, "cause", 4.0, things=(thing,))
    before, after = draw(scene, [1.99, 2.0], 64)[:, 32, 32].astype(int)
    assert before[0] > 150 > before[2]
    assert after[2] > 150 > after[0]
    present = label(scene, [1.99, 2.0]).present
    assert present[0].nonzero()[0] == object_class("red", "circle")
    assert present[1].nonzero()[0] == object_class("blue", "circle")


def test_a_thing_may_lie_across_the_edge_of_the_picture():
    thing = Thing("green", "circle", "big", (Waypoint(0.0, -0.3, 0.5), Waypoint(4.0, 0.5, 0.5)))
    scene = Scene(1, "video", 4.0, things=(thing,))
    frames = draw(scene, [0.0, 1.5, 3.9], 64)
    assert [bool(frame[32, 0, 1] > 120) for frame in frames] == [False, True, False]
    assert label(scene, [0.0, 1.5, 3.9]).present.any(-1).tolist() == [False, True, True]


def test_labels_agree_with_the_picture():
    labels, frames = label(SCENE, TIMES), draw(replace(SCENE, grain=0.0), TIMES, 256)
    for number, frame in enumerate(frames):
        for which in labels.present[number].nonzero()[0]:
            x, y = (labels.places[number, which] * 256).astype(int)
            colour = OBJECT_CLASSES[which].split()[0]
            assert np.abs(frame[y, x].astype(int) - COLOURS[colour]).max() <= 13
    circle, cross = object_class("red", "circle"), object_class("white", "cross")
    np.testing.assert_array_equal(labels.flashing[:, circle], [CIRCLE.is_flashing(time) for time in TIMES])
    np.testing.assert_array_equal(labels.big[0, [circle, cross]], [True, False])
    np.testing.assert_allclose(labels.places[3, cross], CROSS.place(TIMES[3]), rtol=1e-6)
    assert labels.present.sum(-1).tolist() == [2] * 8
    assert (labels.places[~labels.present] == 0).all()


def test_labels_have_the_promised_shapes_and_types():
    labels = label(SCENE, TIMES)
    shapes = {name: (array.shape, array.dtype.name) for name, array in vars(labels).items()}
    assert shapes == {
        "present": ((8, 24), "bool"),
        "flashing": ((8, 24), "bool"),
        "big": ((8, 24), "bool"),
        "places": ((8, 24, 2), "float32"),
        "characters": ((8, 5), "int64"),
        "patch_class": ((8, 16), "int64"),
        "patch_flashing": ((8, 16), "bool"),
        "patch_characters": ((8, 16, 2), "int64"),
    }


def test_half_patches_name_the_character_across_them():
    sign = Sign("milk", Span(0.0, 9.0), x=0.5, y=0.125)
    labels = label(Scene(1, "video", 4.0, signs=(sign,)), [0.5])
    row = "".join((*PRINTED_CHARACTERS, "_")[number] for number in labels.patch_characters[0].ravel())
    assert row[8:] == "_" * 24
    assert "".join(dict.fromkeys(row[:8].replace("_", ""))) == "milk"


def test_characters_stand_at_the_left_while_the_sign_is_shown():
    characters = label(SCENE, TIMES).characters
    zoo = [*(PRINTED_CHARACTERS.index(character) for character in "zoo"), BLANK, BLANK]
    assert characters.tolist() == [zoo if SIGN.span.contains(time) else [BLANK] * 5 for time in TIMES]


def test_patches_name_the_thing_that_covers_their_middle():
    circle, square = object_class("red", "circle"), object_class("blue", "square")
    things = (
        replace(CIRCLE, path=still_at(0.375, 0.125)),
        Thing("blue", "square", "small", still_at(0.875, 0.875)),
    )
    labels = label(Scene(1, "video", 4.0, things=things), [0.5, 1.5])
    assert labels.patch_class[0, [1, 15]].tolist() == [circle, square]
    assert labels.patch_class[0, [8, 12, 3]].tolist() == [NO_OBJECT] * 3
    assert labels.patch_flashing[:, [1, 15]].tolist() == [[False, False], [True, False]]


def test_a_thing_behind_another_or_behind_a_sign_has_no_patch():
    hidden = Thing("blue", "square", "small", still_at(0.375, 0.625))
    hiding = Thing("red", "circle", "big", still_at(0.375, 0.625))
    sign = Sign("hotel", Span(1.0, 2.0), 0.5, 0.625)
    labels = label(Scene(1, "video", 4.0, things=(hidden, hiding), signs=(sign,)), [0.5, 1.5])
    assert labels.patch_class[0, 9] == object_class("red", "circle")
    assert labels.patch_class[1, 9] == NO_OBJECT


@pytest.mark.parametrize("shape", SHAPES)
def test_every_thing_wholly_on_the_picture_has_a_patch(shape):
    for x in np.linspace(0.1, 0.9, 17):
        scene = Scene(1, "video", 4.0, things=(Thing("red", shape, "small", still_at(x, 0.25)),))
        assert (label(scene, [0.0]).patch_class == object_class("red", shape)).any(), x


def test_object_classes_count_colour_by_colour():
    assert [object_class(*name.split()) for name in OBJECT_CLASSES] == list(range(NO_OBJECT)) == list(range(24))


def test_every_character_has_a_glyph_of_its_own():
    assert all((GLYPHS[one] != GLYPHS[other]).sum() >= 2 for one, other in combinations(PRINTED_CHARACTERS, 2))
    assert all(glyph.shape == (7, 5) and glyph.sum() >= 8 for glyph in GLYPHS.values())


@pytest.mark.parametrize("text", ["hotel", "90", "stop", "abcde", "fghij", "klmno", "pqrst", "uvwxy", "z0123", "45678"])
def test_a_sign_can_be_read_dot_by_dot_at_64_pixels(text):
    scene = Scene(1, "image", 0.0, signs=(Sign(text, Span(0.0, 1.0), 0.5, 0.8),), grain=0.0)
    lit = draw(scene, [0.0], 64)[0].min(-1) > 200
    rows, columns = lit.any(1).nonzero()[0], lit.any(0).nonzero()[0]
    dots = lit[rows[0] : rows[-1] + 1 : 2, columns[0] : columns[-1] + 1 : 2]
    wanted = np.concatenate([np.pad(GLYPHS[character], ((0, 0), (0, 1))) for character in text], axis=1)
    inked = wanted.any(0).nonzero()[0]
    np.testing.assert_array_equal(dots, wanted[:, inked[0] : inked[-1] + 1])


def test_a_small_picture_looks_like_a_large_one_seen_from_afar():
    small = draw(SCENE, TIMES, 64).astype(float)
    large = draw(SCENE, TIMES, 256).astype(float).reshape(8, 64, 4, 64, 4, 3).mean((2, 4))
    without_grain = replace(SCENE, grain=0.0)
    sharp_small = draw(without_grain, TIMES, 64).astype(float)
    sharp_large = draw(without_grain, TIMES, 256).astype(float).reshape(8, 64, 4, 64, 4, 3).mean((2, 4))
    assert np.abs(small - large).mean() < 5
    assert np.abs(sharp_small - sharp_large).mean() < 1
    assert np.abs(sharp_small - sharp_large).max() < 60


@pytest.mark.usefixtures("_silence")
def test_a_written_video_is_read_back_with_its_frames_and_length(tmp_path):
    path, nothing = write(replace(SCENE, seconds=2.0), tmp_path, "clip")
    assert (path, nothing) == (tmp_path / "clip.mp4", None)
    clip = load_video(path)
    assert clip.receipt.video is not None
    assert clip.receipt.video.duration_s == pytest.approx(2.0, abs=0.001)
    assert clip.receipt.duration_s == pytest.approx(2.0, abs=0.05)
    np.testing.assert_allclose(clip.times_s, [0.24, 0.72, 1.24, 1.72], atol=0.001)
    size = clip.frames.shape[1]
    wanted = draw(SCENE, clip.times_s + 0.02, 256)
    for frame, drawn in zip(clip.frames, wanted):
        resized = np.asarray(Image.fromarray(drawn).resize((size, size)), dtype=float)
        assert np.abs(frame - resized).mean() < 6


@pytest.mark.usefixtures("_silence")
@pytest.mark.parametrize("seconds", [2.5, 3.5])
def test_a_half_frame_at_the_end_neither_blinks_nor_adds_a_step(tmp_path, seconds):
    scene = Scene(1, "video", seconds, things=(Thing("red", "circle", "big", still_at(0.5, 0.5, 0.0, seconds)),))
    write_mp4(scene, tmp_path / "clip.mp4", size=64)
    clip = load_video(tmp_path / "clip.mp4")
    assert clip.num_visual_steps == round(2 * seconds)
    assert (clip.frames[:, clip.frames.shape[1] // 2, clip.frames.shape[1] // 2, 0] > 150).all()


@pytest.mark.usefixtures("_silence")
def test_every_kind_is_written_as_the_files_that_a_user_would_send(tmp_path):
    suffixes = {}
    for kind in ("match", "cause", "image", "sounds", "speech", "noisy_speech", "spoken_question"):
        paths = write(replace(SCENE, kind=kind, seconds=0.0 if kind == "image" else 2.0), tmp_path, kind)
        suffixes[kind] = tuple(path and path.suffix for path in paths)
        assert all(path is None or path.stat().st_size > 100 for path in paths)
    assert suffixes == {
        "match": (".mp4", None),
        "cause": (".mp4", None),
        "image": (".png", None),
        "sounds": (None, ".wav"),
        "speech": (None, ".wav"),
        "noisy_speech": (".png", ".wav"),
        "spoken_question": (".png", ".wav"),
    }
    assert load_image(tmp_path / "image.png").frames.shape[0] == 1
    assert load_audio(tmp_path / "speech.wav").waveform.size == 2 * SAMPLE_RATE_HZ


@pytest.mark.parametrize("start_s", [1.0, 1.013, 1.0305])
def test_a_flash_and_its_sound_begin_within_20_ms_of_each_other_in_the_file(tmp_path, start_s):
    span = Span(start_s, start_s + 0.8)
    things = (replace(CIRCLE, path=still_at(0.5, 0.5), flashes=(span,)),)
    beep = Sound("beep", span, pitch=0.7, level_db=-12.0, source=0)
    scene = Scene(1, "video", 3.0, things=things, sounds=(beep,), noise_db=None)
    write_mp4(scene, tmp_path / "clip.mp4", size=64)
    seen_s, heard_s = first_ring_s(tmp_path / "clip.mp4"), onset_s(load_video(tmp_path / "clip.mp4").waveform)
    assert seen_s == pytest.approx(heard_s, abs=0.02 + 0.004)


def first_ring_s(path) -> float:
    """When the first frame with the ring's colour is shown, by the file's own time stamps."""
    import av

    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            pixels = frame.to_ndarray(format="rgb24").astype(int)
            if (np.minimum(pixels[..., 1], pixels[..., 2]) - pixels[..., 0] > 80).sum() > 20:
                return float(frame.pts * frame.time_base)
    raise AssertionError("no frame has a ring")


def onset_s(waveform: np.ndarray) -> float:
    """When the loudness of 1 ms first reaches an eighth of its greatest."""
    loudness = np.sqrt((waveform[: waveform.size // 16 * 16].reshape(-1, 16) ** 2).mean(-1))
    return float((loudness > loudness.max() / 8).argmax()) / 1000
