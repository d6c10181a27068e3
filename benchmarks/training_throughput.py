"""Claim: cached features make training faster, and our loop is no slower than the Hugging Face Trainer's.

    python -m benchmarks.training_throughput

The same model (preset ``tiny``, dropout off), clips, batches and optimiser three times on one process: our trainer with
live encoders, our trainer with cached features, and transformers' Trainer with live encoders. First the three losses of
the first step are held equal. Ratios only: at this size the encoders are small and decoding is a large share.
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import Trainer as HuggingFaceTrainer
from transformers import TrainerCallback, TrainingArguments

from benchmarks.timing import finish
from favor.feature_cache import FeatureCache
from favor.media import write_clip
from favor.modeling import FavorForConditionalGeneration
from favor.processor import FavorProcessor
from training import engine as engines
from training import parts, recipe
from training.base_model import base_model
from training.checkpoints import Checkpoints
from training.data import BatchStream, open_sources
from training.data.manifest import Sample
from training.trained import FrozenEncoders, TrainedModel
from training.trainer import Trainer

CLIPS, CLIP_S, MICRO_BATCH, STEPS, WARM_UP = 16, 4, 4, 24, 4
LEARNING_RATE = 1e-3


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = write_recipe(folder)
        live = run_ours(given, folder / "live")
        fill_cache(given, folder / "features")
        cached = run_ours(with_cache(given, folder / "features"), folder / "cached")
        theirs = run_hugging_face(given, folder / "hugging_face")
    runs = {"ours, live": live, "ours, cached": cached, "Hugging Face Trainer, live": theirs}
    for what, (losses, seconds) in runs.items():
        print(f"{what:28} first loss {losses[0]:.6f}  {MICRO_BATCH / statistics.median(seconds):6.1f} samples/s")
    np.testing.assert_allclose([losses[0] for losses, _ in runs.values()], live[0][0], rtol=2e-5)
    rates = {what: MICRO_BATCH / statistics.median(seconds) for what, (_, seconds) in runs.items()}
    finish(
        {
            "benchmark": "training_throughput",
            "samples_per_second": rates,
            "cached_over_live": rates["ours, cached"] / rates["ours, live"],
            "ours_over_hugging_face": rates["ours, live"] / rates["Hugging Face Trainer, live"],
            "clip_seconds": CLIP_S,
            "steps": STEPS - WARM_UP,
        }
    )


def write_recipe(folder: Path) -> recipe.Recipe:
    """Clips of noise and tones, and a recipe that trains on them in order."""
    random = np.random.default_rng(0)
    lines = []
    for number in range(CLIPS):
        frames = random.integers(0, 255, (CLIP_S * 10, 96, 128, 3), dtype=np.uint8)
        wave = 0.3 * np.sin(2 * np.pi * (200 + 100 * number) * np.arange(CLIP_S * 16_000) / 16_000)
        write_clip(folder / f"{number}.mp4", frames=frames, fps=10, waveform=wave.astype(np.float32))
        turns = [{"role": "user", "content": "<video>Which?"}, {"role": "assistant", "content": f"clip {number}"}]
        lines.append(json.dumps({"messages": turns, "videos": [f"{number}.mp4"], "seconds": CLIP_S}))
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return recipe.Recipe(
        name="throughput",
        summary="one process, dropout off",
        model="tiny",
        model_changes={"dropout": 0.0, "diversity_weight": 0.0},
        output=str(folder),
        parts=recipe.Parts(llm="full"),
        data=recipe.Data(train=(recipe.Source(path=str(folder / "data.jsonl")),), workers=0, group_by_length=False),
        optimisation=recipe.Optimisation(
            steps=STEPS, micro_batch=MICRO_BATCH, learning_rate=LEARNING_RATE, schedule="constant", precision="fp32"
        ),
        logging=recipe.Logging(tensorboard=False),
    )


def with_cache(given: recipe.Recipe, folder: Path) -> recipe.Recipe:
    return given.model_copy(update={"data": given.data.model_copy(update={"cache": str(folder)})})


def run_ours(given: recipe.Recipe, folder: Path) -> tuple[list[float], list[float]]:
    """Loss and seconds of every step of our trainer."""
    model, processor, features = built(given)
    ranks = engines.Ranks.join()
    encoders = FrozenEncoders(model, ranks.device)
    engine = engines.start(TrainedModel(model), given, ranks)
    checkpoints = Checkpoints(folder, keep_last=1, keep_best=False)
    trainer = Trainer(given, engine, encoders, processor, checkpoints, model.config, features)
    metrics = [trainer.step() for _ in range(STEPS)]
    trainer.stream.close()
    return [step.language_loss for step in metrics], [step.seconds for step in metrics][WARM_UP:]


def run_hugging_face(given: recipe.Recipe, folder: Path) -> tuple[list[float], list[float]]:
    """The same with transformers' Trainer, on the very batches that our stream gives."""
    model, processor, _ = built(given)
    samples = batches_of(given, processor)
    options = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=MICRO_BATCH,
        max_steps=STEPS,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        adam_beta1=given.optimisation.betas[0],
        adam_beta2=given.optimisation.betas[1],
        max_grad_norm=given.optimisation.max_grad_norm,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_num_workers=0,
    )
    clock = _Clock()
    trainer = HuggingFaceTrainer(
        model=model, args=options, train_dataset=samples, data_collator=samples.collate, callbacks=[clock]
    )
    trainer._get_train_sampler = lambda *_: None  # in order, as ours
    with quiet():
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, clock.seconds[WARM_UP:]


class _Samples(Dataset):
    """Conversations in the order in which our stream takes them."""

    def __init__(self, samples: Sequence[Sample], processor: FavorProcessor) -> None:
        self.samples = samples
        self.processor = processor

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def collate(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        return dict(
            self.processor([sample.question for sample in samples], answer=[sample.answer for sample in samples])
        )


def batches_of(given: recipe.Recipe, processor: FavorProcessor) -> _Samples:
    source = open_sources(given.data.train)[0]
    by_key = {sample.key: sample for sample in map(source.read, range(len(source)))}
    stream = BatchStream(
        given.data, processor, seed=given.seed, rank=0, world_size=1, micro_batch=MICRO_BATCH, accumulation=1
    )
    keys = [key for _ in range(STEPS) for batch in stream.next_step() for key in batch.keys]
    stream.close()
    return _Samples([by_key[key] for key in keys], processor)


class _Clock(TrainerCallback):
    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.last = time.perf_counter()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.last = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now


def fill_cache(given: recipe.Recipe, folder: Path) -> None:
    model, processor = base_model(given)
    parts.apply(model, given.parts)
    cache = FeatureCache.open(folder, model, processor)
    source = open_sources(given.data.train)[0]
    for sample in map(source.read, range(len(source))):
        processor(sample.question, answer=sample.answer, features=cache)


def built(given: recipe.Recipe) -> tuple[FavorForConditionalGeneration, FavorProcessor, FeatureCache | None]:
    torch.manual_seed(given.seed)
    model, processor = base_model(given)
    parts.apply(model, given.parts)
    model.train()
    features = None
    if given.data.cache is not None:
        features = FeatureCache.open(given.data.cache, model, processor, on_miss="fail")
    return model, processor, features


@contextmanager
def quiet() -> Iterator[None]:
    """The Trainer prints every log entry."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


if __name__ == "__main__":
    main()
