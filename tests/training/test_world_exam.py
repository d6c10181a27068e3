"""The exam: a fair paper, answers as the model would give them to a user, honest marks."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from favor import presets
from favor.errors import ConfigurationError
from favor.media import Clip, Receipt
from favor.messages import VideoPart
from training.__main__ import main
from training.world import tokenizer
from training.world.exam import (
    CONDITIONS,
    Paper,
    Report,
    answer,
    answering,
    encode_paper,
    items_for,
    report,
    set_paper,
)
from training.world.exam.card import failures
from training.world.exam.conditions import under
from training.world.exam.probe import answers_in_training
from training.world.exam.scores import Score, edits, share, word_error_rate
from training.world.exam.through_files import ask_through_files
from training.world.features import raw_clip
from training.world.question import TASKS
from training.world.questions import FAMILIES, REFUSALS
from training.world.splits import is_held_out

NUM_QUESTIONS = 24


@pytest.fixture(scope="module")
def paper() -> Paper:
    return set_paper(7, num_questions=NUM_QUESTIONS)


@pytest.fixture(scope="module")
def small_paper() -> Paper:
    return set_paper(7, num_questions=1)


@pytest.fixture(scope="module")
def parts() -> tuple[Any, Any]:
    """An untrained favor-mini whose answers differ from question to question."""
    model, processor = presets.untrained("favor-mini")
    processor.tokenizer = tokenizer.learn(1024, seed=1)
    with torch.no_grad():
        for weights in model.language_model.parameters():
            if weights.ndim > 1:
                weights *= 6
    return model, processor


@pytest.fixture(scope="module")
def features(parts: tuple[Any, Any], small_paper: Paper) -> Any:
    return encode_paper(*parts, small_paper)


@pytest.fixture
def _short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "MAX_NEW_TOKENS", 4)


def test_a_seed_always_gives_the_same_paper_and_another_seed_another(small_paper: Paper) -> None:
    assert set_paper(7, num_questions=1) == small_paper
    assert set_paper(8, num_questions=1) != small_paper


def test_every_family_has_as_many_items_each_about_another_clip(paper: Paper) -> None:
    clips: dict[str, list[int]] = {}
    for item in paper.items:
        clips.setdefault(item.question.family, []).append(item.clip)
    assert list(clips) == list(FAMILIES)
    assert all(len(numbers) == len(set(numbers)) == NUM_QUESTIONS for numbers in clips.values())
    assert {item.clip for item in paper.items} == set(range(len(paper.clips)))
    assert len(paper.clips) < len(paper.items) / 3


def test_no_answer_is_much_more_often_right_than_its_fair_share(paper: Paper) -> None:
    loosened = 0
    for family in FAMILIES:
        answers = Counter(item.question.answer for item in paper.items if item.question.family == family)
        most = math.ceil(1.3 * NUM_QUESTIONS / len(answers_in_training(family)))
        loosened += max(answers.values()) > most
        assert max(answers.values()) <= most + 1, (family, answers)
    assert loosened <= 3


def test_half_is_worded_as_training_never_words_it_whether_combinations_are_new_or_not(paper: Paper) -> None:
    cells = Counter((paper.clips[item.clip].is_novel, item.wording) for item in paper.items)
    for is_novel in (True, False, None):
        assert abs(cells[is_novel, "train"] - cells[is_novel, "test"]) <= len(FAMILIES)
    for family in ("avssd.source", "avm.match", "while.flashing"):  # asked about nothing but such clips
        novel = [paper.clips[item.clip].is_novel for item in paper.items if item.question.family == family]
        assert Counter(novel) == {True: NUM_QUESTIONS / 2, False: NUM_QUESTIONS / 2}


def test_novel_clips_hold_held_out_combinations_alone_and_the_others_none(paper: Paper) -> None:
    for clip in paper.clips:
        for sound in clip.scene.sounds:
            if clip.is_novel is not None and sound.source is not None:
                thing = clip.scene.things[sound.source]
                assert is_held_out(thing.colour, thing.shape, sound.kind) == clip.is_novel


def test_a_mismatched_sound_is_of_another_clip_of_the_kind_and_about_as_long(paper: Paper) -> None:
    lengths = {n: clip.scene.seconds for n, clip in enumerate(paper.clips)}
    marks = [_streams(n) for n in lengths]
    for number in {paper.items[item].clip for item in items_for(paper, "mismatched_sound")}:
        changed = under("mismatched_sound", paper, marks, number)
        assert changed is not None
        other = int(changed.audio)
        assert other != number
        assert int(changed.visual) == number
        assert paper.clips[other].scene.kind == paper.clips[number].scene.kind
        assert abs(lengths[other] - lengths[number]) < 2.5


def test_conditions_ask_only_what_clips_have_and_the_extreme_ones_a_third(paper: Paper) -> None:
    assert items_for(paper, "both") == tuple(range(len(paper.items)))
    assert len(items_for(paper, "none")) == len(paper.items) / 3
    assert all(paper.clips[paper.items[n].clip].scene.has_picture for n in items_for(paper, "picture"))
    assert all(paper.clips[paper.items[n].clip].scene.has_sound for n in items_for(paper, "sound"))


@pytest.mark.usefixtures("_short_answers")
def test_answers_from_kept_features_are_those_that_the_whole_model_gives(
    parts: tuple[Any, Any], small_paper: Paper, features: Any
) -> None:
    model, processor = parts
    ours = answer(model, processor, small_paper, features)
    assert len(set(ours)) > len(ours) / 4, "this model says the same to everything, so the test would see nothing"
    items = list(range(0, len(small_paper.items), 6))
    for number in items:
        item = small_paper.items[number]
        raw = raw_clip(small_paper.clips[item.clip].scene, size=64)
        clip = Clip(raw.frames, np.zeros(0), raw.waveform, raw.scene.is_still, Receipt("", 0.0, None, None, ()))
        chat = answering.conversation(item.question, VideoPart("a clip"))
        inputs = processor.prompt_tensors([chat], [[processor.reader.receipt(clip).num_soft_tokens]])
        inputs |= processor.clip_tensors([clip]) | processor.instruction_tensors([""])
        written = answering.greedily(model, processor)(**inputs)[:, inputs["input_ids"].shape[1] :]
        assert processor.batch_decode(written, skip_special_tokens=True) == [ours[number]]


@pytest.mark.usefixtures("_short_answers")
def test_every_condition_is_answered_and_changes_what_is_said(
    parts: tuple[Any, Any], small_paper: Paper, features: Any
) -> None:
    answers = {condition: answer(*parts, small_paper, features, condition) for condition in ("both", "none", "sound")}
    for condition, texts in answers.items():
        assert len(texts) == len(items_for(small_paper, condition))
    both = dict(zip(items_for(small_paper, "both"), answers["both"]))
    for condition in ("none", "sound"):
        assert answers[condition] != [both[item] for item in items_for(small_paper, condition)]


@pytest.mark.usefixtures("_short_answers")
def test_prompts_about_kept_features_are_those_about_files(
    parts: tuple[Any, Any], small_paper: Paper, features: Any
) -> None:
    model, processor = parts
    said = answer(model, processor, small_paper, features)
    found = ask_through_files(model, processor, small_paper, said, num_clips=2)
    assert found.clips == 2
    assert found.items >= 2
    assert 0.0 <= found.agreement <= 1.0


def test_all_right_answers_score_one_and_are_told_from_guesses(paper: Paper) -> None:
    found = _marked(paper, {condition: _right(paper, condition) for condition in CONDITIONS})
    assert list(found.tasks) == list(TASKS)
    assert list(found.families) == list(FAMILIES)
    assert found.mean == 1.0
    assert found.wer == {"asr": 0.0, "avsr": 0.0}
    assert found.when_error_s == 0.0
    assert found.tasks["avm"].unskilled == 0.5
    assert found.tasks["asr"].unskilled is None
    for line in found.tasks.values():
        assert line.score.n % NUM_QUESTIONS == 0
        assert line.majority < 0.7
        assert set(line.others.values()) <= {1.0, None}
    assert found.tasks["ic"].others["mismatched_sound"] is None, "pictures have no sound to change"
    json.dumps(found.to_dict())


def test_novel_combinations_are_scored_apart_from_known_ones(paper: Paper) -> None:
    texts = ["?" if paper.clips[item.clip].is_novel else item.question.answer for item in paper.items]
    found = _marked(paper, {"both": texts})
    assert all(score.score == 0.0 for score in found.novel.values())
    assert all(score.score == 1.0 for score in found.seen.values())
    assert found.tasks["avm"].score.score == 0.5


def test_refusals_are_counted_by_task(paper: Paper) -> None:
    items = [paper.items[number] for number in items_for(paper, "both")]
    refused = [f"{REFUSALS[0].upper()}!" if item.question.task == "asr" else item.question.answer for item in items]
    assert report(paper, {"both": refused}).refused == {"asr": 1.0}


def test_times_score_within_a_second_and_their_mean_error_is_told(paper: Paper) -> None:
    texts = [str(int(item.question.answer) + 1) if item.question.task == "when" else "?" for item in paper.items]
    found = _marked(paper, {"both": texts})
    assert found.tasks["when"].score.score == 1.0
    assert found.when_error_s == 1.0
    assert found.wer["asr"] == 1.0


def test_word_error_rate_counts_edits_over_all_right_words() -> None:
    assert edits(["take", "the", "red", "cup"], ["take", "red", "a", "cup"]) == 2
    assert edits([], ["one"]) == 1
    assert word_error_rate(["Five, two.", "a dog"], ["five two", "the dog"]) == 1 / 4


def test_intervals_are_wider_where_few_clips_carry_the_questions() -> None:
    rng = np.random.default_rng(3)
    are_right = np.repeat(rng.random(60) < 0.6, 5)
    clips = np.repeat(np.arange(60), 5)
    together, apart = share(are_right, clips), share(are_right, range(300))
    assert together.low < together.score < together.high
    assert together.high - together.low > 1.5 * (apart.high - apart.low)
    assert together == share(are_right, clips)


def test_a_task_fails_only_below_the_card_by_more_than_both_half_intervals(paper: Paper) -> None:
    found = _marked(paper, {"both": [item.question.answer for item in paper.items]})
    weak = replace(found.tasks["avm"], score=Score(0.70, 0.60, 0.80, 24))
    found = replace(found, tasks={**found.tasks, "avm": weak})
    assert failures(found, {"tasks": {"avm": {"score": 0.84, "low": 0.79, "high": 0.89}}}) == []
    (line,) = failures(found, {"tasks": {"avm": {"score": 0.86, "low": 0.81, "high": 0.91}}})
    assert line.startswith("avm: 0.700 is more than 0.150 below")
    assert failures(found, found.to_dict()) == []


def test_a_file_that_is_no_card_is_refused_before_anything_is_asked(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "scores.json").write_text('{"tasks": {"avm": 1}}')
    assert main(["examine", "favor-mini", "--against", str(tmp_path / "scores.json")]) == 2
    assert "scores.json is no model card's scores" in capsys.readouterr().err


def test_a_model_that_reads_the_question_with_the_picture_is_refused(small_paper: Paper) -> None:
    with pytest.raises(ConfigurationError, match="reads the question"):
        encode_paper(*presets.untrained("tiny"), small_paper)


@pytest.mark.usefixtures("_short_answers")
def test_the_command_ends_with_one_json_object_and_tells_what_is_worse(
    parts: tuple[Any, Any], tmp_path: Path, capsys: Any
) -> None:
    for part in parts:
        part.save_pretrained(tmp_path / "model")
    card = tmp_path / "card.json"
    card.write_text(json.dumps({"tasks": {"ocr": {"score": 0.9, "low": 0.85, "high": 0.95}}}))
    given = [
        "examine",
        str(tmp_path / "model"),
        "--questions",
        "1",
        "--streams",
        "none",
        "--json",
        str(tmp_path / "out.json"),
    ]
    assert main([*given, "--against", str(card)]) == 1
    lines = capsys.readouterr().out.splitlines()
    scores = json.loads(lines[-1])
    assert set(scores["tasks"]) == set(TASKS)
    assert {"score", "low", "high", "n", "majority", "unskilled", "text_only"} == set(scores["tasks"]["ocr"])
    assert any(line.startswith("worse than the card: ocr") for line in lines)
    assert "families" in json.loads((tmp_path / "out.json").read_text())


def _streams(number: int) -> Any:
    """Streams that only say whose they are."""
    from training.world.exam.conditions import Streams

    return Streams(torch.tensor(number), torch.tensor(number), 1, False)


def _right(paper: Paper, condition: Any) -> list[str]:
    return [paper.items[item].question.answer for item in items_for(paper, condition)]


def _marked(paper: Paper, answers: Any) -> Report:
    return report(paper, answers)
