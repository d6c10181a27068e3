"""The generated world is heard: sound events, speech, noise, and the labels that say what is heard when."""

from __future__ import annotations

import multiprocessing
import sys
import time

import numpy as np
import pytest

from favor.errors import ConfigurationError, MissingDependencyError
from training.world import speech
from training.world.scene import Scene, Sound, Span, Utterance
from training.world.sound import NO_SOUND, NO_WORD, RATE_HZ, label, play
from training.world.speech import HELD_OUT_VOICES, VOICES, speak
from training.world.vocabulary import SOUNDS, SPOKEN_WORDS


def sounds_scene(*sounds: Sound, seed: int = 0, seconds: float = 4.0, noise_db: float | None = None) -> Scene:
    return Scene(seed=seed, kind="sounds", seconds=seconds, sounds=sounds, noise_db=noise_db)


def random_sound(kind: str, rng: np.random.Generator) -> Sound:
    start_s = float(rng.uniform(0.2, 1.0))
    return Sound(kind, Span(start_s, start_s + float(rng.uniform(0.5, 1.2))), float(rng.uniform()), -12.0)


def heard_span(waveform: np.ndarray) -> Span:
    """From the first to the last sample within 40 dB of the peak."""
    loud = np.flatnonzero(np.abs(waveform) > 0.01 * np.abs(waveform).max())
    return Span(loud[0] / RATE_HZ, (loud[-1] + 1) / RATE_HZ)


def bands(waveform: np.ndarray) -> np.ndarray:
    """Mean and spread over time of the log spectrum in 40 bands, (80,)."""
    frames = np.lib.stride_tricks.sliding_window_view(waveform, 512)[::160] * np.hanning(512)
    power = np.abs(np.fft.rfft(frames)) ** 2  # (frames, 257)
    edges = np.unique(np.geomspace(1, 257, 40).astype(int))
    logs = np.log(np.add.reduceat(power, edges[:-1], axis=1) + 1e-3)
    return np.concatenate([logs.mean(0), logs.std(0)])


def test_the_same_scene_sounds_the_same_and_another_seed_differs() -> None:
    rng = np.random.default_rng(1)
    sounds = tuple(random_sound(kind, rng) for kind in SOUNDS)
    first, again, other = (play(sounds_scene(*sounds, seed=seed, noise_db=-55.0)) for seed in (3, 3, 4))
    assert first.dtype == np.float32
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("seconds", [0.0, 2.0, 3.333, 20.0])
def test_a_clip_has_as_many_samples_as_its_seconds_say(seconds: float) -> None:
    assert play(sounds_scene(seconds=seconds, noise_db=-50.0)).shape == (round(seconds * RATE_HZ),)


@pytest.mark.parametrize("kind", SOUNDS)
def test_a_sound_is_heard_within_its_span_only(kind: str) -> None:
    rng = np.random.default_rng(2)
    for seed in range(20):
        sound = random_sound(kind, rng)
        heard = heard_span(play(sounds_scene(sound, seed=seed)))
        assert sound.span.start_s - 1e-4 <= heard.start_s <= sound.span.start_s + 0.010
        assert sound.span.end_s - 0.015 <= heard.end_s <= sound.span.end_s + 1e-4


@pytest.mark.parametrize("kind", SOUNDS)
def test_a_sound_is_as_loud_as_asked(kind: str) -> None:
    for level_db in (-30.0, -6.0):
        played = play(sounds_scene(Sound(kind, Span(0.5, 1.3), 0.4, level_db)))
        assert 20 * np.log10(np.abs(played).max()) == pytest.approx(level_db, abs=0.01)


def test_the_eight_kinds_are_told_apart_by_their_spectra() -> None:
    rng = np.random.default_rng(3)

    def draw(count: int) -> np.ndarray:
        """(kinds, count, 80)"""
        drawn = []
        for kind in SOUNDS:
            for seed in range(count):
                sound = random_sound(kind, rng)
                wave = play(sounds_scene(sound, seed=seed, noise_db=-55.0))
                drawn.append(bands(wave[round(sound.span.start_s * RATE_HZ) : round(sound.span.end_s * RATE_HZ)]))
        return np.stack(drawn).reshape(len(SOUNDS), count, -1)

    centroids = draw(20).mean(1)
    nearest = np.linalg.norm(draw(20)[:, :, None] - centroids, axis=-1).argmin(-1)  # (kinds, 20)
    share_right = (nearest == np.arange(len(SOUNDS))[:, None]).mean()
    assert share_right >= 0.97, [np.bincount(row, minlength=8).tolist() for row in nearest]


