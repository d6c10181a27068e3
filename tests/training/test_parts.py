"""What learns is exactly what the recipe names, and it can be saved, resumed and exported in every mode."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import training.__main__
from favor import presets
from favor.checkpoint import load_folder
from favor.errors import ConfigurationError
from tests.training.small_data import write_data, write_recipe
from training import parts, recipe
from training.base_model import base_model
from training.schedule import learning_rate_share


def trained_names(**modes: str) -> set[str]:
    """Prefixes of what learns, LoRA told apart."""
    model, _ = presets.build("tiny")
    parts.apply(model, recipe.Parts(**modes))
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return {f"{parts.part_of(name)}{' lora' if 'lora_' in name else ''}" for name in names}


@pytest.mark.parametrize(
    ("modes", "learning"),
    [
        ({}, {"sync", "llm lora"}),
        ({"llm": "frozen"}, {"sync"}),
        ({"sync": "frozen"}, {"llm lora"}),
        ({"sync": "lora"}, {"sync lora", "llm lora"}),
        ({"audio": "lora"}, {"audio lora", "sync", "llm lora"}),
        ({"vision": "lora", "audio": "full"}, {"vision lora", "audio", "sync", "llm lora"}),
        ({"vision": "full", "llm": "frozen"}, {"vision", "sync"}),
    ],
)
def test_exactly_the_named_parts_learn(modes: dict[str, str], learning: set[str]) -> None:
    assert trained_names(**modes) == learning


def test_by_default_every_weight_of_the_connector_learns_and_none_of_the_encoders() -> None:
    model, _ = presets.build("tiny")
    parts.apply(model, recipe.Parts())
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name.startswith("connector.") or "lora_" in name), name


def test_a_recipe_that_trains_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="every part is frozen"):
        trained_names(sync="frozen", llm="frozen")


def test_the_table_counts_every_parameter_once() -> None:
    model, _ = presets.build("tiny")
    rows = parts.sizes(model, recipe.Parts())
    assert sum(row.num_parameters for row in rows) == sum(p.numel() for p in model.parameters())
    assert sum(row.num_trained for row in rows) == 53_432 + 2_048
    assert {row.name: row.mode for row in rows} == {
        "vision": "frozen",
        "audio": "frozen",
        "sync": "full",
        "llm": "lora",
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    return write_recipe(folder, write_data(folder))


@pytest.mark.parametrize(
    ("modes", "learnt"),
    [
        ("parts.vision=lora parts.audio=lora parts.sync=lora", {"vision", "audio", "sync"}),
        ("parts.vision=full parts.audio=full parts.llm=full", {"vision", "audio", "sync", "llm"}),
        ("parts.llm=frozen engine.checkpoint_activations=true", {"sync"}),
        ("optimisation.precision=bf16 engine.checkpoint_activations=true", {"sync"}),
        ("parts.sync=frozen model_changes.causal_direction=none", set()),
    ],
)
def test_every_mode_trains_saves_resumes_and_exports_only_what_learnt(
    data: Path, tmp_path: Path, modes: str, learnt: set[str]
) -> None:
    """LoRA of the language model keeps its own weights; elsewhere it is merged into the part."""
    command = ["run", str(data), f"output={tmp_path / 'run'}", "data.workers=0", *modes.split()]
    assert training.__main__.main([*command, "optimisation.steps=1"]) == 0
    assert training.__main__.main([*command, "optimisation.steps=2"]) == 0
    assert training.__main__.main(["export", str(tmp_path / "run"), str(tmp_path / "model")]) == 0
    exported, _ = load_folder(tmp_path / "model")
    base, _ = base_model(recipe.load(data, [word for word in modes.split() if not word.startswith("engine.")]))
    own = dict(base.named_parameters())
    changed = {
        parts.part_of(name)
        for name, value in exported.named_parameters()
        if name in own and "lora_" not in name and not torch.equal(value.float(), own[name].float())
    }
    assert changed == learnt


@pytest.mark.parametrize(
    ("schedule", "at_the_middle", "at_the_end"), [("cosine", 0.55, 0.1), ("linear", 0.55, 0.1), ("constant", 1.0, 1.0)]
)
def test_the_learning_rate_warms_up_and_falls_to_its_floor(
    schedule: str, at_the_middle: float, at_the_end: float
) -> None:
    options = recipe.Optimisation(steps=110, warmup_steps=10, schedule=schedule, min_learning_rate_share=0.1)
    assert [learning_rate_share(step, options) for step in (0, 4, 9)] == [0.1, 0.5, 1.0]
    assert learning_rate_share(60, options) == pytest.approx(at_the_middle)
    assert learning_rate_share(110, options) == pytest.approx(at_the_end)
