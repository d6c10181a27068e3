"""Trains the tiny model a few steps on one fixed global batch with the engine it is told to, and writes what came out.

    torchrun --nproc_per_node N tests/training/engine_worker.py ENGINE PRESET ACCUMULATION OUT.safetensors ADAPTER

The eight samples are dealt to processes and micro-batches in turn: video, text, sound and picture never meet evenly.
"""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[2]))

from favor import AudioPart, FavorConfig, ImagePart, VideoPart, presets, user
from favor.media import write_clip
from favor.modeling import FavorForConditionalGeneration
from favor.presets import random_weights
from favor.processor import FavorInputs, FavorProcessor
from training import engine as engines
from training import parts, recipe
from training.engine.base import LossScale
from training.schedule import learning_rate_share
from training.trained import FrozenEncoders, TrainedModel, as_inputs

STEPS = 4
SAMPLES = 8


def main(name: str, preset: str, accumulation: int, out: Path, adapter: dict | None) -> None:
    ranks = engines.Ranks.join()
    options = recipe.Recipe(
        name="agreement",
        summary="every engine does the same",
        model="tiny",
        output="unused",
        data=recipe.Data(train=(recipe.Source(path="unused"),)),
        optimisation=recipe.Optimisation(
            steps=STEPS,
            micro_batch=SAMPLES // ranks.world_size // accumulation,
            accumulation=accumulation,
            learning_rate=3e-3,
            eps=1e-3,  # Adam turns rounding into whole steps where gradients vanish, as on key biases
            precision="fp32",
            warmup_steps=2,
        ),
        engine=recipe.Engine(name=name, deepspeed=preset),
    )
    config = FavorConfig(**presets.describe("tiny").config)
    config.connector_config.dropout = config.lora_config.dropout = 0.0
    changed = presets.describe("tiny").__class__(name="tiny", summary="", config=config.to_dict(), weights={}, seed=7)
    model, processor = random_weights.assemble(changed)
    if adapter is not None:
        put_shaken(model, adapter)
    parts.apply(model, options.parts)
    encoders = FrozenEncoders(model, ranks.device)
    engine = engines.start(TrainedModel(model), options, ranks)
    mine = micro_batches(processor, ranks, accumulation, options.optimisation.micro_batch)
    losses = []
    for step in range(STEPS):
        losses.append(train_step(engine, encoders, mine, learning_rate_share(step, options.optimisation)))
    tensors = engine.trained_tensors()
    if ranks.is_main:
        save_file(
            {key: value.contiguous() for key, value in tensors.items()}, out, metadata={"losses": json.dumps(losses)}
        )
    if dist.is_initialized():
        dist.barrier()


def put_shaken(model: FavorForConditionalGeneration, adapter: dict) -> None:
    """An adapter whose gates are open, the same on all processes, so that all of it learns from the first step."""
    torch.manual_seed(1)
    model.put_adapter(adapter)
    assert model.adapter is not None
    for weight in model.adapter.parameters():
        weight.data += 0.05 * torch.randn_like(weight)


def train_step(
    engine: engines.Engine, encoders: FrozenEncoders, batches: list[FavorInputs], share: float
) -> list[float]:
    """Loss of the whole step, and its gradient norm."""
    ranks = engine.ranks
    tokens = ranks.total(sum(float((batch["labels"][:, 1:] != -100).sum()) for batch in batches))[0]
    windows = ranks.total(sum(r.num_windows for batch in batches for chat in batch.receipts for r in chat))[0]
    scale = LossScale(1 / tokens, 0.01 / windows)
    own = 0.0
    for place, batch in enumerate(batches):
        inputs = encoders.encode(as_inputs(batch, end_token_id=2, device=ranks.device))
        sums = engine.backward(inputs, scale, is_last=place == len(batches) - 1)
        own += float(scale.loss(sums).detach())
    norm = engine.step(share)
    return [ranks.total(own)[0], norm]


def micro_batches(
    processor: FavorProcessor, ranks: engines.Ranks, accumulation: int, micro_batch: int
) -> list[FavorInputs]:
    chats = samples()
    mine = chats[ranks.rank :: ranks.world_size]
    found = []
    for number in range(accumulation):
        chosen = mine[number * micro_batch : (number + 1) * micro_batch]
        found.append(processor([chat for chat, _ in chosen], answer=[answer for _, answer in chosen]))
    return found


def samples() -> list[tuple[list, str]]:
    random = np.random.default_rng(0)
    frames = random.integers(0, 255, (20, 32, 32, 3), dtype=np.uint8)
    wave = (0.3 * np.sin(np.arange(32_000) / 9)).astype(np.float32)
    both, silent, sound = io.BytesIO(), io.BytesIO(), io.BytesIO()
    write_clip(both, frames=frames, fps=10, waveform=wave)
    write_clip(silent, frames=frames[:11], fps=10)
    write_clip(sound, waveform=wave[:24_000], container="wav")
    video, mute, tone = VideoPart(both.getvalue()), VideoPart(silent.getvalue()), AudioPart(sound.getvalue())
    picture = ImagePart(png(frames[0]))
    return [
        ([user(video, "What?")], "a dog"),
        ([user("Hello?")], "hi there"),
        ([user(tone, "Heard?")], "a beep"),
        ([user("And you?")], "fine"),
        ([user(picture, "Seen?")], "noise"),
        ([user(mute, "Silent?")], "yes, quite silent"),
        ([user(video, tone, "Both?")], "both"),
        ([user("Bye?")], "bye"),
    ]


def png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG")
    return target.getvalue()


if __name__ == "__main__":
    torch.manual_seed(0)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), json.loads(sys.argv[5]))
    sys.stdout.flush()
    os._exit(0)  # gloo may abort a process while it is taken down, long after all work is done
