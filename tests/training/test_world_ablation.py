"""Comparing variants: equal budgets, streams that are really gone, honest intervals, a report made anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from favor.configuration import ConnectorConfig
from favor.errors import ConfigurationError
from favor.sync import ClipSteps, WindowPlan
from training.__main__ import main
from training.markdown import put_section
from training.world.ablation import exam, summary
from training.world.ablation.variants import BASE, MAX_STEPS, VARIANTS, chosen
from training.world.exam import probe


def soft_tokens(connector: dict[str, Any], steps: int) -> int:
    clip = ClipSteps.of_clip(num_frames=steps, num_audio_steps=steps, is_image=False)
    plan = WindowPlan.of([clip], window_steps=connector["window_steps"], align=connector["align"])
    return plan.num_windows * connector["num_query_tokens"]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_connector_and_spends_as_many_tokens_on_a_whole_clip(name):
    connector = VARIANTS[name].connector
    ConnectorConfig(tokens_per_step=25, num_positions=500, **connector)
    assert soft_tokens(connector, MAX_STEPS) == soft_tokens(BASE, MAX_STEPS) == 40


def test_variants_differ_from_full_in_what_they_are_named_after():
    assert VARIANTS["full"].changes == {}
    assert all(variant.connector != BASE or variant.without for name, variant in VARIANTS.items() if name != "full")


def test_an_unknown_variant_is_refused_with_the_nearest_name():
    assert chosen(["concat", "full"]) == ["full", "concat"]
    with pytest.raises(ConfigurationError, match="no_causal"):
        chosen(["no_casual"])


def test_intervals_are_student_s_and_differences_are_paired():
    found = summary.estimate([0.5, 0.6, 0.7])
    assert found.mean == pytest.approx(0.6)
    assert found.half == pytest.approx(4.303 * 0.1 / np.sqrt(3))
    assert summary.estimate([0.5]).half is None
    scores = [a_run("full", seed, 0.3 * seed) for seed in (1, 2, 3)]
    scores += [a_run("concat", seed, 0.3 * seed - 0.1) for seed in (1, 2)]
    full, concat = summary.rows(scores)
    assert full.differences == {}
    difference = concat.differences["mean"]
    assert (difference.n, difference.mean, difference.half) == pytest.approx((2, -0.1, 0.0), abs=1e-9)
    assert difference.is_clear
    assert full.values["mean"].n != concat.values["mean"].n


def a_run(variant: str, seed: int, mean: float) -> dict[str, Any]:
    shares = dict.fromkeys(("mean", "sync", "temporal", "perception"), mean)
    return {
        "run": {"variant": variant, "seed": seed, "steps": 6},
        "shares": shares,
        "query_cosine": 0.1,
        "tokens_per_clip": 40.0,
        "timeline_loss": None,
        "trained_weights": 1,
        "seconds": {"training": 1.0},
    }


def test_the_section_is_replaced_between_its_markers_and_nothing_else(tmp_path):
    path = tmp_path / "benchmarks" / "RESULTS.md"
    put_section(path, "ablation", "first", header=summary.HEADER)
    path.write_text("before\n" + path.read_text() + "after\n")
    put_section(path, "ablation", "second")
    text = path.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "first" not in text
    assert text.count("second") == text.count("<!-- ablation:begin -->") == text.count("<!-- ablation:end -->") == 1


@pytest.fixture
def _quick_probe(monkeypatch: pytest.MonkeyPatch):
    """The most frequent answers, from fewer clips than a real paper looks at."""
    monkeypatch.setattr(probe, "_SCENES", 150)
    probe._answers.cache_clear()
    yield
    probe._answers.cache_clear()


@pytest.mark.usefixtures("_quick_probe")
def test_a_restricted_paper_has_short_clips_and_as_many_questions_of_each_task():
    paper = exam.restricted_paper(20)
    numbers = {task: sum(item.question.task == task for item in paper.items) for task in exam.TASKS}
    assert all(20 <= number <= 30 for number in numbers.values()), numbers
    assert sum(numbers.values()) == len(paper.items)
    assert {clip.scene.kind for clip in paper.clips} == set(exam.KINDS)
    assert max(clip.scene.seconds for clip in paper.clips) <= MAX_STEPS / 2
    assert len({clip.scene.seed for clip in paper.clips}) == len(paper.clips)
    right = exam.shares([item.question for item in paper.items], [item.question.answer for item in paper.items])
    assert set(right.values()) == {1.0}
    assert exam.without_skill(paper)["mean"] < 0.6


@pytest.mark.usefixtures("_quick_probe")
def test_the_command_teaches_examines_and_reports_and_does_nothing_twice(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["ablate", "--smoke", "--out", str(out)]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found) == {"full", "concat"}
    scores = json.loads((out / "full" / "seed-1" / "scores.json").read_text())
    assert set(scores["shares"]) == {*exam.TASKS, *exam.GROUPS, "mean"}
    assert set(scores["mismatched_sound"]) == {"mismatched_sound", "both"}
    assert scores["timeline_loss"] > 0
    assert -0.1 <= scores["query_cosine"] <= 1.0
    assert {path.name for path in (out / "full" / "seed-1").iterdir()} == {"scores.json", "run.json", "log.txt"}
    assert "<!-- ablation:begin -->" in (out / "benchmarks" / "RESULTS.md").read_text()
    assert (out / "docs" / "ablation.png").stat().st_size > 5_000
    written = (out / "full" / "seed-1" / "scores.json").stat().st_mtime_ns
    again = ["ablate", "--out", str(out), "--report", str(out), "--report-only"]
    assert main(again) == 0
    assert (out / "full" / "seed-1" / "scores.json").stat().st_mtime_ns == written


def test_finished_runs_with_other_settings_are_refused(tmp_path: Path):
    from training.world.ablation import study
    from training.world.ablation.single import Run

    run = Run(
        variant="full", seed=1, model="m", features="f", val=None, exam="e", questions_per_task=2,
        output=str(tmp_path), steps=6,
    )  # fmt: skip
    assert not study.has_finished(run)
    (tmp_path / "scores.json").write_text(json.dumps({"run": run.model_dump()}))
    assert study.has_finished(run)
    with pytest.raises(ConfigurationError, match="other settings"):
        study.has_finished(run.model_copy(update={"steps": 7}))
