"""The whole path with the real commands: check, cache, run, resume, merge, export, ask."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import favor.__main__
import training.__main__
from favor import Chat, Decoding, VideoPart, presets, user
from tests.training.small_data import COLOURS, PITCHES, QUESTION, write_data, write_recipe
from training import recipe as recipes

FAST = [  # a random language model learns nothing through LoRA alone, so it learns whole
    "parts.llm=full",
    "optimisation.steps=120",
    "optimisation.micro_batch=3",
    "optimisation.learning_rate=5.0e-3",
    "saving.every_steps=60",
    "logging.every_steps=20",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write_recipe(folder, write_data(folder))
    return folder


def train(*arguments: str) -> int:
    return training.__main__.main([str(argument) for argument in arguments])


def train_in_a_process(*arguments: str) -> str:
    """The real command, as a user gives it."""
    done = subprocess.run(
        [sys.executable, "-m", "training", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def cached(folder: Path) -> str:
    """Data checked and features cached; the override that uses them."""
    assert train("check", folder / "data.jsonl") == 0
    assert train("cache", folder / "recipe.yaml", f"data.cache={folder / 'features'}") == 0
    return f"data.cache={folder / 'features'}"


@pytest.fixture(scope="module")
def trained(folder: Path, cached: str) -> Path:
    """A run that was stopped half way by its number of steps, and resumed to the end."""
    output = folder / "run"
    common = [str(folder / "recipe.yaml"), f"output={output}", cached, *FAST, "optimisation.schedule=constant"]
    train_in_a_process("run", *common, "optimisation.steps=60")
    said = train_in_a_process("run", *common)
    assert "120/120" in said
    return output


def losses(run: Path) -> dict[int, float]:
    entries = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return {entry["step"]: entry["loss"] for entry in entries if entry["event"] == "step"}


def test_the_loss_falls_by_nine_tenths(trained: Path) -> None:
    found = losses(trained)
    assert found[120] < 0.1 * found[1]
    assert sorted(found) == list(range(1, 121))


def test_what_was_learnt_is_answered_after_merge_and_export(folder: Path, trained: Path, capsys) -> None:
    assert train("export", trained, folder / "model") == 0
    capsys.readouterr()
    answers = {}
    for colour in COLOURS:
        for pitch in PITCHES:
            clip = folder / f"{colour}-{pitch}.mp4"
            assert favor.__main__.main(["ask", str(clip), QUESTION, "--model", str(folder / "model")]) == 0
            answers[f"{colour} {pitch}"] = capsys.readouterr().out.strip()
    assert answers == {answer: answer for answer in answers}


def test_the_answer_needs_both_picture_and_sound(folder: Path, trained: Path) -> None:
    if not (folder / "model").exists():
        assert train("export", trained, folder / "model") == 0
    chat = Chat.load(str(folder / "model"))
    decoding = Decoding(max_new_tokens=12)
    swapped = VideoPart(folder / "red-low.mp4", sound=folder / "red-high.mp4")
    assert chat.answer([user(swapped, QUESTION)], decoding) == "red high"


def test_frozen_weights_are_bit_identical_and_no_checkpoint_holds_them(folder: Path, trained: Path) -> None:
    if not (folder / "model").exists():
        assert train("export", trained, folder / "model") == 0
    saved = load_file(folder / "model" / "model.safetensors")
    untouched, _ = presets.build("tiny")
    frozen = [(n, p) for n, p in untouched.named_parameters() if n.startswith(("vision.", "audio."))]
    assert len(frozen) > 100
    for name, value in frozen:
        assert torch.equal(saved[name], value), name
    checkpoint = trained / "checkpoints" / "step-00000120"
    names = {path.name for path in checkpoint.iterdir()}
    assert names == {"connector.safetensors", "llm.safetensors", "optimizer", "rng-00000.safetensors", "state.json"}


def test_a_lora_checkpoint_is_as_large_as_what_was_trained(folder: Path) -> None:
    output = folder / "lora"
    assert train("run", folder / "recipe.yaml", f"output={output}", "optimisation.steps=2") == 0
    checkpoint = output / "checkpoints" / "step-00000002"
    size = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    trained_bytes = 4 * (53_432 + 2_048)  # connector and LoRA in float32
    overhead = 128 * 1024  # names and headers of 98 tensors three times, random state, JSON
    assert 3 * trained_bytes < size < 3 * trained_bytes + overhead  # weights and two Adam moments


def test_merged_lora_answers_as_the_adapter_does(folder: Path) -> None:
    output = folder / "lora"
    if not output.exists():
        assert train("run", folder / "recipe.yaml", f"output={output}", "optimisation.steps=2") == 0
    assert train("merge", output, folder / "merged") == 0
    assert train("export", output, folder / "adapter") == 0
    clip = [user(VideoPart(folder / "red-low.mp4"), QUESTION)]
    with torch.no_grad():
        one, other = (
            chat.model(**chat.prepare(clip).inputs).logits
            for chat in (Chat.load(str(folder / "merged")), Chat.load(str(folder / "adapter")))
        )
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_the_saved_recipe_is_the_resolved_one(trained: Path) -> None:
    saved = recipes.load(trained / "recipe.yaml")
    assert saved.parts.llm == "full"
    assert saved.optimisation.learning_rate == 5e-3
    assert saved.optimisation.steps == 120


def test_a_run_that_must_not_resume_refuses_a_used_folder(folder: Path, trained: Path, capsys) -> None:
    assert train("run", folder / "recipe.yaml", f"output={trained}", "--resume", "never") == 2
    assert "step-00000120" in capsys.readouterr().err


def test_the_exported_language_model_is_a_plain_hugging_face_one(folder: Path, trained: Path) -> None:
    if not (folder / "model").exists():
        assert train("export", trained, folder / "model") == 0
    assert AutoModelForCausalLM.from_pretrained(folder / "model" / "llm").config.model_type == "llama"


def test_an_unknown_key_is_refused_with_the_nearest_name(folder: Path, capsys) -> None:
    assert train("run", folder / "recipe.yaml", "optimisation.learning_rat=1") == 2
    assert "Did you mean 'learning_rate'" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 1])
def test_a_clip_that_was_not_cached_ends_the_run_and_is_no_bad_sample(folder: Path, capsys, workers: int) -> None:
    given = [folder / "recipe.yaml", f"output={folder / 'missed'}", f"data.cache={folder / 'empty'}"]
    assert train("run", *given, f"data.workers={workers}", "optimisation.micro_batch=6") == 2
    assert "not in the cache" in capsys.readouterr().err


def test_a_cache_and_mixed_modality_sampling_exclude_each_other(folder: Path, capsys) -> None:
    given = [folder / "recipe.yaml", f"output={folder / 'mixed'}", f"data.cache={folder / 'empty'}"]
    assert train("run", *given, "--resume", "never", "data.mixing.matching_questions=0.5") == 2
    assert "data.mixing" in capsys.readouterr().err
