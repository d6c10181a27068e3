"""A few short clips whose colour and pitch are the answer, a text and a sound, as a manifest and a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from favor.media import write_clip

COLOURS = {"red": (220, 20, 20), "blue": (20, 20, 220)}
PITCHES = {"low": 300, "high": 2000}
QUESTION = "What do you see and hear?"


def write_data(folder: Path) -> Path:
    """Six samples, no two of one length; returns the manifest."""
    lines = []
    for number, (colour, pixels) in enumerate(COLOURS.items()):
        for place, (pitch, hertz) in enumerate(PITCHES.items()):
            name, seconds = f"{colour}-{pitch}.mp4", 1.0 + 0.5 * number + place
            frames = np.full((int(seconds * 10), 48, 64, 3), pixels, dtype=np.uint8)
            write_clip(folder / name, frames=frames, fps=10, waveform=tone(hertz, seconds))
            lines.append(sample(f"{colour} {pitch}", f"<video>{QUESTION}", videos=[name]))
    write_clip(folder / "beep.wav", waveform=tone(700, 1.3), container="wav")
    lines.append(sample("a beep", "<audio>What is it?", audios=["beep.wav"]))
    lines.append(sample("I am FAVOR.", "Who are you?"))
    manifest = folder / "data.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return manifest


def sample(answer: str, question: str, **media: list[str]) -> dict:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": answer.replace(" ", "-"), "messages": turns, **media}


def tone(hertz: float, seconds: float) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(int(16_000 * seconds)) / 16_000)).astype(np.float32)


def write_recipe(folder: Path, manifest: Path) -> Path:
    """A recipe over the data; what a test wants otherwise it overrides."""
    path = folder / "recipe.yaml"
    path.write_text(
        f"""\
name: small
summary: a few clips, for tests
model: tiny
output: {folder / "run"}
data:
  train: [{{path: {manifest}}}]
  workers: 1
optimisation: {{steps: 12, learning_rate: 3.0e-3, precision: fp32, warmup_steps: 2}}
saving: {{every_steps: 4}}
logging: {{every_steps: 1, tensorboard: false}}
""",
        encoding="utf-8",
    )
    return path
