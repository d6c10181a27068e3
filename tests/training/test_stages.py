"""A recipe with stages runs them in order, skips what finished, goes on with what was interrupted."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import yaml

from favor.errors import ConfigurationError
from tests.training import small_data
from training import __main__, recipe, stages

ROOT = Path(__file__).parents[2]


@pytest.fixture
def staged(tmp_path, monkeypatch):
    """Writes a recipe of these stages whose commands are small scripts; returns its path."""
    monkeypatch.setattr(stages, "MODULE", "tests.training.stage_worker")
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return lambda *given, **more: write(tmp_path, *given, **more)


def write(folder: Path, *given: dict, **more) -> Path:
    path = folder / "staged.yaml"
    whole = {"name": "mini", "summary": "for tests", "output": str(folder / "out"), "seed": 3, "stages": list(given)}
    path.write_text(yaml.safe_dump(whole | more))
    return path


def stage(name: str, together: str | None = None, **settings) -> dict:
    return {"name": name, "command": "cache", "together": together, "settings": settings}


def run(path: Path, *words: str) -> int:
    return __main__.main(["run", str(path), *words])


def done(tmp_path: Path, name: str) -> dict:
    return json.loads((tmp_path / "out" / f"{name}.done.json").read_text())


def test_stages_run_in_order_and_are_skipped_when_they_finished(staged, tmp_path, capfd):
    path = staged(stage("first"), stage("second", do="meet", other="{output}/first"))
    assert run(path) == 0
    shown = capfd.readouterr().out
    assert shown.index("stage first: finished") < shown.index("stage second: cache")
    assert f"cache with seed 3 and {os.cpu_count()} threads\n" in shown
    facts = done(tmp_path, "second")
    assert facts["seconds"] > 0
    assert "cores" in facts["hardware"]
    assert run(path) == 0
    assert capfd.readouterr().out == "stage first: finished before\nstage second: finished before\n"
    assert done(tmp_path, "second") == facts


def test_settings_are_filled_in_and_written_beside_the_log(staged, tmp_path):
    assert run(staged(stage("first", path="{output}/data"))) == 0
    out = tmp_path / "out"
    assert yaml.safe_load((out / "first.yaml").read_text()) == {
        "name": "mini-first",
        "summary": "for tests",
        "output": f"{out}/first",
        "seed": 3,
        "path": f"{out}/data",
    }
    assert "cache with seed 3" in (out / "first.log").read_text()


def test_stages_with_the_same_word_run_side_by_side_and_share_the_cores(staged, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    out = "{output}"
    path = staged(
        stage("eye", "both", do="meet", other=f"{out}/ear"), stage("ear", "both", do="meet", other=f"{out}/eye")
    )
    assert run(path) == 0
    shown = capfd.readouterr().out
    assert "eye: cache with seed 3 and 4 threads" in shown
    assert "ear: cache with seed 3 and 4 threads" in shown


def test_a_failing_stage_ends_the_run_with_its_status_and_names_its_log(staged, tmp_path, capfd):
    assert run(staged(stage("first", do="fail"), stage("second"))) == 7
    assert "stage first: failed with exit status 7, see " in capfd.readouterr().err
    assert not (tmp_path / "out" / "second.yaml").exists()


def test_a_failing_stage_lets_the_one_beside_it_save(staged, tmp_path):
    path = staged(stage("eye", "both", do="wait"), stage("ear", "both", do="fail-behind", other="{output}/eye"))
    assert run(path) == 3
    assert (tmp_path / "out" / "eye" / "saved").exists()
    assert not (tmp_path / "out" / "eye.done.json").exists()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_is_passed_on_and_the_next_start_goes_on_there(name, staged, tmp_path, capfd):
    path = staged(stage("first"), stage("second", do="signal", signal=name), stage("third"))
    before = signal.getsignal(signal.Signals[name])
    assert run(path) == 0
    assert signal.getsignal(signal.Signals[name]) == before
    assert f"{name} in the stage second" in capfd.readouterr().out
    assert (tmp_path / "out" / "second" / "saved").exists()
    assert not (tmp_path / "out" / "second.done.json").exists()
    assert run(path) == 0
    assert done(tmp_path, "second")["num_starts"] == 2
    assert done(tmp_path, "third")["num_starts"] == 1


def test_other_settings_than_a_stage_finished_with_are_refused(staged, capfd):
    path = staged(stage("first"), stage("second"))
    assert run(path) == 0
    assert run(path, "first.size=3") == 2
    assert "the stage 'first' has finished in this output folder with other settings" in capfd.readouterr().err
    assert run(path, "--only", "second", "first.size=3") == 2
    assert run(path, "second.summary=another") == 0


def test_only_and_until_choose_stages(staged, tmp_path, capfd):
    path = staged(stage("first"), stage("second"), stage("third"))
    assert run(path, "--only", "second") == 0
    assert [file.name for file in (tmp_path / "out").glob("*.done.json")] == ["second.done.json"]
    assert run(path, "--until", "second") == 0
    assert not (tmp_path / "out" / "third.done.json").exists()
    assert run(path, "--only", "thrid") == 2
    assert "Did you mean 'third'" in capfd.readouterr().err


def test_beginning_anew_is_refused_in_a_used_folder(staged, capfd, tmp_path):
    path = staged(stage("first"))
    assert run(path, "--resume", "never") == 0
    assert run(path, "--resume", "never") == 2
    assert "not empty" in capfd.readouterr().err


def test_overrides_reach_the_whole_and_one_stage(tmp_path):
    path = write(tmp_path, stage("first", sizes={"a": 1}), stage("second", seed=5))
    first, second = stages.jobs(stages.load(path, ["seed=8", "output=o", "first.sizes.b=2"]))
    assert yaml.safe_load(first.settings)["sizes"] == {"a": 1, "b": 2}
    assert [yaml.safe_load(job.settings)["seed"] for job in (first, second)] == [8, 5]
    assert first.folder == Path("o")


@pytest.mark.parametrize(
    "change, nearest",
    [
        (["frist.size=1"], "first"),
        (["sed=1"], "seed"),
        ({"outptu": "x"}, "output"),
        ({"stages": [{"name": "a", "comand": "run"}]}, "command"),
        ({"stages": [{"name": "a", "command": "rnu"}]}, "run"),
    ],
)
def test_what_is_unknown_is_refused_with_the_nearest_name(change, nearest, tmp_path):
    overrides, more = (change, {}) if isinstance(change, list) else ([], change)
    with pytest.raises(ConfigurationError, match=f"Did you mean '{nearest}'"):
        stages.load(write(tmp_path, stage("first"), **more), overrides)


@pytest.mark.parametrize(
    "given", [[stage("a"), stage("a")], [stage("seed")], [stage("a") | {"processes": 0}], [stage("../a")], []]
)
def test_impossible_stages_are_refused(given, tmp_path):
    with pytest.raises(ConfigurationError):
        stages.load(write(tmp_path, *given))


def test_a_single_run_and_a_launcher_are_told_apart_from_stages(tmp_path, monkeypatch):
    path = write(tmp_path, stage("first"))
    with pytest.raises(ConfigurationError, match=r"has stages.*training run"):
        recipe.load(path)
    assert run(Path("tiny-cpu"), "--only", "first") == 2
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(path) == 2


def test_many_processes_stand_under_torchrun_and_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (job,) = stages.jobs(stages.load(write(tmp_path, stage("first") | {"processes": "cores"})))
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "8", "-m", "training", "cache"]
    assert stages.command_line(job) == [sys.executable, "-m", *launcher, str(job.settings_file)]
    assert stages.environment(job, 1)["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert stages.environment(job, 1)["OMP_NUM_THREADS"] == "5"


@pytest.mark.slow
def test_a_real_stage_on_two_processes_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    settings = yaml.safe_load(small_data.write_recipe(tmp_path, small_data.write_data(tmp_path)).read_text())
    del settings["output"]
    settings |= {"engine": {"name": "ddp"}, "optimisation": {"steps": 2, "precision": "fp32"}}
    path = write(tmp_path, {"name": "learn", "command": "run", "processes": 2, "settings": settings})
    assert run(path) == 0
    assert (tmp_path / "out" / "learn" / "checkpoints").is_dir()
