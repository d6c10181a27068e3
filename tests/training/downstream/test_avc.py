"""Captioning: teacher forcing, greedy writing, and captions on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from favor.adapters.contract import StreamShape
from favor.downstream.valor import read_references
from tests.training.downstream.head_checks import (
    STREAMS,
    fit,
    seen,
    tokens,
    weights_without_gradient,
    with_other_sound,
)
from training.downstream.avc import TASK, AvcHead, AvcHeadSettings, Captioned
from training.downstream.captions import ValorFiles, Words
from training.downstream.contract import Seen, task_named

SMALL = {"width": 16, "layers": 1, "heads": 2, "dropout": 0.0, "vocabulary_size": 12, "max_tokens": 7}
TEXT = torch.tensor([[1, 5, 6, 7, 2], [1, 8, 2, 0, 0]])
MASK = torch.tensor([[True] * 5, [True, True, True, False, False]])


def build() -> AvcHead:
    torch.manual_seed(0)
    return AvcHead(AvcHeadSettings(**SMALL), STREAMS)


def captioned(*, segments: int = 3) -> Seen:
    return seen(segments=segments)._replace(text=TEXT, text_mask=MASK)


def test_every_next_token_is_told_and_captions_are_written_in_evaluation_alone() -> None:
    head = build()
    output = head(captioned())
    assert output.logits.shape == (2, 4, 12)
    assert output.written is None
    written = head.eval()(captioned()).written
    assert written is not None
    assert written.shape == (2, 7)
    assert (written[:, 0] == 1).all()


def test_the_loss_is_the_mean_over_a_caption_and_then_over_clips() -> None:
    head = build()
    output = head(captioned())
    logs = output.logits.log_softmax(-1)
    first = -(logs[0, 0, 5] + logs[0, 1, 6] + logs[0, 2, 7] + logs[0, 3, 2]) / 4
    second = -(logs[1, 0, 8] + logs[1, 1, 2]) / 2
    torch.testing.assert_close(head.loss(output, {}), (first + second) / 2)


def test_no_token_sees_a_later_one_and_padding_is_not_counted() -> None:
    head, given = build(), captioned()
    other = TEXT.clone()
    other[0, 3], other[1, 3:] = 9, 4
    before, after = head(given), head(given._replace(text=other))
    torch.testing.assert_close(after.logits[0, :3], before.logits[0, :3])
    torch.testing.assert_close(after.logits[1, :3], before.logits[1, :3])
    changed_padding = given._replace(text=torch.cat((TEXT[:1], other[1:])))
    torch.testing.assert_close(head.loss(head(changed_padding), {}), head.loss(before, {}))


def test_every_weight_learns() -> None:
    torch.manual_seed(0)
    head = AvcHead(AvcHeadSettings(**{**SMALL, "max_tokens": 4}), STREAMS)
    given = captioned(segments=4)._replace(text=TEXT, text_mask=MASK)
    assert weights_without_gradient(head, given, {}) == []


def test_another_sound_changes_the_caption_of_its_clip_alone() -> None:
    head, given = build().eval(), captioned()
    before, after = head(given), head(with_other_sound(given, clip=1))
    torch.testing.assert_close(after.logits[0], before.logits[0])
    assert not torch.allclose(after.logits[1], before.logits[1])


def test_the_order_of_moments_matters() -> None:
    head, given = build().eval(), captioned()
    turned = given.visual.unflatten(0, (2, 3)).flip(1).flatten(0, 1)
    assert not torch.allclose(head(given._replace(visual=turned)).logits, head(given).logits)


def test_greedy_writing_takes_the_likeliest_of_every_step() -> None:
    head, given = build().eval(), captioned()
    written = head(given).written
    assert written is not None
    forced = head(given._replace(text=written, text_mask=torch.ones_like(written, dtype=torch.bool)))
    for clip in range(2):
        for place in range(1, 7):
            assert written[clip, place] == forced.logits[clip, place - 1].argmax()
            if written[clip, place] == 2:
                assert (written[clip, place:] == 2).all()
                break


def test_a_few_captions_are_learnt_by_heart_and_then_written() -> None:
    head, given = build(), captioned()
    losses = fit(head, given, {}, steps=80)
    assert losses[-1] < 0.05 < losses[0]
    written = head.eval()(given).written
    assert written is not None
    assert written.tolist() == [[1, 5, 6, 7, 2, 2, 2], [1, 8, 2, 2, 2, 2, 2]]


def _files(folder: Path) -> ValorFiles:
    (folder / "captions.json").write_text(json.dumps({"a": ["A dog barks."], "b": ["A bell rings.", "It rings."]}))
    for split in ("train", "val", "test"):
        (folder / f"{split}.json").write_text(json.dumps(["b", "a"]))
    named = {split: str(folder / f"{split}.json") for split in ("train", "val", "test")}
    return ValorFiles(root="videos", captions=str(folder / "captions.json"), **named)


def test_all_captions_train_and_every_clip_is_captioned_once(tmp_path: Path) -> None:
    files = _files(tmp_path)
    assert [example.name for example in TASK.examples(files, "train")] == ["b", "b", "a"]
    assert [example.name for example in TASK.examples(files, "test")] == ["b", "a"]


def test_predictions_are_lines_of_image_id_and_caption(tmp_path: Path) -> None:
    examples = TASK.examples(_files(tmp_path), "test")
    words = Words.of(None)
    written = torch.full((2, 20), words.end)
    for row, text in enumerate(("A bell rings.", "Ein Hörnchen.")):
        numbers = words.numbers(text, at_most=20)
        written[row, : len(numbers)] = torch.tensor(numbers)
    arrays = build().predictions(Captioned(torch.zeros(2, 1, 1), TEXT, MASK, written))
    file = TASK.write(tmp_path / "predictions", TASK.finished(arrays, examples), examples)
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert records == [
        {"image_id": "b", "caption": "A bell rings."},
        {"image_id": "a", "caption": "Ein Hörnchen."},
    ]
    (tmp_path / "coco.json").write_text(json.dumps({"annotations": records}))
    assert read_references(tmp_path / "coco.json")["b"] == ("A bell rings.",)


def test_the_defaults_are_the_shipped_tokenizers() -> None:
    words, settings = Words.of(None), AvcHeadSettings()
    assert (settings.begin, settings.end) == (words.begin, words.end)
    assert settings.vocabulary_size == len(words.tokenizer)
    assert settings.max_tokens == ValorFiles.model_fields["max_tokens"].default


def test_the_task_is_found_by_name_and_takes_any_streams() -> None:
    assert task_named("avc") is TASK
    wide = StreamShape(14, 6, True, 0)
    head = TASK.build_head(AvcHeadSettings(**SMALL), STREAMS._replace(visual=wide)).eval()
    given = captioned()._replace(visual=tokens(6, wide, seed=0))
    arrays = head.predictions(head(given))
    assert arrays["tokens"].dtype == np.int64
    assert TASK.score(arrays, []) is None


def test_captions_of_training_are_not_predictions() -> None:
    with pytest.raises(AssertionError, match="evaluation"):
        build().predictions(build()(captioned()))
