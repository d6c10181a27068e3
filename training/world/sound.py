"""Plays a scene: its sound events, its utterances and the noise under them; and says what is heard when.

N samples at 16 kHz, T frames of 20 ms.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.world.scene import Scene, Sound, Span, Utterance
from training.world.speech import RATE_HZ, Speech, speak
from training.world.vocabulary import SOUNDS, SPOKEN_WORDS

FRAMES_HZ = 50
NO_SOUND = len(SOUNDS)
NO_WORD = len(SPOKEN_WORDS)

_ATTACK_S = 0.004
_RELEASE_S = 0.008
_TAU = np.float32(2 * np.pi)


@dataclass(frozen=True)
class SoundLabels:
    """What is heard in every 20 ms.

    Args:
        sounds: (T,) int64, number in vocabulary.SOUNDS, or ``NO_SOUND``; where two overlap, the one that began later.
        words: (T,) int64, number in vocabulary.SPOKEN_WORDS, or ``NO_WORD``.
    """

    sounds: np.ndarray
    words: np.ndarray


def play(scene: Scene) -> np.ndarray:
    """(N,) float32 in [-1, 1] at 16 kHz, N = round(seconds * 16000): the same for the same scene."""
    mix = _noise(scene)
    for index, sound in enumerate(scene.sounds):
        _add(mix, _event(sound, np.random.default_rng((scene.seed, index))), sound.span.start_s, sound.level_db)
    for utterance in scene.utterances:
        _add(mix, _speech(utterance).waveform, utterance.start_s, utterance.level_db)
    return np.clip(mix, -1.0, 1.0, out=mix)


def label(scene: Scene, num_frames: int) -> SoundLabels:
    """What :func:`play` plays, by the middle of every frame."""
    sounds = np.full(num_frames, NO_SOUND, np.int64)
    for sound in sorted(scene.sounds, key=lambda sound: sound.span.start_s):
        sounds[_frames(sound.span)] = SOUNDS.index(sound.kind)
    words = np.full(num_frames, NO_WORD, np.int64)
    for utterance in scene.utterances:
        for word in _speech(utterance).words:
            span = Span(utterance.start_s + word.span.start_s, utterance.start_s + word.span.end_s)
            words[_frames(span)] = SPOKEN_WORDS.index(word.text)
    return SoundLabels(sounds, words)


def _frames(span: Span) -> slice:
    """The frames whose middle is in the span."""
    first, end = (int(np.ceil(round(time_s * FRAMES_HZ - 0.5, 6))) for time_s in (span.start_s, span.end_s))
    return slice(max(first, 0), max(end, 0))


def _speech(utterance: Utterance) -> Speech:
    return speak(utterance.text, voice=utterance.voice, rate=utterance.rate, pitch=utterance.pitch)


def _add(mix: np.ndarray, waveform: np.ndarray, start_s: float, level_db: float) -> None:
    """Adds a waveform whose peak is 1 so that its peak is ``level_db``; what is beyond the end is cut."""
    start = round(start_s * RATE_HZ)
    heard = waveform[: max(len(mix) - start, 0)]
    mix[start : start + len(heard)] += np.float32(10 ** (level_db / 20)) * heard


# --- noise: drawing it anew for every clip would take longer than all the rest ---

_NOISE_SAMPLES = 1 << 19
_HISS_REACH = 6


@functools.cache
def _white() -> np.ndarray:
    """(2^19,) float32, standard normal."""
    return np.random.default_rng(0).standard_normal(_NOISE_SAMPLES, np.float32)


@functools.cache
def _slow() -> np.ndarray:
    """(2^19 - 11,) float32: noise below about 1 kHz."""
    window = np.hanning(2 * _HISS_REACH + 2)[1:-1].astype(np.float32)
    return np.convolve(_white(), window, mode="valid")


def _cut(noise: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    start = int(rng.integers(len(noise) - length))
    return noise[start : start + length]


def _noise(scene: Scene) -> np.ndarray:
    """(N,) float32: white noise whose root mean square is ``noise_db``, or silence."""
    length = round(scene.seconds * RATE_HZ)
    if scene.noise_db is None:
        return np.zeros(length, np.float32)
    rng = np.random.default_rng((scene.seed, len(scene.sounds)))
    return _cut(_white(), length, rng) * np.float32(10 ** (scene.noise_db / 20))


# --- the eight timbres: (seconds since the beginning (n,) float32, length in s, pitch 0-1, rng) -> (n,) float32 ---


def _event(sound: Sound, rng: np.random.Generator) -> np.ndarray:
    """(n,) float32, its peak 1, from silence to silence."""
    length = round(sound.span.end_s * RATE_HZ) - round(sound.span.start_s * RATE_HZ)
    times = np.arange(length, dtype=np.float32) / np.float32(RATE_HZ)
    wave = _TIMBRES[sound.kind](times, length / RATE_HZ, sound.pitch, rng)
    attack, release = _ramp(_ATTACK_S), _ramp(_RELEASE_S)
    wave[: len(attack)] *= attack
    wave[-len(release) :] *= release[::-1]
    return wave / np.abs(wave).max()


@functools.cache
def _ramp(seconds: float) -> np.ndarray:
    """From 0 to 1."""
    num_samples = round(seconds * RATE_HZ)
    return np.sin(np.pi / 2 * np.arange(num_samples) / num_samples).astype(np.float32) ** 2


def _hertz(lowest: float, highest: float, pitch: float, rng: np.random.Generator) -> np.float32:
    """Between the two, equal steps of pitch being equal intervals, and up to 3 % out of tune."""
    return np.float32(lowest * (highest / lowest) ** pitch * rng.uniform(0.97, 1.03))


def _restarted(times: np.ndarray, period_s: float) -> np.ndarray:
    """Seconds since the latest multiple of the period."""
    return np.mod(times, np.float32(period_s))


def _bell(times: np.ndarray, length_s: float, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """Inharmonic partials; the high ones die first, the lowest is still heard at the end."""
    hertz = _hertz(500, 1000, pitch, rng)
    wave = np.zeros_like(times)
    for ratio, share, decay in (
        (0.56, 0.7, 2.2),
        (0.92, 0.6, 3.0),
        (1.71, 0.7, 4.0),
        (2.74, 0.6, 6.0),
        (4.07, 0.4, 9.0),
    ):
        strength = np.float32(share * rng.uniform(0.8, 1.2))
        wave += (
            strength * np.exp(np.float32(-decay / length_s) * times) * np.sin(_TAU * hertz * np.float32(ratio) * times)
        )
    return wave


def _beep(times: np.ndarray, length_s: float, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """A square-like tone, on and off some five times a second, on at the end."""
    tone = np.tanh(3 * np.sin(_TAU * _hertz(700, 1400, pitch, rng) * times))
    pulses = max(round(length_s * rng.uniform(4.0, 6.0)), 2)
    on_s = length_s / (pulses + 0.7 * (pulses - 1))
    since = _restarted(times, 1.7 * on_s)
    return tone * np.clip(np.minimum(since, on_s - since) / np.float32(0.004), 0, 1)


def _hum(times: np.ndarray, length_s: float, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """A low buzz."""
    angle = _TAU * _hertz(70, 140, pitch, rng) * times
    return np.tanh(4 * np.sin(angle)) + np.float32(rng.uniform(0.4, 0.7)) * np.sin(2 * angle)


def _hiss(times: np.ndarray, length_s: float, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """A band of noise about 2 kHz wide."""
    band = _cut(_slow(), len(times), rng)
    wave = np.clip(band / np.float32(2.5 * band.std()), -1, 1)
    return wave * np.sin(_TAU * _hertz(3000, 5500, pitch, rng) * times)


def _siren(times: np.ndarray, length_s: float, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """A tone that glides up and down by half an octave, twice a second."""
    middle, sweep_hz, beginning = _hertz(600, 1100, pitch, rng), np.float32(rng.uniform(1.7, 2.3)), rng.uniform(0, 6.28)
    swing = np.float32(0.28) * middle / sweep_hz
    angle = _TAU * middle * times + swing * np.sin(_TAU * sweep_hz * times + np.float32(beginning))
    return np.sin(angle) + np.float32(0.5) * np.sin(2 * angle)


def _clicks(times: np.ndarray, length_s: float, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """Some dozen short clicks a second, the last at the end."""
    clicks = max(round(length_s * rng.uniform(9.0, 14.0)), 4)
    since = _restarted(times, (length_s - 0.015) / (clicks - 1))
    return np.exp(np.float32(-400) * since) * np.sin(_TAU * _hertz(1500, 3000, pitch, rng) * since)


def _whistle(times: np.ndarray, length_s: float, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """A pure tone that rises evenly by more than half an octave."""
    rise = np.float32(rng.uniform(0.5, 0.8) / (2 * length_s))
    return np.sin(_TAU * _hertz(1300, 2200, pitch, rng) * times * (1 + rise * times))


def _drum(times: np.ndarray, length_s: float, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """Two or three low thumps, each falling in pitch."""
    period_s = length_s / (2 if length_s < 0.75 else 3)
    since = _restarted(times, period_s)
    fall = np.exp(np.float32(-30) * since)
    angle = _TAU * _hertz(60, 110, pitch, rng) * (since + np.float32(1 / 30) * (1 - fall))
    decay = np.float32(-rng.uniform(2.5, 3.2) / period_s)
    return np.exp(decay * since) * np.sin(angle + np.float32(0.5)) * np.clip(since / np.float32(0.002), 0, 1)


_TIMBRES: dict[str, Callable[[np.ndarray, float, float, np.random.Generator], np.ndarray]] = {
    "bell": _bell,
    "beep": _beep,
    "hum": _hum,
    "hiss": _hiss,
    "siren": _siren,
    "clicks": _clicks,
    "whistle": _whistle,
    "drum": _drum,
}
assert tuple(_TIMBRES) == SOUNDS
