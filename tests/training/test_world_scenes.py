"""Scenes keep the world's rules, hold nothing out of place, and tell no answer but by seeing and hearing."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise, product
from statistics import mean

import pytest

from training.world import phrases, scenes, vocabulary
from training.world.scene import Kind, Scene, Sound, Span, Thing
from training.world.splits import Split, is_held_out, is_held_out_phrase

TRIPLES = list(product(vocabulary.COLOURS, vocabulary.SHAPES, vocabulary.SOUNDS))


@cache
def draw(kind: Kind, split: Split = "train", is_novel: bool | None = None, number: int = 300) -> list[Scene]:
    return [scenes.make(seed, kind=kind, split=split, is_novel=is_novel) for seed in range(number)]


def draw_all(number: int = 300) -> list[Scene]:
    return [scene for kind in scenes.KIND_SHARES for scene in draw(kind, number=number)]


def moments(thing: Thing, step_s: float = 0.1) -> list[float]:
    visible = thing.visible
    return [visible.start_s + n * step_s for n in range(int((visible.end_s - visible.start_s) / step_s))]


def flashes_of(scene: Scene) -> list[tuple[int, Span]]:
    flashes = [(number, flash) for number, thing in enumerate(scene.things) for flash in thing.flashes]
    return sorted(flashes, key=lambda flash: flash[1].start_s)


def silent_flashes_of(scene: Scene) -> list[Span]:
    bound = {(sound.source, sound.span) for sound in scene.sounds}
    return [flash for number, flash in flashes_of(scene) if (number, flash) not in bound]


def bound_triples_of(scene: Scene) -> list[tuple[str, str, str]]:
    bound = [(scene.things[sound.source], sound) for sound in scene.sounds if sound.source is not None]
    return [(thing.colour_at(sound.span.start_s), thing.shape, sound.kind) for thing, sound in bound]


def starts_of(sounds: tuple[Sound, ...]) -> list[float]:
    return [sound.span.start_s for sound in sounds]


# Seeds, splits, shares


def test_a_seed_always_draws_the_same_scene():
    for seed in range(200):
        assert scenes.make(seed) == scenes.make(seed)
        assert scenes.make(seed) == scenes.make(seed, kind=scenes.make(seed).kind)


def test_splits_and_seeds_never_share_a_scene():
    for kind in scenes.KIND_SHARES:
        drawn = [replace(scene, seed=0) for scene in draw(kind) + draw(kind, "test")]
        assert len(set(drawn)) == len(drawn)


def test_kinds_occur_by_their_shares():
    assert sum(scenes.KIND_SHARES.values()) == pytest.approx(1.0)
    counts = Counter(scenes.make(seed).kind for seed in range(3000))
    for kind, share in scenes.KIND_SHARES.items():
        assert counts[kind] / 3000 == pytest.approx(share, abs=0.025)


def test_training_asks_for_nothing_held_out():
    with pytest.raises(ValueError, match="test"):
        scenes.make(0, is_novel=True)
    with pytest.raises(ValueError, match="test"):
        scenes.make(0, voices="held_out")


def test_one_triple_in_six_is_held_out_but_no_pair_is():
    trained = [triple for triple in TRIPLES if not is_held_out(*triple)]
    assert 1 - len(trained) / len(TRIPLES) == pytest.approx(1 / 6, abs=0.01)
    for first, second in combinations(range(3), 2):
        pairs = {(triple[first], triple[second]) for triple in TRIPLES}
        assert {(triple[first], triple[second]) for triple in trained} == pairs


def test_training_never_binds_a_held_out_triple():
    triples = [triple for kind in ("video", "match") for scene in draw(kind) for triple in bound_triples_of(scene)]
    assert len(triples) > 300
    assert not any(is_held_out(*triple) for triple in triples)


@pytest.mark.parametrize("kind", ["video", "match"])
def test_is_novel_binds_only_held_out_triples_or_only_trained_ones(kind: Kind):
    for is_novel in (True, False):
        for scene in draw(kind, "test", is_novel, 150):
            triples = bound_triples_of(scene)
            assert triples or scene.is_matched is False
            assert all(is_held_out(*triple) is is_novel for triple in triples)
    either = [is_held_out(*triple) for scene in draw(kind, "test") for triple in bound_triples_of(scene)]
    assert 0.08 < mean(either) < 0.28


# Things and signs


def test_no_two_things_share_a_colour_or_a_shape():
    for scene in draw_all():
        colours = [thing.colour for thing in scene.things]
        colours += [thing.recolour.colour for thing in scene.things if thing.recolour]
        assert len(set(colours)) == len(colours)
        assert len({thing.shape for thing in scene.things}) == len(scene.things)


def test_things_stay_inside_the_picture_and_visible_long_enough():
    for scene in draw_all():
        for thing in scene.things:
            assert all(scenes.EDGE <= point.x <= 1 - scenes.EDGE for point in thing.path)
            assert all(scenes.EDGE <= point.y <= 1 - scenes.EDGE for point in thing.path)
            times = [point.time_s for point in thing.path]
            assert times == sorted(times)
            if scene.is_still:
                assert times == [0.0, 1.0]
            else:
                assert 0 <= times[0] <= times[-1] - 1.5 <= scene.seconds - 1.5


def test_things_keep_clear_of_one_another_unless_they_collide():
    for scene in draw_all():
        colliding = {frozenset((collision.first, collision.second)) for collision in scene.collisions}
        for first, second in combinations(range(len(scene.things)), 2):
            a, b = scene.things[first], scene.things[second]
            reach = vocabulary.SIZES[a.size] + vocabulary.SIZES[b.size]
            least = reach if {first, second} in colliding else 0.3
            for time_s in moments(a):
                if b.visible.contains(time_s):
                    assert math.dist(a.place(time_s), b.place(time_s)) >= least - 1e-3


def test_half_of_the_things_move_far_along_one_direction():
    things = [thing for scene in draw("video") for thing in scene.things]
    moving = []
    for thing in things:
        first, last = thing.path[0], thing.path[-1]
        across, along = sorted((abs(last.x - first.x), abs(last.y - first.y)))
        assert across == 0
        if along:
            moving.append(thing)
            assert along >= 0.25
            for a, b in pairwise(thing.path):
                if (a.x, a.y) != (b.x, b.y):
                    assert 0.05 <= along / (b.time_s - a.time_s) <= 0.21
    assert 0.35 < len(moving) / len(things) < 0.6


def test_signs_hang_in_a_band_that_things_leave_free():
    signed = [scene for scene in draw_all() if scene.signs]
    assert len(signed) > 200
    for scene in signed:
        (sign,) = scene.signs
        assert sign.text in vocabulary.PRINTED_WORDS or (sign.text.isdigit() and sign.text == str(int(sign.text)))
        assert scene.is_still or sign.span.end_s - sign.span.start_s >= 2.0
        assert sign.span.end_s <= max(scene.seconds, 1.0)
        for thing in scene.things:
            radius = vocabulary.SIZES[thing.size]
            for point in thing.path:
                if sign.y < 0.5:
                    assert point.y - radius >= 0.24 - 1e-3
                else:
                    assert point.y + radius <= 0.76 + 1e-3


def test_images_show_something_and_each_thing_in_its_own_area():
    images = draw("image")
    assert 0.4 < mean(bool(scene.signs) for scene in images) < 0.6
    assert {len(scene.things) for scene in images} == {0, 1, 2, 3}
    for scene in images + draw("noisy_speech") + draw("spoken_question"):
        assert scene.things or scene.signs
        areas = [
            min(scenes.AREAS, key=lambda area: math.dist(scenes.AREAS[area], thing.place(0))) for thing in scene.things
        ]
        assert len(set(areas)) == len(areas)


# Sounds and flashes


def test_clips_have_their_lengths_and_every_number_of_windows():
    for scene in draw_all():
        assert scene.seconds == 0 if scene.kind == "image" else 2 <= scene.seconds <= 20
    windows = Counter(math.ceil(scene.seconds / 5) for scene in draw("video"))
    assert set(windows) == {1, 2, 3, 4}
    assert mean(4 <= scene.seconds <= 14 for scene in draw("video")) > 0.7


def test_sounds_are_short_apart_and_within_the_clip():
    for scene in draw_all():
        for sound in scene.sounds:
            assert 0.6 - 1e-6 <= sound.span.end_s - sound.span.start_s <= 1.1 + 1e-6
            assert sound.span.start_s > 0
            assert sound.span.end_s <= scene.seconds - 0.1
            assert -26 <= sound.level_db <= -12
        assert all(later - earlier >= 1.2 for earlier, later in pairwise(starts_of(scene.sounds)))


def test_a_thing_that_sounds_flashes_at_just_that_time():
    for scene in draw("video") + draw("match"):
        for sound in scene.sounds:
            if sound.source is not None:
                assert sound.span in scene.things[sound.source].flashes
        for number, flash in flashes_of(scene):
            visible = scene.things[number].visible
            assert visible.start_s < flash.start_s < flash.end_s <= visible.end_s
            assert flash.end_s - flash.start_s >= 0.6 - 1e-6
        for (_, first), (_, second) in pairwise(flashes_of(scene)):
            assert second.start_s - first.start_s >= 1.0
            assert not first.overlaps(second)


def test_videos_have_sounds_from_things_and_from_elsewhere_and_flashes_that_pretend():
    videos = draw("video")
    assert {len(scene.sounds) for scene in videos} == {0, 1, 2, 3, 4}
    assert 0.45 < mean(sound.source is not None for scene in videos for sound in scene.sounds) < 0.7
    silent = [(flash, scene) for scene in videos for flash in silent_flashes_of(scene)]
    assert 0.25 < len({scene.seed for _, scene in silent}) / len(videos) < 0.5
    for flash, scene in silent:
        around = Span(flash.start_s - 0.6, flash.end_s + 0.6)
        assert not any(around.overlaps(sound.span) for sound in scene.sounds)
    counts = Counter(len(thing.flashes) for scene in videos for thing in scene.things)
    assert set(counts) == {0, 1, 2, 3}
    assert not any(scene.utterances for scene in videos)


def test_some_videos_repeat_a_sound_for_counting():
    videos = [scene for scene in draw("video") if len(scene.sounds) > 1]
    most = Counter(max(Counter(sound.kind for sound in scene.sounds).values()) for scene in videos)
    assert set(most) == {1, 2, 3}
    assert 0.08 < 1 - most[1] / len(videos) < 0.25


def test_neither_the_first_thing_nor_the_first_sound_is_bound_more_often():
    pairs = Counter()
    for scene in draw("video", number=600):
        bound = [number for number, sound in enumerate(scene.sounds) if sound.source is not None]
        if len(scene.sounds) >= 2 and len(bound) == 1:
            pairs[bound[0] == 0] += 1
    assert 0.2 < pairs[True] / sum(pairs.values()) < 0.6
    sources = Counter(
        sound.source for scene in draw("video", number=600) if len(scene.things) == 3 for sound in scene.sounds
    )
    assert max(sources[number] for number in range(3)) < 1.4 * min(sources[number] for number in range(3))


# Matched or not


def test_matched_sounds_are_with_the_flashes_and_mismatched_ones_away():
    for scene in draw("match"):
        flashes = [flash.start_s for _, flash in flashes_of(scene)]
        sounds = starts_of(scene.sounds)
        assert len(flashes) == len(sounds) in (2, 3)
        assert len(scene.things) in (2, 3)
        assert len({sound.kind for sound in scene.sounds}) == len(sounds)
        if scene.is_matched:
            assert flashes == sounds
            assert all(sound.source is not None for sound in scene.sounds)
        else:
            assert all(abs(flash - sound) >= 1.0 for flash in flashes for sound in sounds)
            assert all(sound.source is None for sound in scene.sounds)


def test_neither_picture_nor_sound_alone_tells_matched_from_mismatched():
    drawn = draw("match", number=2000)
    matched = [scene for scene in drawn if scene.is_matched]
    mismatched = [scene for scene in drawn if not scene.is_matched]
    assert 0.46 < len(matched) / len(drawn) < 0.54

    def flash_starts(scene: Scene) -> list[float]:
        return [flash.start_s for _, flash in flashes_of(scene)]

    measures = {
        "length": (lambda scene: [scene.seconds], 0.5),
        "flash": (flash_starts, 0.6),
        "first flash": (lambda scene: flash_starts(scene)[:1], 0.5),
        "flash gap": (lambda scene: [b - a for a, b in pairwise(flash_starts(scene))], 0.4),
        "flash length": (lambda scene: [flash.end_s - flash.start_s for _, flash in flashes_of(scene)], 0.02),
        "sound": (lambda scene: starts_of(scene.sounds), 0.6),
        "first sound": (lambda scene: starts_of(scene.sounds)[:1], 0.5),
        "sound gap": (lambda scene: [b - a for a, b in pairwise(starts_of(scene.sounds))], 0.4),
        "number": (lambda scene: [len(scene.sounds)], 0.08),
        "entry": (lambda scene: [thing.visible.start_s for thing in scene.things], 0.2),
    }
    for name, (measure, tolerance) in measures.items():
        first, second = ([value for scene in half for value in measure(scene)] for half in (matched, mismatched))
        assert mean(first) == pytest.approx(mean(second), abs=tolerance), name


# What made it happen


def test_a_change_of_colour_follows_its_cause_and_nothing_else():
    causes = Counter()
    for scene in draw("cause"):
        (changing,) = [number for number, thing in enumerate(scene.things) if thing.recolour]
        recolour = scene.things[changing].recolour
        assert recolour is not None
        causes[recolour.cause] += 1
        (collision,) = scene.collisions
        assert changing in (collision.first, collision.second)
        assert len(scene.sounds) in (2, 3)
        assert all(sound.source is None for sound in scene.sounds)
        others = starts_of(scene.sounds)
        if recolour.cause == "sound":
            cause_s = others.pop(recolour.cause_number)
            assert abs(collision.time_s - recolour.time_s) >= 1.5
        else:
            cause_s = collision.time_s
            assert recolour.cause_number == 0
            assert min(others) < recolour.time_s < max(others)
        assert 0.25 <= recolour.time_s - cause_s <= 0.4
        assert all(abs(start - recolour.time_s) >= 1.2 for start in others)
        assert scene.things[changing].visible.contains(recolour.time_s)
    assert 0.4 < causes["sound"] / sum(causes.values()) < 0.6


def test_colliding_things_meet_and_turn_back():
    for scene in draw("cause"):
        (collision,) = scene.collisions
        first, second = scene.things[collision.first], scene.things[collision.second]
        contact = vocabulary.SIZES[first.size] + vocabulary.SIZES[second.size]

        def distance(time_s: float, first: Thing = first, second: Thing = second) -> float:
            return math.dist(first.place(time_s), second.place(time_s))

        assert distance(collision.time_s) == pytest.approx(contact, abs=1e-3)
        assert distance(collision.time_s - 0.8) > contact + 0.08
        assert distance(collision.time_s + 0.8) > contact + 0.05


# Speech


def test_clips_without_pictures_hold_sounds_or_speech_alone():
    for scene in draw("sounds"):
        assert 1 <= len(scene.sounds) <= 4
        assert scene.seconds <= 10
        assert scene.things == scene.signs == scene.utterances == ()
    for scene in draw("speech"):
        assert len(scene.utterances) == 1
        assert scene.things == scene.signs == scene.sounds == ()


def test_only_known_words_are_spoken_and_held_out_phrases_in_tests_only():
    for kind, split in product(("speech", "noisy_speech"), ("train", "test")):
        for scene in draw(kind, split):
            (utterance,) = scene.utterances
            assert set(utterance.text.split()) <= set(vocabulary.SPOKEN_WORDS)
            assert is_held_out_phrase(utterance.text) == (split == "test")
            assert 0.15 <= utterance.start_s <= 0.4
            assert 130 <= utterance.rate <= 190
            assert 30 <= utterance.pitch <= 70


def test_words_are_spoken_about_equally_often():
    drawn = [scenes.make(seed, kind="speech").utterances[0].text for seed in range(4000)]
    counts = Counter(word for text in drawn for word in text.split())
    words = [
        *vocabulary.DIGITS, *vocabulary.NOUNS, *vocabulary.VERBS,
        *vocabulary.COLOURS, *vocabulary.SHAPES, *vocabulary.SIZES,
    ]  # fmt: skip
    typical = mean(counts[word] for word in words)
    assert all(0.7 * typical < counts[word] < 1.3 * typical for word in words), counts


def test_about_a_fifth_of_the_phrases_is_held_out():
    plain = [f"{verb} the {noun}" for verb in vocabulary.VERBS for noun in vocabulary.NOUNS]
    longer = [f"{text} near the {noun}" for text in plain for noun in vocabulary.NOUNS]
    assert 0.15 < mean(is_held_out_phrase(text) for text in longer) < 0.25
    assert not any(is_held_out_phrase(form) for form in phrases.SPOKEN_QUESTIONS)


def test_speech_in_noise_speaks_of_the_picture():
    for scene in draw("noisy_speech"):
        (utterance,) = scene.utterances
        assert 1 <= len(scene.things) <= 3
        words = set(utterance.text.split())
        shapes = words & set(vocabulary.SHAPES)
        assert 1 <= len(shapes) <= 2
        assert shapes <= {thing.shape for thing in scene.things}
        assert words & set(vocabulary.COLOURS) <= {thing.colour for thing in scene.things}
        assert scene.noise_db is not None
        peak_over_mean_db = 16.6
        assert -0.1 <= utterance.level_db - peak_over_mean_db - scene.noise_db <= 8.1


def test_spoken_questions_have_one_right_answer_in_the_picture():
    presence = []
    for scene in draw("spoken_question"):
        words = scene.utterances[0].text.split()
        assert set(words) <= set(vocabulary.SPOKEN_WORDS)
        if words[-1] == "written":
            assert len(scene.signs) == 1
        asked = [
            thing
            for thing in scene.things
            if all(
                word in (thing.colour, thing.shape, thing.size)
                for word in words
                if word in (*vocabulary.COLOURS, *vocabulary.SHAPES, *vocabulary.SIZES)
            )
        ]
        if words[:2] == ["is", "there"]:
            presence.append(bool(asked))
        elif words[-1] not in ("written", "there"):
            assert len(asked) == 1
    assert 0.3 < mean(presence) < 0.7


def test_held_out_voices_speak_only_when_asked_for():
    from training.world import speech

    known = {scene.utterances[0].voice for split in ("train", "test") for scene in draw("speech", split)}
    assert known == set(speech.VOICES)
    drawn = [scenes.make(seed, kind="speech", split="test", voices="held_out") for seed in range(100)]
    assert {scene.utterances[0].voice for scene in drawn} == set(speech.HELD_OUT_VOICES)


def test_surroundings_are_dark_and_vary():
    for scene in draw_all():
        assert all(0 <= part <= 80 for part in scene.background)
        assert 2 <= scene.grain <= 8
        assert scene.noise_db is not None
    assert len({scene.background for scene in draw("image")}) > 100
