"""Words spoken by espeak-ng, with the time of every word.

espeak-ng is a formant synthesiser: it takes about a millisecond a phrase and needs no model. It is a shared library
that the package espeakng_loader brings, called through ctypes. It keeps oscillator phases from one phrase to the next,
in static variables that nothing resets; so every phrase gets a freshly loaded library (half a millisecond), and the
same words always give the same samples.
"""

from __future__ import annotations

import _ctypes
import ctypes
import functools
import os
import threading
from dataclasses import dataclass

import numpy as np

from favor.errors import ConfigurationError, MissingDependencyError
from training.world.scene import Span

RATE_HZ = 16000
"""Of every waveform that leaves this file."""

VOICES = (
    "en-us+m3", "en-us+f1", "en+m1", "en+f4", "en-gb-scotland+m7", "en-gb-scotland+Annie", "en-029+m4",
    "en-gb-x-rp+linda", "en-us-nyc+m2", "en-gb-x-gbclan+steph",
)  # fmt: skip
"""Accent of English + speaker; those with breath (f2, f3, f5) are left out: they never sound the same twice."""

HELD_OUT_VOICES = ("en-us+m5", "en-gb-x-rp+belinda", "en+max")
"""Never used in training; no speaker of these is in :data:`VOICES`."""

_ESPEAK_RATE_HZ = 22050
_SILENCE = 0.01
"""Share of the peak below which a sample is taken as silence."""


@dataclass(frozen=True)
class SpokenWord:
    """``span``: when, seconds from the beginning of the speech. Pauses belong to no word."""

    text: str
    span: Span


@dataclass(frozen=True)
class Speech:
    """Args:
    waveform: (n,) float32 at 16 kHz, its peak 1, read-only; it begins with the first word and ends with the last.
    words: in the order spoken; they do not overlap.
    """

    waveform: np.ndarray
    words: tuple[SpokenWord, ...]


@functools.lru_cache(maxsize=4096)
def speak(text: str, *, voice: str, rate: int = 160, pitch: int = 50) -> Speech:
    """Speaks words parted by single spaces.

    Args:
        voice: of :data:`VOICES` or :data:`HELD_OUT_VOICES`. rate: words per minute, 80-450. pitch: 0-99.

    Raises:
        MissingDependencyError: espeakng_loader is not installed.
        ConfigurationError: an unknown voice, or a text that cannot be parted into its words.
    """
    if voice not in VOICES + HELD_OUT_VOICES:
        raise ConfigurationError(
            f"voice '{voice}'", allowed=", ".join(VOICES + HELD_OUT_VOICES), advice="Choose one of these"
        )
    words = text.split()
    pcm, starts = _synthesise(" ".join(words), voice, rate, pitch)
    if len(starts) != len(words):
        # espeak runs "there are" together; a bar before a word parts it from the one before, without a pause.
        pcm, starts = _synthesise(" |".join(words), voice, rate, pitch)
    if not words or len(starts) != len(words):
        raise ConfigurationError(
            f"the text '{text}', in which espeak-ng finds {len(starts)} words instead of {len(words)}",
            allowed="plain words parted by spaces",
            advice="Write numbers and abbreviations out and leave out punctuation",
        )
    spans = _word_spans(pcm, starts)
    first, last = spans[0][0], spans[-1][1]
    waveform = _resample(pcm[first:last])
    waveform /= np.abs(waveform).max()
    waveform.flags.writeable = False
    return Speech(
        waveform,
        tuple(
            SpokenWord(word, Span((start - first) / _ESPEAK_RATE_HZ, (end - first) / _ESPEAK_RATE_HZ))
            for word, (start, end) in zip(words, spans)
        ),
    )


def _word_spans(pcm: np.ndarray, starts: list[int]) -> list[tuple[int, int]]:
    """First and past-the-last sample of every word, without the silence around it."""
    loud = np.abs(pcm) >= _SILENCE * np.abs(pcm).max()
    spans = []
    for start, end in zip(starts, [*starts[1:], len(pcm)]):
        heard = np.flatnonzero(loud[start:end])
        assert len(heard), f"silence from sample {start} to {end}"
        spans.append((start + int(heard[0]), start + int(heard[-1]) + 1))
    return spans


# --- espeak-ng: the few lines of speak_lib.h that we need ---

