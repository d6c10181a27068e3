"""FLOPs, memory and time of a run, counted from its recipe alone and held against hand counts."""

from __future__ import annotations

import argparse
import json

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from favor import presets
from favor.messages import VideoPart, user
from tests import small_media
from tests.conftest import Tiny
from training import plan as planning
from training import recipe
from training.flops import BatchShape, flops_by_part, flops_per_step, multiplying_weights, peak_flops
from training.plan import Situation, plan
from training.recipe import Parts

HALF_A_MINUTE = BatchShape(
    num_frames=60,
    num_chunks=1,
    num_audio_steps=60,
    num_windows=6,
    num_question_tokens=12,
    num_sequences=1,
    num_tokens=320,
)
FROZEN = Parts(vision="frozen", audio="frozen", sync="frozen", llm="frozen")


def change(name: str, *overrides: str) -> recipe.Recipe:
    return recipe.load(name, list(overrides))


# --- FLOPs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset, llm_tflop", [("favor-7b", 8.6), ("favor-13b", 16.6)])
def test_half_a_minute_costs_what_was_calculated_by_hand(preset, llm_tflop):
    flops = flops_by_part(presets.config(preset), Parts(), HALF_A_MINUTE)
    assert flops.vision == pytest.approx(31e12 + 60 * 0.02e12, rel=0.05)  # ViT, and the image Q-Former
    assert flops.audio == pytest.approx(2.3e12, rel=0.05)
    assert flops.llm == pytest.approx(llm_tflop * 1e12, rel=0.03)
    assert flops.recompute == pytest.approx(llm_tflop * 1e12 / 2, rel=0.03)


def test_a_language_model_with_lora_costs_4n_a_token_and_a_trained_one_6n():
    config = presets.config("favor-7b")
    weights = multiplying_weights(config)
    assert weights["llm"] == 6_738_415_616 - 32000 * 4096 - 65 * 4096  # without the embeddings and norms
    one_token = BatchShape(0, 0, 0, 0, 0, num_sequences=1, num_tokens=1)
    attention = 4 * 4096 * 32
    lora = flops_by_part(config, Parts(), one_token).llm
    assert lora == 4 * weights["llm"] + 6 * weights["lora"] + 3 * attention
    full = flops_by_part(config, Parts(llm="full"), one_token).llm
    assert full == 6 * (weights["llm"] + weights["lora"]) + 3 * attention
    only_connector = flops_by_part(config, Parts(llm="frozen"), one_token).llm
    assert only_connector == 4 * (weights["llm"] + weights["lora"]) + 3 * attention


def test_the_forward_count_is_what_torch_counts(tiny: Tiny):
    question = "What is it, and where?"
    inputs = tiny.processor([user(VideoPart(small_media.video(6.0)), question)])
    # the fused kernels of a CPU escape the counter
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        tiny.model(**inputs)
    counted = flops_per_step(tiny.model.config, FROZEN, BatchShape.of(inputs))
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_cached_features_cost_no_encoder(tiny: Tiny, tmp_path):
    from favor.feature_cache import FeatureCache

    chat = [user(VideoPart(small_media.video(2.0)), "What?")]
    live = BatchShape.of(tiny.processor(chat))
    kept = BatchShape.of(tiny.processor(chat, features=FeatureCache.open(tmp_path, *tiny)))
    flops = flops_by_part(tiny.model.config, Parts(), kept)
    assert flops.vision == flops.audio == 0
    assert flops.sync == flops_by_part(tiny.model.config, Parts(), live).sync > 0


def test_counting_leaves_the_random_numbers_alone():
    state = torch.get_rng_state()
    config = presets.config("tiny")
    config.connector_config.window_steps = 7  # counted for the first time
    multiplying_weights(config)
    assert torch.equal(torch.get_rng_state(), state)


def test_peaks_are_known_by_the_names_that_cards_give_themselves():
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("Voodoo 2") is None


# --- memory -----------------------------------------------------------------------------------------------------------


def test_weights_are_those_of_the_parts_in_their_dtypes():
    made = plan(change("instruct-13b"), Situation())
    rows = {row.name: row for row in made.parts}
    assert rows["sync"].num_trained + rows["llm"].num_trained == 103_826_176
    assert rows["vision"].num_trained == rows["audio"].num_trained == 0
    assert made.memory.encoder_bytes == 2 * (rows["vision"].num_parameters + rows["audio"].num_parameters)
    assert made.memory.weight_bytes == 2 * (rows["sync"].num_parameters + rows["llm"].num_parameters)


