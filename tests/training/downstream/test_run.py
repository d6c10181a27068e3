"""Fine-tuning end to end on a tiny host and a handful of clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from eval.scoring import score_ave
from favor.encoders import HOSTS
from favor.errors import CheckpointError, ConfigurationError
from tests.training.downstream.small_runs import recipe, register, write_ave
from training import __main__ as command
from training.downstream import recipe as recipes
from training.downstream import run as running
from training.downstream.clips import Clips, batch_of
from training.downstream.hosts import Heard, doubled_rate, open_host, segment_starts
from training.downstream.model import FineTuned
from training.downstream.recipe import Downstream, Plan
from training.downstream.run import fine_tune

RECIPES = Path(running.__file__).parents[1] / "recipes" / "downstream"


@pytest.fixture(autouse=True)
def tiny_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_ave(tmp_path_factory.mktemp("ave"))


def plan(data: dict[str, str], output: Path, **changes: Any) -> Plan:
    return Plan(Downstream.model_validate(recipe(data, output, **changes)))


def built(given: Plan) -> FineTuned:
    torch.manual_seed(0)
    return FineTuned(given, open_host(given.recipe.host, given.task))


def arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as archive:
        return {name: archive[name] for name in archive.files}


def score(data: dict[str, str], predictions: Path, split: str) -> float:
    return score_ave(Path(data["annotations"]), predictions, split=Path(data[split]))["segment_accuracy"]


def test_it_overfits_four_clips_and_eval_scores_what_it_wrote(data: dict[str, str], tmp_path: Path) -> None:
    given = plan(
        data,
        tmp_path / "run",
        cache=str(tmp_path / "cache"),
        head={"loss": "cross_entropy"},
        optimisation={"epochs": 14},
    )
    report = fine_tune(given)
    assert score(data, tmp_path / "run" / "test.npz", "test") == 1.0
    best = tmp_path / "run" / f"val-{report['selected_epoch']:03d}.npz"
    assert score(data, best, "val") == report["selection_score"] == 1.0
    assert arrays(best)["clips"].tolist() == ["clip1", "clip0", "clip3", "clip2"]
    assert (report["selected_on"], report["selected_by"]) == ("val", "score")
    assert report["protocol"].startswith("selected on the validation split")
    assert report["trained_parameters"] == report["adapter_parameters"] + report["head_parameters"] > 0
    assert not report["has_pretrained_host"]
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 4
    assert len(list((tmp_path / "run").glob("epoch-*.safetensors"))) == 1
    written = (tmp_path / "run" / "test.npz").stat().st_mtime_ns
    assert fine_tune(given)["selected_epoch"] == report["selected_epoch"]  # nothing is left to do
    assert (tmp_path / "run" / "test.npz").stat().st_mtime_ns == written


def test_a_killed_run_goes_on_as_if_it_had_not_been(
    data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"head": {"kind": "event", "gamma": 0.1}, "adapter": {"name": "lavish", "reduction": 4}}
    fine_tune(plan(data, tmp_path / "whole", keep_best=2, **changes))
    train, epochs = running._Run._train, []

    def killed(self: Any, number: int) -> float:
        epochs.append(number)
        loss = train(self, number)
        if len(epochs) == 2:  # at the end of the second epoch, before it is saved
            raise KeyboardInterrupt
        return loss

    monkeypatch.setattr(running._Run, "_train", killed)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(plan(data, tmp_path / "parted", keep_best=2, **changes))
    fine_tune(plan(data, tmp_path / "parted", keep_best=2, **changes))
    assert epochs == [1, 2, 2]
    for number in (1, 2):
        one, other = (load_file(tmp_path / run / f"epoch-00{number}.safetensors") for run in ("whole", "parted"))
        assert one.keys() == other.keys()
        assert any("running_mean" in name for name in one)
        assert not any(name.startswith("encoders.") for name in one)
        assert all(torch.equal(one[name], other[name]) for name in one)
    for name, array in arrays(tmp_path / "whole" / "test.npz").items():
        assert np.array_equal(array, arrays(tmp_path / "parted" / "test.npz")[name])


def test_the_epoch_is_selected_on_val_and_only_on_test_if_told_so(
    data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = iter([0.2, 0.9, 0.1] * 2)
    settings = recipe(data, tmp_path / "val", optimisation={"epochs": 3})
    given = Plan(Downstream.model_validate(settings))
    monkeypatch.setattr(type(given.task), "score", lambda *_: next(told))
    report = fine_tune(given)
    assert (report["selected_epoch"], report["selection_score"], report["epochs"]) == (2, 0.9, 3)
    written = sorted(file.name for file in (tmp_path / "val").glob("*.npz"))
    assert written == ["test.npz", "val-001.npz", "val-002.npz", "val-003.npz"]
    file = tmp_path / "published.yaml"
    file.write_text(json.dumps({**settings, "output": str(tmp_path / "published")}), encoding="utf-8")
    assert command.main(["downstream", str(file), "--published-protocol", "keep_best=2"]) == 0
    shown = capsys.readouterr()
    last = json.loads(shown.out.strip().splitlines()[-1])
    assert "SELECTED ON THE TEST SPLIT" in last["protocol"]
    assert "SELECTED ON THE TEST SPLIT" in shown.err
    assert (last["selected_on"], last["selected_epoch"]) == ("test", 2)
    assert [file.name for file in (tmp_path / "published").glob("*.npz")] == ["test.npz"]
    with pytest.raises(ConfigurationError, match="holds a run with other selects_on"):
        fine_tune(Plan(Downstream.model_validate({**settings, "output": str(tmp_path / "published"), "keep_best": 2})))


def test_patience_ends_a_run_early(data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = plan(data, tmp_path, optimisation={"epochs": 9, "patience": 1})
    told = iter([0.5, 0.4])
    monkeypatch.setattr(type(given.task), "score", lambda *_: next(told))
    assert fine_tune(given)["epochs"] == 2


def test_accumulated_batches_give_the_gradient_of_one_large_batch(data: dict[str, str], tmp_path: Path) -> None:
    trained = []
    for batch, accumulation in ((4, 1), (1, 4), (3, 2)):  # three and one: an uneven last batch
        output = tmp_path / f"{batch}-{accumulation}"
        optimisation = {"batch": batch, "accumulation": accumulation, "epochs": 1}
        fine_tune(plan(data, output, optimisation=optimisation))
        trained.append(load_file(output / "epoch-001.safetensors"))
    for other in trained[1:]:
        for name, weight in trained[0].items():
            torch.testing.assert_close(other[name], weight, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("adapter", ["none", "bottleneck", "lora"])
def test_baselines_train_what_they_say(data: dict[str, str], tmp_path: Path, adapter: str) -> None:
    model = built(plan(data, tmp_path, adapter=adapter)).train()
    names = {name for name, weight in model.named_parameters() if weight.requires_grad and not name.startswith("head.")}
    wanted = {"none": set(), "bottleneck": {"joint"}, "lora": {"encoders"}}[adapter]
    assert {name.split(".")[0] for name in names} == wanted
    assert all("lora_" in name for name in names if name.startswith("encoders."))
    assert not any(encoder.training for encoder in model.encoders)
    clips = samples(model, plan(data, tmp_path, adapter=adapter))
    model.loss(clips).backward()
    grads = [weight.grad for name, weight in model.named_parameters() if weight.requires_grad]
    assert all(weight.grad is None for weight in model.parameters() if not weight.requires_grad)
    assert any(grad is not None and grad.any() for grad in grads)


def samples(model: FineTuned, given: Plan) -> Any:
    host = open_host(given.recipe.host, given.task)
    clips = Clips(given.task.examples(given.files, "val"), task=given.task, files=given.files, host=host)
    return batch_of([clips[(0, -1)], clips[(1, -1)]], host.pieces_per_row)


def test_layer_norms_learn_on_request(data: dict[str, str], tmp_path: Path) -> None:
    model = built(plan(data, tmp_path, adapter="none", train_norms=True))
    names = {name for name, weight in model.named_parameters() if weight.requires_grad and name.startswith("encoders.")}
    assert names
    assert all("layernorm" in name for name in names)
    assert names <= model.state().keys()


def test_a_whisper_host_gives_every_segment_its_half_seconds(data: dict[str, str], tmp_path: Path) -> None:
    given = plan(data, tmp_path, host="tiny-whisper")
    model = built(given)
    batch = samples(model, given)
    assert batch.pieces.shape == (20, 2)  # one-second segments hear two steps
    assert set(batch.pieces[:10].flatten().tolist()) == {0, 1}  # of a clip of one second
    assert set(batch.pieces[10:].flatten().tolist()) == {2, 3}
    seen, output = model(batch)
    assert seen.audio.shape == (20, 50, 16)
    assert output.scores.shape == (2, 10, 29)


def test_sound_is_cut_at_equal_distances() -> None:
    assert segment_starts(160_000, 10, 16_000) == [16_000 * number for number in range(10)]
    assert segment_starts(16_000, 3, 16_000) == [0, 0, 0]


def test_doubling_the_rate_keeps_a_tone() -> None:
    times = np.arange(1600) / 16_000
    made = doubled_rate(np.sin(2 * np.pi * 500 * times).astype(np.float32))
    assert np.allclose(made, np.sin(2 * np.pi * 500 * np.arange(3200) / 32_000), atol=1e-4)


def test_sound_that_no_segment_hears_meets_nobody() -> None:
    heard = Heard(torch.zeros(1, 8, 100), torch.tensor([[0], [2]]), 3)
    from training.downstream.clips import _meetings

    meetings, pieces = _meetings([heard, heard], 4)
    assert meetings.frames.tolist() == [0, 1, 2, 3]
    assert meetings.pieces.tolist() == [0, 2, 4, 6]
    assert meetings.moments.tolist() == [0, 1, 0, 1]
    assert meetings.lone_pieces.tolist() == [1, 5]
    assert pieces.tolist() == [[0], [2], [4], [6]]


def test_host_weights_are_loaded_strictly_and_random_ones_are_warned_of(
    data: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = plan(data, tmp_path).task
    donor = HOSTS["tiny"].visual().model
    assert isinstance(donor, torch.nn.Module)
    state = {name: weight + 1 for name, weight in donor.state_dict().items()}
    save_file(state, tmp_path / "visual.safetensors")
    host = open_host("tiny", task, weights=str(tmp_path))
    assert "RANDOM" not in capsys.readouterr().err
    loaded = host.visual.state_dict()
    assert all(torch.equal(loaded[f"model.{name}"], weight) for name, weight in state.items())
    open_host("tiny", task)
    assert "RANDOM WEIGHTS" in capsys.readouterr().err
    save_file({**state, "classifier.weight": torch.zeros(1)}, tmp_path / "visual.safetensors")
    with pytest.raises(CheckpointError, match="classifier"):
        open_host("tiny", task, weights=str(tmp_path))
    (tmp_path / "visual.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no visual\.safetensors"):
        open_host("tiny", task, weights=str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "avr2"}, "the task is 'avr2'.*avr"),
        ({"data": {"rot": "x"}}, "section data has the unknown key 'rot'.*Did you mean 'root'"),
        ({"head": {"kinds": "linear"}}, "section head has the unknown key 'kinds'.*Did you mean 'kind'"),
        ({"adapter": {"name": "lavish", "latents": 3}}, "num_latents"),
        ({"adapter": {"name": "lavich"}}, "Did you mean 'lavish'"),
    ],
)
def test_what_nobody_knows_is_refused(
    data: dict[str, str], tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    settings = recipe(data, tmp_path) | changes
    with pytest.raises(ConfigurationError, match=words):
        Plan(Downstream.model_validate(settings))


def test_unknown_keys_and_hosts_and_missing_clips_are_refused(data: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(json.dumps(recipe(data, tmp_path / "run")), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="Did you mean 'epochs'"):
        recipes.load(file, ["optimisation.epoch=3"])
    with pytest.raises(ConfigurationError, match=r"the host is 'swinv2-xl'.*Did you mean 'swinv2-l'"):
        open_host("swinv2-xl", plan(data, tmp_path).task)
    with pytest.raises(ConfigurationError, match="4 files of 4 examples are not there"):
        fine_tune(recipes.load(file, [f"data.root={tmp_path}"]))


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_recipes_that_come_with_it_are_read_and_say_what_they_are(file: Path) -> None:
    given = recipes.load(f"downstream/{file.stem}")
    assert given.recipe.name == file.stem
    opening = file.read_text(encoding="utf-8")
    for word in ("Reproduces:", "Expected time:", "Expected score:", "Hardware:"):
        assert f"# {word}" in opening