_SYNCHRONOUS = 2
_DO_NOT_EXIT = 0x8000
_UTF8 = 1
_RATE, _VOLUME, _PITCH, _PITCH_RANGE, _WORD_GAP = 1, 2, 3, 4, 7
_END_OF_EVENTS, _WORD = 0, 1


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))

_lock = threading.Lock()


def _renew_lock() -> None:
    """A thread that does not live on in the forked process may have held it."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def _synthesise(text: str, voice: str, rate: int, pitch: int) -> tuple[np.ndarray, list[int]]:
    """``text`` as (n,) float32 at espeak's rate, and the sample with which every word begins."""
    library_path, data_path = _espeak_paths()
    blocks: list[np.ndarray] = []
    starts: list[int] = []

    @_Callback
    def collect(samples, num_samples, events) -> int:  # type: ignore[no-untyped-def]
        if samples and num_samples:
            blocks.append(np.ctypeslib.as_array(samples, (num_samples,)).astype(np.float32))
        number = 0
        while events[number].type != _END_OF_EVENTS:
            if events[number].type == _WORD:
                starts.append(events[number].sample)
            number += 1
        return 0

    with _lock:
        library = ctypes.CDLL(library_path)
        try:
            espeak_rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 0, data_path.encode(), _DO_NOT_EXIT)
            if espeak_rate_hz != _ESPEAK_RATE_HZ or library.espeak_SetVoiceByName(voice.encode()):
                raise ConfigurationError(
                    f"an espeak-ng that cannot load the voice '{voice}'",
                    allowed="the espeak-ng of espeakng_loader with its voices",
                    advice="Reinstall it with ./install.sh; espeak-ng refuses a folder whose path is very long",
                )
            library.espeak_SetSynthCallback(collect)
            for parameter, value in (
                (_RATE, rate),
                (_VOLUME, 100),
                (_PITCH, pitch),
                (_PITCH_RANGE, 50),
                (_WORD_GAP, 0),
            ):
                library.espeak_SetParameter(parameter, value, 0)
            encoded = text.encode()
            library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded) + 1), 0, 1, 0, _UTF8, None, None)
            library.espeak_Terminate()
        finally:
            _ctypes.dlclose(library._handle)
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32), starts


@functools.cache
def _espeak_paths() -> tuple[str, str]:
    """The library and the folder of its voices."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise MissingDependencyError(
            "espeakng_loader, which speaks in the generated world, is not installed",
            allowed="an environment with the dev extra",
            advice="Run ./install.sh",
        ) from error
    return str(espeakng_loader.get_library_path()), str(espeakng_loader.get_data_path())


# --- 22,050 Hz to 16 kHz ---

_BLOCK_IN, _BLOCK_OUT = 441, 320
"""As many input samples last exactly as long as so many output samples."""
_REACH = 24
"""Input samples to either side that one output sample depends on."""


@functools.cache
def _resampling_matrix() -> np.ndarray:
    """(441 + 2 * 24, 320) float32: windowed sincs, from a block of input and what is around it to a block of output."""
    positions = np.arange(_BLOCK_OUT) * _BLOCK_IN / _BLOCK_OUT
    distances = np.arange(-_REACH, _BLOCK_IN + _REACH)[:, None] - positions
    cutoff = 0.94 * _BLOCK_OUT / _BLOCK_IN
    window = np.where(np.abs(distances) < _REACH, np.cos(np.pi * distances / (2 * _REACH)) ** 2, 0.0)
    return (cutoff * np.sinc(cutoff * distances) * window).astype(np.float32)


def _resample(samples: np.ndarray) -> np.ndarray:
    """(n,) at espeak's rate to (ceil(n * 320 / 441),) at 16 kHz, float32."""
    num_blocks = -(-len(samples) // _BLOCK_IN)
    padded = np.zeros(num_blocks * _BLOCK_IN + 2 * _REACH, np.float32)
    padded[_REACH : _REACH + len(samples)] = samples
    blocks = np.lib.stride_tricks.sliding_window_view(padded, _BLOCK_IN + 2 * _REACH)[::_BLOCK_IN]  # (blocks, 489)
    return (blocks @ _resampling_matrix()).ravel()[: -(-len(samples) * _BLOCK_OUT // _BLOCK_IN)]
