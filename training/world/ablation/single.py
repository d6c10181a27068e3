"""``python -m training.world.ablation.single RUN.json``: one variant, taught and examined.

Its scores stand in ``OUTPUT/scores.json``; its weights are not kept.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from favor.checkpoint import load_folder
from favor.connector import Connector
from favor.modeling import FavorForConditionalGeneration
from favor.processor import FavorProcessor
from favor.terminal import quiet_libraries
from training import parts, recipe, trainer
from training.base_model import base_model, put_connector
from training.checkpoints import Checkpoints, load_parts
from training.logs import read_steps
from training.trained import FrozenEncoders, TrainedModel, as_inputs
from training.world.exam.answering import answer
from training.world.exam.conditions import Condition, Streams, items_for, under
from training.world.exam.paper import Paper
from training.world.stream import WorldData

from . import exam
from .variants import MAX_STEPS, VARIANTS

SCORES = "scores.json"

_CPU = torch.device("cpu")
LLM_LAYERS = 2
"""Half of favor-mini's: the connector is what is compared, and the time goes further."""

_MICRO_BATCH = 8
_WARMUP_SHARE = 0.1


class Run(recipe.Strict):
    """One variant with one seed.

    Args:
        model: a folder with taught encoders. features: of its encoders, to learn from; val: of test clips, or None.
        exam: where the paper lies. questions_per_task: in it.
        output: the folder of the run. steps: of the optimiser, 8 clips each.
    """

    variant: str
    seed: int
    model: str
    features: str
    val: str | None
    exam: str
    questions_per_task: int
    output: str
    steps: int


def main(arguments: Sequence[str]) -> int:
    """Teach, examine, write scores; 1 where a signal ended it."""
    torch.set_num_threads(1)
    quiet_libraries()
    run = Run.model_validate_json(Path(arguments[0]).read_text(encoding="utf-8"))
    folder = Path(run.output)
    write_start(run, folder / "start")
    plan = recipe_of(run)
    began = time.process_time()  # of one thread: what else the machine does hardly changes it
    if trainer.run(plan, is_resuming=False).is_interrupted:
        return 1
    trained = time.process_time()
    scores = examine(run, plan)
    wall = sum(step["seconds"] for step in read_steps(folder / "run").values())
    scores["seconds"] = {
        "training": round(trained - began, 1),
        "training_wall": round(wall, 1),
        "exam": round(time.process_time() - trained, 1),
    }
    for unwanted in ("start", "run"):
        shutil.rmtree(folder / unwanted)
    unfinished = folder / f".{SCORES}"
    unfinished.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(folder / SCORES)
    return 0


def write_start(run: Run, folder: Path) -> None:
    """The model folder where the variant begins: taught encoders, all else from the seed.

    The language model's weights are the same for all variants of a seed.
    """
    model, processor = load_folder(run.model)
    torch.manual_seed(run.seed)
    model.config.lora_config, model.config.text_config.num_hidden_layers = None, LLM_LAYERS
    model.language_model = FavorForConditionalGeneration(model.config).language_model
    old = model.config.connector_config
    settings = type(old)(**{**old.to_dict(), **VARIANTS[run.variant].connector})
    torch.manual_seed(run.seed)
    put_connector(model, processor, Connector(settings, llm_width=model.config.text_config.hidden_size))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def world_of(run: Run) -> recipe.World:
    """What all variants learn from, but for a stream that is left out."""
    return recipe.World(
        features=run.features,
        drop_sound=0.0,
        drop_picture=0.0,
        outside_share=0.0,
        tasks=("timeline", *exam.TASKS),
        kinds=exam.KINDS,
        max_steps=MAX_STEPS,
        without=VARIANTS[run.variant].without,
    )


def recipe_of(run: Run) -> recipe.Recipe:
    """The run as the ordinary trainer wants it."""
    return recipe.Recipe(
        name=f"{run.variant}-{run.seed}",
        summary=VARIANTS[run.variant].title,
        model=f"{run.output}/start",
        output=f"{run.output}/run",
        seed=run.seed,
        parts=recipe.Parts(llm="full"),
        data=recipe.Data(world=world_of(run)),
        optimisation=recipe.Optimisation(
            steps=run.steps,
            micro_batch=_MICRO_BATCH,
            learning_rate=8e-4,
            betas=(0.9, 0.98),
            weight_decay=0.01,
            warmup_steps=round(_WARMUP_SHARE * run.steps),
            min_learning_rate_share=0.05,
        ),
        saving=recipe.Saving(every_steps=run.steps, keep_last=1, keep_best=False),
        logging=recipe.Logging(every_steps=25, validate_every_steps=run.steps, tensorboard=False),
    )