@pytest.mark.parametrize(
    "name, gradients, optimiser, weights",
    [("zero1", 1, 8, 1), ("zero2", 8, 8, 1), ("zero3", 8, 8, 8)],
)
def test_each_zero_stage_splits_what_it_says(name, gradients, optimiser, weights):
    made = plan(change("instruct-13b", f"engine.deepspeed={name}"), Situation(num_gpus=8))
    trained = 103_826_176
    inside = 2 * sum(row.num_parameters for row in made.parts if row.name in ("sync", "llm"))
    assert made.memory.gradient_bytes == 2 * trained // gradients
    assert made.memory.optimiser_bytes == 12 * trained // optimiser
    assert made.memory.weight_bytes == inside // weights
    assert (made.memory.gathered_bytes > 0) == (name == "zero3")


def test_offload_moves_the_optimiser_and_with_zero3_the_weights_to_the_host():
    two = plan(change("instruct-13b", "engine.deepspeed=zero2-offload"), Situation())
    assert (two.memory.optimiser_bytes, two.memory.host_bytes) == (0, 12 * 103_826_176 // 8)
    three = plan(change("instruct-13b", "engine.deepspeed=zero3-offload"), Situation())
    assert three.memory.weight_bytes == 0
    assert three.memory.host_bytes > 3e9


def test_plain_training_keeps_what_it_trains_in_float32():
    made = plan(change("one-gpu"), Situation(num_gpus=1))
    trained = sum(row.num_trained for row in made.parts)
    assert made.memory.optimiser_bytes == 8 * trained
    assert made.memory.gradient_bytes == 4 * trained


def test_recomputing_saves_memory_and_costs_time():
    kept = plan(change("instruct-7b", "engine.checkpoint_activations=false"), Situation())
    again = plan(change("instruct-7b"), Situation())
    assert again.memory.activation_bytes < kept.memory.activation_bytes / 4
    assert again.seconds_per_step > kept.seconds_per_step
    assert again.flops_per_step == kept.flops_per_step


def test_a_run_that_does_not_fit_is_told_what_to_try():
    made = plan(change("instruct-13b", "engine.checkpoint_activations=false"), Situation(gpu_memory_gb=24))
    assert not made.does_fit
    assert any("checkpoint_activations" in hint for hint in made.advice)
    assert any("zero3" in hint for hint in made.advice)


# --- steps and time ---------------------------------------------------------------------------------------------------


def test_time_is_work_over_speed():
    made = plan(change("instruct-7b", "engine.checkpoint_activations=false"), Situation(num_gpus=4))
    assert made.samples_per_step == 4 * 16
    work_of_one = made.flops_per_step / 4
    assert made.seconds_per_step == pytest.approx(work_of_one / (312e12 * 0.35))
    assert made.hours == pytest.approx(made.seconds_per_step * made.steps / 3600)


def test_a_planned_batch_has_the_shape_of_a_real_one(tiny: Tiny):
    real = BatchShape.of(tiny.processor([user(VideoPart(small_media.video(6.0)), "What?")]))
    made = plan(change("tiny-cpu", "optimisation.micro_batch=1"), Situation(num_gpus=1, clip_seconds=6.0)).shape
    for name in ("num_frames", "num_chunks", "num_audio_steps", "num_windows", "num_sequences"):
        assert getattr(made, name) == getattr(real, name), name


@pytest.mark.parametrize("memory, status", [("80", 0), ("16", 1)])
def test_the_command_says_whether_it_fits_and_writes_json(memory, status, capsys):
    parser = argparse.ArgumentParser()
    planning.add_arguments(parser)
    given = ["instruct-7b", "--gpus", "16", "--gpu-memory", memory]
    assert planning.run(parser.parse_args(given)) == status
    assert ("does NOT fit" in capsys.readouterr().out) == bool(status)
    assert planning.run(parser.parse_args([*given, "--json"])) == status
    shown = json.loads(capsys.readouterr().out)
    assert shown["does_fit"] == (status == 0)
    assert shown["situation"]["num_gpus"] == 16
