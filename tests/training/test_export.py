"""What a run has learnt, as others load it: merged or apart, for favor, serving, PEFT and vLLM."""

from __future__ import annotations

import argparse
import copy
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from favor.__main__ import main as favor_command
from favor.checkpoint import load_folder
from favor.errors import CheckpointError, ConfigurationError
from favor.lora import load_lora_state, lora_state, merge_lora, peft_names, remove_lora
from favor.messages import VideoPart, user
from favor.modeling import FavorForConditionalGeneration
from tests import small_media
from tests.conftest import Tiny
from training import export as exporting
from training import parts, recipe
from training.base_model import base_config, base_model
from training.checkpoints import RunState, base_hashes, refuse_other_base, write_parts
from training.recipe import Recipe

QUESTION = [user(VideoPart(small_media.video(2.0)), "What is it?")]


def a_recipe(**changes) -> Recipe:
    given = {"name": "r", "summary": "s", "model": "tiny", "output": "out", "optimisation": {"steps": 1}}
    return Recipe.model_validate({**given, "data": {"train": [{"path": "d.jsonl"}]}, **changes})


def learn(model: FavorForConditionalGeneration) -> None:
    """Move everything that learns, so that LoRA is not the identity."""
    with torch.no_grad():
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)


def write_run(folder: Path, trained: Recipe, *, steps: tuple[int, ...] = (5,), best: int | None = None):
    """A run as the trainer leaves it; returns the model of its last checkpoint."""
    folder.mkdir(parents=True)
    recipe.save(trained, folder / "recipe.yaml")
    model, _ = base_model(trained)
    parts.apply(model, trained.parts)
    refuse_other_base(folder, base_hashes(model))
    for step in steps:
        learn(model)
        checkpoint = folder / "checkpoints" / f"step-{step:08d}"
        checkpoint.mkdir(parents=True)
        tensors = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
        write_parts(checkpoint, tensors, model)
        state = RunState(step=step, sampler={}, world_size=1, engine="plain", best_step=best)
        (checkpoint / "state.json").write_text(json.dumps(asdict(state)))
    return model.eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, FavorForConditionalGeneration]:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, write_run(folder, a_recipe())


@torch.no_grad()
def logits(model: FavorForConditionalGeneration, tiny: Tiny) -> torch.Tensor:
    return model(**tiny.processor(QUESTION)).logits


@torch.no_grad()
def words(model, ids=((1, 50, 60, 70),)) -> torch.Tensor:
    return model(torch.tensor(ids)).logits


# --- LoRA by itself ---------------------------------------------------------------------------------------------------


