"""Spectrograms of the adapters' ears: their definition, their size, a tone in its bin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import ASTFeatureExtractor

from favor.encoders.spectrogram import (
    SWIN_AVE,
    SWIN_AVQA,
    SWIN_AVS,
    VIT_AVE,
    filter_bank_image,
    hts_at_log_mel,
    kaldi_filter_bank,
)


def tone(hz: float, seconds: float, rate_hz: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def noise(samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)


def kaldi_mel(hz: np.ndarray | float) -> np.ndarray:
    return 1127 * np.log(1 + np.asarray(hz) / 700)


def kaldi_frame(samples: np.ndarray, num_mel_bins: int) -> np.ndarray:
    """One frame (400,) by Kaldi's definition, (mel bins,)."""
    samples = samples.astype(np.float64) - samples.mean(dtype=np.float64)
    samples = samples - 0.97 * np.concatenate((samples[:1], samples[:-1]))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)
    power = np.abs(np.fft.rfft(samples * window, 512)) ** 2
    centres = np.linspace(kaldi_mel(20), kaldi_mel(8000), num_mel_bins + 2)
    at = kaldi_mel(np.arange(257) * 16_000 / 512)[None]
    left, centre, right = (centres[first : first + num_mel_bins, None] for first in range(3))
    triangles = np.clip(np.minimum((at - left) / (centre - left), (right - at) / (right - centre)), 0, None)
    return np.log(np.maximum(triangles @ power, np.finfo(np.float32).eps))


@pytest.mark.parametrize(("num_mel_bins", "shift"), [(128, 160), (192, 83)])
def test_filter_bank_is_kaldis(num_mel_bins: int, shift: int) -> None:
    wave = noise(2000)
    bank = kaldi_filter_bank(wave, num_mel_bins, shift)
    assert len(bank) == 1 + (2000 - 400) // shift
    for frame in (0, 1, len(bank) - 1):
        expected = kaldi_frame(wave[frame * shift : frame * shift + 400], num_mel_bins)
        np.testing.assert_allclose(bank[frame].numpy(), expected, atol=1e-4)


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")
def test_filter_bank_is_transformers_own_for_spectrogram_transformers() -> None:
    wave = noise(16_000)
    theirs = ASTFeatureExtractor(do_normalize=False, max_length=98)(wave, sampling_rate=16_000, return_tensors="pt")
    torch.testing.assert_close(kaldi_filter_bank(wave, 128, 160), theirs["input_values"][0], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("form", "seconds", "frames", "bins", "heard"),
    [
        (VIT_AVE, 1, 102, 128, 98),
        (SWIN_AVE, 1, 192, 192, 188),
        (SWIN_AVS, 1, 192, 192, 98),
        (SWIN_AVQA, 1.95, 192, 192, 192),
    ],
)
def test_pictures_have_the_published_sizes_and_are_filled_with_zeros(form, seconds, frames, bins, heard) -> None:
    image = filter_bank_image(noise(int(seconds * 16_000)), form)
    assert image.shape == (3, frames, bins)
    assert torch.equal(image[0], image[1])
    assert (image[0].abs().sum(dim=1) > 0).sum() == heard
    assert not image[:, heard:].any()


def test_pictures_are_normalised_by_twice_the_deviation() -> None:
    assert (VIT_AVE.mean, VIT_AVE.std) == (-4.1426, 3.2001)
    assert (SWIN_AVE.mean, SWIN_AVE.std) == (-4.984795570, 3.707978010)
    assert (SWIN_AVS.mean, SWIN_AVS.std) == (-5.210531712, 3.591831446)
    assert (SWIN_AVQA.mean, SWIN_AVQA.std) == (-5.385333061, 3.592863798)
    wave = noise(16_000)
    back = filter_bank_image(wave, SWIN_AVE)[0, :188] * (2 * SWIN_AVE.std) + SWIN_AVE.mean
    torch.testing.assert_close(back, kaldi_filter_bank(wave, 192, 83), atol=1e-4, rtol=0)


@pytest.mark.parametrize("hz", [440.0, 2000.0, 6000.0])
def test_a_tone_lands_in_its_mel_bin(hz: float) -> None:
    for form in (VIT_AVE, SWIN_AVE):
        loudest = filter_bank_image(tone(hz, 1, 16_000), form)[0, 40].argmax().item()
        centres = np.linspace(kaldi_mel(20), kaldi_mel(8000), form.num_mel_bins + 2)[1:-1]
        width_of_spectrum = np.ptp(kaldi_mel(np.array([hz - 16, hz + 16]))) + centres[1] - centres[0]
        assert abs(centres[loudest] - kaldi_mel(hz)) <= width_of_spectrum


def test_log_mel_of_hts_at_is_its_definition() -> None:
    wave = noise(32_000)
    ours = hts_at_log_mel(wave)
    assert ours.shape == (1, 1001, 64)
    tiled = torch.from_numpy(np.tile(wave, 10))
    spectrum = torch.stft(tiled, 1024, 320, window=torch.hann_window(1024), return_complex=True).abs().square()
    expected = 10 * (_slaney_bank() @ spectrum).clamp(min=1e-10).log10()
    torch.testing.assert_close(ours[0], expected.T, atol=2e-3, rtol=0)


def _slaney_bank() -> torch.Tensor:
    """(64, 513): linear to 1 kHz, then 27 steps for a factor of 6.4; every triangle has the same area."""
    step = np.log(6.4) / 27

    def mel(hz: float) -> float:
        return 3 * hz / 200 if hz < 1000 else 15 + np.log(hz / 1000) / step

    edges = np.linspace(mel(50), mel(14_000), 66)
    edges = np.where(edges < 15, 200 * edges / 3, 1000 * np.exp(step * (edges - 15)))
    at = np.arange(513) * 32_000 / 1024
    left, centre, right = (edges[first : first + 64, None] for first in range(3))
    triangles = np.clip(np.minimum((at - left) / (centre - left), (right - at) / (right - centre)), 0, None)
    return torch.from_numpy(triangles * 2 / (right - left)).float()


def test_hts_at_hears_a_tone_in_its_bin_for_all_ten_seconds() -> None:
    bank = hts_at_log_mel(tone(3000, 1, 32_000))[0]
    loudest = bank.argmax(dim=1)
    assert set(loudest.tolist()) == {_slaney_bank()[:, 96].argmax().item()}  # 96 * 31.25 Hz
    assert len(hts_at_log_mel(tone(3000, 12, 32_000))[0]) == 1001, "longer sound is cut"


def test_sound_shorter_than_a_window_is_an_internal_error() -> None:
    with pytest.raises(AssertionError, match="399 samples given, one window has 400"):
        kaldi_filter_bank(noise(399), 128, 160)
