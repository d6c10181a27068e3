"""Every recipe that comes with FAVOR can be read, planned and explained."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from favor.errors import ConfigurationError
from favor.lora import peft_names
from favor.modeling import FavorForConditionalGeneration
from training import parts, recipe
from training.base_model import base_config
from training.plan import Situation, plan

FOLDER = Path(recipe.__file__).parent
DEEPSPEED = sorted((FOLDER / "engine" / "deepspeed").glob("*.json"))
HEADER = ("Reproduces:", "Expected time:", "Expected score:", "Hardware:")
WANTED = {"tiny-cpu", "align", "instruct-7b", "instruct-13b", "instruct-7b-40g", "one-gpu", "multires"}
WANTED |= {"adapter-7b", "adapter-mini"}


SINGLE = [name for name in recipe.names() if not recipe.is_staged(name)]


def text_of(name: str) -> str:
    return (FOLDER / "recipes" / f"{name}.yaml").read_text()


def situation_of(name: str) -> Situation:
    """What the header's plan command says."""
    gpus = re.search(r"--gpus (\d+)", text_of(name))
    memory = re.search(r"--gpu-memory (\d+)", text_of(name))
    return Situation(num_gpus=int(gpus[1]) if gpus else 8, gpu_memory_gb=float(memory[1]) if memory else 80.0)


def test_all_promised_recipes_are_there():
    assert set(recipe.names()) >= WANTED


@pytest.mark.parametrize("name", recipe.names())
def test_a_recipe_opens_with_what_it_reproduces_and_costs(name):
    lines = text_of(name).splitlines()
    assert lines[0].startswith(f"# {name}: ")
    header = "\n".join(line for line in lines if line.startswith("#"))
    assert [word for word in HEADER if word not in header] == []


@pytest.mark.parametrize("name", SINGLE)
def test_a_recipe_loads_saves_and_comes_back(name, tmp_path):
    loaded = recipe.load(name)
    assert loaded.name == name
    recipe.save(loaded, tmp_path / "recipe.yaml")
    assert recipe.load(tmp_path / "recipe.yaml") == loaded


@pytest.mark.parametrize("name", SINGLE)
def test_a_recipe_fits_its_hardware_in_the_hours_of_its_header(name):
    made = plan(recipe.load(name), situation_of(name))
    assert made.does_fit, made.memory
    stated = re.search(r"about ([\d.]+) h \((?:([\d.]+) h with cached features|nothing can be cached)", text_of(name))
    if stated is None:
        assert name in ("tiny-cpu", "adapter-mini")
        return
    if stated[2] is None:
        assert recipe.load(name).adapter is not None
        assert float(stated[1]) == round(made.hours, 1)
        return
    cached = plan(recipe.load(name, ["data.cache=x"]), situation_of(name))
    assert (float(stated[1]), float(stated[2])) == (round(made.hours, 1), round(cached.hours, 1))


@pytest.mark.parametrize("name", SINGLE)
def test_a_recipe_trains_what_it_says(name):
    loaded = recipe.load(name)
    with torch.device("meta"):
        model = FavorForConditionalGeneration(base_config(loaded))
        parts.apply(model, loaded.parts)
    for size in parts.sizes(model, loaded.parts):
        assert (size.num_trained > 0) == (size.mode != "frozen"), size
    if loaded.parts.llm == "lora":
        trained = {name for name, p in model.language_model.named_parameters() if p.requires_grad}
        assert trained == set(peft_names(model.language_model))


def test_multires_has_the_resolutions_of_video_salmonn():
    connector = base_config(recipe.load("multires")).connector_config
    assert (connector.num_query_tokens, connector.window_steps) == (30, 10)
    assert (connector.num_fine_query_tokens, connector.fine_window_steps) == (3, 1)


def test_align_leaves_the_language_model_alone():
    assert recipe.load("align").parts.llm == "frozen"


def test_instruct_7b_on_40_gb_learns_from_the_same_batches():
    big, small = recipe.load("instruct-7b"), recipe.load("instruct-7b-40g")
    same = {"micro_batch": 1, "accumulation": 1}
    assert big.optimisation.model_copy(update=same) == small.optimisation.model_copy(update=same)
    batches = {r.optimisation.micro_batch * r.optimisation.accumulation for r in (big, small)}
    assert len(batches) == 1
    assert big.data == small.data


@pytest.mark.parametrize(
    "override, nearest",
    [
        ("optimisation.stepps=3", "steps"),
        ("sed=1", "seed"),
        ("data.worker=1", "workers"),
        ("parts.visoin=frozen", "vision"),
        ("engine.zero=zero2", "name"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_name(override, nearest):
    with pytest.raises(ConfigurationError, match=f"unknown key.*Did you mean '{nearest}'"):
        recipe.load("tiny-cpu", [override])


def test_an_unknown_key_of_a_source_is_refused_too(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(text_of("tiny-cpu").replace("{path: data/tiny/train.jsonl}", "{path: a, wieght: 2}", 1))
    with pytest.raises(ConfigurationError, match="Did you mean 'weight'"):
        recipe.load(file)


@pytest.mark.parametrize("override", ["optimisation.steps=0", "optimisation.precision=int4", "data.max_bad_share=2"])
def test_an_impossible_value_is_refused_with_its_place(override):
    with pytest.raises(ConfigurationError, match=override.partition("=")[0]):
        recipe.load("tiny-cpu", [override])


def test_an_unknown_recipe_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigurationError, match="Did you mean 'instruct-7b'"):
        recipe.load("instruct-7c")


def test_an_override_changes_one_value():
    changed = recipe.load("tiny-cpu", ["optimisation.steps=7", "data.cache=features", "engine.name=ddp"])
    assert (changed.optimisation.steps, changed.data.cache, changed.engine.name) == (7, "features", "ddp")
    assert changed.optimisation.micro_batch == recipe.load("tiny-cpu").optimisation.micro_batch


# --- DeepSpeed presets ------------------------------------------------------------------------------------------------


def test_every_zero_stage_has_a_preset_with_and_without_offload():
    wanted = {f"zero{stage}{suffix}" for stage in (1, 2, 3) for suffix in ("", "-offload")}
    assert {path.stem for path in DEEPSPEED} == wanted


@pytest.mark.parametrize("path", DEEPSPEED, ids=lambda path: path.stem)
def test_a_preset_is_the_stage_of_its_name_and_does_not_overlap_communication(path):
    settings = json.loads(path.read_text())
    zero = settings["zero_optimization"]
    assert (zero["stage"], zero["overlap_comm"]) == (int(path.stem[4]), False)
    assert ("offload_optimizer" in zero) == ("offload" in path.stem)
    assert ("offload_param" in zero) == (path.stem == "zero3-offload")
    if "offload" in path.stem:
        assert settings["zero_force_ds_cpu_optimizer"] is False  # torch's AdamW, which needs no compiler


@pytest.mark.parametrize("path", DEEPSPEED, ids=lambda path: path.stem)
def test_deepspeed_accepts_a_preset(path, monkeypatch):
    pytest.importorskip("deepspeed")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.config import DeepSpeedConfig

    sizes = {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1, "train_batch_size": 1}
    read = DeepSpeedConfig(json.loads(path.read_text()) | sizes)
    assert read.zero_optimization_stage == int(path.stem[4])