def test_pitch_raises_the_spectrum_of_every_kind() -> None:
    for kind in SOUNDS:
        low, high = (play(sounds_scene(Sound(kind, Span(0, 1.0), pitch, -6.0), seconds=1.0)) for pitch in (0.0, 1.0))
        centre_low, centre_high = (
            float((np.abs(np.fft.rfft(wave)) @ np.arange(RATE_HZ // 2 + 1)) / np.abs(np.fft.rfft(wave)).sum())
            for wave in (low, high)
        )
        assert centre_high > 1.1 * centre_low, kind


def test_noise_has_its_level_and_silence_is_digital() -> None:
    noise = play(sounds_scene(noise_db=-40.0))
    assert 10 * np.log10(np.mean(noise**2)) == pytest.approx(-40.0, abs=0.2)
    assert not play(sounds_scene()).any()


def test_loud_sounds_together_stay_within_full_scale() -> None:
    together = play(sounds_scene(*(Sound(kind, Span(0.5, 1.5), 0.5, 0.0) for kind in SOUNDS)))
    assert np.abs(together).max() <= 1.0


def test_a_sound_that_outlasts_the_clip_is_cut() -> None:
    assert play(sounds_scene(Sound("hum", Span(1.5, 2.5), 0.5, -6.0), seconds=2.0)).shape == (32000,)


def test_ten_seconds_with_three_sounds_play_in_milliseconds() -> None:
    sounds = [
        Sound(kind, Span(start, start + 1.0), 0.5, -10.0) for kind, start in (("bell", 1), ("siren", 4), ("hiss", 7))
    ]
    scene = sounds_scene(*sounds, seconds=10.0, noise_db=-50.0)
    play(scene)
    fastest = np.inf
    for _ in range(20):
        began = time.perf_counter()
        play(scene)
        fastest = min(fastest, time.perf_counter() - began)
    assert fastest < 0.01


def test_labels_say_the_later_of_two_sounds_and_nothing_elsewhere() -> None:
    scene = sounds_scene(
        Sound("drum", Span(0.5, 1.5), 0.5, -9.0), Sound("bell", Span(0.2, 1.0), 0.5, -9.0), seconds=2.0
    )
    labels = label(scene, 100)
    expected = np.full(100, NO_SOUND)
    expected[10:25] = SOUNDS.index("bell")
    expected[25:75] = SOUNDS.index("drum")
    assert labels.sounds.dtype == labels.words.dtype == np.int64
    assert np.array_equal(labels.sounds, expected)
    assert (labels.words == NO_WORD).all()


def test_labels_follow_the_spoken_words() -> None:
    utterance = Utterance("take the red ball", 0.5, VOICES[0])
    labels = label(Scene(seed=0, kind="speech", seconds=3.0, utterances=(utterance,)), 150)
    heard = [int(word) for word in labels.words if word != NO_WORD]
    assert [SPOKEN_WORDS[word] for word in dict.fromkeys(heard)] == utterance.text.split()
    assert labels.words[24] == NO_WORD
    assert labels.words[25] == SPOKEN_WORDS.index("take")


def test_speech_is_heard_where_the_utterance_begins_at_its_level() -> None:
    utterance = Utterance("seven two nine", 1.0, VOICES[1], level_db=-20.0)
    played = play(Scene(seed=0, kind="speech", seconds=4.0, utterances=(utterance,), noise_db=None))
    spoken = speak(utterance.text, voice=utterance.voice)
    assert heard_span(played).start_s == pytest.approx(1.0, abs=0.002)
    assert heard_span(played).end_s == pytest.approx(1.0 + spoken.words[-1].span.end_s, abs=0.015)
    assert 20 * np.log10(np.abs(played).max()) == pytest.approx(-20.0, abs=0.01)


@pytest.mark.parametrize("voice", VOICES + HELD_OUT_VOICES)
def test_every_voice_speaks_all_words_in_order(voice: str) -> None:
    for first in range(0, len(SPOKEN_WORDS), 9):
        words = SPOKEN_WORDS[first : first + 9]
        spoken = speak(" ".join(words), voice=voice)
        assert tuple(word.text for word in spoken.words) == words
        ends_s = [word.span.end_s for word in spoken.words]
        starts_s = [word.span.start_s for word in spoken.words]
        assert starts_s[0] == 0.0
        assert ends_s[-1] == pytest.approx(len(spoken.waveform) / RATE_HZ, abs=1e-4)
        assert all(end_s <= start_s for end_s, start_s in zip(ends_s, starts_s[1:]))
        assert all(0.02 < end_s - start_s < 1.0 for start_s, end_s in zip(starts_s, ends_s))
        assert np.abs(spoken.waveform).max() == pytest.approx(1.0)


def test_words_cover_all_that_is_loud() -> None:
    spoken = speak("find the yellow square near a key", voice="en-us+m3")
    times_s = np.arange(len(spoken.waveform)) / RATE_HZ
    covered = np.zeros(len(times_s), bool)
    for word in spoken.words:
        covered |= (times_s >= word.span.start_s - 0.002) & (times_s < word.span.end_s + 0.002)
    assert np.abs(spoken.waveform[~covered]).max(initial=0) < 0.02


@pytest.mark.parametrize("voice", VOICES + HELD_OUT_VOICES)
def test_a_word_time_finds_the_sound_of_that_word(voice: str) -> None:
    """The hiss of the s in "six", "see" and "seven" is where they begin, the hum of "nine" is not hissed."""
    spoken = speak("nine six nine see nine seven nine", voice=voice)

    def share_of_treble(start_s: float) -> float:
        piece = spoken.waveform[round(start_s * RATE_HZ) :][: round(0.05 * RATE_HZ)]
        power = np.abs(np.fft.rfft(piece)) ** 2
        return float(power[len(power) * 3 // 8 :].sum() / power.sum())

    hissed = [share_of_treble(word.span.start_s + 0.01) > 0.5 for word in spoken.words]
    assert hissed == [False, True] * 3 + [False]


def test_words_that_espeak_runs_together_are_parted() -> None:
    spoken = speak("how many shapes are there are there are", voice=VOICES[2])
    assert [word.text for word in spoken.words] == ["how", "many", "shapes", *["are", "there"] * 2, "are"]


def test_voices_differ_from_each_other() -> None:
    spectra = {voice: bands(speak("take the red ball", voice=voice).waveform) for voice in VOICES + HELD_OUT_VOICES}
    for first in spectra:
        for second in spectra:
            assert first == second or np.linalg.norm(spectra[first] - spectra[second]) > 1.0, (first, second)
    speakers = {voice.split("+")[1] for voice in VOICES}
    assert not speakers & {voice.split("+")[1] for voice in HELD_OUT_VOICES}


def test_rate_and_pitch_are_obeyed_and_do_not_stick() -> None:
    def seconds(rate: int) -> float:
        return speak("bring the cup", voice=VOICES[0], rate=rate).words[-1].span.end_s

    assert seconds(120) > 1.2 * seconds(200)
    low, high = (speak("bring the cup", voice=VOICES[0], pitch=pitch).waveform for pitch in (20, 80))
    assert not np.array_equal(low, high)


@pytest.mark.parametrize("voice", VOICES + HELD_OUT_VOICES)
def test_a_phrase_is_the_same_after_other_voices_spoke(voice: str) -> None:
    anew = speak.__wrapped__
    before = anew("what colour is the circle", voice=voice)
    for other in (VOICES[1], VOICES[4], HELD_OUT_VOICES[0]):
        anew("seven two nine zero", voice=other, rate=200, pitch=80)
    after = anew("what colour is the circle", voice=voice)
    assert np.array_equal(before.waveform, after.waveform)
    assert before.words == after.words


def speak_elsewhere(queue: multiprocessing.SimpleQueue) -> None:
    queue.put(speak.__wrapped__("find a key", voice=VOICES[3]).waveform)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_speaks_the_same(method: str) -> None:
    here = speak.__wrapped__("find a key", voice=VOICES[3]).waveform
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    with speech._lock:  # as though another thread were speaking at the moment of the fork
        process = context.Process(target=speak_elsewhere, args=(queue,))
        process.start()
    there = queue.get()
    process.join()
    assert np.array_equal(here, there)


def test_resampling_keeps_a_tone_and_stops_what_16_khz_cannot_hold() -> None:
    times_s = np.arange(22050) / 22050
    low = speech._resample(np.sin(2 * np.pi * 1000 * times_s).astype(np.float32))
    assert low.shape == (16000,)
    expected = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    assert np.abs(low - expected)[100:-100].max() < 2e-3
    high = speech._resample(np.sin(2 * np.pi * 9000 * times_s).astype(np.float32))
    assert np.abs(high)[100:-100].max() < 1e-2


def test_an_unknown_voice_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"en-us\+m3"):
        speak("take the ball", voice="en-us+nobody")


@pytest.mark.parametrize("text", ["", " ", ". ."])
def test_a_text_without_plain_words_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="plain words"):
        speak(text, voice=VOICES[0])


def test_without_espeak_one_learns_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    speech._espeak_paths.cache_clear()
    with pytest.raises(MissingDependencyError, match=r"\./install\.sh"):
        speak.__wrapped__("take the ball", voice=VOICES[0])
    speech._espeak_paths.cache_clear()
