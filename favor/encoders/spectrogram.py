"""What the ears of the published adapters hear: Kaldi filter banks as pictures, and HTS-AT's log-mel spectrogram.

Shapes: S samples of one stretch of sound. One frame of a spectrogram is one row, one mel bin one column.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from favor.media.clip import SAMPLE_RATE_HZ

KALDI_WINDOW = 400
"""Samples: 25 ms."""

KALDI_FFT = 512
HTS_AT_RATE_HZ = 32_000
HTS_AT_SAMPLES = 10 * HTS_AT_RATE_HZ
HTS_AT_WINDOW = 1024
HTS_AT_SHIFT = 320


@dataclass(frozen=True)
class FilterBankImage:
    """How a stretch of sound becomes a picture (adapters.md 2.4).

    Args:
        num_frames: rows, cut or filled with zeros after the normalisation, so with its mean.
        num_mel_bins: columns.
        shift: samples from frame to frame; Kaldi cuts 5.2 ms to 83.
        mean, std: of the data set's filter banks; (x - mean) / (2 std) is what the encoder sees.
    """

    num_frames: int
    num_mel_bins: int
    shift: int
    mean: float
    std: float


VIT_AVE = FilterBankImage(102, 128, 160, -4.1426, 3.2001)
SWIN_AVE = FilterBankImage(192, 192, 83, -4.984795570, 3.707978010)
SWIN_AVS = FilterBankImage(192, 192, 160, -5.210531712, 3.591831446)
SWIN_AVQA = FilterBankImage(192, 192, 160, -5.385333061, 3.592863798)


def filter_bank_image(waveform: np.ndarray, form: FilterBankImage) -> Tensor:
    """Sound at 16 kHz (S,) to a picture (3, frames, mel bins) of three equal channels, as in LAVISH."""
    rows = (kaldi_filter_bank(waveform, form.num_mel_bins, form.shift) - form.mean) / (2 * form.std)
    image = rows.new_zeros(form.num_frames, form.num_mel_bins)
    image[: len(rows)] = rows[: form.num_frames]
    return image.expand(3, -1, -1)


def kaldi_filter_bank(waveform: np.ndarray, num_mel_bins: int, shift: int) -> Tensor:
    """Kaldi's log filter bank of sound at 16 kHz in [-1, 1], without dither: (S,) to (frames, mel bins).

    Hann windows of 25 ms without their mean, pre-emphasised, 20 to 8000 Hz. Only whole windows count.
    """
    assert waveform.shape[0] >= KALDI_WINDOW, f"{waveform.shape[0]} samples given, one window has {KALDI_WINDOW}"
    bank = spectrogram(
        waveform,
        window_function(KALDI_WINDOW, "hann", periodic=False),
        frame_length=KALDI_WINDOW,
        hop_length=shift,
        fft_length=KALDI_FFT,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=_kaldi_filters(num_mel_bins),
        mel_floor=float(np.finfo(np.float32).eps),
        log_mel="log",
        remove_dc_offset=True,
    )  # (mel bins, frames)
    return torch.from_numpy(bank.T.copy())


def hts_at_log_mel(waveform: np.ndarray) -> Tensor:
    """Sound at 32 kHz (S,) to HTS-AT's input (1, 1001, 64) in decibels; short sound is repeated to fill its 10 s."""
    assert len(waveform), "no sound given"
    bank = spectrogram(
        np.resize(waveform, HTS_AT_SAMPLES),
        window_function(HTS_AT_WINDOW, "hann"),
        frame_length=HTS_AT_WINDOW,
        hop_length=HTS_AT_SHIFT,
        power=2.0,
        mel_filters=_hts_at_filters(),
        log_mel="dB",
    )  # (mel bins, frames)
    return torch.from_numpy(bank.T.copy())[None]


@lru_cache
def _kaldi_filters(num_mel_bins: int) -> np.ndarray:
    """(257, mel bins). 192 bins are finer than the spectrum below 1 kHz: there some stay silent, in Kaldi as here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filter has all zero values")
        return mel_filter_bank(
            num_frequency_bins=KALDI_FFT // 2 + 1,
            num_mel_filters=num_mel_bins,
            min_frequency=20.0,
            max_frequency=SAMPLE_RATE_HZ / 2,
            sampling_rate=SAMPLE_RATE_HZ,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )


@lru_cache
def _hts_at_filters() -> np.ndarray:
    """(513, 64), librosa's form: Slaney's scale, areas equal."""
    return mel_filter_bank(
        num_frequency_bins=HTS_AT_WINDOW // 2 + 1,
        num_mel_filters=64,
        min_frequency=50.0,
        max_frequency=14_000.0,
        sampling_rate=HTS_AT_RATE_HZ,
        norm="slaney",
        mel_scale="slaney",
    )
