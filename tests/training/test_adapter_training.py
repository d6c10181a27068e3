"""Training an adapter between the encoders with the real commands: run, resume, export, ask, on every engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import favor.__main__
import training.__main__
from favor.adapter_files import load_adapter
from favor.checkpoint import load_folder
from tests.test_adapters_in_favor import ADAPTERS
from tests.training.small_data import QUESTION, write_data, write_recipe
from tests.training.test_engines import assert_same, needs_deepspeed, train
from training import parts, recipe
from training.base_model import base_config, base_model
from training.flops import adapter_flops
from training.plan import Situation, batch_shape, plan

FAST = ["data.workers=0", "parts.llm=frozen", "optimisation.warmup_steps=0", "optimisation.learning_rate=0.01"]

every_adapter = pytest.mark.parametrize("name", ADAPTERS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    write_recipe(folder, write_data(folder))
    return folder


def run(*arguments: object) -> int:
    return training.__main__.main([str(argument) for argument in arguments])


def setting(name: str) -> str:
    return f"adapter={json.dumps(ADAPTERS[name])}"


def losses(output: Path) -> list[float]:
    entries = map(json.loads, (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [entry["loss"] for entry in entries if entry["event"] == "step"]


@every_adapter
def test_an_adapter_trains_resumes_and_goes_on_alone(
    folder: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    common = ["run", folder / "recipe.yaml", f"output={output}", setting(name), *FAST]
    assert run(*common, "optimisation.steps=2") == 0
    assert "adapter" in capsys.readouterr().out, "in the table of parts"
    assert run(*common, "optimisation.steps=3") == 0
    assert len(losses(output)) == 3
    checkpoint = output / "checkpoints" / "step-00000003"
    held = {path.name for path in checkpoint.glob("*.safetensors")}
    assert held == {"adapter.safetensors", "connector.safetensors", "rng-00000.safetensors"}

    with safe_open(checkpoint / "adapter.safetensors", "pt") as file:
        learnt = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    begun, _ = base_model(recipe.load(output / "recipe.yaml"))
    assert begun.adapter is not None
    start = dict(begun.adapter.named_parameters())
    assert learnt.keys() == start.keys()
    assert any(not torch.equal(value, start[key]) for key, value in learnt.items())

    assert run("export", output, tmp_path / "model") == 0
    assert run("export", output, tmp_path / "adapter", "--part", "adapter") == 0
    model, _ = load_folder(tmp_path / "model")
    assert model.adapter is not None
    saved = dict(model.adapter.named_parameters())
    assert all(torch.equal(saved[key], value) for key, value in learnt.items())
    model.put_adapter(None)
    load_adapter(model, tmp_path / "adapter")
    assert model.adapter is not None
    alone = dict(model.adapter.named_parameters())
    assert all(torch.equal(alone[key], value) for key, value in learnt.items())

    capsys.readouterr()
    ask = ["ask", str(folder / "red-low.mp4"), QUESTION, "--max-tokens", "4", "--model"]
    assert favor.__main__.main([*ask, str(tmp_path / "model")]) == 0
    answer = capsys.readouterr().out
    assert favor.__main__.main([*ask, str(tmp_path / "model"), "--adapter", str(tmp_path / "adapter")]) == 0
    assert capsys.readouterr().out == answer


def test_recomputing_activations_changes_no_loss(folder: Path, tmp_path: Path) -> None:
    found = []
    for is_on in ("false", "true"):
        output = tmp_path / is_on
        common = ["run", folder / "recipe.yaml", f"output={output}", setting("dg_sct"), *FAST, "optimisation.steps=3"]
        assert run(*common, f"engine.checkpoint_activations={is_on}") == 0
        found.append(losses(output))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0][0] != found[0][2]


def test_an_adapter_may_stay_frozen_and_may_not_be_lora(folder: Path, tmp_path: Path, capsys) -> None:
    common = ["run", folder / "recipe.yaml", f"output={tmp_path / 'run'}", setting("copl"), *FAST]
    assert run(*common, "optimisation.steps=1", "parts.adapter=frozen") == 0
    assert not (tmp_path / "run" / "checkpoints" / "step-00000001" / "adapter.safetensors").exists()
    assert "adapter" in json.loads((tmp_path / "run" / "base.json").read_text())
    assert run(*common, "output=" + str(tmp_path / "other"), "parts.adapter=lora") == 2
    assert "an adapter is small" in capsys.readouterr().err.lower()


@pytest.mark.parametrize("command", ["run", "cache"])
def test_kept_features_and_an_adapter_exclude_each_other(folder: Path, tmp_path: Path, capsys, command: str) -> None:
    common = [command, folder / "recipe.yaml", f"output={tmp_path / 'run'}", setting("lavish")]
    assert run(*common, f"data.cache={tmp_path / 'cache'}") == 2
    assert "an adapter between its encoders" in capsys.readouterr().err


def test_a_run_without_an_adapter_has_none_to_export(folder: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "run"
    assert run("run", folder / "recipe.yaml", f"output={output}", *FAST, "optimisation.steps=1") == 0
    assert run("export", output, tmp_path / "adapter", "--part", "adapter") == 2
    assert "no adapter" in capsys.readouterr().err
    assert not (tmp_path / "adapter").exists()


@every_adapter
def test_a_plan_counts_the_adapter(folder: Path, name: str) -> None:
    settings = [setting(name), "engine.checkpoint_activations=true"]
    with_it = recipe.load(folder / "recipe.yaml", settings)
    without = recipe.load(folder / "recipe.yaml", settings[1:])
    made, plain = plan(with_it, Situation()), plan(without, Situation())
    model, _ = base_model(with_it)
    assert model.adapter is not None
    (row,) = [row for row in made.parts if row.name == "adapter"]
    assert row.num_parameters == row.num_trained == sum(p.numel() for p in model.adapter.parameters())
    assert [row.name for row in plain.parts] == ["vision", "audio", "sync", "llm"]
    shape = batch_shape(base_config(with_it), with_it, Situation())
    assert made.flops.adapter == 3 * adapter_flops(model.config, shape) > 0 == plain.flops.adapter
    assert made.flops.vision > 1.9 * plain.flops.vision, "the gradient passes through"
    assert made.memory.activation_bytes > plain.memory.activation_bytes
    parts.apply(model, with_it.parts)


# --- engines: the same step on one process and on two, whatever streams a process finds -------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory):
    """Losses and tensors of one process, by adapter; made when they are first wanted."""
    made: dict[str, tuple] = {}

    def of(name: str) -> tuple:
        if name not in made:
            made[name] = train(tmp_path_factory.mktemp(name), 1, "plain", accumulation=1, adapter=ADAPTERS[name])
        return made[name]

    return of


@pytest.mark.parametrize("name", ["lavish", "copl"])
def test_two_processes_with_ddp_equal_one(tmp_path: Path, plain, name: str) -> None:
    """Every process has micro-batches without picture, without sound and without either."""
    both = train(tmp_path, 2, "ddp", accumulation=4, adapter=ADAPTERS[name])
    assert any(key.startswith("adapter.") for key in both[1])
    assert_same(both, plain(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dg_sct", "av_pea"])
def test_two_processes_with_ddp_equal_one_for_the_others(tmp_path: Path, plain, name: str) -> None:
    assert_same(train(tmp_path, 2, "ddp", accumulation=4, adapter=ADAPTERS[name]), plain(name))


@pytest.mark.slow
@needs_deepspeed
@every_adapter
@pytest.mark.parametrize("preset", ["zero2", "zero3"])
def test_two_processes_with_zero_equal_one(tmp_path: Path, plain, preset: str, name: str) -> None:
    both = train(tmp_path, 2, "deepspeed", preset=preset, accumulation=4, adapter=ADAPTERS[name])
    assert_same(both, plain(name))
