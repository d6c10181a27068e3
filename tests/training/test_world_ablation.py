"""Comparing variants: equal budgets and readers, streams that are really gone, honest intervals, a report made anew."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from favor import presets
from favor.configuration import ConnectorConfig
from favor.errors import ConfigurationError
from favor.modeling import FavorForConditionalGeneration
from favor.sync import AUDIO_FRAMES_PER_STEP, ClipSteps, WindowPlan
from training.__main__ import main
from training.markdown import put_section
from training.world import scenes
from training.world.ablation import single, study, summary
from training.world.ablation.measures import GROUPS, MEASURES, measured, without_skill
from training.world.ablation.reader import WIDTH, reading_heads
from training.world.ablation.variants import BASE, KINDS, MAX_STEPS, MAX_TOKENS, VARIANTS, chosen
from training.world.scene import Scene, Sound, Span, Thing, Waypoint
from training.world.shards import ClipFeatures, media_inputs
from training.world.steps import StepTarget, target_of


def soft_tokens(connector: dict[str, Any], steps: int) -> int:
    clip = ClipSteps.of_clip(num_frames=steps, num_audio_steps=steps, is_image=False)
    plan = WindowPlan.of([clip], window_steps=connector["window_steps"], align=connector["align"])
    return plan.num_windows * connector["num_query_tokens"]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_connector_and_spends_as_many_tokens_on_a_whole_clip(name):
    connector = VARIANTS[name].connector
    ConnectorConfig(tokens_per_step=25, num_positions=500, **connector)
    assert soft_tokens(connector, MAX_STEPS) == soft_tokens(BASE, MAX_STEPS) == MAX_TOKENS


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
    difference = concat.differences["all"]
    assert (difference.n, difference.mean, difference.half) == pytest.approx((2, -0.1, 0.0), abs=1e-9)
    assert difference.is_clear
    assert full.values["all"].n != concat.values["all"].n


def a_run(variant: str, seed: int, share: float) -> dict[str, Any]:
    return {
        "run": {"variant": variant, "seed": seed, "steps": 6},
        "shares": dict.fromkeys(("all", *GROUPS, *MEASURES), share),
        "query_cosine": 0.1,
        "tokens_per_clip": 40.0,
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


def model_with(variant: str, seed: int = 1) -> FavorForConditionalGeneration:
    model, processor = presets.untrained("favor-mini")
    return single.with_connector(model, processor, variant=variant, seed=seed)


def features_of(model: FavorForConditionalGeneration, *lengths: int) -> list[ClipFeatures]:
    config, draw = model.config.connector_config, torch.Generator().manual_seed(3)
    shapes = (config.tokens_per_step, config.visual_width), (AUDIO_FRAMES_PER_STEP, config.audio_widths[0])
    streams = [[torch.randn(length, *shape, generator=draw) for shape in shapes] for length in lengths]
    return [ClipFeatures(*stream, is_image=False, seed=0) for stream in streams]


@pytest.mark.parametrize("name", ["full", "window_1", "window_20", "concat", "multi_resolution"])
def test_every_variant_is_read_alike_and_a_clip_is_read_by_itself(name):
    model = model_with(name)
    torch.manual_seed(0)
    heads = reading_heads(model).eval()
    clips = features_of(model, 7, MAX_STEPS)
    both, alone = (media_inputs(each, chunk_steps=model.config.audio_chunk_steps) for each in (clips, clips[:1]))
    vectors = heads(both).seeing
    assert vectors.shape == (2 * MAX_STEPS, WIDTH)
    assert heads.steps.tokens_of_clips(both)[1] == MAX_TOKENS
    torch.testing.assert_close(vectors[:MAX_STEPS], heads(alone).seeing, atol=1e-4, rtol=1e-4)


def test_all_variants_of_a_seed_have_the_same_reader():
    readers = []
    for name in ("full", "concat"):
        heads = single.pupil(model_with(name), seed=5)
        readers.append({key: value for key, value in heads.state_dict().items() if "connector" not in key})
    assert readers[0].keys() == readers[1].keys()
    assert all(torch.equal(value, readers[1][key]) for key, value in readers[0].items())


def target_with_both() -> StepTarget:
    thing = Thing("red", "circle", "big", (Waypoint(0.0, 0.5, 0.5), Waypoint(9.0, 0.5, 0.5)), flashes=(Span(1.6, 2.4),))
    bell = Sound("bell", Span(1.6, 2.4), pitch=0.5, level_db=-18.0, source=0)
    return target_of(Scene(1, "video", 3.0, things=(thing,), sounds=(bell,)), window_steps=MAX_STEPS)


def test_what_a_variant_cannot_know_counts_as_wrong_and_is_not_asked():
    known = dict.fromkeys(MEASURES, 0.5)
    assert measured(known) == {**known, **dict.fromkeys(GROUPS, 0.5), "all": 0.5}
    deaf = measured({**known, "sounds": math.nan}, lost="sound")
    assert (deaf["picture"], deaf["sound"], deaf["binding"], deaf["all"]) == pytest.approx((0.5, 0.0, 0.0, 0.3))
    target = target_with_both()
    assert not target.without("picture").is_seen.any()
    assert len(target.without("picture").labels.present) == 0
    assert not target.without("sound").is_heard.any()


def test_clips_in_which_nothing_of_a_kind_happens_are_refused():
    with pytest.raises(ConfigurationError, match="words"):
        measured({**dict.fromkeys(MEASURES, 0.5), "words": math.nan})


def test_what_is_most_frequent_is_no_skill():
    scenes_ = [scenes.make(seed, kind=kind) for seed in range(60, 75) for kind in KINDS]
    targets = [target_of(scene, window_steps=MAX_STEPS) for scene in scenes_ if scene.seconds <= MAX_STEPS / 2]
    found = without_skill(StepTarget.joined(targets))
    assert found["binding"] == found["flashes_found"] == 0.0
    assert 0.0 < found["all"] < 0.4


def test_the_command_teaches_measures_and_reports_and_does_nothing_twice(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["ablate", "--smoke", "--out", str(out)]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found) == {"full", "picture_only"}
    folder = out / "full" / "seed-1"
    scores = json.loads((folder / "scores.json").read_text())
    assert set(scores["shares"]) == {*MEASURES, *GROUPS, "all"}
    assert all(0.0 <= share <= 1.0 for share in scores["shares"].values())
    assert -0.1 <= scores["query_cosine"] <= 1.01
    assert {path.name for path in folder.iterdir()} == {"scores.json", "run.json", "log.txt"}
    deaf = json.loads((out / "picture_only" / "seed-1" / "scores.json").read_text())["shares"]
    assert deaf["sound"] == deaf["binding"] == 0.0
    section = (out / "benchmarks" / "RESULTS.md").read_text()
    assert "<!-- ablation:begin -->" in section
    tables = [line.count("|") for line in section.splitlines() if line.startswith("|")]
    assert len(set(tables)) == 3, "every line of a table has as many cells"
    assert (out / "docs" / "ablation.png").stat().st_size > 5_000
    written = (folder / "scores.json").stat().st_mtime_ns
    again = ["ablate", "--out", str(out), "--report", str(out), "--report-only"]
    assert main(again) == 0
    assert (folder / "scores.json").stat().st_mtime_ns == written


def test_finished_runs_with_other_settings_are_refused(tmp_path: Path):
    run = single.Run(variant="full", seed=1, model="m", features="f", val="v", output=str(tmp_path), steps=6)
    assert not study.has_finished(run)
    (tmp_path / "scores.json").write_text(json.dumps({"run": run.model_dump()}))
    assert study.has_finished(run)
    with pytest.raises(ConfigurationError, match="other settings"):
        study.has_finished(run.model_copy(update={"steps": 7}))