def examine(run: Run, plan: recipe.Recipe) -> dict[str, Any]:
    """All scores of a run that is over, JSON-ready."""
    model, processor = base_model(plan)
    parts.apply(model, plan.parts)
    last = Checkpoints(Path(plan.output), keep_last=1, keep_best=False).latest()
    assert last is not None, "a run that ended has a checkpoint"
    load_parts(last, model)
    FrozenEncoders(model, _CPU)  # they have done their work
    model.eval()
    sitting = exam.read(Path(run.exam), questions_per_task=run.questions_per_task)
    features = heard_and_seen(run, sitting)
    cosine, tokens = query_cosine(model, features)
    scores = {
        "run": run.model_dump(),
        "shares": _shares(model, processor, sitting.paper, features, "both")["both"],
        "query_cosine": cosine,
        "tokens_per_clip": tokens,
        "timeline_loss": timeline_loss(run, model, processor),
        "trained_weights": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
    }
    if run.variant == "full":
        scores["mismatched_sound"] = _shares(model, processor, sitting.paper, features, "mismatched_sound")
    return scores


def heard_and_seen(run: Run, sitting: exam.Sitting) -> list[Streams]:
    """The paper's clips as this variant gets them."""
    kept: dict[str | None, Condition] = {None: "both", "sound": "picture", "picture": "sound"}
    condition = kept[VARIANTS[run.variant].without]
    clips = [under(condition, sitting.paper, sitting.features, number) for number in range(len(sitting.paper.clips))]
    return [clip for clip in clips if clip is not None]


@torch.no_grad()
def query_cosine(model: FavorForConditionalGeneration, clips: Sequence[Streams]) -> tuple[float, float]:
    """Mean cosine between the queries of a window, 1 where they have collapsed; and soft tokens of a clip."""
    nothing = torch.zeros(1, 0, dtype=torch.long)
    cosine, windows, tokens = 0.0, 0, 0
    for clip in clips:
        made = model.get_soft_tokens(
            num_frames=torch.tensor([len(clip.visual)]),
            num_audio_steps=torch.tensor([clip.num_audio_steps]),
            is_image=torch.tensor([clip.is_image]),
            instruction_ids=nothing,
            instruction_mask=nothing,
            visual_features=clip.visual,
            audio_features=clip.audio,
        )
        cosine += float(made.diversity) * len(made.queries)  # the mean form of the loss is that cosine
        windows += len(made.queries)
        tokens += len(made.soft_tokens)
    return cosine / windows, tokens / len(clips)


@torch.no_grad()
def timeline_loss(run: Run, model: FavorForConditionalGeneration, processor: FavorProcessor) -> float | None:
    """Cross-entropy per token of telling all events in order, over test clips; None without any."""
    if run.val is None:
        return None
    world = world_of(run).model_copy(update={"val": run.val, "tasks": ("timeline",), "timeline_share": 1.0})
    batches = WorldData(world, processor, model.config, micro_batch=_MICRO_BATCH).validation_batches()
    assert batches is not None, "there are validation clips"
    trained, end = TrainedModel(model), processor.tokenizer.eos_token_id
    loss, tokens = 0.0, 0
    for batch in batches:
        sums = trained(as_inputs(batch.inputs, end_token_id=end, device=_CPU))
        loss, tokens = loss + float(sums.language), tokens + sums.num_tokens
    return loss / tokens


def _shares(
    model: FavorForConditionalGeneration,
    processor: FavorProcessor,
    paper: Paper,
    features: Sequence[Streams],
    condition: Condition,
) -> dict[str, dict[str, float]]:
    """Right answers under a condition, and of the same items with all there is (``both``)."""
    items = items_for(paper, condition)
    asked = [paper.items[item].question for item in items]
    answers = answer(model, processor, paper, features, condition)
    found = {condition: exam.shares(asked, answers)}
    if condition != "both":
        normal = dict(zip(items_for(paper, "both"), answer(model, processor, paper, features, "both"), strict=True))
        found["both"] = exam.shares(asked, [normal[item] for item in items])
    return {name: {key: round(value, 4) for key, value in shares.items()} for name, shares in found.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
