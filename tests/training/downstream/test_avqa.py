"""MUSIC-AVQA: grounding, both losses, the published count, and answers that eval scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from eval.scoring import score_avqa
from favor.downstream.annotations import AnnotationError
from tests.training.downstream.head_checks import (
    STREAMS,
    WITH_CLS,
    fit,
    num_weights,
    seen,
    tokens,
    weights_without_gradient,
    with_other_sound,
)
from training.downstream.avqa import TASK, AvqaFiles, AvqaHead, AvqaHeadSettings
from training.downstream.contract import Seen, Streams, task_named
from training.downstream.grounding import Answered, GroundingNetwork, answer_loss, match_loss, spatial_grounding

SMALL = AvqaHeadSettings(width=16, num_answers=5, num_words=9)
QUESTIONS = torch.tensor([[1, 2, 3, 0, 0], [4, 5, 1, 8, 0]])
RIGHT = {"answer": torch.tensor([3, 1])}


def build(streams: Streams = STREAMS) -> AvqaHead:
    torch.manual_seed(0)
    return AvqaHead(SMALL, streams)


def asked(streams: Streams = STREAMS) -> Seen:
    return seen(streams)._replace(text=QUESTIONS)


def with_negatives(given: Seen) -> Seen:
    return given._replace(other_visual=tokens(len(given.visual), STREAMS.visual, seed=50))


def test_every_question_gets_an_answer_and_every_second_a_match() -> None:
    output = build()(with_negatives(asked()))
    assert output.answers.shape == (2, 5)
    assert output.other_matches is not None
    assert output.matches.shape == output.other_matches.shape == (2, 3, 2)


def test_the_count_is_the_published_one_less_what_nothing_reads() -> None:
    network = GroundingNetwork(1536, 1536)
    sizes = [(128, 512)] * 2 + [(2048, 512)] + [(512, 512)] * 4 + [(1024, 512)]
    unread = torch.nn.ModuleList(torch.nn.Linear(*size) for size in sizes).append(torch.nn.LayerNorm(512))
    assert num_weights(network) == 9_424_556
    assert num_weights(unread) == 2_757_632
    assert num_weights(network) + num_weights(unread) == 12_182_188  # adapters.md 6.2


def test_the_sound_points_at_the_places_that_are_like_it() -> None:
    places = torch.tensor([[[[3.0, 0.0], [0.0, 0.5]]]])  # (1, 1, 2, 2)
    heard = torch.tensor([[[0.0, 7.0]]])
    weights = torch.tensor([0.0, 1.0]).softmax(0)  # cosines, whatever the lengths
    torch.testing.assert_close(spatial_grounding(places, heard)[0, 0], weights)


def test_the_losses_are_cross_entropies_and_the_second_counts_half() -> None:
    head = build().eval()
    output = head(with_negatives(asked()))
    logs = output.answers.log_softmax(-1)
    answer = -(logs[0, 3] + logs[1, 1]) / 2
    assert output.other_matches is not None
    own, other = output.matches.log_softmax(-1)[..., 1], output.other_matches.log_softmax(-1)[..., 0]
    match = -(own.sum() + other.sum()) / (own.numel() + other.numel())
    torch.testing.assert_close(answer_loss(output, RIGHT["answer"]), answer)
    torch.testing.assert_close(match_loss(output), match)
    torch.testing.assert_close(head.loss(output, RIGHT), answer + 0.5 * match)


def test_without_another_video_only_the_answer_is_scored() -> None:
    head = build().eval()
    output = head(asked())
    torch.testing.assert_close(head.loss(output, RIGHT), functional.cross_entropy(output.answers, RIGHT["answer"]))


def test_another_video_changes_the_match_and_never_the_answer() -> None:
    head = build().eval()
    torch.testing.assert_close(head(with_negatives(asked())).answers, head(asked()).answers)


def test_every_weight_learns() -> None:
    assert weights_without_gradient(build(), with_negatives(asked()), RIGHT) == []


def test_another_sound_changes_the_answer_of_its_clip_alone() -> None:
    head, given = build().eval(), asked()
    before, after = head(given), head(with_other_sound(given, clip=1))
    torch.testing.assert_close(after.answers[0], before.answers[0])
    torch.testing.assert_close(after.matches[0], before.matches[0])
    assert not torch.allclose(after.answers[1], before.answers[1])


def test_another_question_changes_the_answer_and_no_match() -> None:
    head, given = build().eval(), asked()
    before, after = head(given), head(given._replace(text=QUESTIONS.flip(0)))
    assert not torch.allclose(after.answers, before.answers)
    torch.testing.assert_close(after.matches, before.matches)


def test_a_clip_is_answered_alone_as_in_a_batch() -> None:
    head, given = build().eval(), asked()
    alone = Seen(given.visual[:3], given.audio[:3], 3, text=QUESTIONS[:1])
    torch.testing.assert_close(head(alone).answers[0], head(given).answers[0])


def test_the_cls_token_is_no_place_but_is_the_sound() -> None:
    head, given = build(WITH_CLS).eval(), asked(WITH_CLS)
    visual, audio = given.visual.clone(), given.audio.clone()
    visual[:, 0] = 5.0
    audio[:, 1:] = 5.0
    torch.testing.assert_close(head(given._replace(visual=visual, audio=audio)).answers, head(given).answers)


def test_a_few_answers_are_learnt_by_heart() -> None:
    losses = fit(build().eval(), with_negatives(asked()), RIGHT, steps=60)
    assert losses[-1] < 0.05 < losses[0]


def _record(number: int, text: str, values: list[str], answer: str, **more: object) -> dict[str, object]:
    return {
        "video_id": f"v{number}",
        "question_id": number,
        "type": json.dumps(["Audio", "Counting"] if number % 2 else ["Visual", "Location"]),
        "question_content": text,
        "templ_values": json.dumps(values),
        "anser": answer,
        **more,
    }


def _files(folder: Path, *, answer: str = "two") -> AvqaFiles:
    slot = "Is the <Object> loud?"
    splits = {
        "train": [_record(1, "How many sound?", [], "two"), _record(2, slot, ["flute"], "left")],
        "val": [_record(3, "How many sound?", [], answer)],
        "test": [
            _record(5, "How many sound?", [], "two"),
            _record(6, slot, ["flute"], "left"),
            _record(7, "How many sound?", [], "two", question_deleted=1),
            _record(9, "How many sound?", [], "left"),
        ],
    }
    for split, records in splits.items():
        (folder / f"{split}.json").write_text(json.dumps(records))
    return AvqaFiles(root="videos", **{split: str(folder / f"{split}.json") for split in splits})


def test_examples_hold_the_question_and_the_answer_by_number(tmp_path: Path) -> None:
    first, second = TASK.examples(_files(tmp_path), "train")
    assert first.clip == Path("v1.mp4")
    assert first.text == (1, 2, 3, *[0] * 11)
    assert second.text == (4, 5, 6, 7, *[0] * 10)
    assert [int(example.targets["answer"]) for example in (first, second)] == [0, 1]


def test_an_answer_that_training_never_gives_is_named(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="question 3: the unknown answer 'seven'"):
        TASK.examples(_files(tmp_path, answer="seven"), "val")


def test_predictions_are_scored_by_eval_and_by_the_task_alike(tmp_path: Path) -> None:
    examples = TASK.examples(_files(tmp_path), "test")
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]])  # two, left, two: the last is wrong
    arrays = build().predictions(Answered(logits, torch.zeros(3, 1, 2)))
    file = TASK.write(tmp_path / "predictions", TASK.finished(arrays, examples), examples)
    scored = score_avqa(tmp_path / "test.json", file)
    assert scored["question_weighted"] == pytest.approx(2 / 3)
    assert TASK.score(arrays, examples) == pytest.approx(2 / 3)
    assert scored["Visual Location"] == 1
    assert scored["Audio Counting"] == 0.5


def test_the_task_asks_for_another_video_and_is_found_by_name() -> None:
    assert task_named("avqa") is TASK
    assert TASK.needs_other_video
    head = TASK.build_head(AvqaHeadSettings(), STREAMS)
    assert head.network.answer.out_features == 42
    assert np.shape(head.network.question.words.weight) == (93, 512)
