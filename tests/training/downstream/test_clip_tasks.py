"""Masks, answers, retrieval and captions through the whole loop, on a tiny host: what is written is scored by eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.scoring import score_avqa, score_avr, score_avs
from favor.media import write_clip
from tests.training.downstream.small_runs import NUM_CLIPS, recipe, register, write_ave
from training.downstream import avs
from training.downstream.recipe import Downstream, Plan
from training.downstream.run import fine_tune

NAMES = [f"clip{number}" for number in range(NUM_CLIPS)]


@pytest.fixture(autouse=True)
def tiny_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_ave(folder)
    return folder


def run(task: str, data: dict[str, str], output: Path, head: dict[str, Any], **optimisation: Any) -> dict[str, Any]:
    settings = recipe(data, output, task=task, head=head, optimisation=optimisation)
    return fine_tune(Plan(Downstream.model_validate(settings)))


def test_questions_are_learnt_and_answered(clips: Path, tmp_path: Path) -> None:
    colours = ("red", "green", "blue", "yellow")
    questions = [
        {
            "video_id": name,
            "question_id": number,
            "type": '["Visual", "Location"]',
            "question_content": "Which colour is it?",
            "templ_values": "[]",
            "anser": colours[number],
        }
        for number, name in enumerate(NAMES)
    ]
    file = tmp_path / "questions.json"
    file.write_text(json.dumps(questions))
    data = {"root": str(clips), **dict.fromkeys(("train", "val", "test"), str(file))}
    head = {"width": 16, "num_answers": 4, "num_words": 5}
    report = run("avqa", data, tmp_path / "run", head, epochs=12)
    scored = score_avqa(file, tmp_path / "run" / report["test_predictions"])
    assert scored["question_weighted"] == report["selection_score"] == 1.0


def _valor(clips: Path, folder: Path) -> dict[str, str]:
    captions = {name: f"{text}." for name, text in zip(NAMES, ("Red", "A green one", "It is blue", "Yellow hums"))}
    (folder / "captions.json").write_text(json.dumps(captions))
    (folder / "ids.json").write_text(json.dumps(NAMES))
    splits = dict.fromkeys(("train", "val", "test"), str(folder / "ids.json"))
    return {"root": str(clips), "captions": str(folder / "captions.json"), **splits}


def test_captions_find_their_clips(clips: Path, tmp_path: Path) -> None:
    head = {"width": 16, "text_width": 16, "text_layers": 1, "text_heads": 2}
    report = run("avr", _valor(clips, tmp_path), tmp_path / "run", head, batch=4, epochs=25)
    file = tmp_path / "run" / report["test_predictions"]
    scored = score_avr(file, file)
    assert scored["recall_at_1"] == report["selection_score"] == 1.0


def test_clips_are_captioned(clips: Path, tmp_path: Path) -> None:
    head = {"width": 16, "layers": 1, "heads": 2, "dropout": 0.0, "max_tokens": 12}
    data = _valor(clips, tmp_path)
    report = run("avc", data, tmp_path / "run", head, batch=4, epochs=60)
    lines = (tmp_path / "run" / report["test_predictions"]).read_text(encoding="utf-8").splitlines()
    written = {record["image_id"]: record["caption"] for record in map(json.loads, lines)}
    assert report["selected_by"] == "loss"
    assert written == json.loads(Path(data["captions"]).read_text())


def _ms3(folder: Path) -> dict[str, str]:
    """Two clips of five frames; what is red sounds, and its mask has the palette's number 3."""
    rows = ["video_id,split"]
    draw = np.random.default_rng(0)
    for number, split in enumerate(("train", "train", "val", "test")):
        name = f"c{number}"
        rows.append(f"{name},{split}")
        pictures, masks = folder / "visual_frames" / name, folder / "gt_masks" / split / name
        sounds = folder / "audio_wav" / split
        for home in (pictures, masks, sounds):
            home.mkdir(parents=True, exist_ok=True)
        for frame in range(1, 6):
            marks = np.zeros((224, 224), dtype=np.uint8)
            marks[:, 112 * (number % 2) : 112 * (number % 2) + 112] = 3
            colours = np.where(marks[..., None] > 0, [255, 0, 0], [0, 0, 255]).astype(np.uint8)
            Image.fromarray(colours).save(pictures / f"{name}.mp4_{frame}.png")
            palette = Image.frombytes("P", (224, 224), marks.tobytes())
            palette.putpalette([0, 0, 0] * 256)
            palette.save(masks / f"{name}_{frame}.png")
        wave = 0.1 * draw.standard_normal(5 * 16_000)
        write_clip(sounds / f"{name}.wav", waveform=wave)
    (folder / "ms3.csv").write_text("\n".join(rows))
    return {"root": str(folder), "annotations": str(folder / "ms3.csv"), "subset": "ms3"}


@pytest.mark.parametrize("head", [{}, {"fused_stages": [0, 1, 2, 3], "matching_weight": 0.5}], ids=["s4", "ms3"])
def test_masks_are_learnt_and_written(tmp_path: Path, head: dict[str, Any]) -> None:
    data = _ms3(tmp_path)
    small = {"channels": 8, "stage_channels": [4, 4, 4, 4]}
    report = run("avs", data, tmp_path / "run", {**small, **head}, epochs=3)
    test = avs.TASK.examples(avs.AvsFiles.model_validate(data), "test")
    avs.write_truth(tmp_path / "truth.npz", test)
    scored = score_avs(tmp_path / "truth.npz", tmp_path / "run" / report["test_predictions"])
    assert 0 <= scored["miou"] <= 1
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
