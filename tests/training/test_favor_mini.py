"""The shipped default: what it weighs, that it is made of standard parts, and that it is as good as its card says."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import LlamaForCausalLM

from favor import presets
from favor.checkpoint import load_folder
from training.base_model import base_model
from training.recipe import Recipe
from training.world.exam import Report, examine, set_paper

FOLDER = presets.folder("favor-mini")
SEED, QUESTIONS_PER_FAMILY = 2, 4


@pytest.fixture(scope="module")
def parts() -> tuple[Any, Any]:
    return presets.build("favor-mini")


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    return json.loads((FOLDER / "scores.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report(parts) -> Report:
    return examine(*parts, set_paper(SEED, num_questions=QUESTIONS_PER_FAMILY))


def test_it_is_small_and_shipped_in_bfloat16():
    file = FOLDER / "model.safetensors"
    assert file.stat().st_size < 30e6
    with safe_open(file, framework="pt") as tensors:
        kinds = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118 (not a dict)
    assert kinds == {"BF16"}


def test_its_parts_are_standard(parts):
    model, _ = parts
    assert sum(weight.numel() for weight in model.parameters()) < 15e6
    assert isinstance(model.language_model, LlamaForCausalLM)
    assert model.config.connector_config.causal_direction == "past"


def test_it_is_as_good_as_its_card_says(report, card):
    """A short paper is a coarse measure: its mean over 17 tasks has a standard error of about 0.03."""
    assert report.mean > card["mean"] - 0.09


def test_without_a_clip_it_guesses(report):
    lines = report.tasks.values()
    blind = sum(line.others["text_only"] or 0.0 for line in lines) / len(report.tasks)
    assert blind < report.mean - 0.2


def test_with_another_sound_it_cannot_tell_what_is_heard(report):
    for task in ("ac", "asr"):
        wrong = report.tasks[task].others["mismatched_sound"] or 0.0
        assert wrong <= report.tasks[task].score.score - 0.2, task


def test_a_recipe_that_names_the_preset_begins_with_its_weights() -> None:
    given = {"name": "x", "summary": "x", "output": "x", "optimisation": {"steps": 1}}
    recipe = Recipe(**given, model="favor-mini", data={"world": {"features": "x"}})
    model, _ = base_model(recipe)
    shipped, _ = load_folder(presets.folder("favor-mini"))
    for name, weight in shipped.named_parameters():
        assert torch.equal(model.get_parameter(name), weight), name
