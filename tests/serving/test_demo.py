"""The demo: three questions to a real server, with the model that answers by default and with ``tiny``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from favor import presets
from serving import demo

ROOT = Path(__file__).resolve().parents[2]
RIGHT = ("yellow triangle", "bell", "blue square flashes")


@pytest.fixture(scope="module", params=sorted({"tiny", presets.DEFAULT}))
def model(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def said(model) -> list[str]:
    """All lines that the demo prints."""
    program = f"import sys; from serving import demo; demo.MODEL = {model!r}; sys.exit(demo.main())"
    environment = {key: value for key, value in os.environ.items() if key != "FAVOR_API_KEY"}
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_the_demo_ends_with_one_document_about_a_clip_that_was_seen_and_heard(said, model):
    outcome = json.loads(said[-1])
    assert list(outcome) == ["model", "answers", "media_report"]
    assert outcome["model"] == model
    assert [answer["question"] for answer in outcome["answers"]] == list(demo.QUESTIONS)
    (receipt,) = outcome["media_report"]
    assert receipt["video"]["num_frames"] == 20
    assert receipt["audio"]["seconds"] == 10.0
    for answer in outcome["answers"]:
        assert list(answer) == ["question", "answer", "first_token_s", "seconds", "usage"]
        assert answer["usage"]["completion_tokens"] > 0
        assert 0 < answer["first_token_s"] <= answer["seconds"]


def test_the_demo_shows_questions_answers_times_and_the_receipt(said):
    for answer in json.loads(said[-1])["answers"]:
        place = said.index(f"Question  {answer['question']}")
        assert said[place + 1] == f"Answer    {answer['answer']}"
        assert said[place + 2].strip().startswith("first word after ")
    (receipt,) = (line for line in said if line.startswith("Receipt"))
    assert "saw 20 frames (h264, 256 x 256); heard 10.0 s (aac, 16000 Hz)" in receipt
    assert receipt.endswith("skipped nothing")


def test_the_demo_says_so_where_the_words_mean_nothing(said, model):
    assert any("random weights" in line for line in said) == presets.describe(model).has_random_weights


def test_a_trained_model_answers_most_questions_right(said, model):
    if presets.describe(model).has_random_weights:
        pytest.skip(f"{model} has random weights")
    answers = [answer["answer"] for answer in json.loads(said[-1])["answers"]]
    assert sum(said == right for said, right in zip(answers, RIGHT, strict=True)) >= 2, answers


def test_no_answer_is_written_in_the_demo():
    source = Path(demo.__file__).read_text(encoding="utf-8")
    assert source.count("yellow triangle") == source.count("blue square flashes") == 1, "only in what happens"
