"""A tiny host, a handful of clips and recipes over them, for tests of the downstream loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import ViTConfig, WhisperFeatureExtractor

from favor.encoders import HOSTS, Host, PlainViT
from favor.encoders.spectrogram import FilterBankImage
from favor.media import write_clip
from tests import small_hosts
from training.downstream import hosts
from training.downstream.contract import Task
from training.downstream.hosts import OpenHost

NUM_CLIPS = 4
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))
SPECTRUM = FilterBankImage(16, 32, 160, -4.0, 3.0)


def _vit() -> PlainViT:
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return PlainViT(ViTConfig(**size, image_size=32, patch_size=8))


def _tiny(host: Host, task: Task) -> OpenHost:
    visual, audio = host.build()
    colours = (0.5, 0.5, 0.5)
    return OpenHost(visual, audio, 32, colours, colours, hosts.hears_pictures(SPECTRUM, 0.2), audio_tokens=9)


def _tiny_whisper(host: Host, task: Task) -> OpenHost:
    hear = hosts.hears_steps(WhisperFeatureExtractor(feature_size=8, chunk_length=1), task.sound_s)
    return replace(_tiny(host, task), frame_size=28, hear=hear, audio_tokens=25, pieces_per_row=2)


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """``tiny`` (one ViT for both streams) and ``tiny-whisper`` become hosts."""
    eva, whisper = small_hosts.HOSTS["whisper_and_eva"].visual, small_hosts.HOSTS["whisper_and_eva"].audio
    assert eva is not None
    for name, host, opener in (("tiny", Host(_vit), _tiny), ("tiny-whisper", Host(eva, whisper), _tiny_whisper)):
        monkeypatch.setitem(HOSTS, name, host)
        monkeypatch.setitem(hosts._NAMED, name, opener)


def write_ave(folder: Path) -> dict[str, str]:
    """28 annotated clips, of which the first four are there; one plain colour and one pitch each."""
    rows = ["Category&VideoID&Quality&StartTime&EndTime"]
    rows += [f"class {number}&clip{number}&good&{5 * (number == 3)}&10" for number in range(28)]
    (folder / "annotations.txt").write_text("\n".join(rows), encoding="utf-8")
    for number in range(NUM_CLIPS):
        frames = np.zeros((10, 32, 32, 3), dtype=np.uint8)
        frames[:] = COLOURS[number]
        frames[: 5 if number == 3 else 0] = 128  # the last clip begins with background: one of its two half seconds
        wave = 0.5 * np.sin(2 * np.pi * 300 * (number + 1) * np.arange(16_000) / 16_000)
        write_clip(folder / f"clip{number}.mp4", frames=frames, fps=10, waveform=wave)
    for split, numbers in {"train": "0\n1\n2\n3", "val": "1\n0\n3\n2", "test": "3\n2"}.items():
        (folder / f"{split}.txt").write_text(numbers, encoding="utf-8")
    files = {name: str(folder / f"{name}.txt") for name in ("annotations", "train", "val", "test")}
    return {"root": str(folder), **files}


def recipe(data: dict[str, str], output: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a run over :func:`write_ave`'s clips."""
    optimisation = {"adapter_learning_rate": 0.005, "head_learning_rate": 0.005, "batch": 2, "epochs": 2}
    settings: dict[str, Any] = {
        "name": "small",
        "summary": "a test",
        "task": "ave",
        "host": "tiny",
        "adapter": {"name": "lavish", "reduction": 4, "batch_norm": False},
        "data": data,
        "optimisation": optimisation | changes.pop("optimisation", {}),
        "output": str(output),
    }
    return settings | changes
