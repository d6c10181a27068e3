"""``python -m training.world.ablation.single RUN.json``: one variant, taught and measured.

Its scores stand in ``OUTPUT/scores.json``; its weights are not kept.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from favor.checkpoint import load_folder
from favor.connector import Connector
from favor.modeling import FavorForConditionalGeneration
from favor.processor import FavorProcessor
from favor.terminal import quiet_libraries
from training.base_model import put_connector, use_fastest_attention
from training.recipe import Strict
from training.world.shards import Shards, StreamName, media_inputs
from training.world.steps import StepHeads, StepTarget, Told, shares, target_of
from training.world.teaching import Lesson, teach

from .measures import measured, without_skill
from .reader import Reader, reading_heads
from .variants import KINDS, MAX_STEPS, VARIANTS

SCORES = "scores.json"
BATCH = 16
"""Clips of a step."""

HELD_OUT = 512
"""Clips that are measured, or as many as there are."""

_AT_ONCE = 64
_LEARNING_RATE, _WARMUP_SHARE = 1.2e-3, 0.2
"""A shorter warm-up to more than that lets all queries of a window become one before they have learnt anything."""


class Run(Strict):
    """One variant with one seed.

    Args:
        model: a folder with taught encoders. features, val: of its encoders, to learn from and to measure with.
        output: the folder of the run. steps: of the optimiser, BATCH clips each.
    """

    variant: str
    seed: int
    model: str
    features: str
    val: str
    output: str
    steps: int


class Batch(NamedTuple):
    """Clips as the connector gets them, and what their steps hold."""

    media: dict[str, Tensor]
    target: StepTarget


class Clips:
    """Those of a folder that have picture and sound and are short enough, as a variant gets them."""

    def __init__(self, folder: str, model: FavorForConditionalGeneration, *, lost: StreamName | None) -> None:
        self.shards, self.lost, self.chunk_steps = Shards(folder), lost, model.config.audio_chunk_steps
        self.shards.refuse_other_encoders(model)
        numbers = self.shards.of_kinds(KINDS)
        self.numbers: list[int] = numbers[self.shards.num_steps[numbers] <= MAX_STEPS].tolist()

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Every target is filled up to MAX_STEPS."""
        clips = [self.shards.clip(number) for number in numbers]
        if self.lost is not None:
            clips = [clip.without(self.lost) for clip in clips]
        targets = [target_of(self.shards.scene(number), window_steps=MAX_STEPS) for number in numbers]
        target = StepTarget.joined(targets)
        if self.lost is not None:  # nothing is asked of a stream that is not there
            target = target.without(self.lost)
        return Batch(media_inputs(clips, chunk_steps=self.chunk_steps), target)

    def drawn(self, seed: int, step: int, number: int) -> Batch:
        """The same for all variants."""
        rng = random.Random(f"ablate {seed} {step}")
        return self.batch(rng.sample(self.numbers, min(number, len(self.numbers))))

    def pieces(self) -> Iterator[Batch]:
        """The first HELD_OUT, some at a time."""
        for start in range(0, min(HELD_OUT, len(self.numbers)), _AT_ONCE):
            yield self.batch(self.numbers[start : min(start + _AT_ONCE, HELD_OUT)])


def main(arguments: Sequence[str]) -> int:
    """Teach, measure, write scores."""
    torch.set_num_threads(1)
    quiet_libraries()
    run = Run.model_validate_json(Path(arguments[0]).read_text(encoding="utf-8"))
    folder, lost = Path(run.output), VARIANTS[run.variant].without
    model = with_connector(*load_folder(run.model), variant=run.variant, seed=run.seed)
    clips, held_out = (Clips(each, model, lost=lost) for each in (run.features, run.val))
    heads = pupil(model, seed=run.seed)
    began = time.process_time()  # of one thread: what else the machine does hardly changes it

    def batch_of(split: str, step: int, number: int) -> Batch:
        return (clips if split == "train" else held_out).drawn(run.seed, step, number)

    teach(lesson_of(run), heads, batch_of)
    trained = time.process_time()
    scores = {"run": run.model_dump(), **measure(heads.eval(), held_out)}
    scores["trained_weights"] = sum(weight.numel() for weight in heads.parameters())
    scores["seconds"] = {
        "training": round(trained - began, 1),
        "measuring": round(time.process_time() - trained, 1),
    }
    shutil.rmtree(folder / "run")
    unfinished = folder / f".{SCORES}"
    unfinished.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(folder / SCORES)
    return 0


def with_connector(
    model: FavorForConditionalGeneration, processor: FavorProcessor, *, variant: str, seed: int
) -> FavorForConditionalGeneration:
    """The model with the variant's connector in the place of its own, from the seed."""
    settings = type(model.config.connector_config)(
        **{**model.config.connector_config.to_dict(), **VARIANTS[variant].connector}
    )
    torch.manual_seed(seed)
    put_connector(model, processor, Connector(settings, llm_width=model.config.text_config.hidden_size))
    use_fastest_attention(model, device=torch.device("cpu"), precision="bf16")
    return model


def pupil(model: FavorForConditionalGeneration, *, seed: int) -> StepHeads:
    """Connector, reader and heads; reader and heads begin alike beside every connector."""
    torch.manual_seed(seed)
    return reading_heads(model)


def lesson_of(run: Run) -> Lesson:
    """How all variants are taught; the loop's own scores are a sign of life, no result."""
    return Lesson(
        output=f"{run.output}/run",
        seed=run.seed,
        steps=run.steps,
        batch=BATCH,
        learning_rate=_LEARNING_RATE,
        warmup_steps=round(_WARMUP_SHARE * run.steps),
        score_every=max(1, run.steps // 4),
        save_every=run.steps,
        held_out_batch=_AT_ONCE,
    )


@torch.no_grad()
def measure(heads: StepHeads, held_out: Clips) -> dict[str, Any]:
    """All that is measured of the held-out clips, JSON-ready; and what no skill gives, where nothing is left out."""
    told: list[Told] = []
    targets: list[StepTarget] = []
    tokens: list[int] = []
    cosine = 0.0
    for media, target in held_out.pieces():
        with torch.autocast("cpu", torch.bfloat16):
            vectors = heads(media)
            told.append(heads.told(vectors, target))
        targets.append(target)
        tokens += _reader_of(heads).tokens_of_clips(media)
        cosine += float(vectors.diversity) * len(media["num_frames"])  # the mean form of the loss is that cosine
    target = StepTarget.joined(targets)
    scores = {
        "shares": _rounded(measured(shares(Told.joined(told), target), lost=held_out.lost)),
        "query_cosine": cosine / len(tokens),
        "tokens_per_clip": sum(tokens) / len(tokens),
        "held_out": {"clips": len(tokens), "steps": int((target.is_seen | target.is_heard).sum())},
    }
    return scores if held_out.lost else {**scores, "without_skill": _rounded(without_skill(target))}


def _reader_of(heads: StepHeads) -> Reader:
    assert isinstance(heads.steps, Reader), "reading_heads made them"
    return heads.steps


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
