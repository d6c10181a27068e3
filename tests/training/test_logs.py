"""A run's log: every step in the file, rates on the console, boards on request."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from favor.errors import MissingDependencyError
from training.logs import METRICS, Rates, RunLog, StepMetrics, clock, read_steps
from training.recipe import Logging

QUIET = Logging(every_steps=2, tensorboard=False)
STEP = StepMetrics(
    step=1,
    loss=2.5,
    language_loss=2.49,
    diversity_loss=1.0,
    learning_rate=1e-4,
    grad_norm=0.5,
    num_samples=4,
    av_seconds=40.0,
    num_tokens=1000,
    num_target_tokens=100,
    seconds=2.0,
    data_wait_s=0.5,
    flops=4e12,
    peak_memory_bytes=3 * 2**30,
)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def test_every_step_is_in_the_file_and_every_second_on_the_console(tmp_path, capsys):
    log = RunLog(tmp_path, QUIET, total_steps=5, is_main=True)
    for number in range(1, 6):
        log.step(replace(STEP, step=number))
    log.close()
    assert list(read_steps(tmp_path)) == [1, 2, 3, 4, 5]
    assert read_steps(tmp_path)[3]["loss"] == 2.5
    shown = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in shown] == ["step 2/5", "step 4/5", "step 5/5"]


def test_the_console_line_has_all_that_was_promised(tmp_path, capsys):
    log = RunLog(tmp_path, QUIET, total_steps=1802, is_main=True)
    log.step(STEP)
    log.step(replace(STEP, step=2, loss=1.5))
    log.close()
    assert capsys.readouterr().out.strip() == (
        "step 2/1802  loss 2.0000 (language 2.4900, diversity 1.000)  lr 1.00e-04  norm 0.50  2 samples/s  20 av s/s"
        "  500 tokens/s  2 TFLOP/s  data wait 25%  peak 3.0 GiB  1:00:00 left"
    )


def test_mfu_is_the_share_of_the_peak_of_all_gpus():
    assert Rates.of([STEP, STEP], peak=8e12).mfu == 0.25
    assert Rates.of([STEP], peak=None).mfu is None


def test_events_are_written_and_told(tmp_path, capsys):
    log = RunLog(tmp_path, QUIET, total_steps=5, is_main=True)
    log.event("validation", step=3, loss=1.23456)
    log.close()
    log.close()
    assert [line["event"] for line in lines(tmp_path)] == ["start", "validation"]
    assert capsys.readouterr().out == "validation: step 3, loss 1.235\n"


def test_a_loss_that_is_no_number_is_still_json(tmp_path):
    log = RunLog(tmp_path, QUIET, total_steps=5, is_main=True)
    log.step(replace(STEP, loss=float("nan")))
    log.close()
    assert lines(tmp_path)[1]["loss"] == "nan"


def test_a_resumed_run_writes_on_and_its_later_steps_count(tmp_path):
    for loss in (2.0, 1.0):
        log = RunLog(tmp_path, QUIET, total_steps=5, is_main=True)
        log.step(replace(STEP, step=1, loss=loss))
        log.close()
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"event": "step", "st')
    assert {number: step["loss"] for number, step in read_steps(tmp_path).items()} == {1: 1.0}


def test_other_processes_write_nothing(tmp_path, capsys):
    log = RunLog(tmp_path / "run", QUIET, total_steps=5, is_main=False)
    log.step(replace(STEP, step=2))
    log.event("validation", loss=1.0)
    log.close()
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def test_without_tensorboard_a_remark_is_made_and_the_run_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    RunLog(tmp_path, Logging(), total_steps=5, is_main=True).close()
    assert "logging.tensorboard=false" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_a_tracker_asked_for_by_name_must_be_there(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=f"Install {package}"):
        RunLog(tmp_path, Logging(tensorboard=False, **{f"{package}_project": "favor"}), total_steps=5, is_main=True)


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_a_tracker_gets_the_numbers(tmp_path, monkeypatch, package):
    said: list[tuple] = []
    fake = ModuleType(package)
    fake.init = lambda **options: said.append(("init", options["project"]))
    fake.log = lambda values, step: said.append((step, values["loss/total"]))
    fake.finish = lambda: said.append(("finish",))
    monkeypatch.setitem(sys.modules, package, fake)
    options = Logging(every_steps=1, tensorboard=False, **{f"{package}_project": "favor"})
    log = RunLog(tmp_path, options, total_steps=5, is_main=True)
    log.step(STEP)
    log.close()
    assert said == [("init", "favor"), (1, 2.5), ("finish",)]


def test_long_times_are_told_in_days():
    assert (clock(59.6), clock(3723), clock(2 * 86400 + 1)) == ("0:01:00", "1:02:03", "2 d 0:00:01")


@pytest.mark.slow  # the package comes with ./install.sh train
def test_tensorboard_reads_what_was_logged(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="extra train")
    log = RunLog(tmp_path, Logging(every_steps=1), total_steps=2, is_main=True)
    for number in (1, 2):
        log.step(replace(STEP, step=number))
    log.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, round(event.value, 4)) for event in events.Scalars("loss/language")] == [(1, 2.49), (2, 2.49)]