def test_merging_lora_keeps_the_outputs_and_leaves_no_lora(tiny):
    model = copy.deepcopy(tiny.model.language_model)
    learn(model)
    before = words(model)
    merge_lora(model)
    assert peft_names(model) == {}
    torch.testing.assert_close(words(model), before, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(words(tiny.model.language_model), before, atol=1e-2)


def test_removing_lora_brings_the_base_back(tiny):
    model, without = (copy.deepcopy(tiny.model.language_model) for _ in range(2))
    load_lora_state(without, {name: torch.zeros_like(value) for name, value in lora_state(without).items()})
    learn(model)
    remove_lora(model)
    assert torch.equal(words(model), words(without))


def test_lora_goes_out_and_in_again(tiny):
    learnt, fresh = (copy.deepcopy(tiny.model.language_model) for _ in range(2))
    learn(learnt)
    load_lora_state(fresh, lora_state(learnt))
    assert torch.equal(words(fresh), words(learnt))


def test_lora_of_another_rank_or_with_a_tensor_missing_is_refused(tiny):
    model = copy.deepcopy(tiny.model.language_model)
    state = lora_state(model)
    first = next(iter(state))
    with pytest.raises(CheckpointError, match="1 tensors"):
        load_lora_state(model, {**state, first: state[first][:2]})
    del state[first]
    with pytest.raises(CheckpointError, match="1 tensors"):
        load_lora_state(model, state)


# --- merge and export -------------------------------------------------------------------------------------------------


def test_merge_writes_a_folder_that_answers_as_the_run_does(run, tiny, tmp_path):
    folder, trained = run
    model, processor = load_folder(exporting.merge(folder, tmp_path / "merged"))
    assert model.config.lora_config is None
    assert not any("lora" in name for name, _ in model.named_parameters())
    torch.testing.assert_close(logits(model, tiny), logits(trained, tiny), rtol=1e-4, atol=1e-4)
    assert processor.max_seconds == a_recipe().data.max_seconds
    assert not (tmp_path / "merged" / "llm").exists()


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_export_writes_a_language_model_that_hugging_face_loads(run, tiny, tmp_path, form):
    folder, trained = run
    out = exporting.export(folder, tmp_path / "out", llm=form)
    model, _ = load_folder(out)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if form == "merged" else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(logits(model, tiny), logits(trained, tiny), **tolerance)
    llm, report = AutoModelForCausalLM.from_pretrained(out / "llm", output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    if form == "adapter":
        llm = PeftModel.from_pretrained(llm, out / "llm" / "adapter")
    torch.testing.assert_close(words(llm), words(trained.language_model), rtol=1e-4, atol=1e-5)
    assert AutoTokenizer.from_pretrained(out / "llm")("Hi").input_ids == tiny.processor.tokenizer("Hi").input_ids


def test_a_checkpoints_adapter_is_one_that_peft_loads(run):
    folder, trained = run
    llm = copy.deepcopy(trained.language_model)
    remove_lora(llm)
    adapted = PeftModel.from_pretrained(llm, folder / "checkpoints" / "step-00000005" / "adapter")
    torch.testing.assert_close(words(adapted), words(trained.language_model))


def test_the_best_checkpoint_is_taken_and_a_given_one_before_it(tiny, tmp_path):
    folder = tmp_path / "run"
    last = write_run(folder, a_recipe(), steps=(5, 10), best=5)
    best, _ = exporting.trained_model(folder)
    given, _ = exporting.trained_model(folder / "checkpoints" / "step-00000010")
    assert torch.equal(logits(given, tiny), logits(last, tiny))
    assert not torch.equal(logits(best, tiny), logits(last, tiny))


def test_a_run_that_trained_an_encoder_and_the_whole_language_model_comes_out_too(tiny, tmp_path):
    trained = a_recipe(parts={"vision": "lora", "audio": "full", "llm": "full"})
    expected = write_run(tmp_path / "run", trained)
    model, _ = load_folder(exporting.export(tmp_path / "run", tmp_path / "out"))
    torch.testing.assert_close(logits(model, tiny), logits(expected, tiny), rtol=1e-4, atol=1e-4)


def test_a_run_can_begin_on_an_exported_folder(run, tmp_path):
    out = exporting.merge(run[0], tmp_path / "merged")
    again = a_recipe(model=str(out), model_changes={"dropout": 0.3})
    model, _ = base_model(again)
    assert model.config.connector_config.dropout == base_config(again).connector_config.dropout == 0.3
    assert model.config.lora_config is not None
    torch.testing.assert_close(words(model.language_model), words(run[1].language_model), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigurationError, match="other shapes"):
        base_model(a_recipe(model=str(out), model_changes={"num_query_tokens": 8}))


def test_a_run_on_another_base_is_refused(tmp_path):
    write_run(tmp_path / "run", a_recipe())
    hashes = json.loads((tmp_path / "run" / "base.json").read_text())
    (tmp_path / "run" / "base.json").write_text(json.dumps({**hashes, "llm": "0"}))
    with pytest.raises(CheckpointError, match="llm"):
        exporting.merge(tmp_path / "run", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_adapter_of_another_shape_is_refused(run, tmp_path):
    write_run(tmp_path / "run", a_recipe())
    file = tmp_path / "run" / "checkpoints" / "step-00000005" / "connector.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "query_tokens": tensors["query_tokens"][:3]}, file)
    with pytest.raises(CheckpointError, match="query_tokens"):
        exporting.merge(tmp_path / "run", tmp_path / "out")


def test_no_run_and_a_full_output_folder_are_refused(run, tmp_path):
    with pytest.raises(CheckpointError, match="not a run"):
        exporting.merge(tmp_path, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigurationError, match="exists"):
        exporting.export(run[0], tmp_path / "full")


def test_the_command_exports_a_folder_that_favor_ask_takes(run, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    exporting.add_export_arguments(parser)
    out = tmp_path / "out"
    assert exporting.run_export(parser.parse_args([str(run[0]), str(out)])) == 0
    assert "python -m serving --model" in capsys.readouterr().out
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(small_media.video(2.0))
    given = ["ask", str(clip), "What?", "--model", str(out), "--max-tokens", "3"]
    assert favor_command(given) == 0
    assert capsys.readouterr().out.strip()
